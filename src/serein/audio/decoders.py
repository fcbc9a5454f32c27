"""Decoders: libsndfile, and PyAV for other containers."""

from __future__ import annotations

import codecs
import ctypes
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from serein.audio.samples import Waveform, to_float
from serein.audio.source import (
    MEDIA_SUFFIXES,
    RAW_SUFFIXES,
    SUFFIXES,
    View,
    mp3_frame,
    mp3_parts,
    mp3_views,
    ogg_views,
    with_its_length,
)
from serein.errors import AudioError

MOST_PARTS = 1000  # recordings that one file may join
MISSING_S = 0.25  # the lengths that containers state include an encoder's padding, and are rounded

# libsndfile's log of a truncated WAV ("data"), AIFF ("SSND"), AU and W64; a wrong outer "RIFF" is harmless.
_STATED_LENGTH = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*:\s*(\d+)\s*\(should be (\d+)\)", re.MULTILINE)
_LENGTH_UNKNOWN = 0x7FFFF000  # written by SoX to a pipe; ffmpeg and arecord write more
_CENTURY_S = 3e9  # libsndfile reports a longer duration for a FLAC of unknown length
_DAMAGED_PAGES = re.compile(r"Junk after the last page|Corrupted bitstream|reports a hole")  # Ogg Vorbis and Opus
CONTAINERS = {
    b"RIFF": "WAV",
    b"RIFX": "WAV",
    b"RF64": "WAV",
    b"riff": "W64",
    b"FORM": "AIFF",
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"caff": "CAF",
    b".snd": "AU",
    b"ID3": "MP3",
    b"NIST": "NIST",
}  # first bytes of a file -> its kind
MEDIA_CONTAINERS = {
    b"\x1aE\xdf\xa3": "WebM",
    b"#!AMR": "AMR",
    b"0&\xb2u\x8ef\xcf\x11": "WMA",
    b"FLV\x01": "FLV",
    b"wvpk": "WavPack",
    b"TTA1": "TTA",
}  # the same, of files that libsndfile does not read


_MEDIA_FORMATS = "mov,matroska,asf,amr,aac,ac3,eac3,mp3,ogg,flac,wav,w64,caf,aiff,au,avi,mpegts,mpeg,flv,wv,tta"
_MEDIA_CODECS = (
    "aac,aac_latm,ac3,eac3,alac,amrnb,amrwb,libopencore_amrnb,libopencore_amrwb,mp1float,mp2float,mp3float,mp1,mp2,mp3,"
    "opus,libopus,vorbis,flac,speex,wmav1,wmav2,wmapro,wmavoice,wmalossless,wavpack,tta,gsm,gsm_ms,g722,g726,g726le,"
    "adpcm_ms,adpcm_ima_wav,adpcm_ima_qt,adpcm_swf,adpcm_yamaha,nellymoser,qdm2,qcelp,truespeech,dca,truehd,"
    "pcm_alaw,pcm_mulaw,pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,"
    "pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be,pcm_dvd,pcm_bluray"
)  # audio only: no picture is ever decoded
LONGEST_START = 4096  # bytes by which files and samples are distinguished


class TruncatedAudioError(AudioError):
    """The file ends earlier than its header states."""


class Decoder(Protocol):
    """The interface of decoders.

    Attributes:
        sample_rate_hz: Rate of the samples.
        num_channels: Number of channels.
        num_frames: Samples per channel; `None` if it is unknown until the file is read.
        remarks: As in `AudioInfo`.
    """

    sample_rate_hz: int
    num_channels: int
    num_frames: int | None
    remarks: tuple[str, ...]

    def blocks(self, start: int, size: int) -> Iterator[Waveform]:
        """Yield (sample, channel) float32 from frame `start` to the end, about `size` frames at once."""

    def close(self) -> None:
        """Release resources; does nothing by default."""
        return


def truncated(where: str, detail: str) -> AudioError:
    """Return the error for a file that ends early."""
    return TruncatedAudioError(f"truncated: {detail}", where=where, remedy="Copy the file again from its source.")


def damaged(where: str, reason: str) -> AudioError:
    """Return the error for a file that a decoder fails to read."""
    return AudioError(f"damaged or cut off ({reason})", where=where, remedy="Copy the file again from its source.")


def no_samples(where: str) -> AudioError:
    """Return the error for a file that has only a header."""
    return AudioError("contains no samples", where=where, remedy="Record it again, or remove it from the list.")


def is_text(start: bytes) -> bool:
    """Return whether a file begins with UTF-8 or marked UTF-16 text: no control characters but tabs and line breaks.

    Example:
        >>> is_text("Größe".encode()), is_text("Größe".encode("utf-16")), is_text(b"RIFF\\0\\0")
        (True, True, False)
    """
    encoding = "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(start)
    except UnicodeDecodeError:
        return False
    return all(character >= " " or character in "\t\r\n\f" for character in text)


def file_kind(start: bytes) -> str | None:
    """Return the kind of audio file that begins with these bytes; `None` for samples.

    An MP3 or AAC without a tag has no magic number, only frames: two consecutive frames are no coincidence.

    Example:
        >>> file_kind(b"RIFF$..."), file_kind(b"wvpk..."), file_kind(bytes(100))
        ('WAV', 'WavPack', None)
    """
    for magic, kind in (CONTAINERS | MEDIA_CONTAINERS).items():
        if start.startswith(magic):
            return kind
    if start[4:8] == b"ftyp":
        return "MP4"
    for kind, frame_bytes in (("MP3", lambda header: mp3_frame(header)[0]), ("AAC", _adts_bytes)):
        length = frame_bytes(start)
        if length and start[length : length + 2] == start[:2] and frame_bytes(start[length:]):
            return kind
    return None


def _adts_bytes(start: bytes) -> int:
    """Return the size of a frame of AAC with this header, 0 for none (ISO 13818-7, 6.2)."""
    head = int.from_bytes(start[:6].ljust(6, b"\0"), "big")
    return head >> 13 & 0x1FFF if head >> 36 == 0xFFF and not head >> 33 & 3 else 0


def decoder_of(where: str, file: BinaryIO, raw_rate_hz: int | None) -> Decoder:
    """Choose the decoder of a file by its content: raw PCM if a rate is given, libsndfile, else PyAV.

    Raises:
        AudioError: No decoder can read it.
    """
    import soundfile

    file.seek(0)
    start, suffix = file.read(512), Path(where).suffix.lower()
    is_media = start.startswith(tuple(MEDIA_CONTAINERS)) or start[4:8] == b"ftyp"
    is_bare = not is_media and not start.startswith(tuple(CONTAINERS))
    if is_bare and raw_rate_hz and suffix not in (*SUFFIXES, *MEDIA_SUFFIXES):
        return Soundfile(where, file, raw_rate_hz)
    if is_bare and suffix in RAW_SUFFIXES:
        raise AudioError(
            "headerless PCM does not state its sampling rate",
            where=where,
            remedy="Give it: --raw-rate 16000, in Python raw_rate_hz=16000 (16-bit, little-endian, mono).",
        )
    if is_bare and is_text(start):
        raise AudioError(
            "cannot be decoded as audio (it is text)",
            where=where,
            remedy="Give WAV, FLAC, Ogg, MP3 or another recording.",
        )
    try:
        return Soundfile(where, file)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = str(error).split(": ")[-1].strip().rstrip(".")
    is_adts = (
        len(start) > 1 and start[0] == 0xFF and start[1] & 0xF6 == 0xF0
    )  # AAC without a container: ISO 13818-7, 6.2
    if is_media or suffix in MEDIA_SUFFIXES or is_adts:
        return Pyav(where, file)
    if re.search("lost sync|malformed(?! 'fmt)|unspecified", reason, re.IGNORECASE):
        raise damaged(where, reason)
    try:
        return Pyav(where, file)
    except AudioError:
        media = "" if find_spec("av") else " Other containers need: pip install 'serein[media]'."
        raise AudioError(
            f"cannot be decoded as audio ({reason})",
            where=where,
            remedy=f"Convert it with: ffmpeg -i IN OUT.flac.{media} Headerless PCM needs its rate: --raw-rate 16000.",
        ) from None


class Soundfile(Decoder):
    """Decoder of libsndfile's formats: one file, or several MP3 or Ogg files joined end to end.

    Args:
        where: Name of the file in error messages.
        file: Its bytes.
        raw_rate_hz: The bytes are 16-bit little-endian mono PCM at this rate.

    Raises:
        LibsndfileError: The file is in none of libsndfile's formats.
        AudioError: The file is truncated, or its parts do not fit together.
    """

    def __init__(self, where: str, file: BinaryIO, raw_rate_hz: int | None = None) -> None:
        self.where = where
        self.raw_rate_hz, self.is_fresh = raw_rate_hz, True
        mended = None if raw_rate_hz else with_its_length(file)
        mp3s = [] if raw_rate_hz else mp3_parts(file)
        joined = [] if raw_rate_hz else mp3_views(file, mp3s) if len(mp3s) > 1 else ogg_views(file)
        if len(joined) > MOST_PARTS:
            raise AudioError(f"joins {len(joined)} recordings", where=where, remedy="Split it into its parts.")
        self.files: Sequence[BinaryIO | View] = joined or [mended or file]
        self.parts = [_sound_file(each, raw_rate_hz) for each in self.files]
        self.is_guess = [not mp3.are_all(mp3.num_stated) for mp3 in mp3s] or [self.parts[0].format == "MP3"] * len(
            self.parts
        )
        if len(mp3s) == 1 and not mp3s[0].are_all(mp3s[0].num_stated or self.parts[0].frames):
            self.files = mp3_views(file, mp3s)
            self.parts, self.is_guess = [_sound_file(self.files[0])], [True]
        for part in self.parts:
            stated = _STATED_LENGTH.search(part.extra_info)
            if stated and int(stated[2]) < int(stated[1]) < _LENGTH_UNKNOWN:
                raise truncated(where, f"the header states {stated[1]} bytes, the file contains {stated[2]}")
            if _DAMAGED_PAGES.search(part.extra_info):
                raise truncated(where, "a page of the Ogg stream is cut off or damaged")
        rates = sorted({part.samplerate for part in self.parts})
        if len(rates) > 1:
            raise AudioError(f"joins recordings of {rates} Hz", where=where, remedy="Split it into its parts.")
        self.sample_rate_hz, self.num_channels = rates[0], max(part.channels for part in self.parts)
        num_frames = sum(part.frames for part in self.parts)
        self.num_frames = None if num_frames / self.sample_rate_hz > _CENTURY_S else num_frames
        self.remarks = (
            (f"the file joins {len(self.parts)} recordings: all of them are read",) if len(self.parts) > 1 else ()
        )
        stated = _STATED_LENGTH.search(self.parts[0].extra_info)
        is_false = stated and (int(stated[1]) < int(stated[2]) or int(stated[1]) >= _LENGTH_UNKNOWN)
        if mended is not None or self.num_frames is None or is_false:
            self.remarks = ("the header states no length or a wrong one: the file is read to its end",)

    def blocks(self, start: int, size: int) -> Iterator[Waveform]:
        import soundfile

        is_fresh, self.is_fresh = self.is_fresh, False
        for index, part in enumerate(self.parts):
            if start >= part.frames:
                start -= part.frames
                continue
            try:
                place, to_drop = start, 0
                if not type(part).seekable(part):  # GSM
                    place, to_drop = 0, start
                    if not is_fresh:
                        part = self.parts[index] = _sound_file(self.files[index], self.raw_rate_hz)
                elif start or not is_fresh:
                    part.seek(start)
                start = 0
                while len(samples := part.read(size, dtype="float32", always_2d=True)):
                    place += len(samples)
                    yield samples[to_drop:]
                    to_drop = max(0, to_drop - len(samples))
            except (soundfile.LibsndfileError, RuntimeError) as error:
                raise damaged(self.where, str(error).split(": ")[-1].strip().rstrip(".")) from None
            if place < part.frames and not self.is_guess[index] and self.num_frames is not None:
                raise truncated(self.where, f"{place} of {part.frames} samples could be read")

    def close(self) -> None:
        for part in self.parts:
            part.close()


def _sound_file(file: BinaryIO | View, raw_rate_hz: int | None = None) -> Any:
    import soundfile

    raw = {"samplerate": raw_rate_hz, "channels": 1, "format": "RAW", "subtype": "PCM_16", "endian": "LITTLE"}
    if isinstance(file, io.FileIO):  # libsndfile then reads it without Python's lock
        file.seek(0)
        opened = soundfile.SoundFile(file.fileno(), closefd=False, **(raw if raw_rate_hz else {}))
    else:
        view = file if isinstance(file, View) else View(file)
        opened = soundfile.SoundFile(view, **(raw if raw_rate_hz else {}))
    # otherwise each read ends with a seek, which fails at the end of a FLAC without a length
    opened.seekable = lambda: False
    return opened


@cache
def _pyav() -> Any:
    """Import PyAV, and limit its libraries to allocations of 128 MB: an MP4 may claim to have four billion samples."""
    import av

    with suppress(AttributeError, OSError):  # on Windows, functions of a library's dependencies are not found
        av_max_alloc = ctypes.CDLL(av._core.__file__).av_max_alloc
        av_max_alloc.argtypes, av_max_alloc.restype = [ctypes.c_size_t], None
        av_max_alloc(2**27)
    return av


_SAMPLE_TYPES = {
    "u8": np.uint8,
    "s16": np.int16,
    "s32": np.int32,
    "s64": np.int64,
    "flt": np.float32,
    "dbl": np.float64,
}


class Pyav(Decoder):
    """Decoder of ffmpeg's formats, through PyAV: the audio of any container, always read from its first byte.

    Raises:
        AudioError: PyAV is not installed, or the file contains no audio that it supports.
    """

    num_frames: int | None = None
    remarks: tuple[str, ...] = ()

    def __init__(self, where: str, file: BinaryIO) -> None:
        self.where, self.file = where, file
        first = next(self._frames(), None)
        if first is None:
            raise no_samples(where)
        self.sample_rate_hz, self.num_channels = first.sample_rate, first.layout.nb_channels

    def blocks(self, start: int, size: int) -> Iterator[Waveform]:
        waiting: list[Waveform] = []
        num_waiting = 0
        for frame in self._frames():
            if (frame.sample_rate, frame.layout.nb_channels) != (self.sample_rate_hz, self.num_channels):
                raise AudioError(
                    "changes its sampling rate or number of channels midway",
                    where=self.where,
                    remedy="Convert it with: ffmpeg -i IN OUT.flac.",
                )
            # (sample, channel); PyAV's own `to_ndarray` reads beyond the eighth plane (av 18.1)
            sample_type = _SAMPLE_TYPES[frame.format.name.removesuffix("p")]
            if frame.format.is_planar:
                planes = frame.planes[: self.num_channels]
                values = np.array([np.frombuffer(plane, sample_type, frame.samples) for plane in planes]).T
            else:
                joined = np.frombuffer(frame.planes[0], sample_type, frame.samples * self.num_channels)
                values = joined.reshape(-1, self.num_channels)
            samples = to_float(values)
            waiting.append(samples[start:])
            num_waiting += len(waiting[-1])
            start = max(0, start - len(samples))
            if num_waiting >= size:
                yield np.concatenate(waiting)
                waiting, num_waiting = [], 0
        if waiting:
            yield np.concatenate(waiting)

    def _frames(self) -> Iterator[Any]:
        """Decode from the start; damaged or missing packets raise errors."""
        try:
            av = _pyav()
        except ImportError:
            raise AudioError(
                "cannot be decoded without the package 'av', which is not installed",
                where=self.where,
                remedy="Install it with: pip install 'serein[media]'.",
            ) from None
        options = {"format_whitelist": _MEDIA_FORMATS, "codec_whitelist": _MEDIA_CODECS, "protocol_whitelist": "none"}
        try:
            with av.open(View(self.file), "r", options=options, metadata_errors="replace") as container:
                stream: Any = container.streams.best("audio")
                codec = stream and stream.codec_context and stream.codec_context.codec.name
                if codec not in _MEDIA_CODECS.split(","):
                    raise AudioError(
                        f"contains audio that is not supported ({codec})" if stream else "contains no audio",
                        where=self.where,
                        remedy="Give WAV, FLAC, Ogg, MP3 or another recording.",
                    )
                for other in container.streams:
                    if other is not stream:
                        other.discard = av.stream.Discard.all
                seconds = 0.0
                for packet in container.demux(stream):
                    if packet.is_corrupt:
                        raise truncated(self.where, f"a packet is cut off after {seconds:.2f} s")
                    for frame in packet.decode():
                        seconds += frame.samples / frame.sample_rate
                        yield frame
                stated_s = 0.0  # if none is stated, or only guessed from the bit rate
                if set(container.format.name.split(",")) & {"mov", "matroska", "asf"}:
                    if stream.duration is not None:
                        stated_s = float(stream.duration * stream.time_base)
                    elif len(container.streams) == 1:
                        stated_s = (container.duration or 0) / 1e6
                if seconds < stated_s - MISSING_S:
                    raise truncated(
                        self.where, f"the header states {stated_s:.2f} s, the file contains {seconds:.2f} s"
                    )
        except (av.FFmpegError, ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, ValueError) as error:
            raise damaged(self.where, getattr(error, "strerror", None) or str(error)) from None

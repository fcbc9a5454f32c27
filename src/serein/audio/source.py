"""Sources of encoded audio: files, bytes, pipes and streams, as bytes that can be read twice; and folders.

Lengths that headers leave out or state wrongly are corrected, as in files of pipes and killed recorders, and in joined
MP3 and Ogg files."""

from __future__ import annotations

import io
import mmap
import os
import re
import stat
import struct
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from serein.errors import AudioError, SereinError

MOST_BYTES_PIPED = 2**31  # of a stream, which is copied so that it can be read twice

# fmt: off
SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".w64", ".rf64",
            ".caf", ".au", ".snd", ".voc", ".sph")
MEDIA_SUFFIXES = (".m4a", ".m4b", ".mp4", ".mov", ".aac", ".3gp", ".3g2", ".amr", ".awb", ".webm", ".weba", ".mka",
                  ".mkv", ".wma", ".wmv", ".asf", ".ac3", ".avi", ".flv", ".mpg", ".mpeg", ".mp2", ".spx", ".wv",
                  ".tta")  # with the extra `media`
RAW_SUFFIXES = (".raw", ".pcm")  # with their rate
# fmt: on


class MissingAudioError(AudioError):
    """There is no such file."""


class TooLongAudioError(AudioError):
    """The recording is longer than its reader allows."""


@dataclass(frozen=True)
class Upload:
    """A recording as bytes, with a name.

    Attributes:
        content: The whole file.
        name: Its name in error messages; never a path.

    Example:
        >>> str(Upload(b"RIFF", "call.wav"))
        'call.wav'
    """

    content: bytes = field(repr=False)
    name: str = "upload"

    def __str__(self) -> str:
        return self.name


Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Upload


def name_of(source: Any) -> str:
    """Return the name of a source in error messages."""
    if isinstance(source, (str, os.PathLike, Upload)):
        return str(source) or "''"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "bytes"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "stream" if hasattr(source, "read") else "samples"


@contextmanager
def bytes_of(source: Any, where: str) -> Iterator[BinaryIO]:
    """Open a file that can be read twice: a regular file directly, anything else as a copy.

    Raises:
        AudioError: It is missing, empty, a folder or a device, or cannot be read; or a stream is too long, or of text.
    """
    if isinstance(source, Upload):
        source = source.content
    if isinstance(source, (bytes, bytearray, memoryview)):
        opened: BinaryIO = io.BytesIO(source)
    elif hasattr(source, "read"):
        opened = _kept_aside(source, where)
    else:
        try:
            kind = os.stat(source).st_mode
            if stat.S_ISDIR(kind):
                raise AudioError("is a folder, not a recording", where=where, remedy="Name a file.")
            if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
                raise AudioError("is a device, not a recording", where=where, remedy="Name a file, or pipe sound in.")
            opened = io.FileIO(source)
        except (FileNotFoundError, NotADirectoryError):
            remedy = (
                "Check the path; if a manifest names it, prepare the manifest again."
                if where != "''"
                else "Name a file."
            )
            if re.match(r"\w{2,}:/", where):
                remedy = "Recordings are files: download it first, or name it without file://."
            raise MissingAudioError("no such file", where=where, remedy=remedy) from None
        except (OSError, ValueError) as error:
            what = f"cannot be opened ({getattr(error, 'strerror', None) or error})"
            raise AudioError(what, where=where, remedy="Check the path and its permissions.") from None
        if not stat.S_ISREG(kind):
            with opened as pipe:
                opened = _kept_aside(pipe, where)
    with opened as file:
        try:
            num_bytes = file.seek(0, os.SEEK_END)
        except OSError as error:  # such as files below /proc
            raise AudioError(f"cannot be read ({error.strerror})", where=where, remedy="Name a recording.") from None
        if num_bytes == 0:
            raise AudioError("the file is empty (0 bytes)", where=where, remedy="Copy or record it again.")
        yield file


def _kept_aside(stream: Any, where: str) -> BinaryIO:
    """Read a pipe or stream to its end: into memory if it is short, else into a file without a name."""
    kept: BinaryIO = io.BytesIO()
    try:
        while chunk := stream.read(2**20):
            if not isinstance(chunk, (bytes, bytearray, memoryview)):
                raise AudioError("returns text, not bytes", where=where, remedy="Open it in binary mode: 'rb'.")
            kept.write(chunk)
            if kept.tell() > MOST_BYTES_PIPED:
                raise TooLongAudioError(
                    f"returns more than {MOST_BYTES_PIPED / 2**30:g} GiB", where=where, remedy="Name a file instead."
                )
            if isinstance(kept, io.BytesIO) and kept.tell() > 2**25:
                in_memory, kept = kept, tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
                kept.write(in_memory.getbuffer())
        if kept.tell() == 0 and hasattr(stream, "seekable") and stream.seekable() and stream.tell() > 0:
            raise AudioError("is at its end", where=where, remedy="Go back to its start: seek(0).")
    except (OSError, ValueError) as error:
        kept.close()
        raise AudioError(f"cannot be read ({error})", where=where, remedy="Give an open file.") from None
    except BaseException:
        kept.close()
        raise
    return kept


@contextmanager
def content_of(file: BinaryIO) -> Iterator[Any]:
    """Yield all bytes of a file without reading them into memory."""
    if isinstance(file, io.BytesIO):
        with file.getbuffer() as content:
            yield content
    else:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


class View(io.RawIOBase):
    """File-like object of `head`, then the bytes of a file from `start` to `stop`.

    Seeking to before the start, as libsndfile does with broken headers, does not change the position.
    """

    def __init__(self, file: BinaryIO, head: bytes = b"", start: int = 0, stop: int | None = None) -> None:
        self.file, self.head, self.shift = file, head, start - len(head)
        self.size = (file.seek(0, os.SEEK_END) if stop is None else stop) - self.shift
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        num_bytes = max(0, min(len(buffer), self.size - self.place))
        if self.place < len(self.head):
            chunk = self.head[self.place : self.place + num_bytes]
        else:
            self.file.seek(self.place + self.shift)
            chunk = self.file.read(num_bytes)
        buffer[: len(chunk)] = chunk
        self.place += len(chunk)
        return len(chunk)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        self.place = place if 0 <= place < 2**62 else self.place
        return self.place


def find(folder: Path, suffixes: Collection[str] = SUFFIXES, errors: list[SereinError] | None = None) -> list[Path]:
    """Return every file below `folder` with one of the suffixes, sorted, without hidden files and pipes.

    Linked folders are followed, once each. Broken links are returned, so that reading them raises an error.

    Args:
        errors: Collects the errors of folders that cannot be read; `None`: the first is raised.

    Raises:
        AudioError: A folder cannot be read.
    """
    return [path for path in find_files(folder, errors) if path.suffix.lower() in suffixes and not path.is_fifo()]


def find_files(folder: Path, errors: list[SereinError] | None = None) -> list[Path]:
    """Return every file below `folder`, sorted, like `find` but with any suffix."""
    found: list[Path] = []
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        try:
            paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
            found += [path for path in paths if not path.is_dir()]
            waiting += [path for path in reversed(paths) if path.is_dir()]
        except OSError as error:
            what, remedy = f"cannot be opened ({error.strerror})", "Check the path and its permissions."
            unreadable = AudioError(what, where=folder, remedy=remedy)
            if errors is None:
                raise unreadable from None
            errors.append(unreadable)
    return sorted(found)


def require_valid_name(path: str | Path) -> None:
    """Raise AudioError if no manifest could contain a name: it is not UTF-8, or contains a line break or similar."""
    shown = str(path).encode(errors="backslashreplace").decode()
    if shown != str(path):
        raise AudioError("the name is not UTF-8", where=shown, remedy="Rename it.")
    if re.search(r"[\x00-\x1f\x7f]", shown):
        raise AudioError("the name contains a control character", where=repr(shown)[1:-1], remedy="Rename it.")


_CHUNKS = {b"RIFF": ("<4sI", 12), b"RIFX": (">4sI", 12), b"RF64": ("<4sI", 12), b"caff": (">4sq", 8)}


def with_its_length(file: BinaryIO) -> View | None:
    """Return a WAV, CAF or AU with its true length, if a pipe or a killed recorder wrote none or a shorter one.

    Source: RIFF, EBU Tech 3306 (RF64), Apple Core Audio Format Specification 1.0: chunks of name, length, content.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(12)
    if start[:4] == b".snd" and start[8:12] == bytes(4):
        return View(file, start[:8] + b"\xff\xff\xff\xff", 12)  # AU's code for an unknown length
    if start[:4] not in _CHUNKS:
        return None
    form, place = _CHUNKS[start[:4]]
    width, ds64 = struct.calcsize(form), 0
    for _ in range(1000):
        if place + width >= size:
            return None
        file.seek(place)
        name, stated = struct.unpack(form, file.read(width))
        place += width
        if name == b"data" or stated < 0:
            break
        ds64 = place + 8 if name == b"ds64" and stated >= 16 else ds64
        place += stated + (stated % 2 if form.endswith("I") else 0)
    if name != b"data":
        return None
    file.seek(0)
    head = bytearray(file.read(place))
    if ds64:
        (stated,) = struct.unpack_from("<q", head, ds64)
    is_early = form.endswith("I") and not ds64 and struct.unpack_from(form, head)[1] + 16 < size
    end = place + max(stated, 0) + max(stated, 0) % 2
    if not (stated <= 0 or is_early) or end + 8 >= size:
        return None
    file.seek(end)
    rest = file.read(4096)
    if all(32 <= byte < 127 for byte in rest[:4]) or rest[:3] == b"ID3" or not rest.strip(b"\0"):
        return None  # another chunk, a tag or padding follows, not audio
    if ds64:
        struct.pack_into("<q", head, ds64, size - place)
    elif form.endswith("q"):
        struct.pack_into(">q", head, place - 8, size - place)
    else:
        struct.pack_into(form[0] + "I", head, place - 4, min(size - place, 0xFFFFFFFF))
    return View(file, bytes(head), place)


class WavHeader(NamedTuple):
    """The header of a WAV file.

    Attributes:
        encoding: Format tag; 1 for integers.
        num_channels: Number of channels.
        rate_hz: Sampling rate.
        bits: Bits of a sample.
        num_bytes: Bytes before the first sample.
    """

    encoding: int
    num_channels: int
    rate_hz: int
    bits: int
    num_bytes: int


def wav_header(start: bytes) -> WavHeader | None:
    """Return the header of the WAV file that begins with these bytes; `None` if they contain no whole header.

    Source: RIFF; the format tag 0xFFFE (WAVE_FORMAT_EXTENSIBLE) is followed by the actual one.
    """
    form, place = b"", 12
    while start[:4] == b"RIFF" and place + 8 <= len(start):
        name, stated = struct.unpack_from("<4sI", start, place)
        place += 8
        if name == b"data" and len(form) >= 16:
            encoding, num_channels, rate_hz, _, _, bits = struct.unpack_from("<HHIIHH", form)
            if encoding == 0xFFFE:
                encoding = int.from_bytes(form[24:26], "little")
            return WavHeader(encoding, num_channels, rate_hz, bits, place)
        form = start[place : place + stated] if name == b"fmt " else form
        place += stated + stated % 2
    return None


def ogg_views(file: BinaryIO) -> list[View]:
    """Return each of the Ogg streams that a file joins end to end; none if it is a single one, or not Ogg.

    Source: RFC 3533, section 6: the first page of a stream is marked.
    """
    with content_of(file) as content:
        starts = [match.start() for match in re.finditer(rb"OggS\0[\x02\x06]", content)] if content[:1] == b"O" else []
        stops = [*starts[1:], len(content)]
    return [View(file, b"", start, stop) for start, stop in zip(starts, stops, strict=True)] if starts[1:] else []


@dataclass
class Mp3:
    """One of the MP3s that a file joins end to end.

    Attributes:
        start: Position of its first byte, of a tag or frame.
        num_stated: Samples stated by its first frame (a "Xing", "Info" or "VBRI" header); 0 if there is none.
        sound: Position of the first byte of its first audio frame.
        num_samples: Samples of its audio frames.
    """

    start: int
    num_stated: int = 0
    sound: int = 0
    num_samples: int = 0

    def are_all(self, num_samples: int) -> bool:
        """Return whether this many samples are all, except for two frames of an encoder's delay and padding."""
        return 0 < num_samples >= self.num_samples - 2 * 1152


_LAYER_III = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
_KBPS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def mp3_parts(file: BinaryIO) -> list[Mp3]:
    """Return the MP3s that a file joins end to end, or the single one; none if it is not an MP3.

    Walks from frame to frame of MPEG layer III, skipping tags. A frame that states a length begins another MP3.
    """
    parts: list[Mp3] = []
    place, tag = 0, -1
    with content_of(file) as content:
        is_mp3 = bytes(content[:3]) == b"ID3" or mp3_frame(bytes(content[:4]))[0] > 0
        while is_mp3 and place + 10 <= len(content):
            start = bytes(content[place : place + 64])
            num_bytes, num_samples = mp3_frame(start)
            if num_bytes:
                # a "Xing", "Info" or "VBRI" frame states the samples, after empty side information and a checksum
                body, num_stated = start[4 if start[1] & 1 else 6 :].lstrip(b"\0"), None
                if body[:4] in (b"Xing", b"Info"):
                    is_stated = len(body) > 11 and body[7] & 1
                    num_stated = int.from_bytes(body[8:12], "big") * num_samples if is_stated else 0
                elif body[:4] == b"VBRI":
                    num_stated = int.from_bytes(body[14:18], "big") * num_samples
                if not parts or num_stated is not None:
                    parts.append(Mp3(place if tag < 0 else tag, num_stated or 0))
                if num_stated is None:
                    parts[-1].sound = parts[-1].sound if parts[-1].num_samples else place
                    parts[-1].num_samples += num_samples
                place, tag = place + num_bytes, -1
            elif start[:3] == b"ID3":  # its length is four bytes of seven bits
                tag = place
                place += 10 + sum(byte << shift for byte, shift in zip(start[6:10], (21, 14, 7, 0), strict=True))
            else:  # a truncated frame or another kind of tag: skip to the next frame that is followed by another
                for match in _LAYER_III.finditer(content, place):
                    place = match.start()
                    head = bytes(content[place : place + 4])
                    after = place + mp3_frame(head)[0]
                    if after > place and bytes(content[after : after + 2]) == head[:2]:
                        break
                else:
                    place = len(content)
    return [part for part in parts if part.num_samples]


def mp3_views(file: BinaryIO, parts: Sequence[Mp3]) -> list[View]:
    """Return each of the MP3s that a file joins; one that states too short a length is given its true length."""
    views = []
    stops = [*(part.start for part in parts[1:]), file.seek(0, os.SEEK_END)]
    for part, stop in zip(parts, stops, strict=True):
        if part.are_all(part.num_stated):
            views.append(View(file, b"", part.start, stop))
        else:
            file.seek(part.sound)
            views.append(View(file, _xing_frame(file.read(4), part.num_samples), part.sound, stop))
    return views


def mp3_frame(start: bytes) -> tuple[int, int]:
    """Return bytes and samples of the MPEG layer III frame with this header, 0 for none (ISO 11172-3, 2.4.2.3)."""
    head = int.from_bytes(start[:4], "big")
    version, layer, kbps_index, rate_index = head >> 19 & 3, head >> 17 & 3, head >> 12 & 15, head >> 10 & 3
    if head >> 21 != 0x7FF or version == 1 or layer != 1 or kbps_index in (0, 15) or rate_index == 3:
        return 0, 0
    kbps = (_KBPS_MPEG1 if version == 3 else _KBPS_MPEG2)[kbps_index]
    rate_hz = (44_100, 48_000, 32_000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    num_samples = 1152 if version == 3 else 576
    return num_samples // 8 * kbps * 1000 // rate_hz + (head >> 9 & 1), num_samples


def _xing_frame(head: bytes, num_samples: int) -> bytes:
    """Return a frame without audio, like the one that begins with `head`, that states a length."""
    head = bytes([head[0], head[1] | 1, 0x90 | (head[2] & 0x0C), head[3]])  # no checksum, 128 or 80 kbit/s, no padding
    num_bytes, samples_per_frame = mp3_frame(head)
    is_mpeg1, is_mono = samples_per_frame == 1152, head[3] >> 6 == 3
    side_information = bytes((17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17))
    stated = b"Xing" + (1).to_bytes(4, "big") + (num_samples // samples_per_frame).to_bytes(4, "big")
    return (head + side_information + stated).ljust(num_bytes, b"\0")

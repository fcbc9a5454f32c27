"""A recording that somebody sent, in memory: nothing of it reaches a path."""

from __future__ import annotations

import io
import math
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serein.errors import AudioError


@dataclass(frozen=True)
class Upload:
    """A recording as bytes.

    Attributes:
        content: The whole file.
        name: What complaints call it; never a path.

    Example:
        >>> str(Upload(b"RIFF", "call.wav"))
        'call.wav'
    """

    content: bytes = field(repr=False)
    name: str = "upload"

    def __str__(self) -> str:
        return self.name


Source = str | Path | Upload


def length_is_a_guess(path: Source, num_frames: int) -> bool:
    """Return whether an MP3 does not state its length at its start, so that libsndfile guesses it.

    Raises:
        AudioError: The guess is too low, so that libsndfile would leave out the end.
    """
    if isinstance(path, Upload):
        return _is_a_guess(path, path.content, num_frames)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _is_a_guess(path, content, num_frames)


def _is_a_guess(path: Source, content: bytes | mmap.mmap, num_frames: int) -> bool:
    start = 0
    if content[:3] == b"ID3":  # the tag's length is four bytes of seven bits
        start = 10 + sum(byte << shift for byte, shift in zip(content[6:10], (21, 14, 7, 0), strict=True))
    if any(tag in content[start : start + 200] for tag in (b"Xing", b"Info", b"VBRI")):
        return False
    if num_frames < _num_mp3_samples(content, start) - 2 * 1152:
        raise AudioError(
            "an MP3 of varying bit rate that does not state its length",
            where=path,
            remedy="Convert it with: ffmpeg -i IN OUT.flac.",
        )
    return True


_KBPS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def _num_mp3_samples(content: bytes | mmap.mmap, start: int) -> int:
    """Count the samples of the MPEG layer III frames from byte `start` on (ISO 11172-3, 2.4.2.3)."""
    num_samples = 0
    while start + 4 <= len(content):
        head = int.from_bytes(content[start : start + 4], "big")
        version, kbps_index, rate_index = head >> 19 & 3, head >> 12 & 15, head >> 10 & 3
        if head >> 21 != 0x7FF or version == 1 or kbps_index in (0, 15) or rate_index == 3:
            break
        kbps = (_KBPS_MPEG1 if version == 3 else _KBPS_MPEG2)[kbps_index]
        rate_hz = (44_100, 48_000, 32_000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
        start += (144 if version == 3 else 72) * kbps * 1000 // rate_hz + (head >> 9 & 1)
        num_samples += 1152 if version == 3 else 576
    return num_samples


SAMPLE_RATE_HZ = 16_000  # every backbone of the papers was trained at this rate
SILENCE_PEAK = 1e-4  # -80 dB below full scale: below the noise floor of any 16-bit recording of speech
RATES_HZ = (4_000, 192_000)  # of recordings that strangers send
MOST_CHANNELS = 8
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".w64", ".caf")

Waveform = NDArray[np.float32]

# What libsndfile notes of a cut WAV ("data"), AIFF ("SSND"), AU and W64; a wrong outer "RIFF" is harmless.
_HEADER_PROMISES_MORE = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*:\s*(\d+)\s*\(should be (\d+)\)", re.MULTILINE)
_LENGTH_UNKNOWN = 0x7FFFF000  # what SoX writes to a pipe; ffmpeg and arecord write more
_CENTURY_S = 3e9  # what libsndfile says of a FLAC that does not know its length is longer
_DAMAGED_PAGES = re.compile(r"Junk after the last page|Corrupted bitstream|reports a hole")  # Ogg Vorbis and Opus


class MissingAudioError(AudioError):
    """There is no such file."""


class TruncatedAudioError(AudioError):
    """The file ends before its header says."""


class OutsideAudioError(AudioError):
    """The part asked for lies outside the file."""


class NotFiniteAudioError(AudioError):
    """The file holds NaN or infinite samples."""


class TooLongAudioError(AudioError):
    """The recording is longer than its hearer allows."""


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says.

    Attributes:
        duration_s: Length of the file, or of the part asked for, in seconds.
        sample_rate_hz: Rate of the file, before resampling.
        num_channels: Channels of the file, before mixing down.
    """

    duration_s: float
    sample_rate_hz: int
    num_channels: int


def info(path: Source, start_s: float = 0.0, end_s: float | None = None) -> AudioInfo:
    """Read a file's header, without its samples.

    Raises:
        AudioError: The file is missing, empty, shorter than its header says, no audio, or the part lies outside it.
    """
    import soundfile

    _require_file(path)
    try:
        header = soundfile.info(_openable(path))
    except soundfile.LibsndfileError as error:
        raise _not_audio(path, error) from None
    _require_complete(path, header.extra_info)
    start, stop = _frame_range(path, header, start_s, end_s)
    return AudioInfo((stop - start) / header.samplerate, header.samplerate, header.channels)


def require_at_most(path: Source, most_s: float) -> AudioInfo:
    """Refuse by its header what would take long to read; what is let through is read in memory and time so bounded.

    Args:
        path: Of it no more is read than its header says.
        most_s: Longest recording, in seconds.

    Raises:
        TooLongAudioError: It is longer.
        AudioError: As `info`, or its rate or channels are none that speech is recorded with.
    """
    said = info(path)
    if said.duration_s > _CENTURY_S:
        raise TooLongAudioError("does not say how long it is", where=path, remedy="Convert it, or write its length.")
    if said.duration_s > most_s:
        raise TooLongAudioError(
            f"is {said.duration_s:.0f} s long, and at most {most_s:g} s are heard at once",
            where=path,
            remedy="Cut it, or send it in parts.",
        )
    if not RATES_HZ[0] <= said.sample_rate_hz <= RATES_HZ[1] or said.num_channels > MOST_CHANNELS:
        raise AudioError(
            f"has {said.num_channels} channels at {said.sample_rate_hz} Hz, which is no recording of speech",
            where=path,
            remedy=f"Give at most {MOST_CHANNELS} channels at {RATES_HZ[0]} to {RATES_HZ[1]} Hz.",
        )
    return said


def load(path: Source, start_s: float = 0.0, end_s: float | None = None) -> Waveform:
    """Read speech: like `decode`, and refuse silence.

    Returns:
        (sample,) float32, mono, 16 kHz.

    Raises:
        AudioError: As in `decode`, or the recording is silent.
    """
    waveform = decode(path, start_s, end_s)
    _require_sound(path, waveform)
    return waveform


def load_at_most(path: Source, most_s: float) -> Waveform:
    """Read as `load` does, in memory and time that `most_s` bounds, whatever the header says.

    Raises:
        TooLongAudioError: It is longer.
        AudioError: As in `load` and `require_at_most`.
    """
    require_at_most(path, most_s)
    waveform = np.concatenate([*blocks(path), np.zeros(0, np.float32)])
    _require_sound(path, waveform)
    return waveform


def decode(path: Source, start_s: float = 0.0, end_s: float | None = None) -> Waveform:
    """Read a file, or the part from `start_s` to `end_s`, mixed down to one channel and resampled to 16 kHz.

    Only the part asked for is read from disk.

    Args:
        path: WAV, FLAC, OGG, Opus, MP3 and whatever else libsndfile reads; any rate, any number of channels.
        start_s: Start in seconds.
        end_s: End in seconds; `None` is the end of the file.

    Returns:
        (sample,) float32, at least one sample, all finite.

    Raises:
        AudioError: Missing, empty, truncated, not audio, not finite, or the part lies outside the file.
    """
    samples, rate_hz = _read_samples(path, start_s, end_s)
    return resample(_mono(path, samples), rate_hz)


def blocks(
    path: Source, start_s: float = 0.0, end_s: float | None = None, *, block_s: float = 10.0
) -> Iterator[Waveform]:
    """Read what `decode` reads block by block, in memory that does not grow with the recording.

    Args:
        block_s: Seconds that are read at once.

    Yields:
        (sample,) float32, mono, 16 kHz; joined they are what `decode` returns.

    Raises:
        AudioError: As `decode`, when the place is reached.
    """
    import soundfile

    try:
        with _opened(path) as file:
            start, stop = _frame_range(path, file, start_s, end_s)
            is_guess = file.format == "MP3" and length_is_a_guess(path, file.frames)
            to_16_khz = Resampler(int(file.samplerate))
            file.seek(start)
            place = start
            while place < stop:
                samples = file.read(
                    min(round(block_s * file.samplerate), stop - place), dtype="float32", always_2d=True
                )
                if not len(samples):
                    break
                place += len(samples)
                yield to_16_khz(_mono(path, samples))
            yield to_16_khz.rest()
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise _not_audio(path, error) from None
    if place - start < (1 if is_guess else stop - start):
        raise _truncated(path, f"{place - start} of {stop - start} samples could be read")


class Resampler:
    """A waveform that comes in pieces, to 16 kHz as by `resample`.

    Args:
        rate_hz: Rate of what comes.
    """

    def __init__(self, rate_hz: int) -> None:
        import soxr

        is_needed = rate_hz != SAMPLE_RATE_HZ
        self.stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, "float32", "HQ") if is_needed else None

    def __call__(self, waveform: Waveform) -> Waveform:
        """Return what can be told after (sample,) more."""
        if self.stream is None:
            return np.ascontiguousarray(waveform, dtype=np.float32)
        resampled: Waveform = self.stream.resample_chunk(np.ascontiguousarray(waveform, dtype=np.float32))
        return resampled

    def rest(self) -> Waveform:
        """Return the end, once all has come."""
        nothing = np.zeros(0, np.float32)
        if self.stream is None:
            return nothing
        resampled: Waveform = self.stream.resample_chunk(nothing, last=True)
        return resampled


def resample(waveform: Waveform, rate_hz: int) -> Waveform:
    """Resample (sample,) from `rate_hz` to 16 kHz with soxr's high quality; the same array at 16 kHz."""
    if rate_hz == SAMPLE_RATE_HZ:
        return np.ascontiguousarray(waveform, dtype=np.float32)
    import soxr

    resampled: Waveform = soxr.resample(waveform, rate_hz, SAMPLE_RATE_HZ, quality="HQ").astype(np.float32)
    return resampled if resampled.size else np.zeros(1, np.float32)


def trimmed(waveform: Waveform, below_peak_db: float | None) -> Waveform:
    """Cut silence off both ends, but for 0.1 s beyond the frames within `below_peak_db` of the loudest.

    Frames are 25 ms long, every 10 ms. `None` cuts nothing.

    Example:
        >>> second = np.ones(SAMPLE_RATE_HZ, np.float32)
        >>> len(trimmed(np.concatenate([0 * second, second, 0 * second]), 30.0)) / SAMPLE_RATE_HZ
        1.235
    """
    if below_peak_db is None or len(waveform) < 2 * _FRAME:
        return waveform
    frames = np.lib.stride_tricks.sliding_window_view(waveform, _FRAME)[::_HOP]
    energy_db = 10 * np.log10(np.einsum("ft,ft->f", frames, frames) / _FRAME + 1e-10)
    loud = np.flatnonzero(energy_db > energy_db.max() - below_peak_db)
    start = max(0, int(loud[0]) * _HOP - _MARGIN)
    stop = min(len(waveform), int(loud[-1]) * _HOP + _FRAME + _MARGIN)
    return waveform[start:stop]


_FRAME, _HOP, _MARGIN = SAMPLE_RATE_HZ // 40, SAMPLE_RATE_HZ // 100, SAMPLE_RATE_HZ // 10


def find(folder: Path) -> list[Path]:
    """Return every audio file below `folder`, by suffix, sorted; what is hidden is left out.

    Linked folders are entered, once each. A link whose file is gone is returned, so that reading it says so.
    """
    found = [path for path in find_files(folder) if path.suffix.lower() in SUFFIXES]
    for path in found:
        require_utf8(path)
    return found


def require_utf8(path: Path) -> None:
    """Raise AudioError when a name is not UTF-8, as in an archive of another age: no manifest could hold it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise AudioError("the name is not UTF-8", where=shown, remedy="Rename it.") from None


def find_files(folder: Path) -> list[Path]:
    """Return every file below `folder`, sorted, as `find` does, whatever its suffix."""
    return sorted(walk(folder))


def walk(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder` as it is met; each linked folder once."""
    yield from _walk(folder, seen=set())


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    if (real := os.path.realpath(folder)) in seen:
        return
    seen.add(real)
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, seen)
        else:
            yield path


def _mono(path: Source, samples: Waveform) -> Waveform:
    """Mix (sample, channel) down to (sample,), all of which must be finite."""
    if not np.isfinite(samples).all():
        raise NotFiniteAudioError("holds NaN or infinite samples", where=path, remedy="Export the recording again.")
    mono: Waveform = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]
    return mono


def _require_sound(path: Source, waveform: Waveform) -> None:
    if float(np.abs(waveform).max(initial=0.0)) < SILENCE_PEAK:
        raise AudioError(
            f"silent: the peak is below {20 * np.log10(SILENCE_PEAK):.0f} dB of full scale",
            where=path,
            remedy="Record it again, or remove it from the list.",
        )


@contextmanager
def _opened(path: Source) -> Iterator[Any]:
    """Open a file of whose completeness its header gives no doubt."""
    import soundfile

    _require_file(path)
    with soundfile.SoundFile(_openable(path)) as file:
        _require_complete(path, file.extra_info)
        yield file


def _read_samples(path: Source, start_s: float, end_s: float | None) -> tuple[Waveform, int]:
    import soundfile

    try:
        with _opened(path) as file:
            start, stop = _frame_range(path, file, start_s, end_s)
            if start:
                file.seek(start)
            samples = file.read(stop - start, dtype="float32", always_2d=True)
            rate_hz = int(file.samplerate)
            is_guess = file.format == "MP3" and length_is_a_guess(path, file.frames)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise _not_audio(path, error) from None
    if len(samples) < (1 if is_guess else stop - start):
        raise _truncated(path, f"{len(samples)} of {stop - start} samples could be read")
    return samples, rate_hz


def _frame_range(path: Source, file: object, start_s: float, end_s: float | None) -> tuple[int, int]:
    num_frames, rate_hz = int(file.frames), int(file.samplerate)  # type: ignore[attr-defined]
    if num_frames == 0:
        raise _no_samples(path)
    start = round(start_s * rate_hz) if math.isfinite(start_s) else num_frames
    stop = num_frames if end_s is None else round(end_s * rate_hz) if math.isfinite(end_s) else 0
    slack = round(0.01 * rate_hz)  # time stamps are often rounded to hundredths
    if not 0 <= start < min(stop, num_frames) or stop > num_frames + slack:
        raise OutsideAudioError(
            f"the part {start_s:g} s to {'the end' if end_s is None else f'{end_s:g} s'} "
            f"lies outside the file of {num_frames / rate_hz:.2f} s",
            where=path,
            remedy="Correct start_s and end_s in the manifest.",
        )
    return start, min(stop, num_frames)


def _openable(path: Source) -> str | io.BytesIO:
    return _Content(path.content) if isinstance(path, Upload) else str(path)


class _Content(io.BytesIO):
    """Bytes as a file; who looks before their start, as libsndfile does by broken headers, stays where he is."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _require_file(path: Source) -> None:
    num_bytes = len(path.content) if isinstance(path, Upload) else _require_readable(Path(path))
    if num_bytes == 0:
        raise AudioError("the file is empty (0 bytes)", where=path, remedy="Copy or record it again.")


def _require_readable(path: Path) -> int:
    """Return how many bytes a file has."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingAudioError(
            "no such file", where=path, remedy="Check the path, or prepare the manifest again."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioError(f"cannot be opened ({reason})", where=path, remedy="Check the path and its rights.") from None
    if path.is_dir():
        raise AudioError("is a folder, not a recording", where=path, remedy="Name a file.")
    return status.st_size


def _require_complete(path: Source, extra_info: str) -> None:
    promise = _HEADER_PROMISES_MORE.search(extra_info)
    if promise and int(promise[2]) < int(promise[1]) < _LENGTH_UNKNOWN:
        raise _truncated(path, f"the header promises {promise[1]} bytes, the file holds {promise[2]}")
    if _DAMAGED_PAGES.search(extra_info):
        raise _truncated(path, "a page of the Ogg stream is cut off or damaged")


def _truncated(path: Source, detail: str) -> AudioError:
    return TruncatedAudioError(f"truncated: {detail}", where=path, remedy="Copy the file again from its source.")


def _no_samples(path: Source) -> AudioError:
    return AudioError("holds no samples", where=path, remedy="Record it again, or remove it from the list.")


def _not_audio(path: Source, error: Exception) -> AudioError:
    reason = str(error).split(": ")[-1].strip().rstrip(".")
    if re.search("lost sync|malformed|unspecified", reason, re.IGNORECASE):
        return AudioError(f"damaged or cut off ({reason})", where=path, remedy="Copy the file again from its source.")
    return AudioError(
        f"cannot be decoded as audio ({reason})",
        where=path,
        remedy="Give WAV, FLAC, OGG, Opus or MP3; convert others with: ffmpeg -i IN OUT.flac.",
    )

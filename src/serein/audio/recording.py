"""A recording, opened from any source and read whole, in part or block by block."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from serein.audio.decoders import Decoder, decoder_of, no_samples
from serein.audio.samples import (
    MOST_CHANNELS,
    RATES_HZ,
    SAMPLE_RATE_HZ,
    NotFiniteAudioError,
    Resampler,
    Waveform,
    as_channels,
    mixed_down,
    rate_hz,
    require_not_cancelled,
    unwrapped,
)
from serein.audio.source import TooLongAudioError, Upload, bytes_of, name_of
from serein.errors import AudioError

SILENCE_PEAK = 1e-4  # -80 dB of full scale: below the noise floor of any 16-bit recording of speech
LONGEST_WHOLE_S = 3_600.0  # 230 MB at 16 kHz; `blocks` reads longer recordings
FREE_VALUES, VALUES_PER_BYTE = 2**27, 64  # limits of decoding; Opus at 6 kbit/s has 64 per byte, silence in FLAC 300
LOUDEST = 16.0  # times full scale, from 32-bit float recorders


class OutsideAudioError(AudioError):
    """The requested part lies outside the file."""


@dataclass(frozen=True)
class AudioInfo:
    """Properties of a recording.

    Attributes:
        duration_s: Length of the recording, or of the requested part, in seconds.
        sample_rate_hz: Rate before resampling.
        num_channels: Number of channels before mixing down.
        remarks: Irregularities that do not prevent it from being read, as sentences without a full stop.
    """

    duration_s: float
    sample_rate_hz: int
    num_channels: int
    remarks: tuple[str, ...] = ()


@contextmanager
def open(source: Any, *, sampling_rate: float | None = None, raw_rate_hz: int | None = None) -> Iterator[Recording]:
    """Open audio in any form; a pipe or stream, which can be read only once, is copied so that it can be read twice.

    Args:
        source: Path, encoded bytes, binary file, `Upload`, samples as in `as_channels`, or an item of Hugging Face's
            datasets as in `unwrapped`.
        sampling_rate: Rate of samples in Hz. Encoded audio states its own.
        raw_rate_hz: Read a file in no known container as 16-bit little-endian mono PCM at this rate.

    Raises:
        AudioError: The source is missing, empty, truncated or not audio, or as in `as_waveform`.
    """
    source, sampling_rate = unwrapped(source, sampling_rate)
    if not isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview, Upload)) and not hasattr(source, "read"):
        yield Recording("samples", _Samples(as_channels(source), rate_hz(sampling_rate)))
        return
    where = name_of(source)
    require_no_rate(sampling_rate, where)
    with bytes_of(source, where) as file:
        num_bytes = file.seek(0, os.SEEK_END)
        decoder = decoder_of(
            where, file, None if raw_rate_hz is None else rate_hz(raw_rate_hz)
        )  # from here on, the decoder controls the position in the file
        try:
            yield Recording(where, decoder, num_bytes)
        finally:
            decoder.close()


def require_no_rate(sampling_rate: float | None, where: str) -> None:
    """Check that no sampling rate was given with a file or its bytes.

    Raises:
        AudioError: One was given.
    """
    if sampling_rate is not None:
        raise AudioError(
            "encoded audio states its own sampling rate",
            where=where,
            remedy="Leave sampling_rate out; for headerless PCM give raw_rate_hz.",
        )


class Recording:
    """A recording that is open for reading.

    Args:
        where: Its name in error messages.
        decoder: Decoder that reads it.
        num_bytes: Size of the file, which bounds the number of decoded samples; `None` for samples.

    Raises:
        AudioError: There are no samples, more samples than its bytes can contain, or a sampling rate or number of
            channels that speech is not recorded with.
    """

    def __init__(self, where: str, decoder: Decoder, num_bytes: int | None = None) -> None:
        self.where, self.decoder = where, decoder
        self.most_values = math.inf if num_bytes is None else FREE_VALUES + VALUES_PER_BYTE * num_bytes
        rate, num_channels, num_frames = decoder.sample_rate_hz, decoder.num_channels, decoder.num_frames
        if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
            what, remedy = f"has a sampling rate of {rate} Hz", f"Give {RATES_HZ[0]} to {RATES_HZ[1]} Hz."
            raise AudioError(f"{what}, which is not a recording of speech", where=where, remedy=remedy)
        if num_channels > MOST_CHANNELS:
            what, remedy = f"has {num_channels} channels", f"Give at most {MOST_CHANNELS}."
            raise AudioError(f"{what}, which is not a recording of speech", where=where, remedy=remedy)
        if num_frames == 0:
            raise no_samples(where)
        if num_frames and num_frames * num_channels > self.most_values:
            raise self._too_long()

    def info(self, start_s: float = 0.0, end_s: float | None = None, *, most_s: float = math.inf) -> AudioInfo:
        """Return length, rate and channels; if no header states the length, decode the recording to measure it.

        Raises:
            OutsideAudioError: The part from `start_s` to `end_s` lies outside.
            TooLongAudioError: The recording is longer than `most_s`.
            AudioError: As in `blocks`, if it is decoded.
        """
        decoder = self.decoder
        if decoder.num_frames is None:
            num_frames = 0
            for samples in self._samples(0):
                num_frames += len(samples)
                _require_at_most(self.where, num_frames / decoder.sample_rate_hz, most_s)
            decoder.num_frames = num_frames
            if num_frames == 0:
                raise no_samples(self.where)
        _require_at_most(self.where, decoder.num_frames / decoder.sample_rate_hz, most_s)
        start, stop = self._frame_range(decoder.num_frames, start_s, end_s)
        rate = decoder.sample_rate_hz
        return AudioInfo((stop - start) / rate, rate, decoder.num_channels, decoder.remarks)

    def blocks(self, start_s: float = 0.0, end_s: float | None = None, *, block_s: float = 10.0) -> Iterator[Waveform]:
        """Read like `waveform`, in memory that does not grow with the recording.

        Args:
            start_s: Start in seconds.
            end_s: End in seconds; `None` is the end of the recording.
            block_s: Seconds to read at once.

        Yields:
            (sample,) float32, mono, 16 kHz; concatenated, they equal the result of `waveform`.

        Raises:
            AudioError: The recording is truncated, damaged or not finite, or the part lies outside, once that place is
                reached; or its channels cancel each other, at its end.
        """
        rate, start, stop = self.decoder.sample_rate_hz, 0, self.decoder.num_frames
        if start_s != 0.0 or end_s is not None:
            self.info()
            start, stop = self._frame_range(self.decoder.num_frames or 0, start_s, end_s)
        place = start
        of_channels = of_mix = 0.0  # energies
        to_16_khz = Resampler(rate)
        for samples in self._samples(start, round(block_s * rate)):
            part = samples if stop is None else samples[: stop - place]
            place += len(part)
            peak = float(np.abs(part).max(initial=0.0))
            if not math.isfinite(peak):
                raise NotFiniteAudioError(
                    "contains NaN or infinite samples", where=self.where, remedy="Export the recording again."
                )
            if peak > LOUDEST:
                raise AudioError(
                    f"reaches {peak:.4g} times full scale",
                    where=self.where,
                    remedy="Export it again with float samples within [-1, 1].",
                )
            mono = mixed_down(part)
            if part.shape[1] > 1:
                of_channels += float(np.vdot(part, part)) / part.shape[1]
                of_mix += float(np.vdot(mono, mono))
            yield to_16_khz(mono)
            if place == stop:
                break
        require_not_cancelled(of_mix, of_channels, self.where)
        if place == start:
            raise no_samples(self.where)
        yield to_16_khz.rest()

    def waveform(
        self, start_s: float = 0.0, end_s: float | None = None, *, most_s: float = LONGEST_WHOLE_S
    ) -> Waveform:
        """Read all, or the part from `start_s` to `end_s`, mixed down to one channel and resampled to 16 kHz.

        Returns:
            (sample,) float32, at least one sample, all finite.

        Raises:
            TooLongAudioError: It is longer than `most_s`.
            AudioError: As in `blocks`.
        """
        if self.decoder.num_frames is not None:
            _require_at_most(self.where, self.info(start_s, end_s).duration_s, most_s)
        joined = bytearray()  # grows in place; a list of blocks would be copied
        for block in self.blocks(start_s, end_s):
            joined += memoryview(block.data).cast("B")
            _require_at_most(self.where, len(joined) / (4 * SAMPLE_RATE_HZ) - 0.001, most_s)  # resampling rounds
        return np.frombuffer(joined, np.float32) if joined else np.zeros(1, np.float32)

    def _samples(self, start: int, size: int = 2**20) -> Iterator[Waveform]:
        """Yield the decoder's blocks, as long as the file is large enough to contain so many samples."""
        num_values = 0
        for samples in self.decoder.blocks(start, size):
            num_values += samples.size
            if num_values > self.most_values:
                raise self._too_long()
            yield samples

    def _frame_range(self, num_frames: int, start_s: float, end_s: float | None) -> tuple[int, int]:
        rate = self.decoder.sample_rate_hz
        start = round(start_s * rate) if math.isfinite(start_s) else num_frames
        stop = num_frames if end_s is None else round(end_s * rate) if math.isfinite(end_s) else 0
        slack = round(0.01 * rate)  # time stamps are often rounded to hundredths
        if not 0 <= start < min(stop, num_frames) or stop > num_frames + slack:
            raise OutsideAudioError(
                f"the part {start_s:g} s to {'the end' if end_s is None else f'{end_s:g} s'} "
                f"lies outside the file of {num_frames / rate:.2f} s",
                where=self.where,
                remedy="Correct start_s and end_s in the manifest.",
            )
        return start, min(stop, num_frames)

    def _too_long(self) -> AudioError:
        return TooLongAudioError(
            "contains more audio than speech in a file of its size can: it is silent or damaged",
            where=self.where,
            remedy="Record it again, or cut it.",
        )


def info(
    path: Any,
    start_s: float = 0.0,
    end_s: float | None = None,
    *,
    most_s: float = math.inf,
    raw_rate_hz: int | None = None,
) -> AudioInfo:
    """Return the properties of a recording from its header, as in `Recording.info`.

    Raises:
        TooLongAudioError: It is longer than `most_s`; if reading it would take long, its header decides.
        AudioError: As in `open` and `Recording.info`.
    """
    with open(path, raw_rate_hz=raw_rate_hz) as recording:
        return recording.info(start_s, end_s, most_s=most_s)


def load(
    path: Any,
    start_s: float = 0.0,
    end_s: float | None = None,
    *,
    most_s: float = LONGEST_WHOLE_S,
    sampling_rate: float | None = None,
    raw_rate_hz: int | None = None,
) -> Waveform:
    """Read speech: like `decode`, but reject silence.

    Returns:
        (sample,) float32, mono, 16 kHz.

    Raises:
        AudioError: As in `decode`, or the recording is silent.
    """
    waveform = decode(path, start_s, end_s, most_s=most_s, sampling_rate=sampling_rate, raw_rate_hz=raw_rate_hz)
    require_audible(waveform, name_of(path))
    return waveform


def require_audible(waveform: Waveform, where: str) -> None:
    """Reject silence, for which a model would predict a class all the same.

    Raises:
        AudioError: No sample of (sample,) exceeds `SILENCE_PEAK`.
    """
    if float(np.abs(waveform).max(initial=0.0)) < SILENCE_PEAK:
        raise AudioError(
            f"silent: the peak is below {20 * np.log10(SILENCE_PEAK):.0f} dB of full scale",
            where=where,
            remedy="Record it again, or remove it from the list.",
        )


def decode(
    path: Any,
    start_s: float = 0.0,
    end_s: float | None = None,
    *,
    most_s: float = LONGEST_WHOLE_S,
    sampling_rate: float | None = None,
    raw_rate_hz: int | None = None,
) -> Waveform:
    """Read a recording in any form, or the part from `start_s` to `end_s`, as `Recording.waveform` does.

    Only the part is read from files that support seeking (all except those that need the extra `media`).

    Args:
        path: As in `open`.
        start_s: Start in seconds.
        end_s: End in seconds; `None` is the end of the file.
        most_s: Maximum length in seconds; bounds memory and time, whatever the header states.
        sampling_rate: As in `open`.
        raw_rate_hz: As in `open`.

    Returns:
        (sample,) float32, at least one sample, all finite.

    Raises:
        AudioError: As in `open` and `Recording.waveform`.
    """
    with open(path, sampling_rate=sampling_rate, raw_rate_hz=raw_rate_hz) as recording:
        return recording.waveform(start_s, end_s, most_s=most_s)


def blocks(
    path: Any,
    start_s: float = 0.0,
    end_s: float | None = None,
    *,
    block_s: float = 10.0,
    sampling_rate: float | None = None,
    raw_rate_hz: int | None = None,
) -> Iterator[Waveform]:
    """Read the audio that `decode` returns block by block, as in `Recording.blocks`.

    Raises:
        AudioError: As in `open` and `Recording.blocks`.
    """
    with open(path, sampling_rate=sampling_rate, raw_rate_hz=raw_rate_hz) as recording:
        yield from recording.blocks(start_s, end_s, block_s=block_s)


class _Samples(Decoder):
    """Samples in memory, read like a file."""

    remarks: tuple[str, ...] = ()

    def __init__(self, channels: Waveform, rate_hz: int) -> None:
        self.channels = channels
        self.sample_rate_hz = rate_hz
        self.num_frames: int | None
        self.num_frames, self.num_channels = channels.shape

    def blocks(self, start: int, size: int) -> Iterator[Waveform]:
        for place in range(start, len(self.channels), size):
            yield self.channels[place : place + size]


def _require_at_most(where: str, duration_s: float, most_s: float) -> None:
    if duration_s > most_s:
        raise TooLongAudioError(
            f"is {duration_s:.0f} s long, but at most {most_s:g} s are read at once",
            where=where,
            remedy="Cut it, or send it in parts.",
        )

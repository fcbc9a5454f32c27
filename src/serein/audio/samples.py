"""Convert samples in memory, of any type, shape and rate, to mono float32 at 16 kHz."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serein.errors import AudioError

SAMPLE_RATE_HZ = 16_000  # every backbone of the papers was trained at this rate
RATES_HZ = (4_000, 192_000)  # of recordings of speech
MOST_CHANNELS = 8
CANCELLED = 1e-4  # of the channels' energy, -40 dB: what different signals leave in their mean is far more

Waveform = NDArray[np.float32]  # (sample,), one channel at 16 kHz unless stated otherwise

_SHAPES = "Give one recording as (sample,), (sample, channel) or (channel, sample), float or integer."
_OFFSET = 1e-3  # of full scale
OVERSHOOT = 1.5  # times full scale, which decoders and resamplers may exceed a little


class NotFiniteAudioError(AudioError):
    """The file contains NaN or infinite samples."""


def as_waveform(samples: Any, sampling_rate: float | None = None) -> Waveform:
    """Return samples of any form as mono at 16 kHz, like `load` for files.

    Args:
        samples: As in `as_mono`; or a mapping `{"array": samples, "sampling_rate": 16000}`.
        sampling_rate: In Hz; needed unless the mapping has it.

    Returns:
        (sample,) float32, 16 kHz.

    Raises:
        AudioError: As in `as_mono`, or the channels cancel each other; or the rate is missing, not a number, or not
            one that speech is recorded at.

    Example:
        >>> as_waveform(np.full((2, 24_000), 16_384, np.int16), 48_000).shape
        (8000,)
    """
    samples, sampling_rate = unwrapped(samples, sampling_rate)
    channels = as_channels(samples)
    mono = mixed_down(channels)
    require_not_cancelled(float(np.vdot(mono, mono)), float(np.vdot(channels, channels)) / channels.shape[1])
    return resample(mono, rate_hz(sampling_rate))


def as_mono(samples: Any) -> Waveform:
    """Return samples as in `as_channels`, mixed down to one channel, (sample,).

    Example:
        >>> as_mono(np.array([0, 16_384, -32_768], np.int16))
        array([ 0. ,  0.5, -1. ], dtype=float32)
    """
    return mixed_down(as_channels(samples))


def as_channels(samples: Any) -> Waveform:
    """Return samples of any type and shape as float32 within full scale.

    Args:
        samples: (sample,), (sample, channel) or (channel, sample): numpy or torch array, or list. Float within
            [-1, 1]; int8, int16, int32 and uint8 (128 is zero) as WAV files store them.

    Returns:
        (sample, channel) float32.

    Raises:
        AudioError: The samples are empty, of another type or shape, or beyond full scale; or a list of arrays, which
            may be recordings as well as channels.
        NotFiniteAudioError: The samples contain NaN or infinite values.
    """
    if isinstance(samples, list | tuple) and len(samples) and getattr(samples[0], "ndim", 0):
        raise AudioError(
            f"are a list of {len(samples)} arrays, not one recording",
            where="samples",
            remedy="Give recordings one at a time, and channels as one array: np.stack(channels).",
        )
    try:
        if hasattr(samples, "detach"):  # a torch tensor, of any device and any float type
            samples = samples.detach().cpu()
            samples = samples.float() if samples.is_floating_point() else samples
        array = np.asarray(samples)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise AudioError(f"are not an array of numbers ({error})", where="samples", remedy=_SHAPES) from None
    if array.dtype.kind not in "fiu":
        kinds = {"U": "text", "S": "bytes", "O": "objects", "c": "complex numbers", "b": "truth values"}
        kind = kinds.get(array.dtype.kind, str(array.dtype))
        remedy = "Name files one at a time, or use predict_files." if kind == "text" else _SHAPES
        raise AudioError(f"are {kind}, not samples", where="samples", remedy=remedy)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)  # RIFX, AU and SPHERE are big-endian
    if array.size == 0:
        raise AudioError("are empty: no samples", where="samples", remedy="Give at least one sample.")
    first, second = array.shape if array.ndim == 2 else (0, 0)
    if array.ndim == 1:
        array = array[:, None]
    elif first == 1 or first <= MOST_CHANNELS < second:
        array = array.T
    elif second != 1 and not second <= MOST_CHANNELS < first:
        raise AudioError(f"of shape {array.shape} do not show which axis is time", where="samples", remedy=_SHAPES)
    if array.dtype.kind == "f":
        peak = float(np.abs(array).max())
        if not math.isfinite(peak):
            raise NotFiniteAudioError("contain NaN or infinite values", where="samples", remedy="Remove them.")
        if peak > OVERSHOOT:
            raise AudioError(
                f"float samples reach {peak:.4g}, but full scale is 1",
                where="samples",
                remedy="Give 16-bit values as int16, or divide them by 32768.",
            )
    elif array.dtype not in (np.uint8, np.int8, np.int16, np.int32):
        raise AudioError(
            f"of type {array.dtype} have no defined full scale",
            where="samples",
            remedy="Convert them to float within [-1, 1], or to the type that they were recorded in, such as int16.",
        )
    return to_float(array)


def to_float(array: NDArray[Any]) -> Waveform:
    """Return float32 within full scale; integers are read as in WAV files: 8 bits unsigned, others signed."""
    if array.dtype.kind == "f":
        return np.asarray(array, np.float32)
    full_scale = np.float32(2 ** (8 * array.dtype.itemsize - 1))
    values: Waveform = array.astype(np.float32)
    return (values - full_scale if array.dtype.kind == "u" else values) / full_scale


def mixed_down(samples: Waveform) -> Waveform:
    """Average (sample, channel) over its channels."""
    mono: Waveform = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]
    return mono


def require_not_cancelled(of_mix: float, of_channels: float, where: str = "samples") -> None:
    """Check the energy of a mix against the mean energy of its channels.

    Raises:
        AudioError: The mix is silent and its channels are not.
    """
    if of_mix < CANCELLED * of_channels:
        raise AudioError(
            "the channels cancel each other when mixed: they have opposite polarity",
            where=where,
            remedy="Keep one channel: "
            + ("samples[:, 0]." if where == "samples" else "ffmpeg -i IN -af 'pan=mono|c0=c0' OUT.flac."),
        )


def unwrapped(source: Any, sampling_rate: float | None) -> tuple[Any, float | None]:
    """Return the audio of an item of Hugging Face's datasets: samples and their rate, or encoded bytes or a path.

    Args:
        source: A mapping with `array` and `sampling_rate`, or with `bytes` or `path`; a decoder of torchcodec, which
            datasets return since version 4; a pair of samples and their rate, in any order. Anything else is returned
            unchanged.
        sampling_rate: In Hz; may be `None` if the mapping has it.

    Raises:
        AudioError: The mapping contains no audio, or has another sampling rate.
    """
    if hasattr(source, "get_all_samples"):
        decoded = source.get_all_samples()
        source = {"array": decoded.data, "sampling_rate": decoded.sample_rate}
    if isinstance(source, tuple) and len(source) == 2 and sampling_rate is None:
        for samples, rate in (source, source[::-1]):  # of soundfile and torchaudio; of scipy and gradio
            if isinstance(rate, int | float | np.integer) and hasattr(samples, "__len__"):
                return samples, float(rate)
    if not isinstance(source, Mapping):
        return source, sampling_rate
    stated = source.get("sampling_rate")
    for key in ("array", "raw"):
        if source.get(key) is not None:
            if None not in (stated, sampling_rate) and stated != sampling_rate:
                raise AudioError(
                    f"sampling rates of {stated} and {sampling_rate} Hz are given",
                    where="samples",
                    remedy="Leave out sampling_rate, or remove it from the mapping.",
                )
            return source[key], sampling_rate if stated is None else stated
    for key in ("bytes", "path"):
        if source.get(key) is not None:
            return source[key], sampling_rate
    raise AudioError(
        "a mapping without 'array'", where="samples", remedy="Give {'array': samples, 'sampling_rate': 16000}."
    )


def rate_hz(sampling_rate: Any) -> int:
    """Return a sampling rate as a whole number of Hz, checked to be one that speech is recorded at.

    Raises:
        AudioError: It is missing, not a whole number, or not a rate that speech is recorded at.
    """
    if sampling_rate is None:
        raise AudioError("come without a sampling rate", where="samples", remedy="Give it: sampling_rate=16000.")
    try:
        rate = math.nan if isinstance(sampling_rate, (bool, str)) else float(sampling_rate)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        rate = math.nan
    if not RATES_HZ[0] <= rate <= RATES_HZ[1] or rate != round(rate):
        raise AudioError(
            f"the sampling rate {sampling_rate!r} is not a whole number of Hz from {RATES_HZ[0]} to {RATES_HZ[1]}",
            where="samples",
            remedy="Give it as a number: sampling_rate=16000.",
        )
    return round(rate)


class Resampler:
    """Resamples a waveform that arrives in pieces to 16 kHz, like `resample`.

    Args:
        rate_hz: Sampling rate of the pieces.
    """

    def __init__(self, rate_hz: int) -> None:
        import soxr

        is_needed = rate_hz != SAMPLE_RATE_HZ
        self.stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, "float32", "HQ") if is_needed else None

    def __call__(self, waveform: Waveform) -> Waveform:
        """Return the output that is complete after another piece, (sample,)."""
        if self.stream is None:
            return np.ascontiguousarray(waveform, dtype=np.float32)
        resampled: Waveform = self.stream.resample_chunk(np.ascontiguousarray(waveform, dtype=np.float32))
        return resampled

    def rest(self) -> Waveform:
        """Return the remaining output after the last piece."""
        nothing = np.zeros(0, np.float32)
        if self.stream is None:
            return nothing
        resampled: Waveform = self.stream.resample_chunk(nothing, last=True)
        return resampled


def resample(waveform: Waveform, rate_hz: int) -> Waveform:
    """Resample (sample,) from `rate_hz` to 16 kHz with soxr's high quality; a waveform at 16 kHz is unchanged."""
    if rate_hz == SAMPLE_RATE_HZ:
        return np.ascontiguousarray(waveform, dtype=np.float32)
    import soxr

    resampled: Waveform = soxr.resample(waveform, rate_hz, SAMPLE_RATE_HZ, quality="HQ").astype(np.float32)
    return resampled if resampled.size else np.zeros(1, np.float32)


def without_offset(waveform: Waveform) -> Waveform:
    """Return (sample,) without a constant offset, which cheap sound cards add; a mean below `_OFFSET` is kept.

    Example:
        >>> without_offset(np.array([0.5, 0.25], np.float32)).tolist()
        [0.125, -0.125]
    """
    mean = waveform.mean(dtype=np.float64) if len(waveform) else 0.0
    return waveform if abs(mean) < _OFFSET else waveform - np.float32(mean)


def trimmed(waveform: Waveform, below_peak_db: float | None) -> Waveform:
    """Trim silence at both ends, keeping 0.1 s beyond the frames within `below_peak_db` of the loudest frame.

    Frames are 25 ms long with a step of 10 ms. `None` trims nothing.

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
    return waveform[start:stop].copy()  # a view would keep the trimmed parts in memory


_FRAME, _HOP, _MARGIN = SAMPLE_RATE_HZ // 40, SAMPLE_RATE_HZ // 100, SAMPLE_RATE_HZ // 10

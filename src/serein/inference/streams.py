"""Latency of streaming: from the arrival of a window's last sample to its prediction."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from serein import audio
from serein.audio import SAMPLE_RATE_HZ, Resampler, Source, Waveform
from serein.errors import AudioError
from serein.inference.predictor import Prediction, Predictor
from serein.inference.segments import (
    NO_REJECT_OPTION,
    SLIDING_WINDOW,
    RejectOption,
    Segment,
    SlidingWindow,
    Timeline,
    Window,
    WindowCutter,
    feed_all,
)


class Arrivals:
    """When the samples of a stream arrived.

    Example:
        >>> arrivals = Arrivals()
        >>> arrivals.record(0.5, at_s=100.0)
        >>> arrivals.record(1.0, at_s=100.5)
        >>> arrivals.delay_s(0.8, now_s=100.75)
        0.25
    """

    def __init__(self, longest_s: float = 120.0) -> None:
        self.longest_s = longest_s
        self.places: deque[tuple[float, float]] = deque()

    def record(self, position_s: float, at_s: float) -> None:
        """Record when all samples up to a position had arrived; old records are dropped."""
        self.places.append((position_s, at_s))
        while self.places[0][0] < position_s - self.longest_s:
            self.places.popleft()

    def delay_s(self, end_s: float, now_s: float) -> float:
        """Return the seconds since the sample at `end_s` arrived; 0 when it has not."""
        return next((now_s - at_s for position_s, at_s in self.places if position_s >= end_s), 0.0)


def delay_summary(delays_s: Sequence[float]) -> str:
    """Return the median delay, its 95th percentile and the maximum.

    Example:
        >>> delay_summary([0.1] * 95 + [0.9] * 5)
        '100 windows; delay: median 0.10 s, 95th percentile 0.10 s, maximum 0.90 s'
    """
    if not delays_s:
        return "no speech was found"
    ordered = sorted(delays_s)
    median, high = (ordered[min(len(ordered) - 1, int(level * len(ordered) - 1e-9))] for level in (0.5, 0.95))
    return (
        f"{len(ordered)} windows; delay: median {median:.2f} s, 95th percentile {high:.2f} s, "
        f"maximum {ordered[-1]:.2f} s"
    )


PEAK_S = 0.05
BATCH_S = 30.0  # of windows in one batch: more no longer fit into a core's cache, and take a fifth longer

Progress = Callable[[float, float], None]  # seconds done, seconds in all


class NoSpeechError(AudioError):
    """A recording contains no speech."""


class WaveformClassifier(Protocol):
    """A classifier of waveforms: a `Predictor`, or an object that calls one."""

    @property
    def task(self) -> str:
        """What the classes are of."""

    def predict_waveforms(self, waveforms: Sequence[Waveform], names: Sequence[str]) -> list[Prediction]:
        """Predict waveforms, each (sample,) float32 mono at 16 kHz."""


class Stream:
    """One audio stream that arrives in blocks, and a model's predictions for it.

    Args:
        predictor: The model; many streams may share one.
        rate_hz: Sampling rate of the stream.
        sliding_window: How speech is cut into windows.
        reject_option: When a prediction is rejected.

    Example:
        >>> stream = Stream(serein.load("model"), rate_hz=8000)  # doctest: +SKIP
        >>> for segment in stream.feed(samples):  # doctest: +SKIP
        ...     print(segment.start_s, segment.end_s, segment.label, segment.confidence)
    """

    def __init__(
        self,
        predictor: Predictor,
        rate_hz: int = SAMPLE_RATE_HZ,
        sliding_window: SlidingWindow = SLIDING_WINDOW,
        reject_option: RejectOption = NO_REJECT_OPTION,
    ) -> None:
        self.predictor = predictor
        self.reject_option = reject_option
        self.resampler = Resampler(rate_hz)
        self.cutter = WindowCutter(sliding_window)

    @property
    def position_s(self) -> float:
        """Seconds that have arrived."""
        return self.cutter.position / SAMPLE_RATE_HZ

    def feed(self, samples: Waveform) -> list[Segment]:
        """Predict the windows that (sample,) float32 more complete."""
        return self.predict(self.cut(samples))

    def finish(self) -> list[Segment]:
        """Predict the last windows, after the last sample."""
        return self.predict(self.cut_end())

    def predict(self, windows: Sequence[Window]) -> list[Segment]:
        """Predict windows that were cut."""
        return predict_windows(self.predictor, windows, self.reject_option)

    def cut(self, samples: Waveform) -> list[Window]:
        """Return the windows that (sample,) float32 more complete, without predicting them: to batch many streams."""
        return cut_all([self], [samples])[0]

    def cut_end(self) -> list[Window]:
        """Return the last windows, without predicting them."""
        return self.cutter.feed(self.resampler.rest()) + self.cutter.finish()


def cut_all(streams: Sequence[Stream], samples: Sequence[Waveform]) -> list[list[Window]]:
    """Return the windows that (sample,) float32 more complete of each stream; speech is detected in one batch."""
    resampled = [stream.resampler(each) for stream, each in zip(streams, samples, strict=True)]
    return feed_all([stream.cutter for stream in streams], resampled)


def predict_windows(
    predictor: Predictor, windows: Sequence[Window], reject_option: RejectOption = NO_REJECT_OPTION
) -> list[Segment]:
    """Predict windows, of one stream or of many, as one batch; the segments are in their order."""
    predictions = _predictions(predictor, windows)
    return [_segment(window, each, reject_option) for window, each in zip(windows, predictions, strict=True)]


def pcm16(data: bytes) -> Waveform:
    """Return (sample,) float32 of little-endian 16-bit samples; an odd last byte is dropped.

    Example:
        >>> pcm16(b"\\x00\\x40\\x00\\x80").tolist()
        [0.5, -1.0]
    """
    samples: Waveform = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / np.float32(32768)
    return samples


def predict_recording(
    predictor: WaveformClassifier,
    path: Source,
    start_s: float = 0.0,
    end_s: float | None = None,
    *,
    sliding_window: SlidingWindow = SLIDING_WINDOW,
    reject_option: RejectOption = NO_REJECT_OPTION,
    on_progress: Progress | None = None,
) -> Timeline:
    """Predict a recording of any length, window by window, in nearly constant memory.

    Args:
        start_s: Where to begin; times in the result count from here.
        end_s: Where to end; `None` is the end of the file.
        on_progress: Called with the seconds read and all seconds.

    Raises:
        AudioError: The file cannot be read.
        NoSpeechError: It contains no speech.
    """
    duration_s = audio.info(path, start_s, end_s).duration_s
    cutter, batcher = WindowCutter(sliding_window), _WindowBatcher(predictor, reject_option)
    for block in audio.blocks(path, start_s, end_s):
        batcher.add_peaks(block)
        batcher.add_windows(cutter.feed(block))
        if on_progress and cutter.position < duration_s * SAMPLE_RATE_HZ:
            on_progress(cutter.position / SAMPLE_RATE_HZ, duration_s)
    batcher.add_windows(cutter.finish())
    batcher.predict_waiting()
    if on_progress:
        on_progress(duration_s, duration_s)
    if not batcher.windows:
        raise NoSpeechError(
            "no speech was found",
            where=path,
            remedy="Predict it whole with --segments never, or remove it from the list.",
        )
    return batcher.timeline(str(path), duration_s, cutter.num_speech_samples / SAMPLE_RATE_HZ)


class _WindowBatcher:
    """Collects windows until they fill a batch, and their predictions."""

    def __init__(self, predictor: WaveformClassifier, reject_option: RejectOption) -> None:
        self.predictor = predictor
        self.reject_option = reject_option
        self.waiting: list[Window] = []
        self.windows: list[Segment] = []
        self.embedding_sum: np.ndarray = np.zeros(0)
        self.peaks: list[np.ndarray] = []
        self.rest = np.zeros(0, np.float32)

    def add_peaks(self, block: Waveform) -> None:
        size = round(PEAK_S * SAMPLE_RATE_HZ)
        samples = np.concatenate([self.rest, block])
        whole = len(samples) // size * size
        self.peaks.append(np.abs(samples[:whole].reshape(-1, size)).max(axis=1))
        self.rest = samples[whole:].copy()

    def add_windows(self, windows: Sequence[Window]) -> None:
        self.waiting += windows
        if sum(len(window.waveform) for window in self.waiting) >= BATCH_S * SAMPLE_RATE_HZ:
            self.predict_waiting()

    def predict_waiting(self) -> None:
        for window, prediction in zip(self.waiting, _predictions(self.predictor, self.waiting), strict=True):
            self.windows.append(_segment(window, prediction, self.reject_option))
            weighted = prediction.embedding.astype(np.float64) * (window.end_s - window.start_s)
            self.embedding_sum = weighted + (self.embedding_sum if len(self.embedding_sum) else 0.0)
        self.waiting = []

    def timeline(self, path: str, duration_s: float, speech_s: float) -> Timeline:
        weight = sum(each.end_s - each.start_s for each in self.windows)
        rest = [np.abs(self.rest).max(keepdims=True)] if len(self.rest) else []
        return Timeline(
            path,
            duration_s,
            speech_s,
            tuple(self.windows),
            (self.embedding_sum / weight).astype(np.float32),
            np.concatenate([*self.peaks, *rest]),
            PEAK_S,
            self.predictor.task,
            self.reject_option,
        )


def _predictions(predictor: WaveformClassifier, windows: Sequence[Window]) -> list[Prediction]:
    return predictor.predict_waveforms([window.waveform for window in windows], ["-"] * len(windows))


def _segment(window: Window, prediction: Prediction, reject_option: RejectOption) -> Segment:
    reason = reject_option.reason(prediction.probabilities, window.end_s - window.start_s)
    return Segment(window.start_s, window.end_s, prediction.probabilities, reason)

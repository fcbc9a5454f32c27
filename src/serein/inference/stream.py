"""Sound as it comes, from a microphone, a socket or a file: windows of speech are cut from it and heard in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from serein.data import audio
from serein.data.audio import SAMPLE_RATE_HZ, Resampler, Waveform
from serein.data.upload import Source
from serein.errors import AudioError
from serein.inference.caution import NO_REJECT_OPTION, RejectOption
from serein.inference.predictor import Prediction, Predictor
from serein.inference.timeline import Segment, Timeline
from serein.inference.windows import SLIDING_WINDOW, SlidingWindow, Window, WindowCutter, feed_all

PEAK_S = 0.05
BATCH_S = 30.0  # of windows that are heard together: more no longer fit into a core's cache, and take a fifth longer

Progress = Callable[[float, float], None]  # seconds done, seconds in all


class NoSpeechError(AudioError):
    """There is sound, but nobody speaks."""


class WaveformClassifier(Protocol):
    """Who answers for waveforms: a `Predictor`, or whoever asks one."""

    @property
    def task(self) -> str:
        """What the classes are of."""

    def predict_waveforms(self, waveforms: Sequence[Waveform], names: Sequence[str]) -> list[Prediction]:
        """Answer for waveforms, each (sample,) float32 mono at 16 kHz."""


class Stream:
    """One sound that comes in pieces, and what a model hears in it.

    Args:
        predictor: The model; many streams may share one.
        rate_hz: Of the samples that come.
        sliding_window: How speech is cut into windows.
        reject_option: When an answer is withheld.

    Example:
        >>> stream = Stream(serein.load("model"), rate_hz=8000)  # doctest: +SKIP
        >>> for heard in stream.feed(samples):  # doctest: +SKIP
        ...     print(heard.start_s, heard.end_s, heard.said, heard.confidence)
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
        """Seconds that have come."""
        return self.cutter.position / SAMPLE_RATE_HZ

    def feed(self, samples: Waveform) -> list[Segment]:
        """Hear the windows that (sample,) float32 more complete."""
        return self.hear(self.cut(samples))

    def finish(self) -> list[Segment]:
        """Hear the windows of the end."""
        return self.hear(self.cut_end())

    def hear(self, windows: Sequence[Window]) -> list[Segment]:
        """Hear windows that were cut."""
        return hear(self.predictor, windows, self.reject_option)

    def cut(self, samples: Waveform) -> list[Window]:
        """Return the windows that (sample,) float32 more complete, unheard: for those who hear many streams at once."""
        return cut_all([self], [samples])[0]

    def cut_end(self) -> list[Window]:
        """Return the windows of the end, unheard."""
        return self.cutter.feed(self.resampler.rest()) + self.cutter.finish()


def cut_all(streams: Sequence[Stream], samples: Sequence[Waveform]) -> list[list[Window]]:
    """Return the windows that (sample,) float32 more complete of each stream, unheard; speech is found at once."""
    resampled = [stream.resampler(each) for stream, each in zip(streams, samples, strict=True)]
    return feed_all([stream.cutter for stream in streams], resampled)


def hear(
    predictor: Predictor, windows: Sequence[Window], reject_option: RejectOption = NO_REJECT_OPTION
) -> list[Segment]:
    """Hear windows, of one stream or of many, as one batch; the answers are in their order."""
    answers = _answers(predictor, windows)
    return [_heard(window, answer, reject_option) for window, answer in zip(windows, answers, strict=True)]


def pcm16(data: bytes) -> Waveform:
    """Return (sample,) float32 of little-endian 16-bit samples; an odd byte at the end is left out.

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
    """Hear a recording of any length in memory that hardly grows with it.

    Args:
        start_s: Where to begin; times of the answer count from here.
        end_s: Where to end; `None` is the end of the file.
        on_progress: Told how many of all seconds were read.

    Raises:
        AudioError: The file cannot be read.
        NoSpeechError: No speech is found in it.
    """
    duration_s = audio.info(path, start_s, end_s).duration_s
    cutter, listener = WindowCutter(sliding_window), _Listener(predictor, reject_option)
    for block in audio.blocks(path, start_s, end_s):
        listener.see(block)
        listener.take(cutter.feed(block))
        if on_progress and cutter.position < duration_s * SAMPLE_RATE_HZ:
            on_progress(cutter.position / SAMPLE_RATE_HZ, duration_s)
    listener.take(cutter.finish())
    listener.hear_all()
    if on_progress:
        on_progress(duration_s, duration_s)
    if not listener.heard:
        raise NoSpeechError(
            "no speech was found", where=path, remedy="Hear it whole with --whole, or remove it from the list."
        )
    return listener.timeline(str(path), duration_s, cutter.num_speech_samples / SAMPLE_RATE_HZ)


class _Listener:
    """Collects windows until they make a batch, and what was heard in them."""

    def __init__(self, predictor: WaveformClassifier, reject_option: RejectOption) -> None:
        self.predictor = predictor
        self.reject_option = reject_option
        self.waiting: list[Window] = []
        self.heard: list[Segment] = []
        self.embedding_sum: np.ndarray = np.zeros(0)
        self.peaks: list[np.ndarray] = []
        self.unseen = np.zeros(0, np.float32)

    def see(self, block: Waveform) -> None:
        size = round(PEAK_S * SAMPLE_RATE_HZ)
        samples = np.concatenate([self.unseen, block])
        whole = len(samples) // size * size
        self.peaks.append(np.abs(samples[:whole].reshape(-1, size)).max(axis=1))
        self.unseen = samples[whole:].copy()

    def take(self, windows: Sequence[Window]) -> None:
        self.waiting += windows
        if sum(len(window.waveform) for window in self.waiting) >= BATCH_S * SAMPLE_RATE_HZ:
            self.hear_all()

    def hear_all(self) -> None:
        for window, answer in zip(self.waiting, _answers(self.predictor, self.waiting), strict=True):
            self.heard.append(_heard(window, answer, self.reject_option))
            weighted = answer.embedding.astype(np.float64) * (window.end_s - window.start_s)
            self.embedding_sum = weighted + (self.embedding_sum if len(self.embedding_sum) else 0.0)
        self.waiting = []

    def timeline(self, path: str, duration_s: float, speech_s: float) -> Timeline:
        weight = sum(each.end_s - each.start_s for each in self.heard)
        rest = [np.abs(self.unseen).max(keepdims=True)] if len(self.unseen) else []
        return Timeline(
            path,
            duration_s,
            speech_s,
            tuple(self.heard),
            (self.embedding_sum / weight).astype(np.float32),
            np.concatenate([*self.peaks, *rest]),
            PEAK_S,
            self.predictor.task,
            self.reject_option,
        )


def _answers(predictor: WaveformClassifier, windows: Sequence[Window]) -> list[Prediction]:
    return predictor.predict_waveforms([window.waveform for window in windows], ["-"] * len(windows))


def _heard(window: Window, answer: Prediction, reject_option: RejectOption) -> Segment:
    reason = reject_option.reason(answer.probabilities, window.end_s - window.start_s)
    return Segment(window.start_s, window.end_s, answer.probabilities, reason)

"""Recordings of any length: speech is detected as samples arrive, and cut into overlapping windows.

The windows do not depend on the size of the blocks, so a file and a stream of the same audio give the same windows.
Only the speech of the last seconds is kept in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serein.audio import SAMPLE_RATE_HZ, Waveform
from serein.errors import RecipeError
from serein.inference import vad as voice
from serein.inference.predictor import Prediction, Probabilities, most_probable
from serein.inference.vad import FRAME, SpeechDetector

ONSET = 0.5  # speech begins at this probability, and ends below OFFSET: Silero's own hysteresis
OFFSET = 0.35


@dataclass(frozen=True)
class SlidingWindow:
    """How speech is cut into windows; the last three are the options of Silero's detector.

    Attributes:
        window_s: Length of a window; shorter stretches of speech are one window.
        step_s: From the start of one window to the start of the next.
        min_silence_s: Only a silence of this length ends a stretch of speech.
        min_speech_s: Shorter stretches of speech are dropped.
        speech_pad_s: Is added before and after each stretch of speech.

    Raises:
        RecipeError: The lengths do not fit together.
    """

    window_s: float = 3.0
    step_s: float = 1.5
    min_silence_s: float = 0.4
    min_speech_s: float = 0.25
    speech_pad_s: float = 0.1

    def __post_init__(self) -> None:
        if not 0.1 <= self.step_s <= self.window_s <= 60.0:
            raise RecipeError(
                f"windows of {self.window_s:g} s every {self.step_s:g} s",
                where="sliding window",
                remedy="Choose windows of at most 60 s and a step from 0.1 s to the length of a window.",
            )
        if not (0.0 <= 2 * self.speech_pad_s <= self.min_silence_s and 0.0 < self.min_speech_s <= self.window_s):
            raise RecipeError(
                f"min_silence_s {self.min_silence_s:g}, speech_pad_s {self.speech_pad_s:g}, "
                f"min_speech_s {self.min_speech_s:g}",
                where="sliding window",
                remedy="min_silence_s is at least twice speech_pad_s, and min_speech_s at most a window.",
            )


SLIDING_WINDOW = SlidingWindow()


@dataclass(frozen=True)
class Window:
    """A part of a recording in which there is speech.

    Attributes:
        start: First sample, at 16 kHz, counted from the recording's start.
        waveform: (sample,) float32.
    """

    start: int
    waveform: Waveform

    @property
    def start_s(self) -> float:
        """Where it starts, in seconds."""
        return self.start / SAMPLE_RATE_HZ

    @property
    def end_s(self) -> float:
        """Where it ends, in seconds."""
        return (self.start + len(self.waveform)) / SAMPLE_RATE_HZ


class WindowCutter:
    """Cuts a recording into windows as its samples arrive.

    Example:
        >>> cutter = WindowCutter(SlidingWindow())
        >>> cutter.feed(np.zeros(16000, np.float32)), cutter.finish()
        ([], [])
    """

    def __init__(self, sliding_window: SlidingWindow) -> None:
        self.sliding_window = sliding_window
        self.detector = SpeechDetector()
        self.kept: Waveform = np.zeros(0, np.float32)
        self.kept_from = 0  # the sample that `kept` starts with
        self.num_frames = 0  # that the detector has seen
        self.stretch: int | None = None  # first sample of the current stretch of speech, with its padding
        self.speech_end = 0  # last sample of it that is certain
        self.next_start = 0  # of the next window
        self.covered = 0  # up to here windows were cut
        self.num_speech_samples = 0

    @property
    def position(self) -> int:
        """Samples that have arrived."""
        return self.kept_from + len(self.kept)

    def feed(self, waveform: Waveform) -> list[Window]:
        """Return the windows that (sample,) more complete."""
        return self.cut(waveform, self.detector.feed(waveform))

    def cut(self, waveform: Waveform, speech: NDArray[np.float32]) -> list[Window]:
        """Return the windows that (sample,) more complete, given (frame,) speech probabilities of the detector."""
        self.kept = np.concatenate([self.kept, waveform])
        windows = [window for probability in speech for window in self._add_frame(float(probability))]
        self._forget()
        return windows

    def finish(self) -> list[Window]:
        """Return the last windows, once all samples have arrived."""
        windows = [window for probability in self.detector.finish() for window in self._add_frame(float(probability))]
        return windows + self._end_stretch()

    def _add_frame(self, probability: float) -> list[Window]:
        """Add the speech probability of the next frame."""
        start, end = self.num_frames * FRAME, min((self.num_frames + 1) * FRAME, self.position)
        self.num_frames += 1
        if self.stretch is None and probability >= ONSET:
            self._begin_stretch(start)
        if self.stretch is None:
            return []
        if probability >= (ONSET if self.speech_end < start else OFFSET):
            self.speech_end = end
        elif end - self.speech_end >= _samples(self.sliding_window.min_silence_s):
            return self._end_stretch()
        return self._whole_windows()

    def _begin_stretch(self, start: int) -> None:
        self.stretch = self.next_start = max(start - _samples(self.sliding_window.speech_pad_s), self.covered, 0)
        self.speech_end = start
        self.covered = self.stretch

    def _whole_windows(self) -> list[Window]:
        windows = []
        while self.next_start + _samples(self.sliding_window.window_s) <= self.speech_end:
            windows.append(self._cut(self.next_start, self.next_start + _samples(self.sliding_window.window_s)))
            self.next_start += _samples(self.sliding_window.step_s)
        return windows

    def _end_stretch(self) -> list[Window]:
        """Cut the rest of a stretch of speech; the last window ends with it."""
        if self.stretch is None:
            return []
        windows = self._whole_windows()
        start, end = self.stretch, min(self.speech_end + _samples(self.sliding_window.speech_pad_s), self.position)
        self.stretch = None
        if end - start < _samples(self.sliding_window.min_speech_s):
            return windows
        self.num_speech_samples += end - start
        if end - self.covered >= _samples(self.sliding_window.min_speech_s):
            windows.append(self._cut(max(start, end - _samples(self.sliding_window.window_s)), end))
        return windows

    def _cut(self, start: int, end: int) -> Window:
        self.covered = end
        return Window(start, self.kept[start - self.kept_from : end - self.kept_from].copy())

    def _forget(self) -> None:
        """Drop the samples that no window will need."""
        seen = self.num_frames * FRAME - _samples(self.sliding_window.speech_pad_s)
        needed = seen if self.stretch is None else self.speech_end - _samples(self.sliding_window.window_s)
        if self.stretch is not None:
            needed = max(self.stretch, min(needed, self.next_start))
        drop = max(0, needed - self.kept_from)
        self.kept, self.kept_from = self.kept[drop:].copy(), self.kept_from + drop


def feed_all(cutters: Sequence[WindowCutter], waveforms: Sequence[Waveform]) -> list[list[Window]]:
    """Feed many cutters as one batch, which takes a fraction of the time."""
    speech = voice.feed_all([cutter.detector for cutter in cutters], waveforms)
    return [cutter.cut(*each) for cutter, *each in zip(cutters, waveforms, speech, strict=True)]


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE_HZ)


LOW_CONFIDENCE = "low confidence"
TOO_SHORT = "too short"


@dataclass(frozen=True)
class RejectOption:
    """When a prediction is rejected.

    Attributes:
        min_confidence: Smallest confidence that is accepted. With calibrated probabilities it is a promise of accuracy.
        min_duration_s: Shortest recording that is accepted.

    Raises:
        RecipeError: The confidence is not between 0 and 1, or the duration is negative.
    """

    min_confidence: float = 0.0
    min_duration_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_confidence <= 1.0:
            raise RecipeError(
                f"{self.min_confidence:g} is not a probability",
                where="min_confidence",
                remedy="Choose one from 0 to 1.",
            )
        if not self.min_duration_s >= 0.0:
            raise RecipeError(
                f"{self.min_duration_s:g} s is not a duration", where="min_duration_s", remedy="Choose 0 or more."
            )

    def reason(self, probabilities: Mapping[str, float], duration_s: float | None = None) -> str | None:
        """Return why a prediction is rejected, or `None` when it is accepted.

        Example:
            >>> strict = RejectOption(min_confidence=0.5, min_duration_s=0.3)
            >>> strict.reason({"sad": 0.4, "calm": 0.6}), strict.reason({"sad": 0.4, "calm": 0.6}, duration_s=0.2)
            (None, 'too short')
        """
        if duration_s is not None and duration_s < self.min_duration_s:
            return TOO_SHORT
        return LOW_CONFIDENCE if max(probabilities.values()) < self.min_confidence else None

    def applied_to(self, prediction: Prediction) -> Prediction:
        """Return the prediction, marked as rejected where there is a reason."""
        return replace(prediction, rejected=self.reason(prediction.probabilities, prediction.duration_s))


NO_REJECT_OPTION = RejectOption()


@dataclass(frozen=True)
class Segment:
    """What a model predicts from `start_s` to `end_s` of a recording.

    Attributes:
        probabilities: Class -> probability; they sum to 1.
        rejected: Why the prediction is rejected ("low confidence", "too short"); `None` when it is accepted.
    """

    start_s: float
    end_s: float
    probabilities: Probabilities
    rejected: str | None = None

    @property
    def label(self) -> str | None:
        """The most probable class; `None` when rejected."""
        return None if self.rejected else most_probable(self.probabilities)

    @property
    def confidence(self) -> float:
        """The largest probability."""
        return max(self.probabilities.values())

    @property
    def label_or_rejection(self) -> str:
        """The most probable class, or why it is rejected."""
        return self.rejected or most_probable(self.probabilities)

    def to_json(self) -> dict[str, Any]:
        """Return times, label (`None` when rejected), confidence, probabilities and why it is rejected."""
        return {
            "start_s": round(self.start_s, 3),
            "end_s": round(self.end_s, 3),
            "label": self.label,
            "confidence": round(self.confidence, 6),
            "probabilities": {name: round(probability, 6) for name, probability in self.probabilities.items()},
            "rejected": self.rejected,
        }


@dataclass(frozen=True)
class Timeline:
    """A recording predicted window by window.

    Attributes:
        audio: The file.
        duration_s: Of the recording.
        speech_s: How much of it is speech.
        windows: One prediction for each window, in order of time; windows overlap.
        embedding: (feature,) mean of the windows' embeddings, weighted by their lengths.
        peaks: (time,) largest amplitude of each `peak_s` of the recording, 0 to 1, to draw it by.
        task: What the classes are of.
        reject_option: When a prediction is rejected.
    """

    audio: str
    duration_s: float
    speech_s: float
    windows: tuple[Segment, ...]
    embedding: NDArray[np.float32]
    peaks: NDArray[np.float32]
    peak_s: float
    task: str = "emotion"
    reject_option: RejectOption = NO_REJECT_OPTION

    @property
    def probabilities(self) -> Probabilities:
        """Of the whole recording: the mean over its windows, weighted by their lengths."""
        return _mean_probabilities(self.windows)

    @property
    def label(self) -> str | None:
        """The most probable class of the whole recording; `None` when rejected."""
        return None if self.rejected else most_probable(self.probabilities)

    @property
    def confidence(self) -> float:
        """The largest probability of the whole recording."""
        return max(self.probabilities.values())

    @property
    def rejected(self) -> str | None:
        """Why the prediction of the whole recording is rejected; `None` when it is accepted."""
        return self.reject_option.reason(self.probabilities, self.speech_s)

    @property
    def label_or_rejection(self) -> str:
        """The most probable class of the whole recording, or why it is rejected."""
        return self.rejected or most_probable(self.probabilities)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Stretches of speech with one label each, in order, without overlap.

        At every moment the probabilities are the mean of the windows that contain it; neighbours with the same label
        are joined.
        """
        return tuple(_joined(list(_moments(self.windows)), self.reject_option))

    def to_json(self) -> dict[str, Any]:
        """Return what `Prediction.to_json` returns for the whole recording, with segments and windows."""
        return {
            "file": self.audio,
            "duration_s": round(self.duration_s, 3),
            "speech_s": round(self.speech_s, 3),
            "task": self.task,
            "label": self.label,
            "confidence": round(self.confidence, 6),
            "probabilities": {name: round(probability, 6) for name, probability in self.probabilities.items()},
            "rejected": self.rejected,
            "segments": [segment.to_json() for segment in self.segments],
            "windows": [window.to_json() for window in self.windows],
        }


def _moments(windows: Sequence[Segment]) -> Iterator[Segment]:
    """Divide time at every window's start and end, and average the windows between two such moments."""
    edges = sorted({edge for window in windows for edge in (window.start_s, window.end_s)})
    first = 0
    for start_s, end_s in pairwise(edges):
        while first < len(windows) and windows[first].end_s <= start_s:
            first += 1
        inside = []
        for window in windows[first:]:
            if window.start_s >= end_s:
                break
            if window.end_s > start_s:
                inside.append(window)
        if inside:
            yield Segment(start_s, end_s, _mean_probabilities(inside, weighted="alike"))


def _joined(moments: Sequence[Segment], reject_option: RejectOption) -> Iterator[Segment]:
    run: list[Segment] = []
    for moment in moments:
        if run and (moment.start_s > run[-1].end_s or _label(moment, reject_option) != _label(run[-1], reject_option)):
            yield _one(run, reject_option)
            run = []
        run.append(moment)
    if run:
        yield _one(run, reject_option)


def _label(moment: Segment, reject_option: RejectOption) -> str:
    return reject_option.reason(moment.probabilities) or most_probable(moment.probabilities)


def _one(run: Sequence[Segment], reject_option: RejectOption) -> Segment:
    probabilities = _mean_probabilities(run)
    return Segment(run[0].start_s, run[-1].end_s, probabilities, reject_option.reason(probabilities))


def _mean_probabilities(segments: Sequence[Segment], weighted: str = "by length") -> Probabilities:
    weights = [segment.end_s - segment.start_s if weighted == "by length" else 1.0 for segment in segments]
    values = np.average([list(segment.probabilities.values()) for segment in segments], axis=0, weights=weights)
    return dict(zip(segments[0].probabilities, map(float, values), strict=True))

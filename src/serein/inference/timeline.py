"""Emotions over time: what a model predicts for each window of a recording, and the segments that follow from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serein.inference.caution import NO_REJECT_OPTION, RejectOption
from serein.inference.predictor import Probabilities, most_probable


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

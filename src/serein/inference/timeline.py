"""Emotions over time: what a model heard in each window of a recording, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serein.inference.caution import NO_REJECT_OPTION, RejectOption

Probabilities = dict[str, float]


@dataclass(frozen=True)
class Segment:
    """What is heard from `start_s` to `end_s` of a recording.

    Attributes:
        probabilities: Class -> probability; they sum to 1.
        rejected: Why nothing is answered; `None` when something is.
    """

    start_s: float
    end_s: float
    probabilities: Probabilities
    rejected: str | None = None

    @property
    def label(self) -> str:
        """The class with the largest share."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])

    @property
    def confidence(self) -> float:
        """The largest share."""
        return self.probabilities[self.label]

    @property
    def said(self) -> str:
        """The class, or why none is answered."""
        return self.rejected or self.label

    def to_json(self, task: str = "emotion") -> dict[str, Any]:
        """Return times, label under the name of its task (`None` when withheld), confidence and probabilities."""
        return {
            "start_s": round(self.start_s, 3),
            "end_s": round(self.end_s, 3),
            task: None if self.rejected else self.label,
            **({"withheld": self.rejected} if self.rejected else {}),
            "confidence": round(self.confidence, 6),
            "probabilities": {name: round(probability, 6) for name, probability in self.probabilities.items()},
        }


@dataclass(frozen=True)
class Timeline:
    """A recording heard in windows.

    Attributes:
        audio: The file.
        duration_s: Of the recording.
        speech_s: How much of it is speech.
        windows: What was heard, in order of time; they overlap.
        embedding: (feature,) mean of the windows' embeddings, weighted by their lengths.
        peaks: (time,) largest amplitude of each `peak_s` of the recording, 0 to 1, to draw it by.
        task: What the classes are of.
        reject_option: When an answer is withheld.
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
    def label(self) -> str:
        """The class with the largest share of the whole recording."""
        return max(self.probabilities.items(), key=lambda each: each[1])[0]

    @property
    def confidence(self) -> float:
        """The largest share of the whole recording."""
        return max(self.probabilities.values())

    @property
    def rejected(self) -> str | None:
        """Why nothing is answered for the whole recording; `None` when something is."""
        return self.reject_option.reason(self.probabilities, self.speech_s)

    @property
    def said(self) -> str:
        """The class, or why none is answered."""
        return self.rejected or self.label

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Stretches of speech with one answer each, in order, without overlap.

        At every moment the probabilities are the mean of the windows that hold it; neighbours of one answer are joined.
        """
        return tuple(_joined(list(_moments(self.windows)), self.reject_option))

    def to_json(self) -> dict[str, Any]:
        """Return what `Prediction.to_json` does for the whole recording, with passages and windows."""
        return {
            "audio": self.audio,
            "duration_s": round(self.duration_s, 3),
            "speech_s": round(self.speech_s, 3),
            self.task: None if self.rejected else self.label,
            **({"withheld": self.rejected} if self.rejected else {}),
            "confidence": round(self.confidence, 6),
            "probabilities": {name: round(probability, 6) for name, probability in self.probabilities.items()},
            "passages": [each.to_json(self.task) for each in self.segments],
            "windows": [each.to_json(self.task) for each in self.windows],
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
        if run and (
            moment.start_s > run[-1].end_s or _answer(moment, reject_option) != _answer(run[-1], reject_option)
        ):
            yield _one(run, reject_option)
            run = []
        run.append(moment)
    if run:
        yield _one(run, reject_option)


def _answer(moment: Segment, reject_option: RejectOption) -> str:
    return reject_option.reason(moment.probabilities) or moment.label


def _one(run: Sequence[Segment], reject_option: RejectOption) -> Segment:
    probabilities = _mean_probabilities(run)
    return Segment(run[0].start_s, run[-1].end_s, probabilities, reject_option.reason(probabilities))


def _mean_probabilities(heard: Sequence[Segment], weighted: str = "by length") -> Probabilities:
    weights = [each.end_s - each.start_s if weighted == "by length" else 1.0 for each in heard]
    values = np.average([list(each.probabilities.values()) for each in heard], axis=0, weights=weights)
    return dict(zip(heard[0].probabilities, map(float, values), strict=True))

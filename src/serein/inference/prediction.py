"""A model's prediction for a recording: one label with its probabilities, the segments it comes from, and other tasks.

The command line, the service, streams and `Prediction.to_dict` share one JSON schema, which is defined below:
`docs/prediction.schema.json` and the tables of `docs/formats.md` are generated from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from serein.errors import RecipeError, imported
from serein.tasks.task import TaskPrediction, mean_of, rounded

if TYPE_CHECKING:
    import pandas

LOW_CONFIDENCE, TOO_SHORT, NO_SPEECH = "low confidence", "too short", "no speech"


@dataclass(frozen=True)
class RejectOption:
    """Conditions for rejecting a prediction.

    Attributes:
        min_confidence: Minimum probability of the label; on calibrated probabilities, it is the accuracy to expect.
        min_duration_s: Minimum length of the speech.

    Raises:
        RecipeError: The probability is not between 0 and 1, or the length is negative.
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
                f"{self.min_duration_s:g} s is not a length", where="min_duration_s", remedy="Choose 0 or more."
            )

    def reason(self, confidence: float | None, duration_s: float | None = None) -> str | None:
        """Return why a prediction is rejected, or `None` if it is not.

        Example:
            >>> option = RejectOption(min_confidence=0.5, min_duration_s=0.3)
            >>> option.reason(0.4), option.reason(0.9, duration_s=0.2), option.reason(0.9)
            ('low confidence', 'too short', None)
        """
        if duration_s is not None and duration_s < self.min_duration_s:
            return TOO_SHORT
        return LOW_CONFIDENCE if confidence is not None and confidence < self.min_confidence else None


NO_REJECT_OPTION = RejectOption()


@dataclass(frozen=True)
class Segment(TaskPrediction):
    """A stretch of a recording and the main task's prediction for it.

    Attributes:
        start_s: Start, in seconds from the start of the file.
        end_s: End, in seconds from the start of the file.
        rejected: Why it has no label: "low confidence", "too short"; else `None`.
        dimensions: Name -> number, of all tasks that predict numbers.
    """

    start_s: float = 0.0
    end_s: float = 0.0
    rejected: str | None = None

    @property
    def duration_s(self) -> float:
        """Its length, in seconds."""
        return self.end_s - self.start_s

    @property
    def text(self) -> str:
        """The prediction as text: the label, the numbers, or why there is none."""
        return self.rejected or super().text

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: times, label, confidence, probabilities, and why it was rejected."""
        times = {"start_s": round(self.start_s, 3), "end_s": round(self.end_s, 3)}
        return {**times, **super().to_dict(), "rejected": self.rejected}


@dataclass(frozen=True)
class Prediction(TaskPrediction):
    """A model's prediction for one recording or one utterance.

    Two are equal if all attributes except `embedding` and `peaks` are.

    Attributes:
        file: The recording, as it was named; `-` for samples and standard input.
        task: The main task, which `label` belongs to: `emotion`, `gender`, ...
        rejected: Why there is no label: "low confidence", "too short" or "no speech"; else `None`.
        segments: Stretches of speech with a label each, in order, without overlap; an utterance that was not cut is one
            segment.
        dimensions: Name -> number, of all tasks that predict numbers.
        curve: The dimensions over time, if there are any; a segment of one label joins many of its moments.
        tasks: Task -> prediction, of the model's other tasks.
        model: Name and hash of the model: `{"name": ..., "sha256": ...}`.
        id: Id of the utterance, if it has one.
        start_s: Start of the utterance in its file, in seconds.
        duration_s: Length of the audio that was read, in seconds.
        speech_s: Length of the speech detected in it, in seconds.
        neighbours: The nearest labelled clips of a kNN datastore, if requested.
        embedding: (feature,) float32, the input of the main task's output layer; empty if nothing was predicted.
        peaks: (time,) largest amplitude, 0 to 1, of every `PEAK_S` seconds, for drawing the recording.
    """

    file: str = "-"
    task: str = "emotion"
    rejected: str | None = None
    segments: tuple[Segment, ...] = ()
    curve: tuple[Segment, ...] = ()
    tasks: Mapping[str, TaskPrediction] = field(default_factory=dict)
    model: Mapping[str, str] = field(default_factory=dict)
    id: str | None = None
    start_s: float = 0.0
    duration_s: float = 0.0
    speech_s: float = 0.0
    neighbours: tuple[Any, ...] = ()
    embedding: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32), compare=False)
    peaks: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32), compare=False)

    @property
    def end_s(self) -> float:
        """End of the utterance in its file, in seconds."""
        return self.start_s + self.duration_s

    @property
    def text(self) -> str:
        """The prediction as text: the label, the numbers, or why there is none."""
        return self.rejected or super().text

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as plain values, in the schema of docs/formats.md.

        `value`, `dimensions` and `curve` are present only for tasks that predict numbers, `neighbours` only if
        requested.
        """
        moments = ({"start_s": round(m.start_s, 3), "end_s": round(m.end_s, 3), **m.dimensions} for m in self.curve)
        return {
            "file": self.file,
            "id": self.id,
            "start_s": round(self.start_s, 3),
            "end_s": round(self.end_s, 3),
            "task": self.task,
            **super().to_dict(),
            "rejected": self.rejected,
            "segments": [segment.to_dict() for segment in self.segments],
            **({"curve": [rounded(moment) for moment in moments]} if len(self.curve) > 1 else {}),
            "tasks": {name: each.to_dict() for name, each in self.tasks.items()},
            **({"neighbours": [each.to_dict() for each in self.neighbours]} if self.neighbours else {}),
            "model": dict(self.model),
        }

    def to_frame(self) -> pandas.DataFrame:
        """Return a table with a row for each segment: file, times, label, confidence, each class, each dimension.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        pandas = imported("pandas", "pandas")
        rows = [
            {
                "file": self.file,
                "start_s": segment.start_s,
                "end_s": segment.end_s,
                "label": segment.label,
                "confidence": segment.confidence,
                "rejected": segment.rejected,
                **segment.probabilities,
                **segment.dimensions,
            }
            for segment in self.segments
        ]
        columns = ["file", "start_s", "end_s", "label", "confidence", "rejected", *self.probabilities, *self.dimensions]
        return pandas.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        """Return a summary on one line: label, confidence, number of segments."""
        confidence = "" if self.confidence is None else f", confidence={self.confidence:.3f}"
        numbers = self.dimensions if self.value is None else {self.task: self.value, **self.dimensions}
        named = "" if self.task in numbers else f", {self.task}={self.label!r}"
        value = "".join(f", {name}={number:.3f}" for name, number in numbers.items())
        rejected = "" if self.rejected is None else f", rejected={self.rejected!r}"
        many = f", segments={len(self.segments)}"
        return f"Prediction(file={self.file!r}{named}{confidence}{value}{rejected}{many})"


@dataclass(frozen=True)
class ClipPrediction:
    """A model's prediction for one clip: a window of speech, or a whole utterance.

    Attributes:
        main: Prediction of the main task.
        tasks: Task -> prediction, of the other tasks.
        embedding: (feature,) float32, the input of the main task's output layer.
        neighbours: The nearest labelled clips, if a kNN predictor returns them.
    """

    main: TaskPrediction
    tasks: Mapping[str, TaskPrediction] = field(default_factory=dict)
    embedding: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    neighbours: tuple[Any, ...] = ()


def dimensions_of(tasks: Mapping[str, TaskPrediction]) -> dict[str, float]:
    """Return the numbers of all tasks that predict numbers, keyed by dimension, or else by task."""
    found: dict[str, float] = {}
    for name, predicted in tasks.items():
        found |= predicted.dimensions if predicted.value is None else {name: predicted.value}
    return found


def moments(windows: Sequence[Segment], reject_option: RejectOption) -> list[Segment]:
    """Return the mean prediction between every two edges of windows, where the same windows overlap, in order."""
    edges = sorted({edge for window in windows for edge in (window.start_s, window.end_s)})
    found: list[Segment] = []
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
            mean = mean_of(inside, [1.0] * len(inside))
            are_short = all(window.rejected == TOO_SHORT for window in inside)
            rejected = TOO_SHORT if are_short else reject_option.reason(mean.confidence)
            found.append(segment_of(mean, start_s, end_s, rejected))
    return found


def merged_segments(windows: Sequence[Segment], reject_option: RejectOption) -> tuple[Segment, ...]:
    """Merge overlapping windows into segments of one label each, in order, without overlap.

    At every moment, the probabilities are the mean of the windows that contain it; adjacent moments of one label are
    joined.
    """
    runs: list[list[Segment]] = []  # of moments that are joined
    for moment in moments(windows, reject_option):
        last = runs[-1][-1] if runs else None
        is_same = last is not None and (moment.label, moment.rejected) == (last.label, last.rejected)
        if last is None or moment.start_s > last.end_s or not is_same or not moment.probabilities:
            runs.append([])
        runs[-1].append(moment)
    merged = []
    for run in runs:
        mean = mean_of(run, [each.duration_s for each in run])
        merged.append(segment_of(mean, run[0].start_s, run[-1].end_s, run[0].rejected))
    return tuple(merged)


def segment_of(task: TaskPrediction, start_s: float, end_s: float, rejected: str | None = None) -> Segment:
    """Return a task's prediction as that of a segment, without its label if it is rejected."""
    label = None if rejected else task.label
    values = (label, task.confidence, task.probabilities, task.value, task.dimensions)
    return Segment(*values, start_s=start_s, end_s=end_s, rejected=rejected)


Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(ge=0.0)]
Rejected = Literal["low confidence", "too short", "no speech"]

_PROBABILITIES = {"angry": 0.05, "happy": 0.81, "sad": 0.14}
_SAID: dict[str, Any] = {"label": "happy", "confidence": 0.81, "probabilities": _PROBABILITIES}
EXAMPLE: dict[str, Any] = {
    "file": "call.wav",
    "id": None,
    "start_s": 0.0,
    "end_s": 3.5,
    "task": "emotion",
    **_SAID,
    "rejected": None,
    "segments": [{"start_s": 0.4, "end_s": 3.1, **_SAID, "rejected": None}],
    "tasks": {"gender": {"label": "female", "confidence": 0.97, "probabilities": {"female": 0.97, "male": 0.03}}},
    "model": {"name": "default", "sha256": "6f1e…"},
}
EXAMPLE_OF_ERROR: dict[str, Any] = {
    "file": "empty.wav",
    "id": None,
    "error": {"where": "empty.wav", "what": "the file is empty (0 bytes)", "remedy": "Copy or record it again."},
}


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class TaskSchema(_Schema):
    """What one task of the model predicts."""

    label: str | None = Field(
        description="The class with the largest probability, or the transcript. Null for a rejected prediction and for "
        "a task that predicts a number."
    )
    confidence: Probability | None = Field(
        description="The largest probability. Null without speech and for a task without classes."
    )
    probabilities: dict[str, Probability] = Field(
        description="Class to probability; they sum to 1. Empty without speech and for a task without classes."
    )
    value: float | None = Field(None, description="The number that a regression task predicts. Other tasks omit it.")
    dimensions: dict[str, float] | None = Field(
        None,
        description="Dimension to number; arousal, valence and dominance from 0, the lowest rating of their corpus, to "
        "1, the highest. For a task, only if it predicts several numbers; for a recording or segment, the numbers of "
        "all tasks. Omitted if there are none.",
    )


class SegmentSchema(TaskSchema):
    """A segment of speech and what the main task predicts for it."""

    start_s: Seconds = Field(description="Start, in seconds from the start of the file.")
    end_s: Seconds = Field(description="End, in seconds from the start of the file.")
    rejected: Rejected | None = Field(description="Why there is no label; else null.")


class MomentSchema(BaseModel):
    """The dimensions at one moment, a key for each: `{"start_s": 0.0, "end_s": 1.5, "arousal": 0.62}`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)

    start_s: Seconds = Field(description="Start, in seconds from the start of the file.")
    end_s: Seconds = Field(description="End, in seconds from the start of the file.")


class ModelSchema(_Schema):
    """The model that made a prediction."""

    name: str = Field(description="Its folder or Hub name, or `default`.")
    sha256: str = Field(description="Hash of its model folder.")


class NeighbourSchema(_Schema):
    """One of the nearest labelled clips of a kNN datastore."""

    id: str = Field(description="Id of the clip in its manifest.")
    label: str = Field(description="Its label.")
    distance: float = Field(description="Euclidean distance between the embeddings.")
    speaker: str | None = Field(None, description="Who speaks, if known.")
    corpus: str | None = Field(None, description="Its corpus, if known.")
    audio: str | None = Field(None, description="Its file. The service omits it.")
    start_s: Seconds | None = Field(None, description="Start within its file.")
    end_s: Seconds | None = Field(None, description="End within its file; omitted if the clip ends with its file.")


class WordSchema(_Schema):
    """One of the nearest words of a model that predicts word vectors."""

    word: str = Field(description="The word.")
    cosine: float = Field(description="Cosine similarity to the recording's vector.")


class PredictionSchema(TaskSchema):
    """The prediction for one recording, one utterance of a manifest, or one segment of a stream."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    file: str = Field(description="The recording as it was named; `-` for samples and standard input.")
    id: str | None = Field(description="Id of the utterance of a manifest; null for a recording.")
    start_s: Seconds = Field(description="Start of the utterance in its file; 0 for a recording.")
    end_s: Seconds = Field(description="End of the utterance in its file, or of the recording.")
    task: str = Field(description="The model's main task, which `label` belongs to: `emotion`, `gender`, ...")
    rejected: Rejected | None = Field(description="Why there is no label; else null.")
    segments: list[SegmentSchema] = Field(
        description="Segments of speech, in order, without overlap. One for an utterance that was not cut; none "
        "without speech."
    )
    curve: list[MomentSchema] | None = Field(
        None,
        description="The dimensions over time, in order, without overlap: finer than segments, which join moments of "
        "one label. Omitted if there is only one moment or no dimension.",
    )
    tasks: dict[str, TaskSchema] = Field(description="What the model's other tasks predict, by task.")
    model: ModelSchema = Field(description="The model that made the prediction.")
    neighbours: list[NeighbourSchema] | None = Field(
        None, description="The nearest labelled clips; from `--show-neighbours` and `serein serve --knn`."
    )
    words: list[WordSchema] | None = Field(
        None, description="The nearest words of a model of word vectors; only from the service."
    )
    type: Literal["segment", "end"] | None = Field(
        None, description="The kind of message in `WS /v1/stream`. `end` is the prediction for the whole stream."
    )
    reason: str | None = Field(None, description="Why the stream ended; only in the `end` message of `WS /v1/stream`.")
    delay_s: Seconds | None = Field(
        None, description="Seconds from the end of the segment to its prediction; only from `serein stream --json`."
    )
    path: str | None = Field(
        None, description="Absolute path of `file`, for resuming a file of `serein predict --out`; omitted for stdin."
    )
    fingerprint: str | None = Field(
        None, description="Hash of the model and the options, for resuming a file of `serein predict --out`."
    )


class ErrorDetails(_Schema):
    """An error, in the form of all errors of serein."""

    where: str | None = Field(description="The file at fault.")
    what: str = Field(description="What is wrong with it.")
    remedy: str | None = Field(description="What to do about it; null if nothing is known.")


class ErrorSchema(_Schema):
    """The result for a recording that cannot be read, in place of a prediction."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_OF_ERROR]})

    file: str = Field(description="The recording as it was named.")
    id: str | None = Field(description="Id of the utterance of a manifest; null for a recording.")
    error: ErrorDetails = Field(description="Why it cannot be read.")
    path: str | None = Field(None, description="As in a prediction.")
    fingerprint: str | None = Field(None, description="As in a prediction.")


RESULT: TypeAdapter[PredictionSchema | ErrorSchema] = TypeAdapter(PredictionSchema | ErrorSchema)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a prediction, or of the error in its place."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A prediction of serein, or the error in its place",
        **RESULT.json_schema(),
    }

"""The JSON of predictions: one schema for the command line, the service, streams and `Prediction.to_dict`.

`docs/prediction.schema.json` and the tables of `docs/formats.md` are generated from these models.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

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
        "1, the highest. Of a task, where it predicts several numbers; of a recording or segment, the numbers of all "
        "tasks. Omitted without any.",
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
    task: str = Field(description="The model's main task, which `label` answers: `emotion`, `gender`, ...")
    rejected: Rejected | None = Field(description="Why there is no label; else null.")
    segments: list[SegmentSchema] = Field(
        description="Segments of speech, in order, without overlap. One for an utterance that was taken whole; none "
        "without speech."
    )
    curve: list[MomentSchema] | None = Field(
        None,
        description="The dimensions over time, in order, without overlap: finer than segments, which join moments of "
        "one label. Omitted where there is one moment or no dimension.",
    )
    tasks: dict[str, TaskSchema] = Field(description="What the model's other tasks predict, by task.")
    model: ModelSchema = Field(description="The model that made the prediction.")
    neighbours: list[NeighbourSchema] | None = Field(
        None, description="The nearest labelled clips: `--show-neighbours`, `serein serve --knn`."
    )
    words: list[WordSchema] | None = Field(
        None, description="The nearest words of a model of word vectors: the service."
    )
    type: Literal["segment", "end"] | None = Field(
        None, description="The kind of message: `WS /v1/stream`. `end` is the prediction for the whole stream."
    )
    reason: str | None = Field(None, description="Why the stream ended: the `end` message of `WS /v1/stream`.")
    delay_s: Seconds | None = Field(
        None, description="Seconds from the end of the segment to its prediction: `serein stream --json`."
    )
    fingerprint: str | None = Field(
        None, description="Hash of the model and the options, by which a file is resumed: `serein predict --out`."
    )


class ErrorDetails(_Schema):
    """An error as serein states all errors."""

    where: str | None = Field(description="The file at fault.")
    what: str = Field(description="What is wrong with it.")
    remedy: str | None = Field(description="What to do about it; null if nothing is known.")


class ErrorSchema(_Schema):
    """What stands in the place of a prediction for a recording that cannot be read."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_OF_ERROR]})

    file: str = Field(description="The recording as it was named.")
    id: str | None = Field(description="Id of the utterance of a manifest; null for a recording.")
    error: ErrorDetails = Field(description="Why it cannot be read.")
    fingerprint: str | None = Field(None, description="As in a prediction.")


RESULT: TypeAdapter[PredictionSchema | ErrorSchema] = TypeAdapter(PredictionSchema | ErrorSchema)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a prediction, or of the error in its place."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A prediction of serein, or the error in its place",
        **RESULT.json_schema(),
    }

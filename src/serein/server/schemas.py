"""The service's JSON: request and response models, with examples."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from serein.inference.prediction import Prediction
from serein.server.neighbours import Neighbours
from serein.server.problems import HTTPProblem

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(ge=0.0)]

_PROBABILITIES = {"angry": 0.05, "happy": 0.81, "sad": 0.14}
_SEGMENT: dict[str, Any] = {
    "start_s": 0.4,
    "end_s": 3.1,
    "label": "happy",
    "confidence": 0.81,
    "probabilities": _PROBABILITIES,
    "rejected": None,
}
_PREDICTION: dict[str, Any] = {
    "file": "call.wav",
    "id": None,
    "start_s": 0.0,
    "end_s": 3.5,
    "task": "emotion",
    "label": "happy",
    "confidence": 0.81,
    "probabilities": _PROBABILITIES,
    "rejected": None,
    "segments": [_SEGMENT],
    "tasks": {},
    "model": {"name": "default", "sha256": "6f1e…"},
}
_PROBLEM: dict[str, Any] = {
    "type": "urn:problem-type:serein:unusable-recording",
    "title": "unusable recording",
    "status": 422,
    "detail": "call.wav: the file is empty (0 bytes). Copy or record it again.",
}


class TaskResponse(BaseModel):
    """What one task of the model predicts."""

    label: str | None = Field(description="The class with the largest probability, or the words; null for a number.")
    confidence: Probability | None
    probabilities: dict[str, Probability] = Field(description="They sum to 1; empty where there are no classes.")
    value: float | None = Field(None, description="The number of a regression task.")


class SegmentResponse(TaskResponse):
    """A segment of a recording and its prediction."""

    start_s: Seconds
    end_s: Seconds
    rejected: str | None = Field(None, description="Why there is no label: low confidence, too short; else null.")


class NearestWord(BaseModel):
    word: str
    cosine: float


class Neighbour(BaseModel):
    id: str
    label: str
    speaker: str | None = None
    corpus: str | None = None
    distance: float


class ModelReference(BaseModel):
    name: str
    sha256: str


class PredictionResponse(TaskResponse):
    """The prediction for one recording, by the schema that docs/formats.md describes."""

    model_config = ConfigDict(json_schema_extra={"examples": [_PREDICTION]}, protected_namespaces=())

    file: str = Field(description="The file name that the client sent.")
    id: str | None = Field(None, description="Of an utterance of a manifest; null for a recording.")
    start_s: Seconds
    end_s: Seconds
    task: str = Field(description="The task that `label` answers.")
    rejected: str | None = Field(None, description="Why there is no label: low confidence, too short, no speech.")
    segments: list[SegmentResponse] = Field(description="Segments of speech in order, without overlap.")
    tasks: dict[str, TaskResponse] = Field(description="What the model's other tasks predict.")
    model: ModelReference
    words: list[NearestWord] | None = Field(None, description="The nearest words, of a model of words.")
    neighbours: list[Neighbour] | None = Field(None, description="The nearest labelled clips, if there is a datastore.")


class ProblemDetails(BaseModel):
    """What is wrong with a request (RFC 9457)."""

    model_config = ConfigDict(json_schema_extra={"examples": [_PROBLEM]})

    type: str
    title: str
    status: int
    detail: str


class BatchResult(BaseModel):
    """The result for one recording of a batch: a prediction or an error."""

    prediction: PredictionResponse | None = None
    error: ProblemDetails | None = None


class BatchResponse(BaseModel):
    """One result for each recording, in their order."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"results": [{"prediction": _PREDICTION}, {"error": _PROBLEM}]}]}
    )

    results: list[BatchResult]


class ModelInfo(BaseModel):
    """A model that the service runs."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "model", "task": "emotion", "classes": ["angry", "happy", "sad"], "max_window_s": 30.0}
            ]
        }
    )

    name: str
    task: str
    classes: list[str]
    is_calibrated: bool = Field(False, description="Whether probabilities were fitted to how often the model is right.")
    max_window_s: Seconds = Field(description="Longer recordings are cut into segments.")


class ModelsResponse(BaseModel):
    models: list[ModelInfo]


class StatusResponse(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: str


def prediction_response(prediction: Prediction, neighbours: Neighbours) -> PredictionResponse:
    """Return a prediction as it goes to the client."""
    content = prediction.to_dict()
    if len(prediction.embedding):
        content |= {
            "words": neighbours.words(prediction.embedding),
            "neighbours": neighbours.clips(prediction.embedding),
        }
    return PredictionResponse.model_validate(content)


def problem_details(problem: HTTPProblem) -> ProblemDetails:
    """Return a problem as part of a larger response."""
    return ProblemDetails.model_validate(problem.to_json())

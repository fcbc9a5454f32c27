"""The service's JSON: request and response models, with examples."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from serein.inference.predictor import Prediction
from serein.inference.segments import Segment, Timeline
from serein.server.neighbours import Neighbours
from serein.server.problems import HTTPProblem

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(ge=0.0)]

_PROBABILITIES = {"angry": 0.05, "happy": 0.81, "sad": 0.14}
_SEGMENT: dict[str, Any] = {
    "start_s": 0.4,
    "end_s": 3.1,
    "label": "happy",
    "confidence": 0.81,
    "probabilities": _PROBABILITIES,
}
_PREDICTION: dict[str, Any] = {
    "file": "call.wav",
    "task": "emotion",
    "duration_s": 3.5,
    "label": "happy",
    "confidence": 0.81,
    "probabilities": _PROBABILITIES,
    "rejected": None,
    "speech_s": 2.7,
    "segments": [_SEGMENT],
    "windows": [_SEGMENT],
}
_PROBLEM: dict[str, Any] = {
    "type": "urn:problem-type:serein:unusable-recording",
    "title": "unusable recording",
    "status": 422,
    "detail": "call.wav: the file is empty (0 bytes). Copy or record it again.",
}


class SegmentResponse(BaseModel):
    """A segment of a recording and its prediction."""

    start_s: Seconds
    end_s: Seconds
    label: str | None = Field(description="The class with the largest probability; null when rejected.")
    rejected: str | None = Field(None, description="Why the prediction was rejected, else null.")
    confidence: Share
    probabilities: dict[str, Share]


class NearestWord(BaseModel):
    word: str
    cosine: float


class Neighbour(BaseModel):
    id: str
    label: str
    speaker: str | None = None
    corpus: str | None = None
    distance: float


class PredictionResponse(BaseModel):
    """The prediction for one recording."""

    model_config = ConfigDict(json_schema_extra={"examples": [_PREDICTION]})

    file: str = Field(description="The file name that the client sent.")
    task: str = Field(description="The task that the classes belong to.")
    duration_s: Seconds | None
    label: str | None = Field(description="The class with the largest probability; null when rejected.")
    rejected: str | None = Field(None, description="Why the prediction was rejected, else null.")
    confidence: Share
    probabilities: dict[str, Share] = Field(description="They sum to 1.")
    speech_s: Seconds | None = Field(None, description="Seconds of speech, if the recording was cut into segments.")
    segments: list[SegmentResponse] | None = Field(None, description="Segments of speech, one prediction each.")
    windows: list[SegmentResponse] | None = Field(None, description="Predictions window by window; windows overlap.")
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


def prediction_response(prediction: Prediction | Timeline, neighbours: Neighbours) -> PredictionResponse:
    """Return a prediction as it goes to the client."""
    by_segment: dict[str, Any] = {}
    if isinstance(prediction, Timeline):
        by_segment = {
            "speech_s": round(prediction.speech_s, 3),
            "segments": [segment_response(each) for each in prediction.segments],
            "windows": [segment_response(each) for each in prediction.windows],
        }
    return PredictionResponse(
        file=prediction.audio,
        task=prediction.task,
        duration_s=None if prediction.duration_s is None else round(prediction.duration_s, 3),
        **_label_fields(prediction),
        **by_segment,
        words=neighbours.words(prediction.embedding),  # type: ignore[arg-type]
        neighbours=neighbours.clips(prediction.embedding),  # type: ignore[arg-type]
    )


def segment_response(segment: Segment) -> SegmentResponse:
    """Return a segment as it goes to the client."""
    return SegmentResponse(start_s=round(segment.start_s, 3), end_s=round(segment.end_s, 3), **_label_fields(segment))


def problem_details(problem: HTTPProblem) -> ProblemDetails:
    """Return a problem as part of a larger response."""
    return ProblemDetails.model_validate(problem.to_json())


def _label_fields(prediction: Prediction | Timeline | Segment) -> dict[str, Any]:
    return {
        "label": None if prediction.rejected else prediction.label,
        "rejected": prediction.rejected,
        "confidence": round(prediction.confidence, 6),
        "probabilities": {name: min(1.0, round(value, 6)) for name, value in prediction.probabilities.items()},
    }

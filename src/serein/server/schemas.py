"""The service's JSON: request and response models, with examples."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from serein.inference.prediction import Prediction
from serein.inference.schemas import EXAMPLE, EXAMPLE_OF_ERROR, ErrorSchema, PredictionSchema, Seconds
from serein.server.neighbours import Neighbours

_PROBLEM: dict[str, Any] = {
    "type": "urn:problem-type:serein:unusable-recording",
    "title": "unusable recording",
    "status": 422,
    "detail": "call.wav: the file is empty (0 bytes). Copy or record it again.",
}


class ProblemDetails(BaseModel):
    """What is wrong with a request (RFC 9457)."""

    model_config = ConfigDict(json_schema_extra={"examples": [_PROBLEM]})

    type: str
    title: str
    status: int
    detail: str


class BatchResponse(BaseModel):
    """A prediction or an error for each recording, in their order."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"results": [EXAMPLE, EXAMPLE_OF_ERROR]}]})

    results: list[PredictionSchema | ErrorSchema]


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
    colours: dict[str, str] = Field({}, description="Class -> colour, as reports draw it.")


class LimitsInfo(BaseModel):
    """What the service accepts."""

    max_upload_bytes: int = Field(description="Size of one recording.")
    max_recording_s: Seconds = Field(description="Length of one recording.")
    max_files: int = Field(description="Recordings of one batch.")


class ModelsResponse(BaseModel):
    models: list[ModelInfo]
    limits: LimitsInfo


class StatusResponse(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: str


def prediction_response(prediction: Prediction, neighbours: Neighbours) -> PredictionSchema:
    """Return a prediction as it goes to the client."""
    content = prediction.to_dict()
    if len(prediction.embedding):
        more = {"words": neighbours.words(prediction.embedding), "neighbours": neighbours.clips(prediction.embedding)}
        content |= {key: value for key, value in more.items() if value is not None}
    return PredictionSchema.model_validate(content)

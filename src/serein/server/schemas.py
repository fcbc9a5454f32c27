"""The service's JSON: responses, with examples, and errors of requests as problem details (RFC 9457)."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from serein.errors import AudioError
from serein.inference.prediction import EXAMPLE, EXAMPLE_OF_ERROR, ErrorSchema, PredictionSchema, Seconds

MEDIA_TYPE = "application/problem+json"
GONE = 499  # nginx's status for a client that closed the connection; only the metrics see it

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


class HTTPProblem(HTTPException):
    """An error response.

    Args:
        kind: Identifies the kind of problem, for programs.
        detail: The problem in a sentence, for people.
        retry_after_s: Seconds after which a client should try again.
    """

    def __init__(self, status: int, kind: str, detail: str, *, retry_after_s: float | None = None) -> None:
        headers = {} if retry_after_s is None else {"Retry-After": str(max(1, math.ceil(retry_after_s)))}
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, detail, headers)
        self.kind = kind

    def response(self) -> JSONResponse:
        """Return the members of RFC 9457, section 3.1, as a response."""
        content = {
            "type": f"urn:problem-type:serein:{self.kind}",
            "title": self.kind.replace("-", " "),
            "status": self.status_code,
            "detail": self.detail,
        }
        return JSONResponse(content, self.status_code, dict(self.headers or {}), MEDIA_TYPE)


def for_clients(error: AudioError) -> AudioError:
    """Return an error without its remedy if that is about the command line."""
    remedied = error.remedy and "--" not in error.remedy and "list" not in error.remedy
    return error if remedied else AudioError(error.what, where=error.where)


def too_large(most_bytes: int) -> HTTPProblem:
    what = f"At most {most_bytes / 1e6:g} MB are accepted. Send less, or FLAC instead of WAV."
    return HTTPProblem(413, "too-large", what)


def busy(what: str, retry_after_s: float) -> HTTPProblem:
    return HTTPProblem(503, "busy", f"{what} Try again later.", retry_after_s=retry_after_s)


def gone() -> HTTPProblem:
    return HTTPProblem(GONE, "gone", "The client closed the connection before the response.")


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
    dimensions: list[str] = Field([], description="Names of the numbers that it predicts.")
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

"""The service's HTTP routes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from serein.audio import Upload
from serein.errors import AudioError, SereinError
from serein.evaluation.plots import emotion_colours
from serein.inference.schemas import ErrorSchema, PredictionSchema
from serein.inference.writers import error_dict
from serein.server import problems
from serein.server.forms import form_schema, recordings, require_known_options
from serein.server.problems import HTTPProblem
from serein.server.schemas import (
    BatchResponse,
    LimitsInfo,
    ModelInfo,
    ModelsResponse,
    ProblemDetails,
    StatusResponse,
    prediction_response,
)
from serein.server.service import Service

T = TypeVar("T")
_AUDIO = "WAV, FLAC, OGG, Opus or MP3."


class SegmentsMode(StrEnum):
    """Which recordings are cut into speech segments."""

    auto = "auto"
    always = "always"
    never = "never"


_WHAT = {
    400: "The form cannot be read.",
    401: "No key, or a wrong one.",
    408: "The upload did not arrive in time.",
    413: "The upload is too large.",
    415: "The body is not a form.",
    422: "The recording cannot be used, or an option has no such value.",
    429: "This client has too many requests in progress.",
    503: "The service is busy or shutting down.",
}


def _documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {problems.MEDIA_TYPE: {"schema": ProblemDetails.model_json_schema()}}
    return {status: {"description": _WHAT[status], "content": content} for status in statuses}


SegmentsQuery = Annotated[
    SegmentsMode, Query(description="Cut into segments of speech: auto and always do, never takes the recording whole.")
]
_REFUSALS = _documented(400, 401, 408, 413, 415, 422, 429, 503)


def router(service: Service) -> APIRouter:
    """Return the routes of a service."""
    routes = APIRouter(dependencies=[Depends(require_known_options)])
    limits = service.limits

    @routes.post(
        "/v1/predict",
        response_model_exclude_unset=True,
        responses=_REFUSALS,
        tags=["recordings"],
        openapi_extra=form_schema("file", _AUDIO, 1),
    )
    async def predict(request: Request, segments: SegmentsQuery = SegmentsMode.auto) -> PredictionSchema:
        """Predict one recording."""
        (upload,) = await recordings(request, "file", 1, limits)
        try:
            return await _unless_disconnected(service, request, _predict(service, upload, segments))
        except AudioError as error:
            raise problems.of_recording(error) from None

    @routes.post(
        "/v1/predict/batch",
        response_model_exclude_unset=True,
        responses=_REFUSALS,
        tags=["recordings"],
        openapi_extra=form_schema("files", _AUDIO, limits.num_files),
    )
    async def predict_batch(request: Request, segments: SegmentsQuery = SegmentsMode.auto) -> BatchResponse:
        """Predict several recordings; 422 if none of them can be used."""
        uploads = await recordings(request, "files", limits.num_files, limits)
        results = await _unless_disconnected(service, request, _results(service, uploads, segments))
        if not any(isinstance(result, PredictionSchema) for result in results):
            errors = [result.error for result in results if isinstance(result, ErrorSchema)]
            details = " ".join(str(SereinError(e.what, where=e.where, remedy=e.remedy)) for e in errors[:3])
            raise HTTPProblem(422, "unusable-recording", f"None of {len(results)} recordings can be used. {details}")
        return BatchResponse(results=results)

    @routes.get("/v1/models", responses=_documented(401), tags=["service"])
    async def models() -> ModelsResponse:
        """Return the model's name and classes, and what the service accepts."""
        checkpoint = service.predictor.checkpoint
        model = ModelInfo(
            name=service.about.name,
            task=service.predictor.task,
            classes=list(service.predictor.classes),
            is_calibrated=checkpoint.calibration is not None,
            max_window_s=checkpoint.options.clips.window_s,
            colours=emotion_colours(service.predictor.classes),
        )
        accepted = LimitsInfo(
            max_upload_bytes=limits.upload_bytes, max_recording_s=limits.recording_s, max_files=limits.num_files
        )
        return ModelsResponse(models=[model], limits=accepted)

    @routes.get("/healthz", tags=["service"])
    async def health() -> StatusResponse:
        """Return whether the process is alive."""
        return StatusResponse(status="ok")

    @routes.get("/readyz", responses=_documented(503), tags=["service"])
    async def ready() -> StatusResponse:
        """Return whether the service accepts requests."""
        if not service.is_ready:
            raise problems.busy("The service is being shut down.", 10.0)
        return StatusResponse(status="ready")

    @routes.get("/metrics", responses=_documented(401), response_class=Response, tags=["service"])
    async def metrics() -> Response:
        """Return metrics for Prometheus."""
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return routes


async def refuse(_: Request, error: Exception) -> JSONResponse:
    """Return problem details for an `HTTPProblem`, or an error of FastAPI or Starlette."""
    if isinstance(error, HTTPProblem):
        return problems.response(error)
    status = getattr(error, "status_code", 422)
    kind = {400: "unreadable-form", 404: "not-found", 405: "not-allowed"}.get(status, "wrong-request")
    response = problems.response(HTTPProblem(status, kind, _in_words(error)))
    response.headers.update(getattr(error, "headers", None) or {})
    return response


async def fail(_: Request, error: Exception) -> JSONResponse:
    """Return problem details for an internal error, without its cause."""
    return problems.response(HTTPProblem(500, "fault", "Internal error; see the service's log."))


async def _predict(service: Service, upload: Upload, segments: SegmentsMode) -> PredictionSchema:
    prediction = await service.predict(upload, segments.value)
    return await service.run_in_thread(lambda: prediction_response(prediction, service.neighbours))


async def _results(
    service: Service, uploads: list[Upload], segments: SegmentsMode
) -> list[PredictionSchema | ErrorSchema]:
    async def result(upload: Upload) -> PredictionSchema | ErrorSchema:
        try:
            return await _predict(service, upload, segments)
        except AudioError as error:
            return ErrorSchema.model_validate(error_dict(upload, problems.for_clients(error)))

    return list(await asyncio.gather(*map(result, uploads)))


async def _unless_disconnected(service: Service, request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await work; cancel it if the client disconnects or the service's time limit passes."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    tasks: set[asyncio.Future[Any]] = {task, gone}
    try:
        await asyncio.wait(tasks, timeout=service.limits.answer_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise problems.gone()
        raise problems.busy(f"No response within {service.limits.answer_s:g} s.", 10.0)
    finally:
        for each in tasks:
            each.cancel()


async def _disconnected(request: Request) -> None:
    receive: Any = request.receive
    while (await receive())["type"] != "http.disconnect":
        pass


def _in_words(error: Exception) -> str:
    wrong = getattr(error, "errors", None)
    if wrong is None:
        return str(getattr(error, "detail", error))
    return " ".join(f"{each['loc'][-1]}: {each['msg']}." for each in wrong())

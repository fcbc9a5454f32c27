"""The service's HTTP routes, and the strict reading of requests.

Forms of recordings are kept in memory and nowhere else; unknown fields and options are refused.
"""

from __future__ import annotations

import asyncio
import unicodedata
from contextlib import aclosing
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from serein.audio import TooLongAudioError, Upload
from serein.errors import AudioError
from serein.evaluation.plots import emotion_colours
from serein.inference.prediction import EXAMPLE, EXAMPLE_OF_ERROR, ErrorSchema, Prediction, PredictionSchema, Seconds
from serein.inference.writers import error_dict
from serein.server.limits import MEDIA_TYPE, HTTPProblem, Limits, ProblemDetails, busy, for_clients, gone, too_large
from serein.server.service import Service

_LONGEST_NAME = 100
_FIELD_BYTES = 10_000  # of a text where a file belongs


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
    is_calibrated: bool = Field(False, description="Whether probabilities were fitted to the model's accuracy.")
    max_window_s: Seconds = Field(description="Longer recordings are cut into segments.")
    colours: dict[str, str] = Field({}, description="Class -> colour, as in reports.")


class LimitsInfo(BaseModel):
    """What the service accepts."""

    max_upload_bytes: int = Field(description="Size of one recording.")
    max_recording_s: Seconds = Field(description="Length of one recording.")
    max_files: int = Field(description="Number of recordings in one batch.")


class ModelsResponse(BaseModel):
    models: list[ModelInfo]
    limits: LimitsInfo


class StatusResponse(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: str


class SegmentsMode(StrEnum):
    """Which recordings are cut into speech segments."""

    auto = "auto"
    always = "always"
    never = "never"


SegmentsQuery = Annotated[
    SegmentsMode,
    Query(description="Whether to cut recordings into segments of speech: auto and always do, never does not."),
]
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


def router(service: Service) -> APIRouter:
    """Return the routes that predict recordings."""
    routes = APIRouter(dependencies=[Depends(require_known_options)])
    limits = service.limits
    shared: dict[str, Any] = {
        "response_model_exclude_unset": True,
        "responses": _documented(400, 401, 408, 413, 415, 422, 429, 503),
        "tags": ["recordings"],
    }

    @routes.post("/v1/predict", openapi_extra=_form_schema("file", 1), **shared)
    async def predict(request: Request, segments: SegmentsQuery = SegmentsMode.auto) -> PredictionSchema:
        """Predict one recording."""
        uploads = await recordings(request, "file", 1, limits)
        (result,) = await _results(service, request, uploads, segments)
        if isinstance(result, AudioError):
            kind = "too-long" if isinstance(result, TooLongAudioError) else "unusable-recording"
            raise HTTPProblem(422, kind, str(for_clients(result)))
        return result

    @routes.post("/v1/predict/batch", openapi_extra=_form_schema("files", limits.num_files), **shared)
    async def predict_batch(request: Request, segments: SegmentsQuery = SegmentsMode.auto) -> BatchResponse:
        """Predict several recordings; 422 if none of them can be used."""
        uploads = await recordings(request, "files", limits.num_files, limits)
        results = await _results(service, request, uploads, segments)
        errors = [for_clients(result) for result in results if isinstance(result, AudioError)]
        if len(errors) == len(results):
            details = " ".join(map(str, errors[:3]))
            raise HTTPProblem(422, "unusable-recording", f"None of {len(results)} recordings can be used. {details}")
        return BatchResponse(
            results=[
                ErrorSchema.model_validate(error_dict(upload, for_clients(result)))
                if isinstance(result, AudioError)
                else result
                for upload, result in zip(uploads, results, strict=True)
            ]
        )

    return routes


def status_router(service: Service) -> APIRouter:
    """Return the routes with information about a service."""
    routes = APIRouter(dependencies=[Depends(require_known_options)], tags=["service"])
    limits = service.limits

    @routes.get("/v1/models", responses=_documented(401))
    async def models() -> ModelsResponse:
        """Return the model's name, classes and dimensions, and what the service accepts."""
        checkpoint = service.predictor.checkpoint
        model = ModelInfo(
            name=service.about.name,
            task=service.predictor.task,
            classes=list(service.predictor.classes),
            dimensions=list(service.predictor.dimensions),
            is_calibrated=checkpoint.calibration is not None,
            max_window_s=checkpoint.options.clips.window_s,
            colours=emotion_colours(service.predictor.classes),
        )
        accepted = LimitsInfo(
            max_upload_bytes=limits.upload_bytes, max_recording_s=limits.recording_s, max_files=limits.num_files
        )
        return ModelsResponse(models=[model], limits=accepted)

    @routes.head("/healthz", include_in_schema=False)
    @routes.get("/healthz")
    async def health() -> StatusResponse:
        """Return whether the process is alive."""
        return StatusResponse(status="ok")

    @routes.head("/readyz", include_in_schema=False)
    @routes.get("/readyz", responses=_documented(503))
    async def ready() -> StatusResponse:
        """Return whether the service accepts requests."""
        if not service.batcher.is_alive or service.limiter.is_closed:
            raise busy("The service is being shut down.", 10.0)
        return StatusResponse(status="ready")

    @routes.get("/metrics", responses=_documented(401), response_class=Response)
    async def metrics() -> Response:
        """Return metrics for Prometheus."""
        return Response(generate_latest(service.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return routes


async def refuse(_: Request, error: Exception) -> JSONResponse:
    """Return problem details for an `HTTPProblem`, an error of FastAPI or Starlette, or an internal error.

    The cause of an internal error is not sent; it is in the log.
    """
    if isinstance(error, HTTPProblem):
        return error.response()
    if isinstance(error, RequestValidationError):
        wrong = " ".join(f"{each['loc'][-1]}: {each['msg']}." for each in error.errors())
        return HTTPProblem(422, "wrong-request", wrong).response()
    if isinstance(error, HTTPException):
        kinds = {400: "unreadable-form", 404: "not-found", 405: "not-allowed"}
        problem = HTTPProblem(error.status_code, kinds.get(error.status_code, "wrong-request"), str(error.detail))
        response = problem.response()
        response.headers.update(error.headers or {})
        return response
    return HTTPProblem(500, "fault", "Internal error; see the service's log.").response()


async def _results(
    service: Service, request: Request, uploads: list[Upload], segments: SegmentsMode
) -> list[PredictionSchema | AudioError]:
    """Predict recordings, or return what is wrong with them.

    Raises:
        HTTPProblem: The client disconnects, or the service's time limit passes; then the work is cancelled.
    """

    async def result(upload: Upload) -> PredictionSchema | AudioError:
        try:
            prediction = await service.predict(upload, segments.value)
            return await service.in_thread(prediction_response, service, prediction)
        except AudioError as error:
            return error

    async def disconnected() -> None:
        receive: Any = request.receive
        while (await receive())["type"] != "http.disconnect":
            pass

    work, leaving = asyncio.gather(*map(result, uploads)), asyncio.ensure_future(disconnected())
    tasks: set[asyncio.Future[Any]] = {work, leaving}
    try:
        await asyncio.wait(tasks, timeout=service.limits.answer_s, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        if leaving.done():
            raise gone()
        raise busy(f"No response within {service.limits.answer_s:g} s.", 10.0)
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def prediction_response(service: Service, prediction: Prediction) -> PredictionSchema:
    """Return a prediction as sent to the client, with its nearest neighbours if the service can search for them."""
    content = prediction.to_dict()
    if len(prediction.embedding):
        content |= service.neighbours.nearest(prediction.embedding)
    return PredictionSchema.model_validate(content)


class _FormParser(MultiPartParser):
    """Starlette's parser of forms, which does not itself refuse a form that is cut off.

    Attributes:
        is_complete: Whether the form's last boundary was read.
    """

    is_complete = False

    def on_end(self) -> None:
        self.is_complete = True


async def recordings(request: Request, field: str, most: int, limits: Limits) -> list[Upload]:
    """Return the recordings of a form, in their order.

    Args:
        field: Name of the field that contains them; other fields are refused.
        most: Maximum number of recordings; at least one is required.

    Raises:
        HTTPProblem: 415 for a body that is not a form, 400 for a form that is broken or cut off, 413 for too many or
            too large recordings, 422 for unknown fields, texts and missing recordings, 499 if the client is gone.
    """
    example = f"curl -F {field}=@call.wav"
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPProblem(415, "no-form", f"Send a multipart form with a field '{field}', for example: {example}.")
    try:
        async with aclosing(request.stream()) as stream:
            parser = _FormParser(request.headers, stream, max_part_size=_FIELD_BYTES)
            parser.spool_max_size = limits.memory_bytes  # so that nothing is written to disk
            form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Part exceeded"):
            what = f"A field of the form is large and has no file name. Send a file, for example: {example}."
            raise HTTPProblem(422, "wrong-request", what) from None
        raise HTTPProblem(400, "unreadable-form", f"The form cannot be read: {error.message}") from None
    except UnicodeError:
        raise HTTPProblem(400, "unreadable-form", "The form's charset cannot be read. Send UTF-8.") from None
    except ClientDisconnect:
        raise gone() from None
    try:
        if not parser.is_complete:
            what = "The form is cut off: its last boundary is missing. Send it again."
            raise HTTPProblem(400, "unreadable-form", what)
        items = form.multi_items()
        if unknown := sorted({name for name, _ in items} - {field}):
            raise HTTPProblem(422, "wrong-request", f"Unknown field '{unknown[0]}'. Send only '{field}'.")
        if not items:
            raise HTTPProblem(422, "wrong-request", f"The form contains no '{field}'.")
        if len(items) > most == 1:
            many = "Send one recording in a request, or several to /v1/predict/batch."
            raise HTTPProblem(422, "wrong-request", many)
        if len(items) > most:
            many = f"A batch has at most {most} recordings; this one has {len(items)}. Send several batches."
            raise HTTPProblem(413, "too-large", many)
        uploads = []
        for name, value in items:
            if isinstance(value, str):
                what = f"'{name}' contains text. Send a file, for example: {example}."
                raise HTTPProblem(422, "wrong-request", what)
            if (value.size or 0) > limits.upload_bytes:
                raise too_large(limits.upload_bytes)
            uploads.append(Upload(await value.read(), file_name(value.filename)))
        return uploads
    finally:
        await form.close()


def require_known_options(request: Request) -> None:
    """Refuse query options that a route does not have or that are given twice.

    Raises:
        HTTPProblem: 422.
    """
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    require_options(request.query_params.multi_items(), known)


def require_options(given: list[tuple[str, str]], known: set[str]) -> None:
    """Refuse unknown options; see `require_known_options`."""
    names = [name for name, _ in given]
    if unknown := [name for name in names if name not in known]:
        has = f"Known options: {', '.join(sorted(known))}." if known else "This route has none."
        raise HTTPProblem(422, "wrong-request", f"Unknown option '{unknown[0][:_LONGEST_NAME]}'. {has}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise HTTPProblem(422, "wrong-request", f"Option '{twice[0]}' is given twice.")


def file_name(name: str | None) -> str:
    """Return a client's name for a recording, for messages only: without folders and unprintable characters.

    Example:
        >>> file_name("../../etc/passwd"), file_name(None)
        ('passwd', 'upload')
    """
    last = (name or "").replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(each for each in last if unicodedata.category(each)[0] != "C")
    return shown[:_LONGEST_NAME] or "upload"


def _form_schema(field: str, most: int) -> dict[str, Any]:
    """Return the OpenAPI schema of a route's form, which FastAPI cannot infer."""
    file = {"type": "string", "format": "binary", "description": "WAV, FLAC, OGG, Opus or MP3."}
    shown: dict[str, Any] = file if most == 1 else {"type": "array", "items": file, "minItems": 1, "maxItems": most}
    form = {"type": "object", "required": [field], "additionalProperties": False, "properties": {field: shown}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


def _documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {MEDIA_TYPE: {"schema": ProblemDetails.model_json_schema()}}
    return {status: {"description": _WHAT[status], "content": content} for status in statuses}

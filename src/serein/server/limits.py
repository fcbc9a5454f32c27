"""Limits of a service, per client and for all clients; refusals as problem details (RFC 9457); and its metrics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from http import HTTPStatus
from typing import Any, Literal

import prometheus_client
from fastapi import HTTPException
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector
from pydantic import BaseModel, ConfigDict

from serein.errors import AudioError, RecipeError

MEGABYTE = 1_000_000
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


@dataclass(frozen=True)
class Limits:
    """Upper limits of a service.

    Attributes:
        upload_bytes: Size of one recording, as sent.
        headers_s: Seconds until a request's headers have arrived.
        upload_s: Seconds until a request has arrived in full.
        recording_s: Length of one recording, in seconds.
        num_files: Recordings in one batch.
        connections: Open connections of all clients; a further one is closed at once.
        at_once: Concurrent requests of all clients.
        per_client: Concurrent requests and streams of one client.
        memory_bytes: All uploads in memory together.
        answer_s: Seconds from a request's arrival to its response.
        streams: Concurrent streams.
        stream_s: Length of one stream, in seconds.
        idle_s: Seconds without a message after which a stream is closed.

    Raises:
        RecipeError: A number is not positive.
    """

    upload_bytes: int = 25 * MEGABYTE
    headers_s: float = 10.0
    upload_s: float = 60.0
    recording_s: float = 600.0
    num_files: int = 16
    connections: int = 800
    at_once: int = 64
    per_client: int = 32
    memory_bytes: int = 250 * MEGABYTE
    answer_s: float = 120.0
    streams: int = 200
    stream_s: float = 4 * 3600.0
    idle_s: float = 30.0

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not 0 < value < float("inf"):
                raise RecipeError(f"{value:g} is not a limit", where=limit.name, remedy="Choose more than 0.")


@dataclass(eq=False)
class ConcurrencyLimiter:
    """Counters that change only on the event loop.

    Attributes:
        retry_after_s: Returns the seconds after which a client should try again.
    """

    limits: Limits
    retry_after_s: Callable[[], float] = lambda: 1.0
    is_closed: bool = False
    of_kind: Counter[str] = field(default_factory=lambda: Counter(request=0, stream=0), init=False)
    num_bytes: int = field(default=0, init=False)
    _of_client: Counter[str] = field(default_factory=Counter, init=False)

    @contextmanager
    def one_more(self, kind: Literal["request", "stream"], client: str) -> Iterator[None]:
        """Count one request while it runs, or one stream while it is open.

        Raises:
            HTTPProblem: 429 if this client has too many, 503 if all clients together do or the service is shutting
                down.
        """
        limits, counts = self.limits, self.of_kind
        if self.is_closed:
            raise busy("The service is being shut down.", 10.0)
        if kind == "request" and counts[kind] >= limits.at_once:
            raise busy("Too many requests are in progress.", self.retry_after_s())
        if kind == "stream" and counts[kind] >= limits.streams:
            raise busy("Too many streams are open.", max(5.0, self.retry_after_s()))
        if self._of_client[client] >= limits.per_client:
            what = f"You have {limits.per_client} requests in progress. Wait for their responses."
            raise HTTPProblem(429, "too-many-requests", what, retry_after_s=1)
        counts[kind] += 1
        self._of_client[client] += 1
        try:
            yield
        finally:
            counts[kind] -= 1
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]

    @contextmanager
    def memory(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that reserves bytes; they are released at the end.

        Raises:
            HTTPProblem: 503 if more is reserved than the limit allows.
        """
        own = 0

        def take(num_bytes: int) -> None:
            nonlocal own
            if self.num_bytes + num_bytes > self.limits.memory_bytes:
                raise busy("Too many uploads are in memory.", self.retry_after_s())
            own += num_bytes
            self.num_bytes += num_bytes

        try:
            yield take
        finally:
            self.num_bytes -= own


_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters, gauges and histograms of one service."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = prometheus_client.Counter(
            "serein_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self.request_s = Histogram(
            "serein_request_seconds",
            "Seconds from a request's first byte to its response.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.audio_s = prometheus_client.Counter(
            "serein_audio_seconds", "Seconds of audio that the model processed.", registry=registry
        )
        self.model_s = prometheus_client.Counter(
            "serein_model_seconds", "Seconds that the model took.", registry=registry
        )
        self.batch_clips = Histogram(
            "serein_batch_clips",
            "Clips in one batch of the model.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=registry,
        )
        self.in_progress = Gauge("serein_requests_in_progress", "Requests in progress.", registry=registry)
        self.streams = Gauge("serein_streams", "Open streams.", registry=registry)
        self.upload_bytes = Gauge("serein_upload_bytes", "Bytes of uploads in memory.", registry=registry)
        self.waiting = Gauge("serein_jobs_waiting", "Jobs waiting for the model.", registry=registry)

    def batch(self, num_clips: int, audio_s: float, took_s: float) -> None:
        """Record one batch."""
        self.batch_clips.observe(num_clips)
        self.audio_s.inc(audio_s)
        self.model_s.inc(took_s)

"""Limits of a service, for one client and for all together, and its metrics for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Literal

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector

from serein.errors import RecipeError
from serein.server.schemas import HTTPProblem, busy

MEGABYTE = 1_000_000


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
                raise RecipeError(f"{value:g} is no limit", where=limit.name, remedy="Take more than 0.")


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
            raise busy("Too many requests are under way.", self.retry_after_s())
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

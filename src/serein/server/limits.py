"""Limits of a service, for one client and for all together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from serein.errors import RecipeError
from serein.server.problems import busy, too_many

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
    at_once: int = 64
    per_client: int = 32
    memory_bytes: int = 250 * MEGABYTE
    answer_s: float = 120.0
    streams: int = 200
    stream_s: float = 4 * 3600.0
    idle_s: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf"):
                raise RecipeError(f"{value:g} is no limit", where=field.name, remedy="Take more than 0.")


class ConcurrencyLimiter:
    """Counters that change only on the event loop.

    Args:
        retry_after_s: Returns the seconds after which a client should try again.
    """

    def __init__(self, limits: Limits, retry_after_s: Callable[[], float] = lambda: 1.0) -> None:
        self.limits = limits
        self.retry_after_s = retry_after_s
        self.is_closed = False
        self.num_requests = 0
        self.num_streams = 0
        self.num_bytes = 0
        self._of_client: Counter[str] = Counter()

    @contextmanager
    def request(self, client: str) -> Iterator[None]:
        """Count one request while it runs.

        Raises:
            HTTPProblem: 429 if this client has too many requests, 503 if all clients together do or the service is
                shutting down.
        """
        self._require_open()
        if self.num_requests >= self.limits.at_once:
            raise busy("Too many requests are under way.", self.retry_after_s())
        with self._one_more(client):
            self.num_requests += 1
            try:
                yield
            finally:
                self.num_requests -= 1

    @contextmanager
    def stream(self, client: str) -> Iterator[None]:
        """Count one stream while it is open; see `request`."""
        self._require_open()
        if self.num_streams >= self.limits.streams:
            raise busy("Too many streams are open.", max(5.0, self.retry_after_s()))
        with self._one_more(client):
            self.num_streams += 1
            try:
                yield
            finally:
                self.num_streams -= 1

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

    @contextmanager
    def _one_more(self, client: str) -> Iterator[None]:
        if self._of_client[client] >= self.limits.per_client:
            raise too_many(self.limits.per_client)
        self._of_client[client] += 1
        try:
            yield
        finally:
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]

    def _require_open(self) -> None:
        if self.is_closed:
            raise busy("The service is being shut down.", 10.0)

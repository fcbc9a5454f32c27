"""Who is let in: counts of what is under way, of all and of each client, and of the bytes in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serein.serving.limits import Limits
from serein.serving.problems import busy, too_many


class ConcurrencyLimiter:
    """Counts, all of them changed on the event loop alone.

    Args:
        retry_after_s: When trying again makes sense.
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
        """Let one request in.

        Raises:
            HTTPProblem: 429 when the client has too many under way, 503 when all have, or the service ends.
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
        """Let one stream in; see `request`."""
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
        """Yield what takes in bytes; they are given back at the end.

        Raises:
            HTTPProblem: 503, when called for more than there is room for.
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

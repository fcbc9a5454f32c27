"""One client's connection: closed when its headers come too slowly, or when it sends on after it was refused."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedProtocol(H11Protocol):
    """Uvicorn's HTTP protocol with the two deadlines that it lacks; bodies are timed by the middleware.

    Args:
        headers_s: Seconds until the headers of a request are whole, from the connection or their first byte.
        drain_s: Seconds for which a client may go on sending a body whose request has been answered.
    """

    def __init__(self, *arguments: Any, headers_s: float, drain_s: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.headers_s = headers_s
        self.drain_s = drain_s
        self._deadline: asyncio.TimerHandle | None = None
        self._allowed_s: float | None = None  # what the deadline was set to

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch(self.headers_s)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch(self._due_s())

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch(self._due_s())

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch(None)
        super().connection_lost(exc)

    def _due_s(self) -> float | None:
        """Return what the client has for what it does now; `None` where it is not to do anything."""
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            return self.headers_s
        is_answered = self.conn.our_state in (h11.DONE, h11.MUST_CLOSE)
        return self.drain_s if is_answered and self.conn.their_state is h11.SEND_BODY else None

    def _watch(self, allowed_s: float | None) -> None:
        """Set the deadline; more of the same does not move it."""
        if allowed_s == self._allowed_s:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._allowed_s = allowed_s
        self._deadline = None if allowed_s is None else self.loop.call_later(allowed_s, self.transport.abort)

"""Middleware that checks keys, limits, sizes and times before a byte of an upload is read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serein.serving.keys import Keys
from serein.serving.limits import Limits
from serein.serving.problems import HTTPProblem, response, too_large, unauthorised
from serein.serving.service import Service

GUARDED = ("/v1/", "/metrics")
_FORM_BYTES = 100_000  # of a form, apart from its recordings
_ROUTES = ("/v1/predict", "/v1/predict/batch", "/v1/models", "/v1/stream", "/healthz", "/readyz", "/metrics")


class Middleware:
    """Refuses requests that are not allowed, and measures the rest."""

    def __init__(self, app: ASGIApp, service: Service, keys: Keys | None) -> None:
        self.app = app
        self.service = service
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in _ROUTES else "other"
        status, started_s = 500, time.perf_counter()

        async def measured(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._check(scope, receive, measured)
        except HTTPProblem as problem:
            await response(problem)(scope, receive, measured)
        finally:
            self.service.metrics.requests.labels(route, str(status)).inc()
            self.service.metrics.request_s.labels(route).observe(time.perf_counter() - started_s)

    async def _check(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.keys and scope["path"].startswith(GUARDED) and not self.keys.allows(_header(scope, b"authorization")):
            raise unauthorised()
        if scope["method"] != "POST" or not scope["path"].startswith(GUARDED):
            await self.app(scope, receive, send)
            return
        limits = self.service.limits
        most = limits.upload_bytes * (limits.num_files if scope["path"].endswith("/batch") else 1) + _FORM_BYTES
        most = min(most, limits.memory_bytes)
        if (length := _header(scope, b"content-length")).isdigit() and int(length) > most:
            raise too_large(most)
        with ExitStack() as taken:
            taken.enter_context(self.service.limiter.request(client_of(scope)))
            take = taken.enter_context(self.service.limiter.memory())
            await self.app(scope, _Intake(receive, most, take, limits), send)


class _Intake:
    """Limits the size and time of a request body; announced sizes are not trusted."""

    def __init__(self, receive: Receive, most_bytes: int, take: Callable[[int], None], limits: Limits) -> None:
        self.receive = receive
        self.room = self.most_bytes = most_bytes
        self.take = take
        self.limits = limits
        self.until_s = time.monotonic() + limits.upload_s
        self.is_whole = False

    async def __call__(self) -> Message:
        if self.is_whole:
            return await self.receive()  # returns when the client disconnects
        try:
            message = await asyncio.wait_for(self.receive(), self.until_s - time.monotonic())
        except TimeoutError:
            raise HTTPProblem(408, "too-slow", f"Not all came within {self.limits.upload_s:g} s. Send less.") from None
        num_bytes = len(message.get("body", b""))
        self.room -= num_bytes
        if self.room < 0:
            raise too_large(self.most_bytes)
        self.take(num_bytes)
        self.is_whole = not message.get("more_body", False)
        return message


def client_of(scope: Scope) -> str:
    """Return the client's address, as the connection or a trusted proxy gives it."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")

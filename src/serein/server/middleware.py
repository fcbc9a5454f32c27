"""What stands before the routes: hosts, origins, keys, limits, sizes and times, before a byte of an upload is read."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from serein.errors import SereinError
from serein.server.hosts import Names
from serein.server.limits import Limits
from serein.server.problems import HTTPProblem, foreign_host, foreign_origin, response, too_large, unauthorised
from serein.server.service import Service

SHORTEST = 16


class Keys:
    """The keys that are accepted.

    Example:
        >>> keys = Keys(["correct-horse-battery"])
        >>> keys.accepts("correct-horse-battery"), keys.accepts("correct"), keys.allows("Bearer correct-horse-battery")
        (True, False, True)
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def accepts(self, key: str) -> bool:
        """Return whether a key is one of them; takes as long for a near miss as for any other."""
        digest = _digest(key)
        return sum(hmac.compare_digest(digest, each) for each in self._digests) > 0  # all are compared

    def allows(self, authorization: str | None) -> bool:
        """Return whether a header `Authorization` carries a key."""
        scheme, _, key = (authorization or "").partition(" ")
        return scheme.lower() == "bearer" and self.accepts(key.strip())


def read_keys(path: str | Path) -> Keys:
    """Read a file with one key per line; empty lines and lines that start with # are skipped.

    Raises:
        SereinError: The file cannot be read, holds no key, or holds one that is too short.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise SereinError(f"the keys cannot be read ({reason})", where=path, remedy="Name a file of keys.") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or min(map(len, keys)) < SHORTEST:
        what = f"a key has fewer than {SHORTEST} characters" if keys else "holds no key"
        raise SereinError(what, where=path, remedy="Make one with: openssl rand -hex 32.")
    return Keys(keys)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()


GUARDED = ("/v1/", "/metrics")  # what answers without a key holds no data: the page's files, openapi.json, probes
_FORM_BYTES = 100_000  # of a form, apart from its recordings
_ROUTES = ("/", "/v1/predict", "/v1/predict/batch", "/v1/models", "/v1/stream", "/healthz", "/readyz", "/metrics")


class Middleware:
    """Refuses requests that are not allowed, and measures the rest."""

    def __init__(self, app: ASGIApp, service: Service, keys: Keys | None, names: Names) -> None:
        self.app = app
        self.service = service
        self.keys = keys
        self.names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            try:
                self._require_allowed(scope)
            except HTTPProblem as problem:
                await WebSocket(scope, receive, send).send_denial_response(response(problem))
                return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in _ROUTES else "other"
        status, started_s = 500, time.perf_counter()
        body = _Body(scope, receive, self.service.limits)

        async def measured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                await body.drop()
            await send(message)

        try:
            self._require_allowed(scope)
            await self._answer(scope, body, measured)
        except HTTPProblem as problem:
            await response(problem)(scope, body, measured)
        finally:
            self.service.metrics.requests.labels(route, str(status)).inc()
            self.service.metrics.request_s.labels(route).observe(time.perf_counter() - started_s)

    def _require_allowed(self, scope: Scope) -> None:
        """Refuse foreign names and web pages everywhere, and clients without a key where there are data."""
        headers = Headers(scope=scope)
        if not self.names.knows_host(scope):
            raise foreign_host(headers["host"])
        if not self.names.knows_origin(scope):
            raise foreign_origin(headers["origin"])
        if self.keys and scope["path"].startswith(GUARDED) and not self.keys.allows(headers.get("authorization")):
            raise unauthorised()

    async def _answer(self, scope: Scope, body: _Body, send: Send) -> None:
        if scope["method"] != "POST" or not scope["path"].startswith(GUARDED):
            await self.app(scope, body, send)
            return
        limits = self.service.limits
        most = limits.upload_bytes * (limits.num_files if scope["path"].endswith("/batch") else 1)
        most = min(most, limits.memory_bytes)
        if (length := Headers(scope=scope).get("content-length", "")).isdigit() and int(length) > most + _FORM_BYTES:
            raise too_large(most)
        with ExitStack() as taken:
            taken.enter_context(self.service.limiter.request(client_of(scope)))
            body.accept(most, taken.enter_context(self.service.limiter.memory()))
            await self.app(scope, body, send)


class _Body:
    """A request's body: limited in size and time where it is read, dropped where it is not.

    Announced sizes are not trusted. Before it is accepted, a body may have no byte.
    """

    def __init__(self, scope: Scope, receive: Receive, limits: Limits) -> None:
        headers = Headers(scope=scope)
        self.receive = receive
        self.limits = limits
        self.until_s = time.monotonic() + limits.upload_s
        self.room = self.most_bytes = 0
        self.take: Callable[[int], None] = lambda _: None
        self.is_whole = False
        is_announced = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self.is_coming = is_announced and "expect" not in headers  # with it, only once it is asked for

    def accept(self, most_bytes: int, take: Callable[[int], None]) -> None:
        """Let the body be read; `take` is told of every piece."""
        self.most_bytes = most_bytes
        self.room = most_bytes + _FORM_BYTES
        self.take = take

    async def __call__(self) -> Message:
        if self.is_whole:
            return await self.receive()  # returns when the client disconnects
        self.is_coming = True
        try:
            message = await self._next()
        except TimeoutError:
            raise HTTPProblem(408, "too-slow", f"Not all came within {self.limits.upload_s:g} s. Send less.") from None
        num_bytes = len(message.get("body", b""))
        self.room -= num_bytes
        if self.room < 0:
            raise too_large(self.most_bytes)
        self.take(num_bytes)
        return message

    async def drop(self) -> None:
        """Read the rest and forget it: a client that still sends would not read why it was refused."""
        room = self.limits.memory_bytes  # who sends more is cut off by the connection
        with suppress(TimeoutError):
            while self.is_coming and not self.is_whole and room > 0:
                room -= len((await self._next()).get("body", b""))

    async def _next(self) -> Message:
        async with asyncio.timeout(self.until_s - time.monotonic()):
            message = await self.receive()
        self.is_whole = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message


def client_of(scope: Scope) -> str:
    """Return the client's address, as the connection or a trusted proxy gives it."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"

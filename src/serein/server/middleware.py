"""API keys from a file, compared in constant time."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serein.errors import SereinError
from serein.server.limits import Limits
from serein.server.problems import HTTPProblem, response, too_large, unauthorised
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

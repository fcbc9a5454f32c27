"""Checks before the routes: hosts, origins, keys, limits, sizes and times, before a byte of an upload is read.

Hosts and origins are checked because otherwise any web page could use the service through its visitors: by sending a
form to it (revealed by `Origin`), or by making its own name point to it (DNS rebinding; `Host` is then that name).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from serein.errors import SereinError
from serein.server.limits import HTTPProblem, Limits, too_large
from serein.server.service import Service

LOOPBACK = ("localhost", "127.0.0.1", "::1")
ANY = "*"
SHORTEST = 16  # characters of a key
GUARDED = ("/v1/", "/metrics")  # all else is public and contains no data: the page's files, openapi.json, probes
_FORM_BYTES = 100_000  # of a form, apart from its recordings
_ROUTES = ("/", "/v1/predict", "/v1/predict/batch", "/v1/models", "/v1/stream", "/healthz", "/readyz", "/metrics")


@dataclass(frozen=True)
class Names:
    """Names and origins that a service accepts, besides those of loopback and the address that a client connected to.

    Attributes:
        hosts: Names in lower case, without ports; `*` is any.
        origins: Such as `https://example.org`; `*` is any.
    """

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()


def names(hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> Names:
    """Return the checked host names and origins of a command line; each text may contain several, with commas between.

    Raises:
        SereinError: An origin is invalid.

    Example:
        >>> sorted(names(["speech.example.org:8000,Other"]).hosts)
        ['other', 'speech.example.org']
    """
    split = [
        [part.strip().lower() for text in texts for part in text.split(",") if part.strip()]
        for texts in (hosts, origins)
    ]
    for origin in split[1]:
        parts = urlsplit(origin)
        if origin != ANY and (not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}"):
            raise SereinError(
                "not an origin", where=origin, remedy="Write it like https://example.org, without a path."
            )
    return Names(frozenset(map(host_name, split[0])), frozenset(split[1]))


def host_name(host: str) -> str:
    """Return a host in lower case, without its port and without a trailing dot.

    Example:
        >>> host_name("Example.org:8000"), host_name("[::1]:8000"), host_name("127.0.0.1")
        ('example.org', '::1', '127.0.0.1')
    """
    name = host.lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name if name.count(":") > 1 else name.partition(":")[0].removesuffix(".")


class Keys:
    """The accepted API keys.

    Example:
        >>> keys = Keys(["correct-horse-battery"])
        >>> keys.allows("Bearer correct-horse-battery"), keys.allows("Bearer correct"), keys.allows(None)
        (True, False, False)
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [hashlib.sha256(key.encode(errors="replace")).digest() for key in keys]

    def allows(self, authorization: str | None) -> bool:
        """Return whether an `Authorization` header has an accepted key; a near miss takes as long as any other key."""
        scheme, _, key = (authorization or "").partition(" ")
        digest = hashlib.sha256(key.strip().encode(errors="replace")).digest()
        is_known = sum(hmac.compare_digest(digest, each) for each in self._digests) > 0  # all are compared
        return scheme.lower() == "bearer" and is_known


def read_keys(path: str | Path) -> Keys:
    """Read a file with one key per line; empty lines and lines that start with # are skipped.

    Raises:
        SereinError: The file cannot be read, contains no key, or contains one that is too short or that no header can
            contain.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise SereinError(f"the keys cannot be read ({reason})", where=path, remedy="Name a file of keys.") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or min(map(len, keys)) < SHORTEST:
        what = f"a key has fewer than {SHORTEST} characters" if keys else "contains no key"
        raise SereinError(what, where=path, remedy="Make one with: openssl rand -hex 32.")
    if not all("!" <= character <= "~" for key in keys for character in key):
        what = "a key contains a space, or a character that is not ASCII"
        raise SereinError(what, where=path, remedy="Put comments on lines of their own, which start with #.")
    return Keys(keys)


@dataclass(eq=False)
class Middleware:
    """Refuses requests that are not allowed, and measures the rest."""

    app: ASGIApp
    service: Service
    keys: Keys | None
    names: Names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            try:
                self._require_allowed(scope)
            except HTTPProblem as problem:
                await WebSocket(scope, receive, send).send_denial_response(problem.response())
                return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, limits, metrics = scope["path"], self.service.limits, self.service.metrics
        status, started_s = 500, time.perf_counter()
        body = _Body(scope, receive, limits)

        async def measured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                await body.drop()
            await send(message)

        try:
            self._require_allowed(scope)
            with ExitStack() as taken:
                if scope["method"] == "POST" and path.startswith(GUARDED):
                    most = limits.upload_bytes * (limits.num_files if path.endswith("/batch") else 1)
                    most = min(most, limits.memory_bytes)
                    length = Headers(scope=scope).get("content-length", "")
                    if length.isdigit() and int(length) > most + _FORM_BYTES:
                        raise too_large(most)
                    taken.enter_context(self.service.limiter.one_more("request", client_of(scope)))
                    body.most_bytes, body.room = most, most + _FORM_BYTES
                    body.take = taken.enter_context(self.service.limiter.memory())
                await self.app(scope, body, measured)
        except HTTPProblem as problem:
            await problem.response()(scope, body, measured)
        finally:
            route = path if path in _ROUTES else "other"
            metrics.requests.labels(route, str(status)).inc()
            metrics.request_s.labels(route).observe(time.perf_counter() - started_s)

    def _require_allowed(self, scope: Scope) -> None:
        """Refuse foreign names and web pages on all routes, and clients without a key on routes with data."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host"), (headers.get("origin") or "").lower()
        if host is not None and ANY not in self.names.hosts:  # a browser always sends `Host`
            name, connected = host_name(host), (scope.get("server") or ("",))[0]
            is_own = (
                name in LOOPBACK or name.endswith(".localhost") or name == connected
            )  # an address cannot be rebound
            if not is_own and name not in self.names.hosts:
                what = f"This service does not accept the host '{host[:100]}'. If it should, use --allowed-hosts."
                raise HTTPProblem(421, "foreign-host", what)
        if "origin" in headers and not {ANY, origin} & self.names.origins:  # from a web page: is it the service's own?
            place = urlsplit(headers["origin"]).netloc.lower()
            if not place or place != (host or "").lower():
                page = f"Pages of '{headers['origin'][:100]}'"
                what = f"{page} may not use this service. Start it with --allowed-origins if they may."
                raise HTTPProblem(403, "foreign-origin", what)
        if self.keys and scope["path"].startswith(GUARDED) and not self.keys.allows(headers.get("authorization")):
            raise HTTPProblem(401, "unauthorised", "Send your key: 'Authorization: Bearer KEY'.")


class _Body:
    """A request's body: limited in size and time if it is read, dropped if it is not.

    Announced sizes are not trusted. Until a body is accepted, it may not contain a single byte.

    Attributes:
        most_bytes: Maximum size of its recordings.
        room: Bytes that may still arrive.
        take: Called with the number of bytes of every piece.
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
        self.is_coming = is_announced and "expect" not in headers  # with `expect`, only on request

    async def __call__(self) -> Message:
        if self.is_whole:
            return await self.receive()  # returns when the client disconnects
        self.is_coming = True
        try:
            message = await self._next()
        except TimeoutError:
            raise HTTPProblem(
                408, "too-slow", f"The upload did not arrive within {self.limits.upload_s:g} s. Send less."
            ) from None
        num_bytes = len(message.get("body", b""))
        self.room -= num_bytes
        if self.room < 0:
            raise too_large(self.most_bytes)
        self.take(num_bytes)
        return message

    async def drop(self) -> None:
        """Read the rest and discard it, because a client that is still sending would not read the refusal."""
        room = self.limits.memory_bytes  # clients that send more are disconnected
        with suppress(TimeoutError):
            while self.is_coming and not self.is_whole and room > 0:
                room -= len((await self._next()).get("body", b""))

    async def _next(self) -> Message:
        async with asyncio.timeout(self.until_s - time.monotonic()):
            message = await self.receive()
        self.is_whole = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message


def client_of(scope: Scope) -> str:
    """Return the client's address, as reported by the connection or a trusted proxy."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"

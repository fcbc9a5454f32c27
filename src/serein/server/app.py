"""The application with its page, and the server process: a socket, uvicorn, deadlines, a graceful shutdown."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h11
import uvicorn
from fastapi import APIRouter, FastAPI, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol

from serein.errors import RunError
from serein.server import routes, streaming
from serein.server.middleware import GUARDED, Keys, Middleware, Names
from serein.server.service import Service

_DRAIN_S = 10.0
_STREAMS_S = 10.0
_REQUESTS_S = 60
_MESSAGE_BYTES = 1_000_000


def uvicorn_server(app: FastAPI, on_ready: Callable[[], None]) -> uvicorn.Server:
    """Return the server of an application, within the limits of its service.

    It runs until interrupted or terminated, then finishes the requests in progress.

    Args:
        on_ready: Called once the server accepts requests.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # the client gets the error; the log does not need it
    logging.getLogger("uvicorn.error").addFilter(is_fault)
    limits = app.state.streams.service.limits
    protocol: Any = partial(
        TimedProtocol, headers_s=limits.headers_s, drain_s=_DRAIN_S, most_connections=limits.connections
    )
    config = uvicorn.Config(
        app,
        http=protocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws_max_size=_MESSAGE_BYTES,
        ws_ping_timeout=None,  # a pong behind samples that wait for the model is read late; pings keep proxies waiting
        ws_per_message_deflate=False,  # samples hardly shrink, and each stream would hold memory for it
        timeout_graceful_shutdown=_REQUESTS_S,
    )
    server = _Server(config)
    server.on_ready = on_ready
    return server


def bound(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address.

    Args:
        port: 0 chooses a free one.

    Raises:
        RunError: The address is in use, or does not belong to this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        is_taken = getattr(error, "errno", None) == errno.EADDRINUSE
        raise RunError(
            "the address is in use" if is_taken else f"cannot listen there ({error})",
            where=f"{host}:{port}",
            remedy="Choose another with --port." if is_taken else "Choose others with --host and --port.",
        ) from None


def is_fault(record: logging.LogRecord) -> bool:
    """Return whether uvicorn logs a fault of the service; it also logs refused streams as errors.

    Example:
        >>> is_fault(logging.makeLogRecord({"msg": "ASGI callable returned without completing handshake."}))
        False
    """
    return not record.getMessage().startswith("ASGI callable returned without")


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable only from this machine.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Server(uvicorn.Server):
    """Uvicorn's server, which reports when it is ready and lets streams finish before it shuts down."""

    on_ready: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app: Any = self.config.app
        streams: streaming.Streams = app.state.streams
        streams.service.limiter.is_closed = True
        await streams.finish(_STREAMS_S)
        await super().shutdown(sockets)


class TimedProtocol(H11Protocol):
    """Uvicorn's HTTP protocol with two deadlines and a limit that it lacks; bodies are timed by the middleware.

    Args:
        headers_s: Seconds until the headers of a request are whole, from the connection or their first byte.
        drain_s: Seconds for which a client may continue to send a body after the response to its request.
        most_connections: Maximum number of open connections; further ones are closed.
    """

    def __init__(
        self, *arguments: Any, headers_s: float, drain_s: float, most_connections: int, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.most_connections = most_connections
        self.headers_s = headers_s
        self.drain_s = drain_s
        self._deadline: asyncio.TimerHandle | None = None
        self._allowed_s: float | None = None  # what the deadline was set to
        self._is_new = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._is_new = False
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Set the deadline for what the client does now, if any; continuing the same does not extend it."""
        sends_headers = self.conn.their_state is h11.IDLE and (self._is_new or self.conn.trailing_data[0])
        is_answered = self.conn.our_state in (h11.DONE, h11.MUST_CLOSE)
        drains = is_answered and self.conn.their_state is h11.SEND_BODY
        allowed_s = self.headers_s if sends_headers else self.drain_s if drains else None
        if allowed_s == self._allowed_s:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._allowed_s = allowed_s
        self._deadline = None if allowed_s is None else self.loop.call_later(allowed_s, self.transport.abort)


FOLDER = Path(__file__).with_name("page")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def page_router() -> APIRouter:
    """Return the routes of the page: the page at `/`, and its files, which are read once, below `/page/`.

    They load nothing from elsewhere and contain no data, so they are public; the requests that the page then sends need
    a key if the service has keys.
    """
    routes = APIRouter(include_in_schema=False)
    files = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in _TYPES}

    @routes.api_route("/page/{name}", methods=["GET", "HEAD"])
    async def file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return Response(files[name], headers=_HEADERS, media_type=_TYPES[Path(name).suffix])

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def page() -> Response:
        return await file("index.html")

    return routes


class _Application(FastAPI):
    """FastAPI with a schema that requires API keys where they are needed, and has problem details for errors."""

    keys: Keys | None = None

    def openapi(self) -> dict[str, Any]:
        schema = super().openapi()  # the same dictionary every time
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        if self.keys:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"key": []}]
            for path in (path for path in schema["paths"] if not path.startswith(GUARDED)):
                schema["paths"][path]["get"]["security"] = []
        return schema


_DESCRIPTION = """Emotions in speech. Send recordings as forms; errors come back as JSON problem details (RFC 9457).

`WS /v1/stream?rate_hz=16000` predicts while audio arrives: send 16-bit little-endian mono samples as binary messages
and finally the text `{"type": "end"}`; the service sends `{"type": "segment", "start_s": 0.4, "end_s": 3.4,
"label": "happy", "confidence": 0.8, "probabilities": {...}}`, and at the end `{"type": "end", "reason": "end"}`."""


def create_app(
    service: Service, keys: Keys | None = None, names: Names | None = None, *, has_page: bool = True
) -> FastAPI:
    """Return the application of a service; it closes the service when it shuts down.

    Args:
        keys: The accepted API keys; `None` accepts every client.
        names: Hosts and origins that are accepted in addition to the service's own.
        has_page: Whether to serve a web page at `/`.
    """
    names = names or Names()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.limiter.is_closed = True
        service.close()

    # No documentation pages: they would load scripts from elsewhere.
    app = _Application(
        title="serein",
        version=service.about.version or "0",
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.keys = keys
    app.state.streams = streaming.Streams(service)
    app.include_router(routes.router(service))
    app.include_router(routes.status_router(service))
    app.include_router(streaming.router(app.state.streams))
    if has_page:
        app.include_router(page_router())
    for kind in (HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, routes.refuse)
    app.add_middleware(Middleware, service=service, keys=keys, names=names)
    if names.origins:  # outermost, so that pages of these origins can also read refusals
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(names.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    return app

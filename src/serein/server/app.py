"""The server process: a socket, uvicorn, and a graceful shutdown."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from serein.errors import RunError
from serein.server import assets, routes, streaming
from serein.server.connection import TimedProtocol
from serein.server.hosts import Names
from serein.server.middleware import GUARDED, Keys, Middleware
from serein.server.service import Service

_DRAIN_S = 10.0
_STREAMS_S = 10.0
_REQUESTS_S = 60
_MESSAGE_BYTES = 1_000_000


def serve(app: FastAPI, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until interrupted or terminated; then finish the requests in progress.

    Args:
        listening: From `bound`.
        on_ready: Called once the server accepts requests.
    """
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after a graceful shutdown
        uvicorn_server(app, on_ready).run(sockets=[listening])


def uvicorn_server(app: FastAPI, on_ready: Callable[[], None]) -> uvicorn.Server:
    """Return the server of an application, within the limits of its service; see `serve`."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # the client gets the error; the log need not
    protocol: Any = partial(TimedProtocol, headers_s=app.state.streams.service.limits.headers_s, drain_s=_DRAIN_S)
    config = uvicorn.Config(
        app,
        http=protocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws_max_size=_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # samples hardly shrink, and each stream would hold memory for it
        timeout_graceful_shutdown=_REQUESTS_S,
    )
    return _Server(config, app, on_ready)


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
            remedy="Choose another by --port." if is_taken else "Choose others by --host and --port.",
        ) from None


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

    def __init__(self, config: uvicorn.Config, app: FastAPI, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.app = app
        self.on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        streams = self.app.state.streams
        streams.service.limiter.is_closed = True
        await streams.finish(_STREAMS_S)
        await super().shutdown(sockets)


_DESCRIPTION = """Emotions in speech. Send recordings as forms; errors come back as JSON problem details (RFC 9457).

`WS /v1/stream?rate_hz=16000` predicts while audio arrives: send 16-bit little-endian mono samples as binary messages
and finally the text `{"type": "end"}`; the service sends `{"type": "segment", "start_s": 0.4, "end_s": 3.4,
"label": "happy", "confidence": 0.8, "probabilities": {...}}`, and the end by `{"type": "end", "reason": "end"}`."""


def create_app(
    service: Service, keys: Keys | None = None, names: Names | None = None, *, has_page: bool = True
) -> FastAPI:
    """Return the application of a service; it closes the service when it shuts down.

    Args:
        keys: The accepted API keys; `None` accepts every client.
        names: Hosts and origins that are accepted beside the service's own.
        has_page: Whether `/` is a page to try it.
    """
    names = names or Names()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.limiter.is_closed = True
        service.close()

    # Their pages would load scripts from elsewhere.
    app = FastAPI(
        title="serein",
        version=service.about.version or "0",
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.streams = streaming.Streams(service)
    app.include_router(routes.router(service))
    app.include_router(streaming.router(app.state.streams))
    if has_page:
        app.include_router(assets.router())
    for kind in (HTTPException, RequestValidationError):
        app.add_exception_handler(kind, routes.refuse)
    app.add_exception_handler(Exception, routes.fail)
    app.add_middleware(Middleware, service=service, keys=keys, names=names)
    if names.origins:  # outermost, so that their pages read refusals, too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(names.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    app.openapi = lambda: _described(app, keys)  # type: ignore[method-assign]
    return app


def _described(app: FastAPI, keys: Keys | None) -> dict[str, object]:
    """Return the OpenAPI schema, with API keys where needed and problem details instead of FastAPI's errors."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        if keys:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"key": []}]
            for path in (path for path in schema["paths"] if not path.startswith(GUARDED)):
                schema["paths"][path]["get"]["security"] = []
        app.openapi_schema = schema
    return app.openapi_schema

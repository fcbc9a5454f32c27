"""The FastAPI application: routes, middleware, error handlers and lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from serein.serving import routes, streaming
from serein.serving.gate import GUARDED, Middleware
from serein.serving.keys import Keys
from serein.serving.service import Service

_DESCRIPTION = """Emotions in speech. Send recordings as forms; errors come back as JSON problem details (RFC 9457).

`WS /v1/stream?rate_hz=16000` predicts while audio arrives: send 16-bit little-endian mono samples as binary messages
and finally the text `{"type": "end"}`; the service sends `{"type": "segment", "start_s": 0.4, "end_s": 3.4,
"label": "happy", "confidence": 0.8, "probabilities": {...}}`, and the end by `{"type": "end", "reason": "end"}`."""


def create_app(service: Service, keys: Keys | None = None) -> FastAPI:
    """Return the application of a service; it closes the service when it shuts down.

    Args:
        keys: The accepted API keys; `None` accepts every client.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.limiter.is_closed = True
        service.close()
        for end in app.state.on_ended:
            end()

    # Their pages would load scripts from elsewhere.
    app = FastAPI(
        title="serein",
        version=service.about.version or "0",
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.on_ending, app.state.on_ended = [], []  # before and after the last responses
    app.state.streams = streaming.Streams(service)
    app.include_router(routes.router(service))
    app.include_router(streaming.router(app.state.streams, keys))
    for kind in (HTTPException, RequestValidationError):
        app.add_exception_handler(kind, routes.refuse)
    app.add_exception_handler(Exception, routes.fail)
    app.add_middleware(Middleware, service=service, keys=keys)
    app.openapi = lambda: _described(app, service.limits.num_files, keys)  # type: ignore[method-assign]
    return app


def _described(app: FastAPI, num_files: int, keys: Keys | None) -> dict[str, object]:
    """Return the OpenAPI schema, with API keys where needed and problem details instead of FastAPI's errors."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        for body in schema["components"]["schemas"].values():
            if files := body.get("properties", {}).get("files"):
                files["maxItems"] = num_files
        if keys:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"key": []}]
            for path in (path for path in schema["paths"] if not path.startswith(GUARDED)):
                schema["paths"][path]["get"]["security"] = []
        app.openapi_schema = schema
    return app.openapi_schema

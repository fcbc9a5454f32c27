"""The command that answers over HTTP."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serein.cli.answers import Abstain, Model, Shortest
from serein.cli.app import app

if TYPE_CHECKING:
    from serein.serving.limits import Limits
    from serein.serving.service import Service

_NEEDED = {"serve": ("fastapi", "uvicorn", "websockets", "python_multipart", "prometheus_client"), "page": ("gradio",)}


@app.command()
def serve(
    model: Model = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; only this machine reaches the default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 is any that is free.", min=0, max=65535)] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who asks needs one of these keys, a line each.")
    ] = None,
    neighbours: Annotated[
        Path | None, typer.Option(metavar="STORE", help="Name the nearest clips of this store beside each answer.")
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="The service alone.")] = False,
    min_confidence: Abstain = 0.0,
    shortest: Shortest = 0.0,
    most_mb: Annotated[float, typer.Option("--max-mb", help="Megabytes of one recording.")] = 25.0,
    most_seconds: Annotated[float, typer.Option("--max-seconds", help="Seconds of one recording.")] = 600.0,
    most_requests: Annotated[int, typer.Option("--max-requests", help="Requests under way at once.")] = 64,
    per_client: Annotated[int, typer.Option("--max-per-client", help="Of these, and of streams, of one client.")] = 32,
    most_streams: Annotated[int, typer.Option("--max-streams", help="Streams open at once.")] = 200,
) -> None:
    """Answer over HTTP and WebSocket, with a page to try it in a browser.

    http://127.0.0.1:8000 is the page, /openapi.json says what else there is: POST /v1/predict, POST /v1/predict/batch,
    WS /v1/stream, GET /v1/models, /healthz, /readyz, /metrics. Without --model the model inside the package answers.
    Ctrl-C or SIGTERM ends it once what runs is finished. docs/deployment.md: systemd, nginx, examples.
    """
    _require_extras("serve", *([] if no_page else ["page"]))
    from serein.serving.app import create_app
    from serein.serving.keys import read_keys
    from serein.serving.limits import MEGABYTE, Limits
    from serein.serving.server import bound, is_loopback
    from serein.serving.server import serve as serve_at

    limits = Limits(
        upload_bytes=round(most_mb * MEGABYTE),
        recording_s=most_seconds,
        at_once=most_requests,
        per_client=per_client,
        streams=most_streams,
    )
    keys = None if api_key_file is None else read_keys(api_key_file)
    listening = bound(host, port)
    service = _service(model, neighbours, limits, min_confidence, shortest)
    application = create_app(service, keys)
    if not no_page:
        from serein.serving.page import mount

        mount(application, service, keys)
    if keys is None and not is_loopback(host):
        print(f"Whoever reaches {host} can use this service: see --api-key-file.", file=sys.stderr)
    where = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    serve_at(application, listening, lambda: print(f"serein listens at {where}", flush=True))


def _service(
    model: str | None, neighbours: Path | None, limits: Limits, min_confidence: float, min_duration_s: float
) -> Service:
    import serein
    from serein.inference.caution import RejectOption
    from serein.inference.hearing import PredictOptions
    from serein.inference.predictor import load
    from serein.serving.nearby import open_neighbours
    from serein.serving.service import Service, ServiceInfo

    predictor = load(model)
    name = "box" if model is None else Path(model).resolve().name if Path(model).exists() else model
    options = PredictOptions(reject_option=RejectOption(min_confidence, min_duration_s))
    return Service(
        predictor, ServiceInfo(name, serein.__version__), limits, options, open_neighbours(model, predictor, neighbours)
    )


def _require_extras(*extras: str) -> None:
    from serein.errors import MissingExtraError

    for extra in extras:
        for package in _NEEDED[extra]:
            if find_spec(package) is None:
                raise MissingExtraError(package.replace("_", "-"), extra)

"""The command that serves predictions over HTTP."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serein.cli.app import app
from serein.cli.options import DefaultModel, Device, MinConfidence, MinDuration

if TYPE_CHECKING:
    from serein.server.limits import Limits
    from serein.server.service import Service


_NEEDED = ("fastapi", "uvicorn", "websockets", "python_multipart", "prometheus_client")
_EVERY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104  # no names: a client names the address that it connects to


@app.command()
def serve(
    model: DefaultModel = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 127.0.0.1 is reachable from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 chooses a free one.", min=0, max=65535)] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of API keys, one on each line; clients must send one.")
    ] = None,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Other names of this service, as of a proxy before it; '*' is any."),
    ] = None,
    allowed_origins: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Other web pages that may use it, as https://example.org; '*' is any."),
    ] = None,
    knn: Annotated[
        Path | None, typer.Option(metavar="DATASTORE", help="Also return the nearest clips of this datastore.")
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Do not serve the web page.")] = False,
    device: Device = "auto",
    min_confidence: MinConfidence = 0.0,
    min_duration: MinDuration = 0.0,
    max_mb: Annotated[float, typer.Option("--max-mb", help="Largest recording, in megabytes.")] = 25.0,
    max_seconds: Annotated[float, typer.Option("--max-seconds", help="Longest recording, in seconds.")] = 600.0,
    max_requests: Annotated[int, typer.Option("--max-requests", help="Most concurrent requests.")] = 64,
    per_client: Annotated[
        int, typer.Option("--max-per-client", help="Most concurrent requests, and streams, of one client.")
    ] = 32,
    max_streams: Annotated[int, typer.Option("--max-streams", help="Most concurrent streams.")] = 200,
) -> None:
    """Serve predictions over HTTP and WebSocket, with a web page to try them.

    The page is http://127.0.0.1:8000. /openapi.json describes the routes: POST /v1/predict, POST /v1/predict/batch,
    WS /v1/stream, GET /v1/models, /healthz, /readyz, /metrics. Ctrl-C or SIGTERM stops the service once running
    requests are finished. docs/deployment.md shows systemd, nginx and clients.
    """
    _require_extra()
    from serein.server.app import bound, create_app, is_loopback
    from serein.server.app import serve as serve_at
    from serein.server.limits import MEGABYTE, Limits
    from serein.server.middleware import names, read_keys

    limits = Limits(
        upload_bytes=round(max_mb * MEGABYTE),
        recording_s=max_seconds,
        at_once=max_requests,
        per_client=per_client,
        streams=max_streams,
    )
    keys = None if api_key_file is None else read_keys(api_key_file)
    known = names([*(allowed_hosts or ()), *([] if host in _EVERY_ADDRESS else [host])], allowed_origins or ())
    listening = bound(host, port)
    service = _service(model, knn, limits, min_confidence, min_duration, device)
    application = create_app(service, keys, known, has_page=not no_page)
    if keys is None and not is_loopback(host):
        print(f"Everyone who can reach {host} can use this service: see --api-key-file.", file=sys.stderr)
    where = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    serve_at(application, listening, lambda: print(f"serein listens at {where}", flush=True))


def _service(
    model: str | None, knn: Path | None, limits: Limits, min_confidence: float, min_duration_s: float, device: str
) -> Service:
    import serein
    from serein.inference.prediction import RejectOption
    from serein.inference.predictor import load
    from serein.inference.recording import PredictOptions
    from serein.server.service import Service, ServiceInfo, open_neighbours

    predictor = load(model, device)
    options = PredictOptions(reject_option=RejectOption(min_confidence, min_duration_s))
    return Service(
        predictor,
        ServiceInfo(predictor.checkpoint.name, serein.__version__),
        limits,
        options,
        open_neighbours(predictor, knn),
    )


def _require_extra() -> None:
    from serein.errors import MissingExtraError

    for package in _NEEDED:
        if find_spec(package) is None:
            raise MissingExtraError(package.replace("_", "-"), "serve")

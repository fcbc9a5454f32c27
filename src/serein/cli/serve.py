"""Commands that predict audio as it arrives: recordings over HTTP, and a live stream."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serein.cli.app import (
    DefaultModel,
    Device,
    MinConfidence,
    MinDuration,
    MovedBackbone,
    Precision,
    Runtime,
    Step,
    Window,
    app,
    require_confidence,
    sliding_window_of,
)
from serein.errors import AudioError, imported

if TYPE_CHECKING:
    from serein.audio import Waveform
    from serein.inference.prediction import Segment
    from serein.inference.streams import Stream


_NEEDED = ("fastapi", "uvicorn", "websockets", "python_multipart", "prometheus_client")
_EVERY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104  # not host names: a client names the address that it connects to
BLOCK_S = 0.1
_BAR = 20


@app.command()
def serve(
    model: DefaultModel = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 127.0.0.1 is reachable from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 chooses a free one.", min=0, max=65535)] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of API keys, one per line; clients must send one of them.")
    ] = None,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Other host names of this service, such as that of a proxy in front of it; '*': any."
        ),
    ] = None,
    allowed_origins: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN", help="Origins of other web pages that may use it, such as https://example.org; '*': any."
        ),
    ] = None,
    knn: Annotated[
        Path | None, typer.Option(metavar="DATASTORE", help="Also return the nearest clips of this datastore.")
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Do not serve the web page.")] = False,
    device: Device = "auto",
    runtime: Runtime = None,
    precision: Precision = None,
    backbone: MovedBackbone = None,
    min_confidence: MinConfidence = 0.0,
    min_duration: MinDuration = 0.0,
    max_mb: Annotated[
        float, typer.Option("--max-mb", help="Maximum size of a recording, in megabytes; below 250.")
    ] = 25.0,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", help="Maximum length of a recording, in seconds.")
    ] = 600.0,
    max_requests: Annotated[int, typer.Option("--max-requests", help="Maximum number of concurrent requests.")] = 64,
    per_client: Annotated[
        int, typer.Option("--max-per-client", help="Maximum number of concurrent requests and streams per client.")
    ] = 32,
    max_streams: Annotated[int, typer.Option("--max-streams", help="Maximum number of concurrent streams.")] = 200,
) -> None:
    """Serve predictions over HTTP and WebSocket, with a web page to try them.

    The page is at http://127.0.0.1:8000. /openapi.json describes the routes: POST /v1/predict, POST /v1/predict/batch,
    WS /v1/stream, GET /v1/models, /healthz, /readyz, /metrics. Ctrl-C or SIGTERM stops the service once running
    requests are finished. docs/deployment.md covers systemd, nginx and clients.
    """
    for package in _NEEDED:
        imported(package, "serve")
    import serein
    from serein.inference.prediction import RejectOption
    from serein.inference.predictor import load
    from serein.inference.recording import PredictOptions
    from serein.server.app import bound, create_app, is_loopback, uvicorn_server
    from serein.server.limits import MEGABYTE, Limits
    from serein.server.middleware import names, read_keys
    from serein.server.service import Service, ServiceInfo, open_neighbours

    given = {"max-mb": max_mb, "max-seconds": max_seconds, "max-requests": max_requests}
    for name, value in (given | {"max-per-client": per_client, "max-streams": max_streams}).items():
        if not 0 < value < math.inf:
            raise typer.BadParameter(f"{value:g} is not a finite number above 0", param_hint=f"'--{name}'")
    if max_mb >= (most_mb := Limits.memory_bytes / MEGABYTE):
        what = f"{max_mb:g} is not below {most_mb:g}, the megabytes of all uploads together"
        raise typer.BadParameter(what, param_hint="'--max-mb'")
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
    predictor = load(model, device, runtime, precision=precision, backbone=backbone)
    require_confidence(min_confidence, predictor.classes)
    service = Service(
        predictor,
        ServiceInfo(predictor.checkpoint.name, serein.__version__),
        limits,
        PredictOptions(reject_option=RejectOption(min_confidence, min_duration)),
        open_neighbours(predictor, knn),
    )
    application = create_app(service, keys, known, has_page=not no_page)
    if keys is None and not is_loopback(host):
        print(f"Anyone who can reach {host} can use this service: see --api-key-file.", file=sys.stderr)
    where = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    server = uvicorn_server(application, lambda: print(f"serein listens at {where}", flush=True))
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after a graceful shutdown
        server.run(sockets=[listening])


@app.command()
def stream(
    model: DefaultModel = None,
    stdin_pcm: Annotated[
        bool,
        typer.Option(
            "--stdin-pcm",
            help="Read 16-bit little-endian mono samples, or a WAV of them, from stdin, not the microphone.",
        ),
    ] = False,
    rate: Annotated[
        int | None,
        typer.Option(metavar="HZ", help="Sampling rate of stdin.", show_default="of the WAV header, else 16000"),
    ] = None,
    microphone: Annotated[
        str | None, typer.Option(help="Microphone, by number or part of its name.", show_default="the system's")
    ] = None,
    device: Device = "auto",
    precision: Precision = None,
    backbone: MovedBackbone = None,
    window: Window = None,
    step: Step = None,
    min_confidence: MinConfidence = 0.0,
    min_duration: MinDuration = 0.0,
    seconds: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Stop after this time.", show_default="at Ctrl-C")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each window.")] = False,
) -> None:
    """Predict the emotions in live audio, window by window, and print the delay of each prediction.

    For example: arecord -f S16_LE -r 16000 | serein stream --stdin-pcm
    """
    from serein.inference.prediction import RejectOption
    from serein.inference.predictor import load
    from serein.inference.recording import PredictOptions
    from serein.inference.streams import delay_summary, open_pcm
    from serein.inference.writers import clock
    from serein.tasks.task import numbers_text

    if rate is not None and not stdin_pcm:
        raise typer.BadParameter("it is that of stdin; add --stdin-pcm", param_hint="'--rate'")
    if microphone is not None and stdin_pcm:
        raise typer.BadParameter("the audio comes from stdin; leave one out", param_hint="'--microphone'")
    if seconds is not None and not 0 < seconds < math.inf:
        raise typer.BadParameter(f"{seconds:g} is not a finite number above 0", param_hint="'--seconds'")
    options = PredictOptions("always", sliding_window_of(window, step), RejectOption(min_confidence, min_duration))
    predictor = load(model, device, precision=precision, backbone=backbone)
    require_confidence(min_confidence, predictor.classes)
    if stdin_pcm:
        rate_hz, pieces = open_pcm(sys.stdin.buffer, rate, BLOCK_S)
        source: AbstractContextManager[Iterator[Waveform]] = nullcontext(pieces)
    else:
        rate_hz, source = 16_000, _microphone(microphone)
    live = predictor.stream(rate_hz, options=options)
    delays_s: list[float] = []
    with source as blocks:
        for segment, delay_s in _predicted(live, blocks, seconds):
            delays_s.append(delay_s)
            if as_json:
                content = live.prediction_of(segment).to_dict() | {"delay_s": round(delay_s, 3)}
                print(json.dumps(content, ensure_ascii=False), flush=True)
                continue
            times = f"{clock(segment.start_s)} – {clock(segment.end_s)}"
            said = f"{segment.text:<14}"
            if segment.confidence is not None:
                bar = "█" * round(_BAR * segment.confidence)
                said += f" {100 * segment.confidence:3.0f} % {bar:<{_BAR}}"
            if segment.label and segment.dimensions:
                said += f" {numbers_text(segment.dimensions)}"
            print(f"{times:>17}  {said} after {delay_s:.2f} s", flush=True)
    print(delay_summary(delays_s), file=sys.stderr)


def _predicted(stream: Stream, blocks: Iterator[Waveform], seconds: float | None) -> Iterator[tuple[Segment, float]]:
    """Yield segments with their delays until the audio ends, the time is up, or the keyboard interrupts."""
    from serein.inference.streams import Arrivals

    arrivals = Arrivals()
    try:
        for block in blocks:
            arrived_s = time.monotonic()
            windows = stream.cut(block)
            arrivals.record(stream.position_s, arrived_s)
            for segment in stream.predict(windows):
                yield segment, arrivals.delay_s(segment.end_s, time.monotonic())
            if seconds is not None and stream.position_s >= seconds:
                break
    except KeyboardInterrupt:
        pass
    for segment in stream.finish():
        yield segment, arrivals.delay_s(segment.end_s, time.monotonic())


@contextmanager
def _microphone(device: str | None) -> Iterator[Iterator[Waveform]]:
    """Open the microphone; blocks that arrive during a prediction wait in a queue."""
    from itertools import count
    from queue import SimpleQueue

    from serein.audio import SAMPLE_RATE_HZ

    try:
        sounddevice = imported("sounddevice", "stream")
    except OSError:  # the wheels for Linux do not include PortAudio
        raise AudioError(
            "PortAudio is not installed",
            where="microphone",
            remedy="Install it (Debian: apt install libportaudio2), or pipe samples into --stdin-pcm.",
        ) from None
    blocks: SimpleQueue[Waveform] = SimpleQueue()
    chosen = int(device) if device is not None and device.isdecimal() else device
    try:
        microphone = sounddevice.InputStream(
            samplerate=SAMPLE_RATE_HZ,
            blocksize=round(BLOCK_S * SAMPLE_RATE_HZ),
            device=chosen,
            channels=1,
            dtype="float32",
            callback=lambda samples, *_: blocks.put(samples[:, 0].copy()),
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise AudioError(
            f"cannot be opened ({error})",
            where="microphone",
            remedy="Choose another with --microphone, or pipe its samples into --stdin-pcm.",
        ) from None
    with microphone:
        print("recording; press Ctrl-C to stop", file=sys.stderr, flush=True)
        yield (blocks.get() for _ in count())

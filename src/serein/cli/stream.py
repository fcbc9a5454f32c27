"""The command that predicts a stream."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serein.cli.app import app
from serein.cli.options import DefaultModel, Device, MinConfidence, MinDuration, Step, Window
from serein.cli.predict import sliding_window_of

if TYPE_CHECKING:
    from serein.audio import Waveform
    from serein.inference.prediction import Segment
    from serein.inference.streams import Stream


BLOCK_S = 0.1
_BAR = 20


@app.command()
def stream(
    model: DefaultModel = None,
    stdin_pcm: Annotated[
        bool, typer.Option("--stdin-pcm", help="Read 16-bit little-endian mono samples from stdin, not the microphone.")
    ] = False,
    rate: Annotated[int, typer.Option(metavar="HZ", help="Sampling rate of stdin.", min=4000, max=384_000)] = 16000,
    microphone: Annotated[
        str | None, typer.Option(help="Microphone, by number or part of its name.", show_default="the system's")
    ] = None,
    device: Device = "auto",
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

    For instance: arecord -f S16_LE -r 16000 | serein stream --stdin-pcm
    """
    from serein.inference.prediction import RejectOption
    from serein.inference.predictor import load
    from serein.inference.recording import PredictOptions
    from serein.inference.streams import delay_summary

    options = PredictOptions("always", sliding_window_of(window, step), RejectOption(min_confidence, min_duration))
    live = load(model, device).stream(rate if stdin_pcm else 16_000, options=options)
    source = _stdin(rate) if stdin_pcm else _microphone(microphone)
    delays_s: list[float] = []
    with source as blocks:
        for segment, delay_s in _predicted(live, blocks, seconds):
            delays_s.append(delay_s)
            _print_segment(live, segment, delay_s, as_json)
    print(delay_summary(delays_s), file=sys.stderr)


def _predicted(stream: Stream, blocks: Iterator[Waveform], seconds: float | None) -> Iterator[tuple[Segment, float]]:
    """Yield segments with their delays, until the audio or the time ends, or the keyboard interrupts."""
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


def _print_segment(stream: Stream, segment: Segment, delay_s: float, as_json: bool) -> None:
    if as_json:
        print(
            json.dumps({**stream.prediction_of(segment).to_dict(), "delay_s": round(delay_s, 3)}, ensure_ascii=False),
            flush=True,
        )
        return
    from serein.inference.writers import clock

    label = f"{segment.text:<14}"
    bar = "█" * round(_BAR * (segment.confidence or 0.0))
    times = f"{clock(segment.start_s)} – {clock(segment.end_s)}"
    print(
        f"{times:>17}  {label} {100 * (segment.confidence or 0.0):3.0f} % {bar:<{_BAR}} after {delay_s:.2f} s",
        flush=True,
    )


@contextmanager
def _stdin(rate_hz: int) -> Iterator[Iterator[Waveform]]:
    from serein.inference.streams import pcm16

    size = 2 * round(BLOCK_S * rate_hz)
    yield (pcm16(data) for data in iter(lambda: sys.stdin.buffer.read(size), b""))


@contextmanager
def _microphone(device: str | None) -> Iterator[Iterator[Waveform]]:
    """Open the microphone; blocks that arrive during a prediction wait in a queue."""
    from itertools import count
    from queue import SimpleQueue

    from serein.audio import SAMPLE_RATE_HZ
    from serein.errors import AudioError

    sounddevice = _sounddevice()
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
        print("recording; stop with Ctrl-C", file=sys.stderr, flush=True)
        yield (blocks.get() for _ in count())


def _sounddevice() -> Any:
    from serein.errors import AudioError, MissingExtraError

    try:
        import sounddevice
    except ImportError:
        raise MissingExtraError("sounddevice", "stream") from None
    except OSError:  # the wheels for Linux do not include PortAudio
        raise AudioError(
            "PortAudio is not installed",
            where="microphone",
            remedy="Install it (Debian: apt install libportaudio2), or pipe samples into --stdin-pcm.",
        ) from None
    return sounddevice

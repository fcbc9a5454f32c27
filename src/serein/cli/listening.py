"""The command that listens."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serein.cli.answers import Abstain, Hop, Model, Shortest, Window, sliding_window_of
from serein.cli.app import app

if TYPE_CHECKING:
    from serein.data.audio import Waveform
    from serein.inference.stream import Stream
    from serein.inference.timeline import Segment

BLOCK_S = 0.1
_BAR = 20


@app.command()
def listen(
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="As --model.")] = None,
    model: Model = None,
    stdin_pcm: Annotated[
        bool, typer.Option("--stdin-pcm", help="Hear 16-bit little-endian mono samples on stdin, not the microphone.")
    ] = False,
    rate: Annotated[
        int, typer.Option(metavar="HZ", help="Rate of the samples on stdin.", min=4000, max=384_000)
    ] = 16000,
    device: Annotated[str | None, typer.Option(help="Microphone, by number or part of its name.")] = None,
    windows: Window = None,
    hop: Hop = None,
    min_confidence: Abstain = 0.0,
    shortest: Shortest = 0.0,
    seconds: Annotated[float | None, typer.Option(help="Stop after so long [at the keyboard's interrupt].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per window.")] = False,
) -> None:
    """Say which emotions are heard as they are spoken, window by window, and how long each answer took.

    For instance: arecord -f S16_LE -r 16000 | serein listen --stdin-pcm
    """
    from serein.inference.caution import RejectOption
    from serein.inference.delays import described
    from serein.inference.predictor import load
    from serein.inference.stream import Stream

    predictor = load(model if name is None else name)
    stream = Stream(
        predictor,
        rate if stdin_pcm else 16_000,
        sliding_window_of(windows, hop),
        RejectOption(min_confidence, shortest),
    )
    source = _stdin(rate) if stdin_pcm else _microphone(device)
    delays_s: list[float] = []
    with source as blocks:
        for heard, delay_s in _answered(stream, blocks, seconds):
            delays_s.append(delay_s)
            _say(heard, delay_s, predictor.task, as_json)
    print(described(delays_s), file=sys.stderr)


def _answered(stream: Stream, blocks: Iterator[Waveform], seconds: float | None) -> Iterator[tuple[Segment, float]]:
    """Yield what is heard with its delay, until the sound, the time or the listener's patience ends."""
    from serein.inference.delays import Arrivals

    arrivals = Arrivals()
    try:
        for block in blocks:
            came_s = time.monotonic()
            windows = stream.cut(block)
            arrivals.came(stream.position_s, came_s)
            for heard in stream.hear(windows):
                yield heard, arrivals.delay_s(heard.end_s, time.monotonic())
            if seconds is not None and stream.position_s >= seconds:
                break
    except KeyboardInterrupt:
        pass
    for heard in stream.finish():
        yield heard, arrivals.delay_s(heard.end_s, time.monotonic())


def _say(heard: Segment, delay_s: float, task: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**heard.to_json(task), "delay_s": round(delay_s, 3)}, ensure_ascii=False), flush=True)
        return
    from serein.inference.formats import clock

    bar = "█" * round(_BAR * heard.confidence)
    times = f"{clock(heard.start_s)} – {clock(heard.end_s)}"
    print(
        f"{times:>17}  {heard.said:<12} {100 * heard.confidence:3.0f} % {bar:<{_BAR}} after {delay_s:.2f} s", flush=True
    )


@contextmanager
def _stdin(rate_hz: int) -> Iterator[Iterator[Waveform]]:
    from serein.inference.stream import pcm16

    size = 2 * round(BLOCK_S * rate_hz)
    yield (pcm16(data) for data in iter(lambda: sys.stdin.buffer.read(size), b""))


@contextmanager
def _microphone(device: str | None) -> Iterator[Iterator[Waveform]]:
    """Open the microphone; what it hears while an answer is worked out waits in a queue."""
    from itertools import count
    from queue import SimpleQueue

    from serein.data.audio import SAMPLE_RATE_HZ
    from serein.errors import AudioError

    sounddevice = _sounddevice()
    heard: SimpleQueue[Waveform] = SimpleQueue()
    chosen = int(device) if device is not None and device.isdecimal() else device
    try:
        microphone = sounddevice.InputStream(
            samplerate=SAMPLE_RATE_HZ,
            blocksize=round(BLOCK_S * SAMPLE_RATE_HZ),
            device=chosen,
            channels=1,
            dtype="float32",
            callback=lambda samples, *_: heard.put(samples[:, 0].copy()),
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise AudioError(
            f"cannot be opened ({error})",
            where="microphone",
            remedy="Choose another by --device, or pipe its samples into --stdin-pcm.",
        ) from None
    with microphone:
        print("listening; stop with Ctrl-C", file=sys.stderr, flush=True)
        yield (heard.get() for _ in count())


def _sounddevice() -> Any:
    from serein.errors import AudioError, MissingExtraError

    try:
        import sounddevice
    except ImportError:
        raise MissingExtraError("sounddevice", "listen") from None
    except OSError:  # the wheels for Linux bring no PortAudio
        raise AudioError(
            "PortAudio is not installed",
            where="microphone",
            remedy="Install it (Debian: apt install libportaudio2), or pipe samples into --stdin-pcm.",
        ) from None
    return sounddevice

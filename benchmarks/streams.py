"""`serein serve` with many streams at once, each sending its audio in real time.

The delay is measured from the moment at which a window's last sample was due to be sent to the arrival of its
prediction; it includes the lateness of clients that cannot send in time. On any machine, the end of speech is detected
only after a further 0.3 s of silence. Streams start at random moments; server and clients are two processes that share
the cores. Without `--data`, the voices are synthetic; without `--model`, the model is that of recipes/ravdess.yaml with
random weights, which takes the same time.

    python benchmarks/streams.py [--data FOLDER] [--model FOLDER] [--streams 200] [--seconds 60]
    python benchmarks/streams.py --find     # the largest number, within 5 %, that keeps the delay (--most-delay 1.0)

Exit status 1 if a stream broke or, without `--find`, if the delay was exceeded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from processes import Server, percentiles, served, speech
from serein.audio import SAMPLE_RATE_HZ

SPREAD_S = 3.0  # within which streams start
SOUND_S = 600.0  # of speech, from which every stream starts at its own position
MOST = 3200
_LAST_S = 60.0  # for the last predictions


@dataclass
class Tally:
    """The results of all streams."""

    delays_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)  # of clients, relative to their own schedule
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """The schedule of each stream."""

    sound: bytes
    seconds: float
    chunk_s: float

    def chunk(self, number: int, place: int) -> bytes:
        """Return the bytes that are sent at once; the sound is repeated."""
        size = round(self.chunk_s * SAMPLE_RATE_HZ) * 2
        start = (place + number * size) % (len(self.sound) - size)
        return self.sound[start // 2 * 2 : start // 2 * 2 + size]

    @property
    def num_chunks(self) -> int:
        """The number of chunks that a stream sends."""
        return round(self.seconds / self.chunk_s)


async def send(socket: ClientConnection, plan: Plan, place: int, started_s: float, tally: Tally) -> None:
    """Send a stream's sound, each chunk at the time of its last sample."""
    for number in range(plan.num_chunks):
        due_s = started_s + (number + 1) * plan.chunk_s
        await asyncio.sleep(due_s - time.perf_counter())
        await socket.send(plan.chunk(number, place))
        tally.late_s.append(time.perf_counter() - due_s)
    await socket.send('{"type": "end"}')


async def stream(server: Server, plan: Plan, rng: np.random.Generator, tally: Tally) -> None:
    """Open one stream, and record when its predictions arrive."""
    await asyncio.sleep(rng.uniform(0, SPREAD_S))
    place = int(rng.integers(len(plan.sound)))
    address = f"ws://{server.host}:{server.port}/v1/stream?rate_hz={SAMPLE_RATE_HZ}"
    try:
        async with connect(address, compression=None, open_timeout=30) as socket:
            started_s = time.perf_counter()
            sending = asyncio.ensure_future(send(socket, plan, place, started_s, tally))
            ended = await asyncio.wait_for(receive(socket, started_s, tally), SPREAD_S + plan.seconds + _LAST_S)
            await sending
            if ended.get("reason") != "end" or abs(ended["end_s"] - plan.num_chunks * plan.chunk_s) > 0.01:
                tally.broken.append(f"ended {ended}")
    except (OSError, TimeoutError, WebSocketException) as error:
        tally.broken.append(f"{type(error).__name__}: {error}")


async def receive(socket: ClientConnection, started_s: float, tally: Tally) -> dict[str, Any]:
    """Record the delay of each segment; return the last message."""
    message: dict[str, Any] = {}
    async for text in socket:
        now_s = time.perf_counter()
        message = json.loads(text)
        if message["type"] == "segment":
            tally.delays_s.append(now_s - started_s - message["end_s"])
    return message


async def all_streams(server: Server, plan: Plan, num: int) -> tuple[Tally, float]:
    """Open all streams; return their results, and the CPU seconds that the server used."""
    tally, used_s = Tally(), server.processor_s()
    seeds = np.random.default_rng(0).spawn(num)
    await asyncio.gather(*(stream(server, plan, rng, tally) for rng in seeds))
    return tally, server.processor_s() - used_s


def measure(num: int, plan: Plan, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of `num` streams on a new server."""
    limits = ("--max-streams", num, "--max-per-client", num)  # all have one address
    with served(options.model, options.threads, *limits) as server:
        memory_mib = server.memory_mib()
        tally, used_s = asyncio.run(all_streams(server, plan, num))
        memory_mib = max(memory_mib, server.memory_mib())
    delay_s = percentiles(tally.delays_s)
    return {
        "streams": num,
        "seconds": plan.seconds,
        "windows": len(tally.delays_s),
        "delay_s": delay_s,
        "client_late_s": percentiles(tally.late_s),
        "broken": len(tally.broken),
        "first_broken": tally.broken[:3],
        "server_cores": used_s / plan.seconds,
        "memory_mib": memory_mib,
        "load": os.getloadavg()[0],
        "holds": not tally.broken and bool(delay_s) and delay_s["p95"] <= options.most_delay,
    }


def largest(holds: Callable[[int], bool], first: int) -> int:
    """Return the largest number that holds, within 5 %; 0 if not even one does."""
    low, high = 0, first
    while high <= MOST and holds(high):
        low, high = high, 2 * high
    while high <= MOST and high - low > max(1, round(0.05 * high)):
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def show(found: dict[str, Any]) -> None:
    """Print a result in readable form."""
    delay, late = (
        "  ".join(f"{name} {value:.2f} s" for name, value in found[key].items()) for key in ("delay_s", "client_late_s")
    )
    print(
        f"{found['streams']} streams of {found['seconds']:g} s: {'holds' if found['holds'] else 'does not hold'}; "
        f"the server took {found['server_cores']:.2f} cores (load of the machine {found['load']:.1f}) "
        f"and {found['memory_mib']:.0f} MiB\n"
        f"  {found['windows']} windows, delay  {delay}\n"
        f"  clients sent late by  {late}\n"
        f"  {found['broken']} streams broke{''.join(f'; {each}' for each in found['first_broken'])}",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of recordings to stream")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--chunk", type=float, default=0.1, help="seconds that a client sends at once")
    parser.add_argument("--most-delay", type=float, default=1.0, help="largest p95 of the delay in seconds")
    parser.add_argument("--threads", type=int, default=1, help="threads of the model")
    parser.add_argument("--find", action="store_true", help="find the largest number that keeps it, from --streams on")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sound = speech(options.data, SOUND_S, np.random.default_rng(0))
    plan = Plan((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes(), options.seconds, options.chunk)
    tried: list[dict[str, Any]] = []

    def holds(num: int) -> bool:
        tried.append(measure(num, plan, options))
        if not options.json:
            show(tried[-1])
        return bool(tried[-1]["holds"])

    if options.find:
        num = largest(holds, options.streams)
        print(json.dumps({"holds": num, "tried": tried}) if options.json else f"{num} streams hold")
        return
    held = holds(options.streams)
    if options.json:
        print(json.dumps(tried[0]))
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()

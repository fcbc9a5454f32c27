"""`serein serve` under load: clients on loopback, each sending its next recording once it has received its response.

Prints latency, recordings per second, statuses, and the server's memory before, during and after. The server is
started and stopped here, as a separate process; the clients are one more process and share the cores with it. A client
that receives 429 or 503 waits as long as `Retry-After` specifies. Without `--data`, voices are synthetic; without
`--model`, the model is that of recipes/ravdess.yaml with random weights, which takes the same time.

    python benchmarks/service.py [--data FOLDER] [--model FOLDER] [--clients 64] [--seconds 60] [--json]

Exit status 1 on any status except 200, 429 and 503, or if a connection broke.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from processes import Server, clips, percentiles, served

REST_S = 5.0  # after the load, before memory is read for the last time
_BOUNDARY = "a-boundary-that-is-in-no-recording"
_HARMLESS = {200, 429, 503}


@dataclass
class Tally:
    """The results of all clients."""

    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)


def form(content: bytes, name: str = "file") -> bytes:
    """Return a form that contains one recording."""
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="clip.wav"\r\n\r\n'
    return head.encode() + content + f"\r\n--{_BOUNDARY}--\r\n".encode()


def request(body: bytes, path: str = "/v1/predict") -> bytes:
    """Return a complete HTTP request, written by hand, so clients use hardly any CPU time."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary={_BOUNDARY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes
) -> tuple[int, float, dict[str, Any]]:
    """Send a request; return the status of its response, the seconds to wait before the next, and its JSON."""
    writer.write(sent)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = re.search(r"^content-length: (\d+)", head, re.MULTILINE)
    body = await reader.readexactly(int(length[1])) if length else b"{}"
    wait = re.search(r"^retry-after: (\d+)", head, re.MULTILINE)
    return int(head.split(" ", 2)[1]), float(wait[1]) if wait else 0.0, json.loads(body)


async def client(server: Server, requests: Sequence[bytes], until_s: float, tally: Tally, seed: int) -> None:
    """Send one recording after another until the time is up."""
    rng = np.random.default_rng(seed)
    connection = await asyncio.open_connection(server.host, server.port)
    while time.perf_counter() < until_s:
        started_s = time.perf_counter()
        try:
            status, wait_s, _ = await exchange(*connection, requests[rng.integers(len(requests))])
        except (OSError, asyncio.IncompleteReadError):
            tally.statuses["broken connection"] += 1
            connection = await asyncio.open_connection(server.host, server.port)
            continue
        tally.statuses[str(status)] += 1
        if status == 200:
            tally.latencies_s.append(time.perf_counter() - started_s)
        await asyncio.sleep(wait_s)
    connection[1].close()


async def memory(server: Server, every_s: float) -> list[float]:
    """Record the server's memory every `every_s` seconds until cancelled, and return it."""
    seen: list[float] = []
    try:
        while True:
            await asyncio.sleep(every_s)
            seen.append(server.memory_mib())
    except asyncio.CancelledError:
        return seen


async def load(server: Server, requests: Sequence[bytes], num_clients: int, seconds: float) -> dict[str, Any]:
    """Return the figures of a load."""
    tally, before, used_s = Tally(), server.memory_mib(), server.processor_s()
    watch = asyncio.ensure_future(memory(server, seconds / 12))
    await asyncio.sleep(0)
    started_s = time.perf_counter()
    until_s = started_s + seconds
    await asyncio.gather(*(client(server, requests, until_s, tally, seed) for seed in range(num_clients)))
    took_s = time.perf_counter() - started_s
    watch.cancel()
    used_s = server.processor_s() - used_s
    during = await watch
    await asyncio.sleep(min(REST_S, seconds))
    return {
        "seconds": took_s,
        "clients": num_clients,
        "statuses": dict(tally.statuses),
        "clips_per_s": len(tally.latencies_s) / took_s,
        "latency_s": percentiles(tally.latencies_s),
        "memory_mib": {"before": before, "during": during, "after": server.memory_mib()},
        "server_cores": used_s / took_s,
        "load": os.getloadavg()[0],
    }


def show(found: dict[str, Any]) -> None:
    """Print a result in readable form."""
    memory_mib = found["memory_mib"]
    during = " ".join(f"{each:.0f}" for each in memory_mib["during"])
    latency = "  ".join(f"{name} {1000 * value:.0f} ms" for name, value in found["latency_s"].items())
    print(
        f"{found['clients']} clients for {found['seconds']:.1f} s; the server took {found['server_cores']:.2f} cores "
        f"(load of the machine {found['load']:.1f})\n"
        f"  answers       {', '.join(f'{count} x {status}' for status, count in sorted(found['statuses'].items()))}\n"
        f"  recordings    {found['clips_per_s']:.1f} per second\n"
        f"  latency       {latency}\n"
        f"  memory, MiB   before {memory_mib['before']:.0f}; during {during}; after {memory_mib['after']:.0f}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of recordings to send")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--recordings", type=int, default=200, help="number of recordings that clients choose from")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1, help="threads of the model")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    requests = [request(form(clip)) for clip in clips(options.data, options.recordings, np.random.default_rng(0))]
    limits = ("--max-requests", options.clients, "--max-per-client", options.clients)  # all have one address
    with served(options.model, options.threads, *limits) as server:
        found = asyncio.run(load(server, requests, options.clients, options.seconds))
    print(json.dumps(found)) if options.json else show(found)
    if set(found["statuses"]) - set(map(str, _HARMLESS)):
        sys.exit("there was a status other than 200, 429 and 503")


if __name__ == "__main__":
    main()

"""Two thousand malformed uploads to `serein serve`: fuzzed headers, cut, spliced and random files, broken forms.

Some changes leave a usable recording, which gets a prediction; everything else must be refused with a 4xx. In addition,
it sends a kilobyte whose header declares gigabytes, a zip named .wav, and ten hours of silence in FLAC, once with a
correct header and once with one that does not state the length. At the end, the service must still predict a recording.

    python benchmarks/malformed.py [--count 2000] [--seed 0] [--model FOLDER] [--json]

Exit status 1 on any 5xx or broken connection, or if the service no longer responds. The messages that
libsndfile's decoders print to the service's stderr are not a failure.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import struct
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from processes import Server, clips, served
from service import exchange, form, request

from server.broken import broken  # isort: skip  (processes adds the tests to the path)

CONNECTIONS = 4
_WAYS = ("never", "always")  # cut into segments


def requests(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield the kind and the bytes of each request."""
    rng = np.random.default_rng(seed)
    for number, content in enumerate(broken(count, seed)):
        path = f"/v1/predict?segments={_WAYS[number % 2]}"
        if number % 20 == 0:
            yield "broken form", request(_spoilt(form(content), rng), path)
        elif number % 20 == 1:
            yield "batch", request(form(content, "files"), "/v1/predict/batch")
        else:
            yield "recording", request(form(content), path)
    for name, content in bombs().items():
        for way in _WAYS:
            yield name, request(form(content), f"/v1/predict?segments={way}")


def bombs() -> dict[str, bytes]:
    """Return recordings that are larger than they look."""
    header = bytearray(clips(None, 1, np.random.default_rng(0))[0][:1000])
    place = header.index(b"data") + 4
    header[place : place + 4] = struct.pack("<I", 0x7000_0000)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sound.wav", bytes(100_000_000))
    silence = silent_hours(10)
    untold = bytearray(silence)
    untold[21] &= 0xF0  # the number of samples: 36 bits, of which 0 is unknown
    untold[22:26] = bytes(4)
    return {
        "header of gigabytes": bytes(header),
        "zip": zipped.getvalue(),
        "hours of silence": silence,
        "hours of silence, length untold": bytes(untold),
    }


def silent_hours(hours: int) -> bytes:
    """Return a FLAC file of hours of silence; some megabytes."""
    page, second = io.BytesIO(), np.zeros(8000, np.int16)
    with soundfile.SoundFile(page, "w", 8000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(hours * 60):
            file.write(np.tile(second, 60))
    return page.getvalue()


def _spoilt(body: bytes, rng: np.random.Generator) -> bytes:
    """Return a form with some bytes of its first lines changed, or without its end."""
    if rng.integers(2):
        return body[: int(rng.integers(1, len(body)))]
    changed = bytearray(body)
    for _ in range(int(rng.integers(1, 9))):
        changed[int(rng.integers(0, 120))] = int(rng.integers(256))
    return bytes(changed)


async def send_all(server: Server, count: int, seed: int) -> tuple[dict[str, Counter[str]], float]:
    """Send everything; return the statuses by kind, and the longest response time."""
    statuses: dict[str, Counter[str]] = {}
    left, slowest_s = iter(list(requests(count, seed))), 0.0

    async def client() -> None:
        nonlocal slowest_s
        connection = await asyncio.open_connection(server.host, server.port)
        for kind, sent in left:
            started_s = time.perf_counter()
            try:
                status, *_ = await asyncio.wait_for(exchange(*connection, sent), 120)
                name = str(status)
            except (OSError, asyncio.IncompleteReadError):
                name = "broken connection"
                connection = await asyncio.open_connection(server.host, server.port)
            slowest_s = max(slowest_s, time.perf_counter() - started_s)
            statuses.setdefault(kind, Counter())[name] += 1

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return statuses, slowest_s


async def is_well(server: Server) -> bool:
    """Return whether the service still responds."""
    connection = await asyncio.open_connection(server.host, server.port)
    status, _, answer = await exchange(*connection, request(form(clips(None, 1, np.random.default_rng(0))[0])))
    return status == 200 and bool(answer["label"])


def main() -> None:
    """Send everything and print statuses by kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with served(options.model, 1) as server:
        before = server.memory_mib()
        statuses, slowest_s = asyncio.run(send_all(server, options.count, options.seed))
        well, after = asyncio.run(is_well(server)), server.memory_mib()
    found: dict[str, Any] = {
        "statuses": {kind: dict(each) for kind, each in statuses.items()},
        "slowest_s": slowest_s,
        "memory_mib": {"before": before, "after": after},
        "is_well": well,
    }
    if options.json:
        print(json.dumps(found))
    else:
        for kind, each in statuses.items():
            print(f"{kind:32} {', '.join(f'{count} x {status}' for status, count in sorted(each.items()))}")
        print(f"slowest response {slowest_s:.2f} s; memory {before:.0f} MiB before, {after:.0f} after")
    wrong = [name for each in statuses.values() for name in each if not name.startswith("4") and name != "200"]
    if wrong or not well:
        sys.exit(f"not refused properly: {', '.join(wrong) or 'the service no longer responds'}")


if __name__ == "__main__":
    main()

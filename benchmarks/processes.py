"""Shared by the benchmarks of the service: a server in a separate process, and sound to send to it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from long_recording import save_model
from serein import audio
from serein.audio import SAMPLE_RATE_HZ, Waveform

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # synthetic voices, and broken recordings

from speech_sounds import voiced

_TICKS_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A running `serein serve`, and its use of memory and CPU."""

    process: subprocess.Popen[str]
    host: str
    port: int

    def memory_mib(self) -> float:
        """Return its current resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def processor_s(self) -> float:
        """Return the CPU seconds that it has used, over all cores."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return _TICKS_S * (int(fields[11]) + int(fields[12]))


@contextmanager
def served(model: Path | None, threads: int, *options: object) -> Iterator[Server]:
    """Start a server on a free loopback port, and shut it down properly; it must not have printed a traceback.

    Args:
        model: `None` uses that of recipes/ravdess.yaml with random weights, which takes the same time.
    """
    with tempfile.TemporaryDirectory() as scratch, open(f"{scratch}/complaints", "w+") as complaints:
        if model is None:
            model = Path(scratch) / "model"
            save_model(model)
        arguments = ["serve", "--model", str(model), "--port", "0", "--no-page", *map(str, options)]
        process = subprocess.Popen(
            [sys.executable, "-m", "serein.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"},
        )
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith("serein listens at "):
                sys.exit(_all_of(complaints))
            host, port = line.split("//")[1].strip().rsplit(":", 1)
            yield Server(process, host, int(port))
            process.terminate()
            process.wait(90)
            if "Traceback" in (text := _all_of(complaints)):
                sys.exit(f"the server failed:\n{text}")
        finally:
            process.kill()
            process.wait()


def _all_of(file: object) -> str:
    file.seek(0)  # type: ignore[attr-defined]
    return str(file.read())  # type: ignore[attr-defined]


def clips(data: Path | None, count: int, rng: np.random.Generator) -> list[bytes]:
    """Return recordings as files: from a corpus, or synthetic ones of 2 to 5 s."""
    if data is not None:
        found = audio.find(data)
        return [found[number].read_bytes() for number in rng.choice(len(found), count)]
    from server.ingredients import encoded

    return [encoded(voiced(float(rng.uniform(2, 5)), rng)) for _ in range(count)]


def speech(data: Path | None, duration_s: float, rng: np.random.Generator) -> Waveform:
    """Return (sample,) float32 at 16 kHz: clips of a corpus in random order, or synthetic voices with pauses."""
    parts: list[Waveform] = []
    left = round(duration_s * SAMPLE_RATE_HZ)
    found = audio.find(data) if data else []
    while left > 0:
        part = audio.decode(found[rng.integers(len(found))]) if found else _said(rng)
        parts.append(part[:left])
        left -= len(parts[-1])
    return np.concatenate(parts)


def _said(rng: np.random.Generator) -> Waveform:
    voice = voiced(float(rng.uniform(1, 6)), rng, float(rng.uniform(90, 250)))
    return np.concatenate([voice, np.zeros(round(rng.uniform(0.3, 2.0) * SAMPLE_RATE_HZ), np.float32)])


def percentiles(values: list[float]) -> dict[str, float]:
    """Return p50, p95, p99 and the maximum."""
    if not values:
        return {}
    p50, p95, p99 = np.percentile(values, [50, 95, 99]).tolist()
    return {"p50": p50, "p95": p95, "p99": p99, "max": max(values)}

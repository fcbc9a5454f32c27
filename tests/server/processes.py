"""`serein serve` in a process of its own, at a port that is free."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli_fixtures import command, environment


@dataclass
class Served:
    """A process and where it listens."""

    process: subprocess.Popen[str]
    address: str

    def ended(self) -> tuple[int, str]:
        """Return its status and what it complained of, once it has ended."""
        _, complaints = self.process.communicate(timeout=60)
        return self.process.returncode, complaints


@contextmanager
def served(model: Path, *options: object) -> Iterator[Served]:
    """Start a server, and end it at last."""
    arguments = command("serve", "--model", model, "--port", "0", *options)
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(PYTHONUNBUFFERED="1")
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serein listens at "), line + process.communicate(timeout=10)[1]
        yield Served(process, line.split()[-1])
    finally:
        process.kill()
        process.wait()

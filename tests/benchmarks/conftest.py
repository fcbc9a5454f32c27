"""Programs of `benchmarks/`, run in this process as `python benchmarks/<name>.py` runs them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from cli_fixtures import Call, Outcome

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run_benchmark(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Run a program: `run_benchmark("finetuning", "--clips", 2).status`; its subprocesses' output is caught, too."""

    def run(name: str, *arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        monkeypatch.syspath_prepend(BENCHMARKS)
        capfd.readouterr()
        status = 0
        try:
            runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        captured = capfd.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run

"""Schemathesis finds nothing in the OpenAPI; `benchmarks/contract.py` asks longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("schemathesis")

from cli_fixtures import environment

CONTRACT = Path(__file__).parents[2] / "benchmarks" / "contract.py"


@pytest.mark.slow
@pytest.mark.skipif(not CONTRACT.exists(), reason="no benchmarks here")
def test_answers_are_as_described(tiny_run: Path) -> None:
    model = next(tiny_run.glob("fold-*/seed-*/model"))
    arguments = [sys.executable, CONTRACT, "--model", model, "--examples", "10"]
    done = subprocess.run(arguments, capture_output=True, env=environment(), timeout=300)
    body = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
    assert done.returncode == 0, body[:5000]
    assert 'route="/v1/predict",status="200"' in body

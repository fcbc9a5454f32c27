"""The lines of docs/deployment.md run an exported file where there is neither PyTorch nor serein."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import serein
from speech_sounds import RATE_HZ, voiced

ROOT = Path(__file__).parents[2]
FORBIDDING = """
import sys, importlib.abc
class Forbid(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "serein", "transformers", "onnx", "scipy", "soundfile"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Forbid())
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the default model's file, a recording, and the program of the document."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("exported")
    serein.export("default", folder / "model.onnx")
    quiet = np.zeros(RATE_HZ, np.float32)
    sound = np.concatenate([quiet, voiced(2.0, np.random.default_rng(0)), quiet])
    soundfile.write(folder / "call.wav", sound, RATE_HZ, subtype="PCM_16")
    text = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(import json, sys, wave[\s\S]*?)^```", text, re.MULTILINE)
    assert len(program.splitlines()) <= 24
    (folder / "program.py").write_text(program)
    (folder / "forbidding.py").write_text(FORBIDDING + program)
    return folder


def probabilities(python: str | Path, program: str, folder: Path) -> dict[str, float]:
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    command = [str(python), program, "model.onnx", "call.wav"]
    found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    said: dict[str, float] = json.loads(found.stdout)
    return said


def check(said: dict[str, float], folder: Path) -> None:
    expected = serein.load(device="cpu").predict(folder / "call.wav", segments="never").probabilities
    assert said.keys() == expected.keys()
    assert max(abs(said[name] - expected[name]) for name in expected) < 1e-4


@pytest.mark.slow
def test_where_torch_and_serein_may_not_be_imported(exported: Path) -> None:
    check(probabilities(sys.executable, "forbidding.py", exported), exported)


@pytest.mark.slow
def test_in_an_environment_of_onnxruntime_alone(exported: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", "onnxruntime", "numpy"]
    if subprocess.run(install, capture_output=True).returncode:
        pytest.skip("onnxruntime and numpy cannot be installed: no package index can be reached")
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode
    check(probabilities(python, "program.py", exported), exported)

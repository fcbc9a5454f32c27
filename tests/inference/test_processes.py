"""Prediction over a Ray cluster: the same lines as without, each once, even after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cli_fixtures import read_answers, write_speech
from serein.audio import Upload
from serein.errors import MissingExtraError, RunError
from serein.inference import processes
from serein.inference.predictor import Predictor
from serein.inference.processes import CLIPS_AT_ONCE, predict_over_ray, suitable_processes
from serein.inference.recording import PredictOptions
from serein.inference.sources import Source


def never(device: str) -> Predictor:
    raise AssertionError("no model is needed")


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serein\[cluster\]'"):
        list(predict_over_ray(never, ["a.wav"], PredictOptions()))


@pytest.mark.parametrize(
    ("num_cores", "num_files", "expected"), [(4, 511, 1), (4, 512, 2), (8, 10_000, 4), (64, 10_000, 8), (1, 10_000, 1)]
)
def test_as_many_processes_as_are_worth_their_start(
    num_cores: int, num_files: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "num_cores", lambda: num_cores)
    assert suitable_processes(num_files) == expected


def test_the_content_of_pipes_is_sent_to_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`/dev/fd/63` names another file in another process."""

    class Pool:
        def __init__(self, *_: object) -> None: ...
        def shutdown(self, **_: object) -> None: ...
        def submit(self, function: object, part: list[Source]) -> Future[list[Source]]:
            future: Future[list[Source]] = Future()
            future.set_result(part)
            return future

    monkeypatch.setattr(processes, "ProcessPoolExecutor", Pool)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"RIFF",))
    writer.start()
    sent = list(processes.predict_in_processes(never, ["a.wav", str(pipe)], PredictOptions(), 2))
    writer.join()
    assert sent == ["a.wav", Upload(b"RIFF", str(pipe))]


@pytest.mark.slow  # Ray starts processes, each of which imports torch
def test_ray_answers_each_file_once_after_a_kill(tiny_run: Path, tmp_path: Path) -> None:
    """Two workers; the driver is killed with a third of the lines written, and the second run writes the others."""
    pytest.importorskip("ray", reason="pip install 'serein[cluster]'")
    model = tiny_run / "fold-1" / "seed-0" / "model"
    source = write_speech(tmp_path / "speech.wav")
    folder = tmp_path / "calls"
    folder.mkdir()
    for number in range(6 * CLIPS_AT_ONCE):
        (folder / f"{number:03}.wav").symlink_to(source)
    (folder / "broken.wav").write_bytes(b"no recording")
    command = [sys.executable, "-m", "serein.cli", "predict", "calls", "--model", str(model), "--device", "cpu"]
    over_ray = [*command, "--engine", "ray", "--workers", "2", "--out", "ray.jsonl"]
    driver = subprocess.Popen(over_ray, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True)
    out = tmp_path / "ray.jsonl"
    deadline_s = time.monotonic() + 300
    while not (out.exists() and len(out.read_bytes().splitlines()) > CLIPS_AT_ONCE):
        assert driver.poll() is None or out.exists()
        assert time.monotonic() < deadline_s
        if driver.poll() is not None:
            break
        time.sleep(0.005)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    num_before = len(out.read_bytes().splitlines())
    assert num_before < 6 * CLIPS_AT_ONCE  # it was killed at work
    for end in (over_ray, [*command, "--out", "alone.jsonl"]):
        assert subprocess.run(end, cwd=tmp_path, capture_output=True, check=False).returncode == 1  # the broken one
    shared, shared_fractions = read_answers(tmp_path / "ray.jsonl")
    alone, alone_fractions = read_answers(tmp_path / "alone.jsonl")
    files = [answer["file"] for answer in shared]
    assert len(files) == len(set(files)) == 6 * CLIPS_AT_ONCE + 1
    assert shared == alone
    np.testing.assert_allclose(shared_fractions, alone_fractions, rtol=0, atol=1e-5)  # rounded, of other batches


@pytest.mark.slow
def test_a_process_that_cannot_start_is_an_error_in_one_line() -> None:
    pytest.importorskip("ray", reason="pip install 'serein[cluster]'")
    with pytest.raises(RunError, match="a process of the cluster died") as error:
        list(predict_over_ray(partial(os.getenv, "HOME"), ["a.wav"], PredictOptions(), 1, "cpu"))
    assert len(str(error.value).splitlines()) == 1

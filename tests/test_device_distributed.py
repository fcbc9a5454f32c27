"""Two processes that `torchrun` started train one model, on CPU with gloo."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from cli_fixtures import Call, environment, everything_in, write_recipe
from serein import device as devices
from serein.device import DistributedInfo, distributed_info
from serein.errors import RunError
from serein.evaluation.predictions import read_predictions
from serein.experiment import run as runs

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


COUNTING = """
import os, sys
from pathlib import Path
from serein.experiment import outputs
folder, real = Path(sys.argv.pop(1)), outputs.recording_outputs
def counted(checkpoint, recordings, positions, *rest):
    with (folder / os.environ["RANK"]).open("a") as file:
        print(len(positions), file=file)
    return real(checkpoint, recordings, positions, *rest)
outputs.recording_outputs = counted
from serein.cli import main
main()
"""


def torchrun(counts: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run serein in two processes, each of which notes how many clips it predicts at a time."""
    counts.mkdir()
    script = counts.with_suffix(".py")
    script.write_text(COUNTING)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    return subprocess.run(
        [*map(str, command), str(script), str(counts), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(CUDA_VISIBLE_DEVICES=""),
        timeout=600,
    )


@pytest.mark.slow
def test_two_processes_train_one_model(tones: Path, tmp_path: Path) -> None:
    """With one dev batch, where one process would be idle, and then with an odd number of them."""
    first = {"name": "first", "epochs": 3, "precision": "float32", "optimizer": {"learning_rate": 0.03}}
    second = first | {"name": "second", "ema_decay": 0.9, "batches": {"max_clips": 4, "max_seconds": 1.1}}
    recipe = write_recipe(tmp_path / "r.yaml", {"stages": [first, second]})
    out = tmp_path / "run"
    done = torchrun(tmp_path / "counts", "run", recipe, "--data", tones, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_utterances"] == 36  # one object, of the first process
    assert [done.stderr.count(f"fold 1  seed 0  {stage}  epoch") for stage in ("first", "second")] == [1, 1]
    assert "warning" not in done.stderr.lower()
    folds = json.loads((out / "folds.json").read_text())["folds"]
    for fold in folds:
        unit = out / f"fold-{fold['name']}" / "seed-0"
        assert [p.id for p in read_predictions(unit / "predictions.jsonl")] == fold["test"]
        assert len(history(unit / "0-first")) == 3
        dev = read_predictions(unit / "dev_predictions.jsonl")  # all of dev
        recalls = [
            np.mean([p.prediction == p.truth for p in dev if p.truth == name]) for name in {p.truth for p in dev}
        ]
        assert max(line["dev_ua"] for line in history(unit / "1-second")) == pytest.approx(np.mean(recalls))
    assert [name for name in everything_in(out) if Path(name).name.startswith(".")] == [".lock"]
    counted = [list(map(int, (tmp_path / "counts" / rank).read_text().split())) for rank in "01"]
    parts = [len(fold[name]) for fold in folds for name in ("dev", "test")]
    assert counted == [[(n + 1) // 2 for n in parts], [n // 2 for n in parts]]


@pytest.mark.slow
def test_predictions_that_two_processes_share_are_those_of_one(tones: Path, tmp_path: Path) -> None:
    """Of a run whose training is done: nothing else introduces the processes to each other."""
    recipe = write_recipe(tmp_path / "r.yaml", {"protocol": {"only": ["1"]}}, {"epochs": 1})
    out = runs.run(recipe, tones, tmp_path / "run", num_jobs=1)
    path = out / "fold-1" / "seed-0" / "predictions.jsonl"
    before, vectors = read_predictions(path), load_file(path.with_name("embeddings.safetensors"))["embeddings"]
    path.unlink()
    facts = out / "environment.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"processes": 2}))
    done = torchrun(tmp_path / "counts", "run", recipe, "--data", tones, "--out", out, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    after = read_predictions(path)
    assert [p.id for p in after] == [p.id for p in before]
    for old, new in zip(before, after, strict=True):
        assert new.probabilities == pytest.approx(old.probabilities, abs=1e-5)
    np.testing.assert_allclose(load_file(path.with_name("embeddings.safetensors"))["embeddings"], vectors, atol=1e-5)
    assert (tmp_path / "counts" / "0").read_text().split() == ["3", "9"]
    assert (tmp_path / "counts" / "1").read_text().split() == ["3", "9"]


DYING = """
import os, sys
from serein.training.module import StageModule
def step(self, batch, index, real=StageModule.training_step):
    if self.current_epoch == 1 and os.environ["RANK"] == "1" and "dies" in os.environ:
        os._exit(9)
    return real(self, batch, index)
StageModule.training_step = step
from serein.cli import main
main()
"""


def two_processes(*arguments: object, **variables: str) -> list[tuple[int, str]]:
    """Run serein in two processes that nobody watches; return the status and stderr of each."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "TORCHELASTIC_RUN_ID": "x", **variables}
    common |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", DYING, *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(RANK=rank, LOCAL_RANK=rank, **common),
        )
        for rank in "01"
    ]
    said = [process.communicate(timeout=600)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


@pytest.mark.slow
def test_a_training_of_two_processes_resumes_with_two(tones: Path, tmp_path: Path, serein: Call) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", {"protocol": {"only": ["1"]}}, {"epochs": 3})
    whole, out = tmp_path / "whole", tmp_path / "out"
    arguments = ("run", recipe, "--data", tones, "--out")
    assert [status for status, _ in two_processes(*arguments, whole)] == [0, 0]
    (status, said), other = two_processes(*arguments, out, dies="yes")
    assert (status, other[0]) == (1, 9)
    assert "Traceback" not in said
    assert f"error: {out}: cannot reach the other processes (" in said
    assert "continue with --resume and as many processes." in said
    alone = serein(*arguments, out, "--resume").complaint
    assert f"{out}: the number of processes that train together was 2, and is now 1. Start as many," in alone
    assert [status for status, _ in two_processes(*arguments, out, "--resume")] == [0, 0]
    name = Path("fold-1/seed-0")
    timeless = [
        [{key: value for key, value in line.items() if key not in ("seconds", "audio_s_per_s")} for line in lines]
        for lines in (history(run / name / "0-emotion") for run in (whole, out))
    ]
    assert timeless[0] == timeless[1]
    assert (out / name / "predictions.jsonl").read_text() == (whole / name / "predictions.jsonl").read_text()


@pytest.mark.parametrize(
    ("said", "is_joined", "shown"),
    [
        (
            "[/b/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:9: Connection reset by peer. This is typically",
            True,
            "out: cannot reach the other processes (Read error [127.0.0.1]:9: Connection reset by peer). If one",
        ),
        ("mat1 and mat2 shapes cannot be multiplied", True, None),
        ("[/b/gloo/transport/tcp/pair.cc:537] Read error", False, None),
    ],
)
def test_a_process_that_cannot_reach_the_others_says_so(
    said: str, is_joined: bool, shown: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "is_joined", lambda: is_joined)
    with pytest.raises(RuntimeError if shown is None else RunError) as caught, devices.peer_errors(Path("out")):
        raise RuntimeError(said)
    assert str(caught.value).startswith(shown or said)


def history(stage: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]


def test_several_processes_need_one_name(
    tones: Path, tiny: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    outcome = serein("run", tiny, "--data", tones)
    assert (outcome.status, outcome.complaint) == (
        1,
        "error: --out: processes that train together need the same folder. Name one.",
    )


SRUN = {"SLURM_NTASKS": "6", "SLURM_STEP_NUM_TASKS": "6"}
BATCH_SCRIPT = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, DistributedInfo(0, 1, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "2"}, DistributedInfo(3, 8, 4, 2)),
        (
            {**SRUN, "SLURM_PROCID": "5", "SLURM_NTASKS_PER_NODE": "2", "SLURM_LOCALID": "1"},
            DistributedInfo(5, 6, 2, 1),
        ),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, DistributedInfo(0, 1, 1)),
        (BATCH_SCRIPT, DistributedInfo(0, 1, 1)),
    ],
)
def test_world_is_what_the_launcher_says(
    variables: dict[str, str], expected: DistributedInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_LOCALID")
    for name in (*launcher, *SRUN, *BATCH_SCRIPT):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distributed_info() == expected


@pytest.mark.slow
def test_processes_of_slurm_find_each_other() -> None:
    """`srun` names no address; without one, each process would believe that it is alone."""
    script = "from serein.device import *; join_processes(uses_gpus=False); print(all_gather(distributed_info().rank))"
    common = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0"}
    common["SLURM_JOB_ID"] = str(free_port())
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(
                CUDA_VISIBLE_DEVICES="",
                SLURM_NODELIST="127.0.0.1",
                SLURM_PROCID=str(rank),
                SLURM_LOCALID=str(rank),
                **common,
            ),
        )
        for rank in range(2)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in started] == ["[0, 1]", "[0, 1]"]

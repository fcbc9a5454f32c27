"""Stages that several runs share: the same weights as without sharing, whoever trained them, and nothing mistaken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from cli_fixtures import write_recipe
from serein import recipe as recipes
from serein.experiment import run as runs
from serein.experiment import shared_stages
from serein.experiment.shared_stages import DESCRIPTION
from serein.training.checkpointing import METRICS_FILE, WEIGHTS, CheckpointCallback

FIRST = {"name": "gender", "tasks": ["gender"], "epochs": 2}
SECOND = {"name": "emotion", "tasks": ["emotion"], "epochs": 1}
TASKS = {"tasks": {"emotion": {}, "gender": {}}, "ensemble_size": 1}


class Killed(BaseException):
    """Stands for a kill where a process of its own would be slow."""


def recipe_of(folder: Path, *changes: str, stages: tuple[dict[str, Any], ...] = (FIRST, SECOND)) -> recipes.Recipe:
    write_recipe(folder / "r.yaml", {**TASKS, "stages": list(stages), "protocol": {"only": ["1"], "num_folds": 2}})
    return recipes.load(folder / "r.yaml", changes)


def start(recipe: recipes.Recipe, data: Path, out: Path, **more: Any) -> Path:
    return runs.run(recipe, data, out, num_jobs=1, **more)


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "fold-1" / "seed-0" / "model" / "model.safetensors")


def stage(run: Path, name: str) -> Path:
    return run / "fold-1" / "seed-0" / name


@pytest.mark.slow
def test_a_run_that_begins_like_another_ends_as_if_alone(tones: Path, tmp_path: Path) -> None:
    shared = tmp_path / "stages"
    start(recipe_of(tmp_path), tones, tmp_path / "a", shared=shared)
    other = recipe_of(tmp_path, "stages.1.optimizer.learning_rate=0.01")
    start(other, tones, tmp_path / "alone")
    start(other, tones, tmp_path / "b", shared=shared)
    assert not (stage(tmp_path / "a", "0-gender") / DESCRIPTION).exists()
    taken = json.loads((stage(tmp_path / "b", "0-gender") / DESCRIPTION).read_text())
    assert str(tmp_path / "a") in taken["folder"]
    assert not (stage(tmp_path / "b", "1-emotion") / DESCRIPTION).exists()
    assert len(list(shared.glob("[!.]*"))) == 3  # one first stage, two second ones
    for name, alone in weights(tmp_path / "alone").items():
        assert np.array_equal(alone, weights(tmp_path / "b")[name]), name
    lines = [(stage(tmp_path / run, "0-gender") / "metrics.jsonl").read_text() for run in ("a", "b")]
    assert lines[0] == lines[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", ["stages.0.epochs=1", "seeds=[3]", "clips.crop_s=0.5", "tasks.gender.dropout=0.3", "encoder.dropout=0.4"]
)
def test_what_changes_a_stage_is_trained_anew(change: str, tones: Path, tmp_path: Path) -> None:
    shared = tmp_path / "stages"
    start(recipe_of(tmp_path), tones, tmp_path / "a", shared=shared)
    start(recipe_of(tmp_path, change), tones, tmp_path / "b", shared=shared)
    assert not list((tmp_path / "b").rglob(DESCRIPTION))
    assert len(list(shared.glob("[!.]*"))) == 4


@pytest.mark.slow
def test_a_network_alone_is_the_first_stage_of_one_that_another_joins(tones: Path, tmp_path: Path) -> None:
    """As in park2023's rows: the emotion network alone, and the same one before a speaker network joins it."""
    alone = FIRST | {"name": "emotion", "tasks": ["emotion"]}
    joined = [alone | {"use_fusion": False}, {"name": "integration", "epochs": 1}]
    own = {"pooling": "mean", "fusion": {}}
    for name, tasks, stages in (
        ("a", {"emotion": own}, [alone]),
        ("b", {"gender": {"pooling": "mean"}, "emotion": own | {"fusion": {"inputs": ["gender"]}}}, joined),
    ):
        folder = tmp_path / name
        folder.mkdir()
        changes = {"tasks": tasks, "stages": stages, "protocol": {"only": ["1"], "num_folds": 2}}
        write_recipe(folder / "r.yaml", changes)
        start(recipes.load(folder / "r.yaml"), tones, folder / "run", shared=tmp_path / "stages")
    assert (stage(tmp_path / "b" / "run", "0-emotion") / DESCRIPTION).exists()
    assert not (stage(tmp_path / "b" / "run", "1-integration") / DESCRIPTION).exists()


@pytest.mark.slow
def test_a_killed_run_takes_what_another_finished_meanwhile(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, recipe = tmp_path / "stages", recipe_of(tmp_path)
    end_of_epoch = CheckpointCallback.on_train_epoch_end

    def killed(self: CheckpointCallback, *arguments: Any) -> None:
        end_of_epoch(self, *arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointCallback, "on_train_epoch_end", killed)
        with pytest.raises(Killed):
            start(recipe, tones, tmp_path / "a", shared=shared)
    assert not list(shared.glob("[!.]*"))
    start(recipe, tones, tmp_path / "b", shared=shared)
    start(recipe, tones, tmp_path / "a", shared=shared, resume=True)
    assert (stage(tmp_path / "a", "0-gender") / DESCRIPTION).exists()
    assert not list((tmp_path / "a").rglob("resume.ckpt"))
    for name, own in weights(tmp_path / "b").items():
        assert np.array_equal(own, weights(tmp_path / "a")[name]), name


def test_a_second_process_waits_for_the_first(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is taken by another open file, which is what another process has; it is given back during the wait."""
    shared, recipe = tmp_path / "stages", recipe_of(tmp_path, stages=(FIRST | {"tasks": None, "epochs": 1},))
    start(recipe, tones, tmp_path / "a", shared=shared)
    (key,) = (path.name for path in shared.glob("[!.]*"))
    held = (shared / f".{key}.lock").open("wb")
    shared_stages.try_lock(held)
    said: list[str] = []

    def wait(seconds: float) -> None:
        held.close()

    monkeypatch.setattr(shared_stages.time, "sleep", wait)
    start(recipe, tones, tmp_path / "b", shared=shared, progress=lambda label, done, total, detail: said.append(detail))
    assert "waiting for the process that is training the same stage" in said
    assert (stage(tmp_path / "b", "0-gender") / DESCRIPTION).exists()


def test_a_stage_that_cannot_be_shared_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stages").mkdir()
    for name in (WEIGHTS, METRICS_FILE):
        (tmp_path / name).write_text("trained")

    def full(path: Path, text: str) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(shared_stages, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        shared_stages._publish(tmp_path / "stages" / "key", tmp_path, "a", recipe_of(tmp_path).stages[0])
    assert not list((tmp_path / "stages").iterdir())

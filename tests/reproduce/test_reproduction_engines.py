"""Units one after the other and as tasks of Ray: the same run folders, errors told apart from results."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli_fixtures import write_recipe
from serein import recipe as recipes
from serein.errors import MissingExtraError, RunError
from serein.evaluation.predictions import read_json
from serein.reproduce import reproduction
from serein.reproduce.reproduction import ENGINES, Request, locally, over_ray
from serein.reproduce.trials import BusyError, Data, Trial, is_finished, take_data, trial_of


def silent(label: str, done: int, total: int, detail: str) -> None:
    """A `Report` that tells nobody."""


@pytest.fixture
def data(tones: Path, tmp_path: Path) -> Data:
    return take_data(tones, None, tmp_path)


def trials(data: Data, folder: Path, *changes: dict[str, object]) -> list[Trial]:
    """One unit of the tiny recipe for each change of it."""
    made = [
        recipes.load(write_recipe(folder / "r.yaml", {"ensemble_size": 1, **change}, {"epochs": 1}))
        for change in changes
    ]
    return [trial_of(f"row{n}", recipe, 0, data, folder / "out") for n, recipe in enumerate(made)]


@pytest.mark.slow
def test_an_error_does_not_stop_the_others(data: Data, tmp_path: Path) -> None:
    bad, good = trials(data, tmp_path, {"labels": {"classes": ["sad", "bored"]}}, {})
    (first, error), (second, nothing) = locally([bad, good], data.manifest, Request(num_jobs=1), silent)
    assert (first, second, nothing) == (bad, good, None)
    assert "no utterance is labelled bored" in str(error)
    assert not is_finished(bad)
    assert is_finished(good)


def test_what_another_process_trains_is_left_for_last(
    monkeypatch: pytest.MonkeyPatch, data: Data, tmp_path: Path
) -> None:
    busy, free = trials(data, tmp_path, {"ensemble_size": 2}, {})
    tried, waited = [], []

    def train(trial: Trial, *_: object) -> None:
        tried.append(trial)
        if trial == busy and tried.count(busy) < 3:
            raise BusyError("another process is training it")

    monkeypatch.setattr(reproduction, "train", train)
    monkeypatch.setattr(reproduction.time, "sleep", waited.append)
    assert list(locally([busy, free], data.manifest, Request(num_jobs=1), silent)) == [(free, None), (busy, None)]
    assert tried == [busy, free, busy, busy]
    assert len(waited) == 1  # only when nothing else was left to do


def test_without_ray(monkeypatch: pytest.MonkeyPatch, data: Data) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serein\[cluster\]'"):
        list(over_ray([], data.manifest, Request(), silent))


@pytest.mark.slow  # Ray starts processes, each of which imports torch
def test_ray_trains_what_the_local_engine_trains(data: Data, tmp_path: Path) -> None:
    """Two units and a wrong one: the same scores, bit by bit, and the error in its own words."""
    pytest.importorskip("ray", reason="pip install 'serein[cluster]'")
    changes = ({}, {"ensemble_size": 2}, {"labels": {"classes": ["sad", "bored"]}})
    scores: dict[str, list[object]] = {}
    errors: dict[str, list[object]] = {}
    for name in ENGINES:
        (tmp_path / name).mkdir()
        own = trials(data, tmp_path / name, *changes)
        ended = ENGINES[name](own, data.manifest, Request(num_jobs=1), silent)
        outcome = {trial.folder: error for trial, error in ended}
        scores[name] = [read_json(trial.folder / "scores.json") for trial in own]
        errors[name] = [outcome[trial.folder] and str(outcome[trial.folder]) for trial in own]
    assert scores["ray"] == scores["local"]
    assert errors["ray"] == errors["local"]
    assert errors["local"][:2] == [None, None]
    assert "no utterance is labelled bored" in str(errors["local"][2])


def test_a_task_that_dies_is_an_error_in_one_line(monkeypatch: pytest.MonkeyPatch, data: Data, tmp_path: Path) -> None:
    class RayError(Exception):
        pass

    class Remote:
        def options(self, **resources: object) -> Remote:
            return self

        def remote(self, *arguments: object) -> str:
            return "task"

    def died(done: object) -> None:
        raise RayError("worker died\nand much more")

    ray = SimpleNamespace(
        is_initialized=lambda: True,
        cluster_resources=dict,
        remote=lambda function: Remote(),
        wait=lambda tasks, num_returns: (tasks, []),
        get=died,
        exceptions=SimpleNamespace(RayError=RayError),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    (trial,) = trials(data, tmp_path, {})
    ((failed, error),) = over_ray([trial], data.manifest, Request(), silent)
    assert failed == trial
    assert isinstance(error, RunError)
    assert "worker died" in str(error)
    assert "much more" not in str(error)

"""A task of a kind that the library does not have, by one class here and one entry in a recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import serein as public
from cli_fixtures import Call, write_recipe
from serein import choices
from serein.data import manifest
from serein.data.dataset import Targets
from serein.data.manifest import Utterance
from serein.evaluation.predictions import read_run_predictions
from serein.metrics import concordance
from serein.recipe import Head, Pooled, Recipe
from serein.tasks.task import Decoded, Task, TaskPrediction, TaskSpec

AROUSAL = {"angry": 6.5, "happy": 5.0, "sad": 1.5}


class Arousal(Task):
    """How excited somebody sounds: a number."""

    class Options(Pooled):
        """What recipes say of it."""

        puts_out: ClassVar = "numbers"

    problem = "regression"
    monitors = ("ccc",)
    num_outputs = 1

    def __init__(self, name: str, options: Head) -> None:
        self.spec, self.options = TaskSpec(name, "arousal", "regression", monitor="ccc"), options

    @classmethod
    def fit(cls, name: str, options: Head, recipe: Recipe, utterances: Sequence[Utterance]) -> Arousal:
        return cls(name, options)

    @classmethod
    def from_json(cls, name: str, options: Head, description: Mapping[str, Any]) -> Arousal:
        return cls(name, options)

    def to_json(self) -> dict[str, Any]:
        return {}

    def truth(self, utterance: Utterance) -> float | None:
        return utterance.arousal

    def targets(self, utterances: Sequence[Utterance]) -> Targets:
        known = np.array([u.arousal is not None for u in utterances])
        return Targets(np.array([[u.arousal or 0.0] for u in utterances], np.float32), known)

    def loss(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        return (output - truth).square().mean()

    def scores(self, truth: torch.Tensor, kept: torch.Tensor) -> dict[str, float]:
        return {"ccc": concordance(truth[:, 0], kept[:, 0]), "loss": float(self.loss(truth, kept))}

    def decode(self, output: torch.Tensor) -> Decoded:
        return Decoded(output.float().cpu().numpy())

    def predictions(self, decoded: Decoded) -> list[TaskPrediction]:
        assert decoded.values is not None
        return [TaskPrediction(None, value=value) for (value,) in decoded.values.tolist()]


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    public.register("task", "excitement", Arousal)
    yield
    del choices.table("task")["excitement"]


@pytest.fixture(scope="module")
def data(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arousal") / "manifest.jsonl"
    rated = [u.model_copy(update={"arousal": AROUSAL[u.emotion or ""]}) for u in manifest.read(tones)]
    manifest.write(rated, path)
    return path


def run_of(folder: Path, data: Path, tasks: dict[str, Any], **changes: Any) -> Path:
    stage = {"epochs": 12, "optimizer": {"name": "adamw", "learning_rate": 0.05}}
    recipe = write_recipe(folder / "r.yaml", {"tasks": tasks, **changes}, stage)
    return public.run(recipe, data, folder / "run", num_jobs=1)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return run_of(folder, data, {"emotion": None, "excitement": {"pooling": "mean"}})


def test_it_learns(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "fold-1/seed-0/0-emotion/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["train_loss"] < 0.5 * lines[0]["train_loss"]
    assert {"dev_ccc", "dev_loss"} <= lines[-1].keys()


def test_numbers_are_scored_and_reported(run: Path, serein: Call) -> None:
    predictions = read_run_predictions(run)
    scores = json.loads(serein("report", run, "--json").out)["tasks"]["excitement"]
    truth, predicted = [p.true_value or 0.0 for p in predictions], [p.value for p in predictions]
    assert set(truth) == set(AROUSAL.values())
    assert (scores["name"], scores["value"]) == ("ccc", pytest.approx(concordance(truth, predicted)))
    assert scores["interval"][0] <= scores["value"] <= scores["interval"][1]
    assert set(scores["others"]) == {"pearson", "mae", "rmse"}
    assert json.loads((run / "scores.json").read_text())["tasks"]["excitement"] == scores
    page = (run / "report.html").read_text()
    assert f"{scores['value']:.3f}" in page
    assert "Confusion matrix" not in page


def test_a_saved_model_predicts_numbers(run: Path, data: Path, serein: Call) -> None:
    model = run / "fold-1" / "seed-0" / "model"
    written = {p.id: p for p in read_run_predictions(run) if p.fold == "1"}
    tested = [u for u in manifest.read(data) if u.id in written]
    for utterance, predicted in zip(tested, public.load(model).predict_files(tested), strict=True):
        assert predicted.value == pytest.approx(written[utterance.id].value, rel=1e-4)
        assert predicted.label is None
    outcome = serein("predict", "--model", model, tested[0].audio, "--segments", "never", "--json")
    assert outcome.status == 0
    assert json.loads(outcome.out)["value"] == pytest.approx(written[tested[0].id].value, rel=1e-4)


def test_it_learns_beside_classes_in_an_ensemble(data: Path, tmp_path: Path, serein: Call) -> None:
    """Members' numbers are averaged, not their exponentials."""
    run = run_of(tmp_path, data, {"excitement": {"pooling": "mean"}}, ensemble_size=2)
    scores = json.loads(serein("report", run, "--json").out)
    assert "ua" in scores["pooled"]
    assert scores["tasks"]["excitement"]["name"] == "ccc"
    values = [p.value for p in read_run_predictions(run, kind="excitement")]
    assert np.std(values) > 0

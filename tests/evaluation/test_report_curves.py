"""Curves of a run that learned several tasks: what is read, how often gradients conflict, what is drawn."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from serein.errors import RunError
from serein.evaluation.plots import task_curves_picture
from serein.evaluation.report import mean_cosines, read_curves, read_task_curves
from serein.tasks.task import TaskSpec

SPECS = [
    TaskSpec("emotion", "emotion", "classes"),
    TaskSpec("gender", "gender", "classes"),
    TaskSpec("asr", "transcript", "sequence", monitor="word_accuracy"),
]
RECIPE: dict[str, Any] = {
    "stages": [{"name": "first", "tasks": ["asr", "gender"]}, {"name": "second", "tasks": ["emotion"]}],
}


def write(run: Path, fold: str, stage: str, *lines: dict[str, float]) -> None:
    path = run / f"fold-{fold}" / "seed-0" / stage / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps({"epoch": n, **line}) + "\n" for n, line in enumerate(lines)))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for fold, cosines in (("1", (0.5, -0.1)), ("2", (0.1, -0.3))):
        first = [{"dev_word_accuracy": 0.5, "dev_gender_ua": 0.75, "cosine_asr_gender": cosine} for cosine in cosines]
        write(tmp_path, fold, "0-first", *first)
        write(tmp_path, fold, "1-second", {"dev_ua": 0.25}, {"dev_ua": 0.5})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "data.json").write_text(json.dumps({"tasks": [asdict(spec) for spec in SPECS]}))
    return tmp_path


def test_the_first_task_of_each_stage_has_its_own_name_again(run: Path) -> None:
    first, second = read_task_curves(run)
    assert {name: dict(series) for name, series in first.scores.items()} == {
        "asr: word accuracy": {0: [0.5, 0.5], 1: [0.5, 0.5]},
        "gender": {0: [0.75, 0.75], 1: [0.75, 0.75]},
    }
    assert {name: dict(series) for name, series in first.cosines.items()} == {
        "asr and gender": {0: [0.5, 0.1], 1: [-0.1, -0.3]}
    }
    assert {name: dict(series) for name, series in second.scores.items()} == {"emotion": {0: [0.25] * 2, 1: [0.5] * 2}}
    assert not second.cosines


def test_mean_cosines_and_how_often_they_conflict(run: Path) -> None:
    assert mean_cosines(read_task_curves(run)) == [("first", "asr and gender", pytest.approx(0.05), 0.5)]


def test_an_epoch_that_was_trained_twice_counts_once(run: Path) -> None:
    path = run / "fold-1" / "seed-0" / "1-second" / "metrics.jsonl"
    path.write_text("".join(f'{{"epoch": 0, "dev_ua": {score}}}\n' for score in (0.2, 0.75)) + '{"epoch": 1}\n')
    assert next(curve for curve in read_curves(run) if curve.stage == "second").dev_score[0] == 0.75
    assert read_task_curves(run)[1].scores["emotion"][0] == [0.75, 0.25]


def test_curves_of_a_broken_file_name_its_line(run: Path) -> None:
    path = run / "fold-2" / "seed-0" / "0-first" / "metrics.jsonl"
    path.write_text('{"epoch": 0, "dev_gender_ua": null}\n{"epo')
    with pytest.raises(RunError, match=r"metrics\.jsonl:2: not JSON"):
        read_task_curves(run)


def test_a_run_of_one_task_has_none(run: Path) -> None:
    (run / "data.json").write_text(json.dumps({"tasks": [asdict(SPECS[0])]}))
    assert read_task_curves(run) == []


def test_the_picture_has_a_row_for_each_stage(run: Path) -> None:
    figure = task_curves_picture(read_task_curves(run))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert len(titles) == 4
    assert titles[0] == "first: dev score of each task, per cent"
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["asr: word accuracy", "gender"]

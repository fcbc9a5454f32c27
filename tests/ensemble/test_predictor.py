"""Fusion files: what is written is read again, and what is wrong is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serein.ensemble.predictor import (
    Ensemble,
    EnsembleModel,
    EnsemblePredictor,
    FittedOn,
    read_ensemble,
    write_ensemble,
)
from serein.errors import ModelError


def fusion(folder: Path) -> Ensemble:
    return Ensemble(
        format=1,
        classes=("calm", "sad"),
        method="cobyla",
        models=(
            EnsembleModel(path=str(folder / "runs" / "a"), label="a", folders=("fold-1/seed-0/model",)),
            EnsembleModel(path=str(folder / "b.jsonl"), label="b", folders=()),
        ),
        weights=((0.25, 1.0), (0.75, 0.0)),
        fitted_on=FittedOn(split="dev", num_utterances=2, seen=("u1", "u2")),
        scores=({"label": "a", "macro_f1": 50.0},),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good fusion file, beside the systems that it names."""
    write_ensemble(fusion(tmp_path), tmp_path / "f.json")
    return tmp_path / "f.json"


def test_what_is_written_is_read_again(path: Path) -> None:
    assert read_ensemble(path) == fusion(path.parent)
    assert [model["path"] for model in json.loads(path.read_text())["models"]] == ["runs/a", "b.jsonl"]


def test_file_and_runs_may_move_together(path: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "f.json"
    moved.parent.mkdir()
    path.rename(moved)
    assert read_ensemble(moved).models[0].path == str(moved.parent / "runs" / "a")


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "another format": ({"format": 2}, "key 'format'"),
    "a missing key": ({"weights": None}, "key 'weights' is missing"),
    "an unknown key": ({"wieghts": []}, "key 'wieghts' is unknown"),
    "too few rows": ({"weights": [[1.0, 1.0]]}, "expected 2 rows, one per model, of 2 weights"),
    "a short row": ({"weights": [[1.0], [0.0, 0.0]]}, "expected 2 rows, one per model, of 2 weights"),
    "a negative weight": ({"weights": [[1.5, 1.0], [-0.5, 0.0]]}, "class 'calm' has a weight below 0"),
    "no number": ({"weights": [[float("nan"), 1.0], [0.5, 0.0]]}, "key 'weights': class 'calm'"),
    "another sum": ({"weights": [[0.5, 0.5], [0.5, 0.6]]}, "those of class 'sad' sum to 1.100000, not 1"),
    "words": ({"weights": [["much", 0.5], [0.5, 0.5]]}, "key 'weights.0.0'"),
    "a class twice": ({"classes": ["calm", "calm"]}, "a class twice"),
    "no models": ({"models": [], "weights": []}, "names no model"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file(name: str, path: Path) -> None:
    changes, says = BROKEN[name]
    content = {key: value for key, value in (json.loads(path.read_text()) | changes).items() if value is not None}
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError) as caught:
        read_ensemble(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "serein ensemble" in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "\x00", "3"])
def test_no_fusion_file(text: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(ModelError, match="is not an ensemble file"):
        read_ensemble(path)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such ensemble file"):
        read_ensemble(tmp_path / "f.json")


def test_models_that_are_not_there(path: Path) -> None:
    with pytest.raises(ModelError, match=r"names .*fold-1/seed-0/model, which does not exist"):
        EnsemblePredictor(path)


def test_prediction_files_predict_nothing(path: Path, tmp_path: Path) -> None:
    (tmp_path / "runs/a/fold-1/seed-0/model").mkdir(parents=True)
    with pytest.raises(ModelError, match="'b' is a prediction file"):
        EnsemblePredictor(path)

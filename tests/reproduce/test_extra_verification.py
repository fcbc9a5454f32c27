"""The further table of rows that answer who speaks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from serein.evaluation.predictions import Prediction, write_predictions
from serein.reproduce.extras import verification_tables
from serein.reproduce.table import Row
from serein.tasks.task import TaskSpec

APART = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
MIXED = np.ones((6, 3), np.float32)  # all alike: half of everything is wrong
SPEAKERS = ("anna", "anna", "ben", "ben", "carl", "carl")


def write_run(run: Path, folds: dict[str, np.ndarray], *, task: str = "speaker", seed: int = 0) -> Path:
    run.mkdir()
    (run / "data.json").write_text(json.dumps({"tasks": [asdict(TaskSpec(task, task, "classes"))]}))
    for fold, vectors in folds.items():
        folder = run / f"fold-{fold}" / f"seed-{seed}"
        predictions = [
            Prediction(id=str(i), truth=name, prediction=name, speaker=name, fold=fold, seed=seed)
            for i, name in enumerate(SPEAKERS)
        ]
        write_predictions(predictions, folder / "predictions.jsonl")
        save_file({"embeddings": vectors}, folder / "embeddings.safetensors")
    return run


def test_means_are_over_folds_of_means_over_seeds(tmp_path: Path) -> None:
    places = [
        write_run(tmp_path / "a", {"1": APART, "2": MIXED}),
        write_run(tmp_path / "b", {"1": MIXED, "2": MIXED}, seed=1),
    ]
    (extra,) = verification_tables([(Row(name="arcface", label="ArcFace"), places), (Row(name="unfinished"), [])])
    assert extra.title == "Speaker verification, in per cent: 15 pairs of test clips in a fold"
    expected = f"± {np.std([25, 50], ddof=1):.1f}"
    assert extra.rows == [["ArcFace", "37.5", expected, "–", "–"]]


def test_rows_that_answer_something_else_have_no_table(tmp_path: Path) -> None:
    place = write_run(tmp_path / "a", {"1": APART}, task="gender")
    assert verification_tables([(Row(name="a"), [place])]) == []

"""The further table of rows that answer who speaks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from cli_fixtures import Call, write_recipe
from serein.data import manifest
from serein.evaluation.predictions import EvalPrediction, write_predictions
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
            EvalPrediction(id=str(i), truth=name, prediction=name, speaker=name, fold=fold, seed=seed)
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


@pytest.mark.slow
def test_speakers_without_emotions_have_a_test_set(tones: Path, tmp_path: Path, serein: Call) -> None:
    """Table 2 of park2023: VoxCeleb1's official split says who speaks, and no emotion."""
    splits = ("train", "train", "dev", "test")
    said: dict[str | None, int] = {}
    utterances = []
    for u in manifest.read(tones):
        said[u.speaker] = said.get(u.speaker, -1) + 1
        utterances.append(u.model_copy(update={"emotion": None, "split": splits[said[u.speaker] % 4]}))
    manifest.write(utterances, tmp_path / "m.jsonl")
    tasks = {"emotion": None, "speaker": {"pooling": "mean"}}
    protocol = {"name": "official", "dev": "official", "speakers": "shared"}
    write_recipe(tmp_path / "r.yaml", {"tasks": tasks, "protocol": protocol}, {"epochs": 1})
    content = {"paper": "doe2020", "table": 2, "caption": "S.", "corpus": "T", "published_on": "test", "base": "r.yaml"}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({**content, "metric": "wa", "rows": [{"name": "one"}]}))
    call = ("reproduce", tmp_path / "t.yaml", "--data", tmp_path / "m.jsonl", "--out", tmp_path / "o", "--json")
    outcome = serein(*call, "--seeds", 1, "--jobs", 1)
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)["rows"][0]["ours"]

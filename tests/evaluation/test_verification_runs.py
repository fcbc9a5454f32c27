"""A run whose task is who speaks: equal error rates in its scores and its report, however many voices there are."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from serein.errors import RunError
from serein.evaluation.predictions import EvalPrediction, write_predictions
from serein.evaluation.report import write_report
from serein.evaluation.scores import score_predictions, score_run, write_scores
from serein.evaluation.tables import scores_table
from serein.evaluation.verification import run_verification
from serein.tasks.task import TaskSpec

VOICES = ("anna", "ben", "carl")
# anna and ben are told apart, carl's two clips lie on either side
VECTORS = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.2], [0.2, 1]], np.float32)


def write_unit(run: Path, fold: str, vectors: np.ndarray = VECTORS, threshold: float | None = None) -> None:
    speakers = [name for name in VOICES for _ in range(2)]
    predictions = [
        EvalPrediction(id=f"{fold}{i}", truth=name, prediction=name, speaker=name, fold=fold, corpus="toy")
        for i, name in enumerate(speakers)
    ]
    folder = run / f"fold-{fold}" / "seed-0"
    write_predictions(predictions, folder / "predictions.jsonl")
    save_file({"embeddings": vectors}, folder / "embeddings.safetensors")
    if threshold is not None:
        (folder / "model").mkdir()
        (folder / "model" / "model.json").write_text(json.dumps({"verification": {"threshold": threshold}}))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    tasks = {"emotion": None, "words": None, "speaker": {"loss": "cross-entropy"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"name": "voices", "tasks": tasks}, sort_keys=False))
    (tmp_path / "data.json").write_text(json.dumps({"tasks": [asdict(TaskSpec("speaker", "speaker", "classes"))]}))
    write_unit(tmp_path, "1", threshold=0.9)
    write_unit(tmp_path, "2", np.repeat(np.eye(3, dtype=np.float32), 2, axis=0))
    return tmp_path


def test_every_fold_is_paired_within_itself(run: Path) -> None:
    found = run_verification(run)
    assert found is not None
    assert [(u.fold, u.num_same, u.num_different, u.num_speakers) for u in found.units] == [
        ("1", 3, 12, 3),
        ("2", 3, 12, 3),
    ]
    assert found.units[1].equal_error_rate == 0.0
    assert found.mean == pytest.approx(found.units[0].equal_error_rate / 2)


def test_errors_at_the_models_own_threshold_by_hand(run: Path) -> None:
    """At 0.9 carl is missed; his clips are taken for two of anna's and two of ben's."""
    found = run_verification(run)
    assert found is not None
    assert (found.units[0].misses, found.units[0].false_alarms) == pytest.approx((100 / 3, 400 / 12))
    assert (found.units[1].threshold, found.units[1].misses) == (None, None)


def test_a_fold_without_a_model_of_its_own_uses_the_threshold_of_the_one_with_the_same_training(run: Path) -> None:
    folds = [{"name": name, "train": ["a"], "dev": ["b"], "test": [name]} for name in ("1", "2")]
    (run / "folds.json").write_text(json.dumps({"folds": folds}))
    found = run_verification(run)
    assert found is not None
    assert [unit.threshold for unit in found.units] == [0.9, 0.9]


@pytest.mark.slow
def test_scores_and_report_say_it(run: Path) -> None:
    scores = score_run(run)
    assert scores.verification is not None
    written = json.loads(write_scores(scores, run).read_text())
    assert written["verification"]["equal_error_rate"] == scores.verification.mean
    assert written["pooled"]["ua"] == written["pooled"]["wa"] == 100.0
    assert "Equal error rate of speaker verification, all pairs of test clips within a fold: " in written["notes"][0]
    page = write_report(run).read_text()
    assert "Speaker verification" in page
    assert "3 speakers" in page
    assert scores.verification.note in page


@pytest.mark.slow
def test_other_runs_say_nothing_of_voices(run: Path) -> None:
    specs = [TaskSpec("emotion", "emotion", "classes"), TaskSpec("speaker", "speaker", "classes")]
    (run / "data.json").write_text(json.dumps({"tasks": [asdict(spec) for spec in specs]}))
    assert run_verification(run) is None
    assert "verification" not in score_run(run).to_json()
    assert "Speaker verification" not in write_report(run).read_text()


def test_foreign_embeddings_are_refused(run: Path) -> None:
    save_file({"embeddings": VECTORS[:4]}, run / "fold-1" / "seed-0" / "embeddings.safetensors")
    with pytest.raises(RunError, match=r"embeddings of shape \(4, 2\) for 6 predictions"):
        run_verification(run)


@pytest.mark.slow
def test_hundreds_of_voices_have_intervals_over_their_utterances(tmp_path: Path) -> None:
    """Other speakers cannot be drawn where the classes are the speakers."""
    names = [f"id{number:05d}" for number in range(400)]
    others = [*names[1:], names[0]]
    predictions = [
        EvalPrediction(id=f"{name}{take}", truth=name, prediction=name if take else other, speaker=name, fold="1")
        for name, other in zip(names, others, strict=True)
        for take in range(4)
    ]
    scores = score_predictions(predictions, names)
    assert (scores.pooled["ua"], scores.pooled["wa"], scores.resampled) == (75, 75, "1600 utterances")
    low, high = scores.intervals["ua"] or (0.0, 0.0)
    assert 72 < low < 75 < high < 78
    assert [speaker.ua for speaker in scores.speakers] == [75.0] * 400
    assert scores.notes[0].startswith("The classes are the speakers: intervals resample utterances")
    assert scores.notes[1].startswith("100 % of the resamples lack a class with few utterances (")
    assert str(scores_table(scores).caption).startswith("Lowest recalls of 400 classes: id00000 75.0 · ")
    write_predictions(predictions, tmp_path / "fold-1" / "seed-0" / "predictions.jsonl")
    assert "predicted, of 400 classes" in write_report(tmp_path).read_text()

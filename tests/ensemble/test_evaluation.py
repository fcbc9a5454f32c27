"""Systems fused through the command line: judged where the weights were not fitted, and predicted together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from cli_fixtures import Call, Outcome, write_speech
from serein.data import manifest
from serein.data.files import sha256
from serein.ensemble.evaluation import EnsembleEvaluation, fit_ensemble
from serein.ensemble.predictor import (
    Ensemble,
    EnsembleModel,
    EnsemblePredictor,
    FittedOn,
    read_ensemble,
    write_ensemble,
)
from serein.evaluation.predictions import EvalPrediction, write_predictions
from serein.evaluation.scores import score_run
from serein.inference.predictor import load
from speech_sounds import voiced

CLASSES = ("calm", "sad")
Say = Mapping[str, bool]  # fold -> is right there


def of_fold(fold: str, is_right: bool, split: str = "test") -> list[EvalPrediction]:
    """Return what is content of two speakers' calm and sad utterances of a fold: all right, or all wrong."""
    predictions = []
    for speaker in (f"{split}{fold}a", f"{split}{fold}b"):
        for truth, other in (CLASSES, CLASSES[::-1]):
            prediction, unheard = (truth, other) if is_right else (other, truth)
            predictions.append(
                EvalPrediction(
                    id=f"{speaker}-{truth}",
                    truth=truth,
                    prediction=prediction,
                    probabilities={prediction: 0.8, unheard: 0.2},
                    speaker=speaker,
                    fold=fold,
                )
            )
    return predictions


def write_system(run: Path, test: Say, dev: Say | None = None) -> Path:
    """Write a run folder that is right on the test and dev sets of some folds, and wrong on the others."""
    for split, say in (("test", test), ("dev", dev or {})):
        name = "predictions.jsonl" if split == "test" else "dev_predictions.jsonl"
        for fold, is_right in say.items():
            write_predictions(of_fold(fold, is_right, split), run / f"fold-{fold}" / "seed-0" / name)
    return run


def evaluated(*paths: Path, method: str = "cobyla", split: Any = "test") -> EnsembleEvaluation:
    return fit_ensemble(paths, method=method, split=split, seed=0, report=lambda *progress: None)


def macro_f1(found: EnsembleEvaluation, kind: str) -> float:
    (score,) = (row.macro_f1 for row in found.rows if row.kind == kind)
    return score


# -- evaluation --------------------


def test_a_fold_never_fits_its_own_weights(tmp_path: Path) -> None:
    """Each system is right on one fold only; the other fold says: trust the other system. All is wrong then."""
    a = write_system(tmp_path / "a", {"1": True, "2": False})
    b = write_system(tmp_path / "b", {"1": False, "2": True})
    found = evaluated(a, b)
    assert found.fitted_by == "nested folds"
    assert macro_f1(found, "ensemble") == 0
    assert macro_f1(found, "in sample") == 50
    assert found.to_best["macro_f1"].difference == -0.5


def test_weights_are_fitted_to_dev_and_not_to_test(tmp_path: Path) -> None:
    """On dev the first is right, on test the second."""
    right, wrong = {"1": True, "2": True}, {"1": False, "2": False}
    a, b = write_system(tmp_path / "a", wrong, right), write_system(tmp_path / "b", right, wrong)
    found = evaluated(a, b)
    assert found.fitted_by == "dev"
    assert macro_f1(found, "ensemble") == 0
    assert (found.ensemble.weight_matrix[0] >= 0.5).all()
    assert found.ensemble.weight_matrix[0].max() > 0.5
    assert macro_f1(found, "in sample") == 100
    assert found.best == "b"
    assert found.ensemble.fitted_on.split == "dev"
    assert found.ensemble.fitted_on.seen == ("dev1a", "dev1b", "dev2a", "dev2b")


def test_dev_may_be_judged_by_itself(tmp_path: Path) -> None:
    right, wrong = {"1": True}, {"1": False}
    a, b = write_system(tmp_path / "a", wrong, right), write_system(tmp_path / "b", right, wrong)
    found = evaluated(a, b, split="dev")
    assert (found.split, found.fitted_by, found.best) == ("dev", "nested speakers", "a")
    assert macro_f1(found, "ensemble") == 100


def test_dev_of_some_is_passed_over_and_named(tmp_path: Path) -> None:
    both = {"1": True, "2": True}
    found = evaluated(write_system(tmp_path / "a", both, both), write_system(tmp_path / "b", both))
    assert found.fitted_by == "nested folds"
    assert "Not fitted on dev: b has no dev predictions." in found.notes
    other = write_system(tmp_path / "c", both, {"1": True})
    assert any("where the systems differ" in note for note in evaluated(tmp_path / "a", other).notes)


def test_each_system_scores_as_by_itself(finished_runs: tuple[Path, Path]) -> None:
    found = evaluated(*finished_runs, method="mean")
    for row, run in zip(found.rows, finished_runs, strict=False):
        scores = score_run(run)
        assert {"ua": row.ua, "wa": row.wa, "macro_f1": row.macro_f1} == pytest.approx(scores.pooled)
        assert row.f1 == pytest.approx({score.name: score.f1 for score in scores.by_class})


@pytest.fixture
def finished_runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two run folders with predictions made up at random, half right."""
    return (_random_run(tmp_path / "a", 0), _random_run(tmp_path / "b", 1))


def _random_run(run: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for fold in "12":
        predictions = []
        for right in [p for take in "xyz" for p in _takes(of_fold(fold, True), take)]:
            calm = float(np.clip((0.6 if right.truth == "calm" else 0.4) + rng.normal(0, 0.3), 0.01, 0.99))
            prediction = "calm" if calm > 0.5 else "sad"
            predictions.append(replace(right, prediction=prediction, probabilities={"calm": calm, "sad": 1 - calm}))
        write_predictions(predictions, run / f"fold-{fold}" / "seed-0" / "predictions.jsonl")
    return run


def _takes(predictions: Sequence[EvalPrediction], take: str) -> list[EvalPrediction]:
    return [replace(p, id=f"{p.id}-{take}") for p in predictions]


# -- the command --------------------


@pytest.mark.slow
def test_it_explains_itself(serein: Call) -> None:
    outcome = serein("ensemble", "--help")
    assert (outcome.status, outcome.err) == (0, "")
    assert "Usage: serein ensemble" in outcome.out


def test_table(finished_runs: tuple[Path, Path], serein: Call) -> None:
    outcome = serein("ensemble", *finished_runs)
    assert outcome.status == 0
    for words in (
        "macro-F1",
        "calm",
        "mean of all",
        "ensemble (cobyla)",
        "ensemble, in sample (optimistic)",
        "(nested folds)",
    ):
        assert words in outcome.out
    assert "which favours it" in outcome.out
    assert "95 % interval [" in outcome.out
    assert "weights for fold 1" in outcome.err


@pytest.mark.slow
def test_json_and_file_say_the_same(finished_runs: tuple[Path, Path], tmp_path: Path, serein: Call) -> None:
    path = tmp_path / "out" / "ensemble.json"
    outcome = serein("ensemble", *finished_runs, "--json", "-o", path)
    content, kept = json.loads(outcome.out), read_ensemble(path)
    assert [row["kind"] for row in content["rows"]] == ["system", "system", "mean", "ensemble", "in sample"]
    assert list(kept.scores) == content["rows"]
    assert [list(row.values()) for row in content["weights"].values()] == [list(row) for row in kept.weights]
    assert [Path(model.path).resolve() for model in kept.models] == list(finished_runs)
    assert kept.fitted_on == FittedOn(split="test", num_utterances=24, seen=("test1a", "test1b", "test2a", "test2b"))
    assert serein("ensemble", *finished_runs, "--json").out == outcome.out


def test_mean(finished_runs: tuple[Path, Path], serein: Call) -> None:
    content = json.loads(serein("ensemble", *finished_runs, "--method", "mean", "--json").out)
    assert [row["kind"] for row in content["rows"]] == ["system", "system", "ensemble"]
    assert content["weights"] == {"a": {"calm": 0.5, "sad": 0.5}, "b": {"calm": 0.5, "sad": 0.5}}
    assert content["ensemble_minus_mean"] is None


def test_given_weights(finished_runs: tuple[Path, Path], tmp_path: Path, serein: Call) -> None:
    """Told by name, whatever their order; on what they were fitted to, that is content."""
    a, b = finished_runs
    path = tmp_path / "ensemble.json"
    kept = json.loads(serein("ensemble", a, b, "--json", "-o", path).out)
    content = json.loads(serein("ensemble", b, a, "--json", "--method", path).out)
    assert content["weights"] == kept["weights"]
    fitted = next(row for row in kept["rows"] if row["kind"] == "in sample")
    given = next(row for row in content["rows"] if row["kind"] == "ensemble")
    assert given["macro_f1"] == pytest.approx(fitted["macro_f1"])
    assert any(note.startswith("IN SAMPLE, optimistic: ") for note in content["notes"])


def test_given_weights_of_systems_with_other_names(finished_runs: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "ensemble.json"
    write_ensemble(evaluated(*finished_runs).ensemble, path)
    renamed = finished_runs[1].rename(tmp_path / "c")
    found = evaluated(finished_runs[0], renamed, method=str(path))
    assert "Weights are matched by order: a for a, b for c." in found.notes


@pytest.mark.slow
def test_bad_input(finished_runs: tuple[Path, Path], tmp_path: Path, serein: Call) -> None:
    a, b = finished_runs
    path = tmp_path / "ensemble.json"
    write_ensemble(evaluated(a, b).ensemble, path)
    (tmp_path / "empty").mkdir()
    three = write_system(tmp_path / "three", {"1": True, "2": True, "3": True})
    third = tmp_path / "third.jsonl"
    write_predictions([p for fold in "12" for p in of_fold(fold, True)], third)
    for arguments, says in (
        ([a], "a single system cannot be combined"),
        ([a, a], "is given twice"),
        ([a, tmp_path / "none"], "no such prediction file"),
        ([a, tmp_path / "empty"], "contains no predictions"),
        ([a, three], "has the folds 1, 2, 3, and a 1, 2"),
        ([a, third], "lacks 24 utterances that a predicted"),
        ([a, b, "--split", "dev"], "contains no dev predictions"),
        (
            [a, b, "--method", "median"],
            "unknown method 'median', expected one of: cobyla, mean, an ensemble file (.json)",
        ),
        ([a, b, "--method", tmp_path / "no.json"], "no such ensemble file"),
        ([three, write_system(tmp_path / "x", {"1": True}), "--method", path], "has the folds 1"),
    ):
        assert says in _refused(serein("ensemble", *arguments, "-o", tmp_path / "new.json"))
    assert not (tmp_path / "new.json").exists()


def test_weights_of_another_number_of_systems(finished_runs: tuple[Path, Path], tmp_path: Path, serein: Call) -> None:
    path = tmp_path / "ensemble.json"
    write_ensemble(evaluated(*finished_runs).ensemble, path)
    c = _random_run(tmp_path / "c", 2)
    assert "it has weights for 2 systems, but 3 are named" in _refused(
        serein("ensemble", *finished_runs, c, "--method", path)
    )


def _refused(outcome: Outcome) -> str:
    assert (outcome.status, outcome.out) == (1, "")
    return outcome.complaint


# -- predicted together --------------------


@pytest.fixture
def ensemble(tiny_run: Path, tmp_path: Path) -> Path:
    """An ensemble file: the model of the first fold, and the mean of both folds' models."""
    first, second = (f"fold-{number}/seed-0/model" for number in (1, 2))
    classes = load(tiny_run / first).classes
    content = Ensemble(
        format=1,
        classes=classes,
        method="cobyla",
        models=(
            EnsembleModel(path=str(tiny_run), label="one", folders=(first,)),
            EnsembleModel(path=str(tiny_run), label="both", folders=(first, second)),
        ),
        weights=((0.9, 0.5, 0.0), (0.1, 0.5, 1.0)),
        fitted_on=FittedOn(split=None, num_utterances=0, seen=()),
        scores=(),
    )
    write_ensemble(content, tmp_path / "ensemble.json")
    return tmp_path / "ensemble.json"


def test_predict_is_the_weighted_mean(ensemble: Path, tiny_run: Path, tones: Path, serein: Call) -> None:
    outcome = serein("predict", "--ensemble", ensemble, tones, "--max-files", 3, "--json")
    assert outcome.status == 0
    predictions = [json.loads(line) for line in outcome.out.splitlines()]
    utterances = manifest.read(tones)[::12]
    assert [prediction["id"] for prediction in predictions] == [utterance.id for utterance in utterances]
    models = [load(tiny_run / f"fold-{number}" / "seed-0" / "model") for number in (1, 2)]
    for utterance, prediction in zip(utterances, predictions, strict=True):
        first, second = (np.array(list(model.predict(utterance).probabilities.values())) for model in models)
        weighted = np.array([0.9, 0.5, 0.0]) * first + np.array([0.1, 0.5, 1.0]) * (first + second) / 2
        probabilities = prediction["probabilities"]
        assert list(probabilities.values()) == pytest.approx((weighted / weighted.sum()).tolist(), abs=1e-5)
        assert prediction["label"] == max(probabilities, key=probabilities.__getitem__)
        assert prediction["model"] == {"name": "ensemble.json", "sha256": sha256(ensemble)}


def test_predict_in_other_forms(ensemble: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    call = ("predict", tones, "--ensemble", ensemble, "--max-files", 2)
    assert serein(*call, "--csv").out.startswith("file,id,start_s,end_s,label,confidence,rejected,angry")
    assert "prediction" in serein(*call).out
    assert serein(*call, "--out", tmp_path / "p.jsonl").status == 0
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_recordings_are_cut_into_segments(ensemble: Path, tmp_path: Path, serein: Call) -> None:
    path = tmp_path / "call.wav"
    rng = np.random.default_rng(0)
    soundfile.write(path, np.concatenate([voiced(1.5, rng), np.zeros(16_000), voiced(1.5, rng, 230.0)]), 16_000)
    call = ("predict", path, "--ensemble", ensemble)
    prediction = json.loads(serein(*call, "--json").out)
    assert [round(each["end_s"] - each["start_s"]) for each in prediction["segments"]] == [2, 2]
    labelled = serein(*call, "--format", "audacity", "--plot", tmp_path / "call.png")
    assert len(labelled.out.splitlines()) == 2
    assert (tmp_path / "call.png").read_bytes().startswith(b"\x89PNG")
    stream = EnsemblePredictor(ensemble, "cpu").stream()
    stream.feed(soundfile.read(path, dtype="float32")[0])
    stream.finish()
    assert stream.prediction.probabilities == pytest.approx(prediction["probabilities"], abs=1e-5)


def test_all_models_move_to_a_device(ensemble: Path) -> None:
    predictor = EnsemblePredictor(ensemble, "cpu").to("meta")
    assert {str(member.device) for members in predictor.members for member in members} == {"meta"}


def test_predict_passes_over_what_cannot_be_read(ensemble: Path, tmp_path: Path, serein: Call) -> None:
    good, bad = write_speech(tmp_path / "good.wav"), tmp_path / "bad.wav"
    bad.write_text("no audio")
    outcome = serein("predict", "--ensemble", ensemble, bad, good, "--json")
    assert outcome.status == 1
    assert json.loads(outcome.out)["file"] == str(good)
    assert str(bad) in outcome.complaint


def test_predict_with_bad_fusions(ensemble: Path, tones: Path, tmp_path: Path, serein: Call) -> None:
    assert "no such ensemble file" in _refused(serein("predict", "--ensemble", tmp_path / "no.json", tones))
    content = json.loads(ensemble.read_text())
    ensemble.write_text(json.dumps(content | {"classes": ["angry", "happy", "bored"]}))
    assert "Fit the ensemble again: the model has changed" in _refused(
        serein("predict", "--ensemble", ensemble, tones, "--max-files", 1)
    )
    ensemble.write_text(json.dumps({key: value for key, value in content.items() if key != "models"}))
    assert "key 'models' is missing" in _refused(serein("predict", "--ensemble", ensemble, tones))


def test_predict_without_recordings(tiny_run: Path, serein: Call) -> None:
    outcome = serein("predict", "--model", tiny_run / "fold-1" / "seed-0" / "model")
    assert (outcome.status, outcome.out) == (2, "")
    assert "Missing argument" in outcome.err

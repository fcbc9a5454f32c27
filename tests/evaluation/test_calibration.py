"""Temperatures beside scipy and scikit-learn, on logits of which the right one is known, and in run folders."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss as sklearn_log_loss

from evaluation.conftest import CLASSES, fake_predictions, write_run
from serein.evaluation.calibration import (
    BOUNDS,
    coverage_curve,
    fit_temperature,
    fitted_temperature,
    model_calibration,
    run_calibration,
    with_temperature,
)
from serein.evaluation.predictions import EvalPrediction, read_predictions, write_predictions
from serein.evaluation.report import write_report
from serein.evaluation.scores import score_run
from serein.metrics import log_loss, tempered


def drawn(temperature: float, count: int = 4000, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return logits, and truths drawn as softmax(logits / temperature) promises."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (count, classes))
    probabilities = softmax(logits / temperature, axis=1)
    return logits, (probabilities.cumsum(axis=1) > rng.uniform(size=(count, 1))).argmax(axis=1)


def test_tempered_probabilities_are_a_softmax_of_logits_over_the_temperature() -> None:
    logits = np.random.default_rng(0).normal(0, 4, (50, 6))
    for temperature in (0.3, 1.0, 2.5):
        expected = softmax(logits / temperature, axis=1)
        np.testing.assert_allclose(tempered(softmax(logits, axis=1), temperature), expected, atol=1e-12)


def test_tempering_changes_no_answer_and_survives_zeros() -> None:
    probabilities = np.array([[1.0, 0.0, 0.0], [0.2, 0.5, 0.3]], np.float32)
    for temperature in BOUNDS:
        result = tempered(probabilities, temperature)
        assert result.dtype == np.float32
        assert result.argmax(axis=1).tolist() == [0, 1]
        np.testing.assert_allclose(result.sum(axis=1), 1.0, atol=1e-6)


def test_log_loss_is_scikit_learns() -> None:
    logits, truth = drawn(1.0, 200)
    probabilities = softmax(logits, axis=1)
    assert log_loss(truth, probabilities) == pytest.approx(sklearn_log_loss(truth, probabilities, labels=range(5)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_the_temperature_is_found(temperature: float) -> None:
    logits, truth = drawn(temperature)
    found = fit_temperature(truth, softmax(logits, axis=1))
    assert found == pytest.approx(temperature, rel=0.1)

    def loss(log_temperature: np.ndarray) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature[0]), axis=1)[np.arange(len(truth)), truth].mean())

    independent = np.exp(minimize(loss, [0.0], method="Nelder-Mead", options={"xatol": 1e-6}).x[0])
    assert found == pytest.approx(independent, rel=1e-3)


def test_what_is_always_right_stays_within_bounds() -> None:
    assert fit_temperature(np.zeros(30, np.int64), np.tile([0.6, 0.4], (30, 1))) == pytest.approx(BOUNDS[0], rel=1e-3)


def test_too_few_predictions_fit_nothing() -> None:
    predictions, _ = fake_predictions(["01"], "1", 0)
    assert fitted_temperature(predictions[:19], CLASSES) is None
    assert fitted_temperature(predictions, CLASSES) is not None
    bare = [dataclasses.replace(p, probabilities=None) for p in predictions]
    assert fitted_temperature(bare, CLASSES) is None


def test_coverage_by_hand() -> None:
    curve = coverage_curve(np.array([0.5, 0.9, 0.7, 0.6]), np.array([False, True, False, True]))
    rows = [(point.coverage, point.accuracy, point.min_confidence) for point in curve]
    assert rows == [(25, 100, 0.9), (50, 50, 0.7), (75, pytest.approx(200 / 3), 0.6), (100, 50, 0.5)]


@pytest.mark.slow
def test_a_run_without_dev_is_calibrated_by_its_other_folds(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", seeds=(0,), with_embeddings=False)
    scores = score_run(run)
    found = scores.calibration
    assert found is not None
    assert found.after is not None
    assert (found.fitted_on, len(found.temperatures), found.is_applied) == ("other folds", 6, False)
    assert found.coverage[-1].min_confidence == found.probabilities.max(axis=1).min()
    assert found.after.log_loss < found.before.log_loss
    others = [p for n in range(2, 7) for p in read_predictions(run / f"fold-{n}" / "seed-0" / "predictions.jsonl")]
    fitted = fitted_temperature(others, CLASSES)
    assert fitted is not None
    assert found.temperatures["fold 1, seed 0"] == pytest.approx(fitted.temperature)
    assert json.loads(json.dumps(scores.to_json()))["calibration"]["coverage"][-1]["coverage"] == 100


def test_dev_comes_before_other_folds(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", seeds=(0,), num_folds=2, with_embeddings=False)
    for number in (1, 2):
        dev, _ = fake_predictions(["30", "31"], "dev", number)
        write_predictions(
            [dataclasses.replace(p, fold=str(number), seed=0) for p in dev],
            run / f"fold-{number}" / "seed-0" / "dev_predictions.jsonl",
        )
    found = score_run(run).calibration
    assert found is not None
    assert found.fitted_on == "dev"
    dev = read_predictions(run / "fold-2" / "seed-0" / "dev_predictions.jsonl")
    fitted = fitted_temperature(dev, CLASSES)
    assert fitted is not None
    assert fitted.helps
    assert found.temperatures["fold 2, seed 0"] == pytest.approx(fitted.temperature)


@pytest.mark.slow
def test_one_fold_without_dev_is_judged_as_it_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", seeds=(0,), num_folds=1, with_embeddings=False)
    found = score_run(run).calibration
    assert found is not None
    assert (found.fitted_on, found.after, found.temperatures) == (None, None, {})
    assert "Accuracy against coverage" in write_report(run).read_text(encoding="utf-8")


def test_no_probabilities_no_calibration(tmp_path: Path) -> None:
    predictions = [EvalPrediction(id=str(n), truth="sad", prediction="sad") for n in range(30)]
    assert run_calibration(tmp_path, predictions, ["sad"]) is None
    assert model_calibration(predictions, ["sad"], 2.0) is None


@pytest.mark.slow
def test_the_report_shows_both_sides(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run", with_embeddings=False)).read_text(encoding="utf-8")
    assert "as predicted: error" in page
    assert "with temperatures (not applied): error" in page
    text = " ".join(page.split())
    assert "fitted to the test predictions of the other folds, would rescale probabilities" in text
    assert "The run&#39;s models do not use them." in text


def test_a_models_own_temperature() -> None:
    predictions, _ = fake_predictions(["01", "02"], "1", 0)
    found = model_calibration(predictions, CLASSES, 2.0)
    assert found is not None
    assert (found.fitted_on, found.is_applied) == ("model", True)
    softened = with_temperature(predictions, 2.0)
    again = model_calibration(softened, CLASSES, None)
    assert again is not None
    assert found.after is not None
    assert again.before.log_loss == pytest.approx(found.after.log_loss)
    assert [p.prediction for p in softened] == [p.prediction for p in predictions]


def rows(speakers: Sequence[str], temperature_of: Mapping[str, float], count: int = 100) -> list[EvalPrediction]:
    """Return predictions of speakers, each of whom is right as softmax(logits / temperature) promises."""
    predictions = []
    for speaker in speakers:
        logits, truth = drawn(temperature_of[speaker], count, len(CLASSES))
        for number, (row, true) in enumerate(zip(softmax(logits, axis=1), truth, strict=True)):
            probabilities = dict(zip(CLASSES, row.tolist(), strict=True))
            said = {"truth": CLASSES[true], "prediction": CLASSES[row.argmax()], "probabilities": probabilities}
            predictions.append(EvalPrediction(id=f"{speaker}-{number}", speaker=speaker, **said))
    return predictions


def test_a_temperature_is_judged_on_speakers_that_it_was_not_fitted_to() -> None:
    alike = fitted_temperature(rows("abcd", dict.fromkeys("abcd", 3.0)), CLASSES)
    assert alike is not None
    assert alike.helps
    assert alike.held_out == "4 speakers"
    contrary = rows("ab", {"a": 0.25, "b": 4.0})  # what is right for one is wrong for the other
    found = fitted_temperature(contrary, CLASSES)
    assert found is not None
    assert not found.helps
    assert "on 2 speakers that it was not fitted to" in str(found)
    nobody = fitted_temperature([dataclasses.replace(p, speaker=None) for p in contrary], CLASSES)
    assert nobody is not None
    assert nobody.held_out == "utterances"


def test_parts_of_many_speakers_are_held_out_together() -> None:
    found = fitted_temperature(rows([f"{n}" for n in range(25)], {f"{n}": 2.0 for n in range(25)}, 4), CLASSES)
    assert found is not None
    assert found.held_out == "25 speakers"


@pytest.mark.parametrize(("of_dev", "of_test", "says"), [(3.0, 3.0, "rescale"), (3.0, 0.5, "none is applied")])
def test_a_temperature_that_makes_the_test_set_worse_is_not_applied(
    of_dev: float, of_test: float, says: str, tmp_path: Path
) -> None:
    dev, test = (rows("abcd", dict.fromkeys("abcd", value)) for value in (of_dev, of_test))
    unit = tmp_path / "fold-1" / "seed-0"
    write_predictions([dataclasses.replace(p, fold="1", seed=0) for p in dev], unit / "dev_predictions.jsonl")
    test = [dataclasses.replace(p, fold="1", seed=0) for p in test]
    write_predictions(test, unit / "predictions.jsonl")
    found = run_calibration(tmp_path, test, CLASSES)
    assert found is not None
    assert found.is_applied is (says == "rescale")
    assert says in str(found)
    shown = found.calibrated if found.is_applied else found.probabilities
    assert found.coverage[-1].min_confidence == shown.max(axis=1).min()


def test_temperatures_that_dev_declines_are_1(tmp_path: Path) -> None:
    dev = [dataclasses.replace(p, fold="1", seed=0) for p in rows("ab", {"a": 0.25, "b": 4.0})]
    unit = tmp_path / "fold-1" / "seed-0"
    write_predictions(dev, unit / "dev_predictions.jsonl")
    write_predictions(dev, unit / "predictions.jsonl")
    found = run_calibration(tmp_path, dev, CLASSES)
    assert found is not None
    assert found.temperatures == {"fold 1, seed 0": 1.0}
    assert str(found).startswith("No temperature is applied: on dev speakers")

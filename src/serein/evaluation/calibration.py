"""Calibration of probabilities: temperatures fitted on held-out predictions, errors before and after, coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serein.evaluation.predictions import EvalPrediction, class_names, has_test_set, read_run_predictions
from serein.metrics import FloatArray, expected_calibration_error, log_loss, tempered

FEWEST_TO_FIT = 20
MOST_PARTS = 10
BOUNDS = (0.05, 20.0)
_NUM_POINTS = 20
_TIE = 1e-9

FittedOn = Literal["dev", "other folds", "model"]
FoldSeed = tuple[str, int]  # fold, seed


@dataclass(frozen=True)
class CalibrationErrors:
    """Calibration errors of predictions.

    Attributes:
        expected_calibration_error: In per cent (Guo 2017, equation 3, ten bins).
        log_loss: Mean of -ln(probability of the true class).
    """

    expected_calibration_error: float
    log_loss: float

    def is_worse_than(self, other: CalibrationErrors) -> bool:
        """Return whether either error is larger."""
        return (
            self.expected_calibration_error > other.expected_calibration_error + _TIE or self.log_loss > other.log_loss
        )


@dataclass(frozen=True)
class TemperatureFit:
    """A temperature, and its effect on predictions that it was not fitted to.

    Attributes:
        temperature: Fitted to all predictions.
        before: Errors of the probabilities as predicted.
        after: Errors when each part is calibrated with a temperature fitted to the others.
        held_out: The parts, for example "12 speakers", or "utterances" if fewer than two speakers are named.
    """

    temperature: float
    before: CalibrationErrors
    after: CalibrationErrors
    held_out: str

    @property
    def helps(self) -> bool:
        """Whether neither error grows on the held-out parts."""
        return not self.after.is_worse_than(self.before)

    def __str__(self) -> str:
        """Return the temperature and its effect as a sentence without a full stop."""
        on = f"on {self.held_out} that it was not fitted to"
        return f"a temperature of {self.temperature:.2f}, {on}: {_change(self.before, self.after)}"


@dataclass(frozen=True)
class CoveragePoint:
    """Accuracy when only the most confident predictions are kept, in per cent.

    Attributes:
        coverage: Percentage of predictions that are kept.
        accuracy: Percentage of those that are correct (WA).
        min_confidence: The confidence, 0 to 1, below which predictions are rejected.
    """

    coverage: float
    accuracy: float
    min_confidence: float


@dataclass(frozen=True)
class RunCalibration:
    """Calibration of a run's probabilities.

    Attributes:
        fitted_on: The data that each temperature was fitted on: the fold's own dev or the test predictions of the other
            folds; or the model's own temperature; `None` if nothing was fitted.
        temperatures: "fold 1, seed 0" -> temperature; 1 where it would have worsened the calibration on dev speakers
            that it was not fitted to.
        before: Errors of the probabilities as predicted.
        after: Errors of the calibrated probabilities; `None` if nothing was fitted.
        coverage: Accuracy against coverage, for the probabilities that models predict.
        truth: ``(rows,)`` class numbers.
        probabilities: ``(rows, classes)`` as predicted.
        calibrated: ``(rows, classes)`` tempered if a temperature was fitted.
    """

    fitted_on: FittedOn | None
    temperatures: dict[str, float]
    before: CalibrationErrors
    after: CalibrationErrors | None
    coverage: tuple[CoveragePoint, ...]
    truth: NDArray[np.int64]
    probabilities: FloatArray
    calibrated: FloatArray

    @property
    def is_applied(self) -> bool:
        """Whether models use these temperatures.

        A run's models do not if calibration on its test sets gets worse; those fitted to other folds are no model's.
        """
        is_better = self.after is not None and not self.after.is_worse_than(self.before)
        return self.fitted_on == "model" or (self.fitted_on == "dev" and is_better)

    def __str__(self) -> str:
        """Return sentences on what was fitted, its effect, and whether it is applied; empty if nothing was fitted."""
        if self.after is None:
            return ""
        declined = [name for name, temperature in self.temperatures.items() if temperature == 1.0]
        of_dev = "" if self.fitted_on == "other folds" else "dev "
        why = f"on {of_dev}speakers that it was not fitted to, the temperature made calibration worse"
        if len(declined) == len(self.temperatures):
            return f"No temperature is applied: {why}."
        but = f" None in {', '.join(declined)}: {why}." if declined else ""
        values = ", ".join(f"{value:.2f}" for value in list(self.temperatures.values())[:10])
        origin = {
            "dev": "its dev set",
            "other folds": "the test predictions of the other folds",
            "model": "its dev set",
        }
        fitted = f"Temperatures ({values}), each fitted to {origin[self.fitted_on or 'dev']}"
        effect = _change(self.before, self.after)
        if self.fitted_on == "other folds":
            return f"{fitted}, would rescale probabilities: {effect}.{but} The run's models do not use them."
        if not self.is_applied:
            why = "make calibration worse, so none is applied"
            return f"{fitted}, {why}: {effect}. Only this decision uses the test sets; no label depends on it."
        return f"{fitted}, rescale probabilities: {effect}.{but}"

    def to_json(self) -> dict[str, Any]:
        """Return the entry of scores.json."""
        return {
            "fitted_on": self.fitted_on,
            "temperatures": self.temperatures,
            "before": asdict(self.before),
            "after": None if self.after is None else asdict(self.after),
            "is_applied": self.is_applied,
            "coverage": [asdict(point) for point in self.coverage],
        }


def fit_temperature(truth: NDArray[np.int64], probabilities: FloatArray) -> float:
    """Return the temperature with the smallest log loss within `BOUNDS`.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. The loss is convex in the
    inverse temperature, so the minimum found is the only one.

    Args:
        truth: ``(utterances,)`` class numbers.
        probabilities: ``(utterances, classes)``.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda inverse: log_loss(truth, tempered(probabilities, 1.0 / inverse)),
        bounds=(1.0 / BOUNDS[1], 1.0 / BOUNDS[0]),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(1.0 / found.x)


def fitted_temperature(predictions: Sequence[EvalPrediction], classes: Sequence[str]) -> TemperatureFit | None:
    """Return the temperature of predictions and its effect; `None` if too few have truth and probabilities.

    It is evaluated on speakers that it was not fitted to, in at most `MOST_PARTS` parts; on utterances if fewer than
    two speakers are named.
    """
    fitted = _with_probabilities(predictions)
    truth, probabilities = _columns(fitted, classes)
    if len(truth) < FEWEST_TO_FIT:
        return None
    speakers = {key: number for number, key in enumerate(dict.fromkeys((p.corpus, p.speaker) for p in fitted))}
    by_speaker = len(speakers) > 1
    part = np.array([speakers[p.corpus, p.speaker] if by_speaker else row for row, p in enumerate(fitted)]) % MOST_PARTS
    calibrated = probabilities.copy()
    for number in np.unique(part):
        own = part == number
        calibrated[own] = tempered(probabilities[own], fit_temperature(truth[~own], probabilities[~own]))
    before, after = (_errors(truth, each) for each in (probabilities, calibrated))
    held_out = f"{len(speakers)} speakers" if by_speaker else "utterances"
    return TemperatureFit(fit_temperature(truth, probabilities), before, after, held_out)


def run_calibration(
    run: Path, predictions: Sequence[EvalPrediction], classes: Sequence[str] | None
) -> RunCalibration | None:
    """Score the calibration of a run; each fold's temperature is fitted on its dev, or else on the other folds.

    Returns:
        `None` when no prediction has truth and probabilities.
    """
    scored = _with_probabilities(predictions)
    if not scored:
        return None
    names = tuple(classes or class_names(scored))
    dev = read_run_predictions(run, classes, "dev") if has_test_set(run) else []  # not fitted on the scored set
    keys = list(dict.fromkeys((p.fold, p.seed) for p in scored))
    dev_of: dict[FoldSeed, list[EvalPrediction]] = {key: [] for key in keys}
    for prediction in _with_probabilities(dev):
        dev_of.setdefault((prediction.fold, prediction.seed), []).append(prediction)
    fit_on: FittedOn = "dev"
    temperatures = _fitted_each({key: dev_of[key] for key in keys}, names)
    if not temperatures:
        fit_on, others = "other folds", {}
        for fold, seed in keys:  # the same seed in other folds, of utterances that are not in this one
            inside = {p.id for p in scored if p.fold == fold}
            others[fold, seed] = [p for p in scored if p.fold != fold and p.seed == seed and p.id not in inside]
        temperatures = _fitted_each(others, names)
    truth, probabilities = _columns(scored, names)
    if not temperatures:
        return _calibration_of(None, {}, truth, probabilities, probabilities)
    of_rows = np.array([temperatures[p.fold, p.seed] for p in scored])
    named = {f"fold {fold}, seed {seed}": value for (fold, seed), value in temperatures.items()}
    return _calibration_of(fit_on, named, truth, probabilities, tempered(probabilities, of_rows[:, None]))


def model_calibration(
    predictions: Sequence[EvalPrediction], classes: Sequence[str], temperature: float | None
) -> RunCalibration | None:
    """Score the calibration of one model on new data, with the model's own temperature if it has one.

    Returns:
        `None` when no prediction has truth and probabilities.
    """
    scored = _with_probabilities(predictions)
    if not scored:
        return None
    truth, probabilities = _columns(scored, classes)
    if temperature is None:
        return _calibration_of(None, {}, truth, probabilities, probabilities)
    return _calibration_of("model", {"model": temperature}, truth, probabilities, tempered(probabilities, temperature))


def with_temperature(predictions: Sequence[EvalPrediction], temperature: float) -> list[EvalPrediction]:
    """Return predictions with calibrated probabilities; those without probabilities are unchanged."""
    return [
        p
        if p.probabilities is None
        else replace(
            p,
            probabilities=dict(
                zip(p.probabilities, tempered(np.array([*p.probabilities.values()]), temperature).tolist(), strict=True)
            ),
        )
        for p in predictions
    ]


def coverage_curve(confidence: FloatArray, is_correct: NDArray[np.bool_]) -> tuple[CoveragePoint, ...]:
    """Return the accuracy of the most confident predictions, for 20 fractions from few to all.

    Source: Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural Networks", the risk-coverage curve.

    Example:
        >>> curve = coverage_curve(np.array([0.9, 0.8, 0.6, 0.5]), np.array([True, True, False, True]))
        >>> [(point.coverage, point.accuracy, point.min_confidence) for point in curve][-2:]
        [(75.0, 66.66666666666667, 0.6), (100.0, 75.0, 0.5)]
    """
    order = np.argsort(-confidence, kind="stable")
    num_right = np.cumsum(is_correct[order])
    counts = sorted({max(1, round(len(order) * step / _NUM_POINTS)) for step in range(1, _NUM_POINTS + 1)})
    return tuple(
        CoveragePoint(
            float(100 * count / len(order)),
            float(100 * num_right[count - 1] / count),
            float(confidence[order[count - 1]]),
        )
        for count in counts
    )


def _calibration_of(
    fit_on: FittedOn | None,
    temperatures: dict[str, float],
    truth: NDArray[np.int64],
    probabilities: FloatArray,
    calibrated: FloatArray,
) -> RunCalibration:
    before, after = _errors(truth, probabilities), _errors(truth, calibrated)
    own = None if fit_on is None else after
    found = RunCalibration(fit_on, temperatures, before, own, (), truth, probabilities, calibrated)
    shown = calibrated if found.is_applied else probabilities
    return replace(found, coverage=coverage_curve(shown.max(axis=1), shown.argmax(axis=1) == truth))


def _change(before: CalibrationErrors, after: CalibrationErrors) -> str:
    errors = "expected calibration error {:.1f} points before, {:.1f} after; log loss {:.3f} before, {:.3f} after"
    return errors.format(
        before.expected_calibration_error, after.expected_calibration_error, before.log_loss, after.log_loss
    )


def _errors(truth: NDArray[np.int64], probabilities: FloatArray) -> CalibrationErrors:
    error = expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth)
    return CalibrationErrors(100 * error, log_loss(truth, probabilities))


def _with_probabilities(predictions: Sequence[EvalPrediction]) -> list[EvalPrediction]:
    return [p for p in predictions if p.truth is not None and p.probabilities is not None]


def _fitted_each(
    predictions: Mapping[FoldSeed, Sequence[EvalPrediction]], classes: Sequence[str]
) -> dict[FoldSeed, float] | None:
    """Return the temperature of every fold and seed; `None` if any has too few predictions to fit."""
    temperatures: dict[FoldSeed, float] = {}
    for key, some in predictions.items():
        found = fitted_temperature(some, classes)
        if found is None:
            return None
        temperatures[key] = found.temperature if found.helps else 1.0
    return temperatures


def _columns(predictions: Sequence[EvalPrediction], classes: Sequence[str]) -> tuple[NDArray[np.int64], FloatArray]:
    index = {name: number for number, name in enumerate(classes)}
    truth = np.array([index[p.truth] for p in predictions if p.truth is not None], np.int64)
    probabilities = np.array(
        [[(p.probabilities or {}).get(name, 0.0) for name in classes] for p in predictions], np.float64
    )
    return truth, probabilities.reshape(-1, len(classes))

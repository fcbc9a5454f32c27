"""Evaluation of ensembles: divide aligned predictions into those to fit weights to and those to evaluate them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serein.ensemble.predictor import (
    Ensemble,
    EnsembleModel,
    FittedOn,
    ensemble_probabilities,
    fit_weights,
    read_ensemble,
    uniform_weights,
)
from serein.errors import LeakError, RunError, expected_one_of
from serein.evaluation.intervals import Difference, paired_difference
from serein.evaluation.predictions import EvalPrediction, SpeakerKey
from serein.evaluation.systems import AlignedPredictions, Split, System, align_predictions, read_systems
from serein.metrics import SCORES, FloatArray, class_f1, confusion_matrix
from serein.progress import Report

METHODS = ("cobyla", "mean")
NUM_PARTS = 5

FittedBy = Literal["dev", "nested folds", "nested speakers", "nested utterances"]


@dataclass(frozen=True)
class HeldOutPart:
    """Predictions to evaluate, and those that their weights are fitted to.

    Attributes:
        name: Readable name of the evaluated part.
        fit: The predictions that weights are fitted to.
        evaluated: ``(rows,)`` positions of the rows to evaluate.
    """

    name: str
    fit: AlignedPredictions
    evaluated: NDArray[np.int64]


def divide(
    evaluated: AlignedPredictions, dev: AlignedPredictions | None, seed: int
) -> tuple[FittedBy, list[HeldOutPart]]:
    """Divide as well as the predictions allow: by dev, else by the other folds, else by speakers, else by utterances.

    Weights for a fold are fitted to its dev predictions, or to the other folds without the utterances that also occur
    in it. Weights for a part of a single fold are fitted to the other parts.

    Args:
        evaluated: The predictions to evaluate.
        dev: Dev predictions of every fold, if all systems have them.
        seed: Seed for drawing the parts of a single fold.

    Raises:
        LeakError: An utterance is in both dev and test of a fold, or nothing is left to fit to.
        RunError: There is only one utterance.
    """
    if dev is None and len(evaluated.folds) == 1:
        if None not in evaluated.speakers and len(set(evaluated.speakers)) > 1:
            return "nested speakers", grouped_parts(evaluated, evaluated.speakers, seed)
        return "nested utterances", grouped_parts(evaluated, [row.id for row in evaluated.rows], seed)
    parts = []
    for name in evaluated.folds:
        positions = evaluated.of_fold(name)
        inside = {evaluated.rows[p].id for p in positions}
        if dev is not None:
            fit = dev.only(dev.of_fold(name))
            shared = sorted({row.id for row in fit.rows} & inside)
            if shared:
                what = f"{len(shared)} utterances are in both dev and test of fold {name}: {', '.join(shared[:3])}"
                raise LeakError(what, remedy="Divide the data again.")
        else:
            others = np.array([p for p, row in enumerate(evaluated.rows) if row.id not in inside], np.int64)
            if not len(others):
                remedy = "Use --method mean, which fits nothing."
                raise LeakError(f"all utterances of the other folds are in fold {name} too", remedy=remedy)
            fit = evaluated.only(others)
        parts.append(HeldOutPart(f"fold {name}", fit, positions))
    return "nested folds" if dev is None else "dev", parts


def grouped_parts(evaluated: AlignedPredictions, groups: Sequence[object], seed: int) -> list[HeldOutPart]:
    """Evaluate each of five parts with weights fitted to the others; each group is in only one part.

    Args:
        groups: The speaker or the id of each row.
        seed: Seed for drawing the parts.

    Raises:
        RunError: There is only one group.
    """
    names = list(dict.fromkeys(groups))
    num_parts = min(NUM_PARTS, len(names))
    if num_parts < 2:
        raise RunError("one utterance is too few to fit and evaluate weights", remedy="Predict more utterances.")
    order = np.random.default_rng(seed).permutation(len(names))
    part_of = {names[group]: place % num_parts for place, group in enumerate(order)}
    part = np.array([part_of[group] for group in groups])
    return [
        HeldOutPart(
            f"part {number + 1}", evaluated.only(np.flatnonzero(part != number)), np.flatnonzero(part == number)
        )
        for number in range(num_parts)
    ]


def dependence(evaluated: AlignedPredictions, parts: Sequence[HeldOutPart]) -> list[str]:
    """Return a note if weights are evaluated on speakers that they were fitted to, or if speakers are unknown."""
    if None in evaluated.speakers:
        return ["Speakers are unknown: weights may be evaluated on speakers that they were fitted to."]
    shared: set[SpeakerKey | None] = set()
    for part in parts:
        shared |= set(part.fit.speakers) & set(evaluated.only(part.evaluated).speakers)
    if not shared:
        return []
    return [f"SPEAKER-DEPENDENT: weights are evaluated on {len(shared)} speakers that they were fitted to."]


@dataclass(frozen=True)
class Row:
    """Scores in per cent of one system, or of their ensemble, over all evaluated utterances.

    Attributes:
        kind: `in sample` means fitted to the same predictions that it is evaluated on.
        f1: F1 of each class; `None` for a class that neither occurs nor was predicted.
    """

    label: str
    kind: Literal["system", "mean", "ensemble", "in sample"]
    macro_f1: float
    ua: float
    wa: float
    f1: dict[str, float | None]


@dataclass(frozen=True)
class EnsembleEvaluation:
    """Systems, their ensemble, and how both were evaluated.

    Attributes:
        ensemble: The weights to keep, fitted to all permitted predictions.
        split: The predictions that were evaluated.
        fitted_by: How the evaluated weights were fitted: on `dev`, on the other folds, or on other speakers or
            utterances of the only fold; `none` for the mean; `file` if a file contains them.
        best: The system with the highest macro-F1.
        to_best: The ensemble minus the best system, by score name; fractions.
        to_mean: The ensemble minus the plain mean; `None` if it is the mean.
        notes: Caveats for readers of the numbers.
    """

    ensemble: Ensemble
    split: Split
    fitted_by: FittedBy | Literal["none", "file"]
    num_utterances: int
    rows: tuple[Row, ...]
    best: str
    to_best: dict[str, Difference]
    to_mean: dict[str, Difference] | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers; scores and differences in per cent."""
        labels = [model.label for model in self.ensemble.models]
        rows = zip(labels, self.ensemble.weights, strict=True)
        return {
            "method": self.ensemble.method,
            "split": self.split,
            "fitted_by": self.fitted_by,
            "num_utterances": self.num_utterances,
            "rows": [asdict(row) for row in self.rows],
            "best": self.best,
            "ensemble_minus_best": {name: found.to_per_cent() for name, found in self.to_best.items()},
            "ensemble_minus_mean": self.to_mean and {name: found.to_per_cent() for name, found in self.to_mean.items()},
            "weights": {label: dict(zip(self.ensemble.classes, row, strict=True)) for label, row in rows},
            "notes": list(self.notes),
        }


def fit_ensemble(paths: Sequence[Path], *, method: str, split: Split, seed: int, report: Report) -> EnsembleEvaluation:
    """Evaluate an ensemble of run folders or prediction files.

    Args:
        method: `cobyla` fits a weight for each system and class, `mean` weights all equally, and a `.json` file
            contains the weights.
        split: The predictions to evaluate. Weights for a fold's test set are fitted to its dev predictions if all
            systems have them, otherwise to the test predictions of the other folds, or of other speakers of the only
            fold.
        seed: Seed for the starts of the search and for folds over speakers.
        report: Called to report progress.

    Raises:
        RunError: The systems did not predict the same utterances, or the method is unknown.
        ModelError: The weights file is broken or belongs to other systems.
        LeakError: Weights would be evaluated on the predictions that they were fitted to.
    """
    if method not in METHODS and not method.endswith(".json"):
        message = expected_one_of(method, [*METHODS, "an ensemble file (.json)"], kind="method")
        raise RunError(message, where="--method", remedy="Choose one of these.")
    systems = read_systems(paths, split)
    evaluated = align_predictions(systems, split)
    if method == "cobyla":
        weighted = _fitted(systems, evaluated, split, seed, report)
    elif method == "mean":
        weights = uniform_weights(len(evaluated.probabilities), len(evaluated.classes))
        unfitted = FittedOn(split=None, num_utterances=0, seen=())
        probabilities = ensemble_probabilities(evaluated.probabilities, weights)
        weighted = _Weighted("mean", "none", probabilities, weights, unfitted, [])
    else:
        # The weights of a file are matched with systems by label, or else by order, with a note.
        given = read_ensemble(method)
        if set(given.classes) != set(evaluated.classes):
            ours = ", ".join(evaluated.classes)
            what = f"its classes are {', '.join(given.classes)}, but those of the systems are {ours}"
            raise RunError(what, where="--method", remedy="Choose weights for the same classes.")
        if len(given.models) != len(systems):
            what = f"it has weights for {len(given.models)} systems, but {len(systems)} are named"
            raise RunError(what, where="--method", remedy="Name as many systems as it has weights for.")
        labels, own = [model.label for model in given.models], [system.label for system in systems]
        weights, notes = given.weight_matrix[:, [given.classes.index(name) for name in evaluated.classes]], []
        if set(labels) == set(own):
            weights = weights[[labels.index(label) for label in own]]
        else:
            pairs = ", ".join(f"{their} for {our}" for their, our in zip(labels, own, strict=True))
            notes.append(f"Weights are matched by order: {pairs}.")
        seen = set(given.fitted_on.seen) & {*_names(evaluated), *(row.id for row in evaluated.rows)}
        if seen:
            notes.append(
                f"IN SAMPLE, optimistic: the weights were fitted to {len(seen)} of these speakers or utterances."
            )
        probabilities = ensemble_probabilities(evaluated.probabilities, weights)
        weighted = _Weighted(given.method, "file", probabilities, weights, given.fitted_on, notes)
    return _outcome(systems, evaluated, split, weighted)


@dataclass(frozen=True)
class _Weighted:
    """Weights, and the weighted probabilities of the evaluated utterances.

    Attributes:
        probabilities: ``(utterances, classes)``, out of sample unless a note says otherwise.
        weights: ``(systems, classes)``, to keep.
        in_sample: Like `probabilities`, with weights fitted to the evaluated utterances; `None` if nothing was fitted.
    """

    method: str
    fitted_by: FittedBy | Literal["none", "file"]
    probabilities: FloatArray
    weights: FloatArray
    fitted_on: FittedOn
    notes: list[str]
    in_sample: FloatArray | None = None


def _fitted(
    systems: Sequence[System], evaluated: AlignedPredictions, split: Split, seed: int, report: Report
) -> _Weighted:
    """Fit the weights for each part to predictions outside it, and the weights to keep to all predictions."""
    probabilities, fitted_by, dev, notes = held_out_probabilities(systems, evaluated, split, seed, report)
    in_sample = _fit(evaluated, seed, "weights in sample", report)
    kept = in_sample if dev is None else _fit(dev, seed, "weights to keep", report)
    seen = evaluated if dev is None else dev
    fitted_on = FittedOn(split="dev" if dev else split, num_utterances=len(seen.rows), seen=tuple(sorted(_names(seen))))
    in_sample_probabilities = ensemble_probabilities(evaluated.probabilities, in_sample)
    return _Weighted("cobyla", fitted_by, probabilities, kept, fitted_on, notes, in_sample_probabilities)


def held_out_probabilities(
    systems: Sequence[System], evaluated: AlignedPredictions, split: Split, seed: int, report: Report
) -> tuple[FloatArray, FittedBy, AlignedPredictions | None, list[str]]:
    """Combine systems with weights that are fitted to other predictions than the evaluated ones.

    Args:
        evaluated: The systems' predictions of the split.

    Returns:
        ``(utterances, classes)`` probabilities; how their weights were fitted; the dev predictions that they were
        fitted to, if any; and notes for readers of the scores.

    Raises:
        RunError: There are too few predictions to divide.
        LeakError: An utterance is in both dev and test of a fold, or nothing is left to fit to.
    """
    dev, notes = None, []
    without = [system.label for system in systems if not system.predictions.get("dev")]
    if split == "test" and not without:
        try:
            dev = align_predictions(systems, "dev")
        except RunError as error:
            notes.append(f"Not fitted on dev, where the systems differ: {error}")
    elif split == "test" and len(without) < len(systems):
        notes.append(f"Not fitted on dev: {', '.join(without)} has no dev predictions.")
    lacking = [name for name in evaluated.folds if dev is not None and name not in dev.folds]
    if lacking:
        dev, notes = None, [f"Not fitted on dev: fold {lacking[0]} has no dev predictions."]
    fitted_by, parts = divide(evaluated, dev, seed)
    probabilities = np.empty(evaluated.probabilities.shape[1:])
    for part in parts:
        weights = _fit(part.fit, seed, f"weights for {part.name}", report)
        probabilities[part.evaluated] = ensemble_probabilities(evaluated.probabilities[:, part.evaluated], weights)
    return probabilities, fitted_by, dev, [*notes, *dependence(evaluated, parts)]


def _fit(seen: AlignedPredictions, seed: int, label: str, report: Report) -> FloatArray:
    detail = f"{len(seen.rows)} utterances"
    rng = np.random.default_rng(seed)
    fit = fit_weights(
        seen.probabilities, seen.truth, rng=rng, on_progress=lambda done, all: report(label, done, all, detail)
    )
    return fit.weights


def _names(seen: AlignedPredictions) -> set[str]:
    """Return the speakers, or the utterances if any speaker is unknown."""
    if None in seen.speakers:
        return {row.id for row in seen.rows}
    return {str(speaker) for speaker in seen.speakers}


def _outcome(
    systems: Sequence[System], evaluated: AlignedPredictions, split: Split, weighted: _Weighted
) -> EnsembleEvaluation:
    rows = [_row(s.label, "system", evaluated, own) for s, own in zip(systems, evaluated.probabilities, strict=True)]
    best = max(range(len(rows)), key=lambda number: rows[number].macro_f1)
    combined = _predictions(evaluated, weighted.probabilities)
    of_best = _predictions(evaluated, evaluated.probabilities[best])
    to_mean = None
    if weighted.method != "mean":
        mean = evaluated.probabilities.mean(axis=0)
        of_mean = _predictions(evaluated, mean)
        to_mean = paired_difference(combined, of_mean, evaluated.classes, rng=np.random.default_rng(0))
        rows.append(_row("mean of all", "mean", evaluated, mean))
    rows.append(_row(f"ensemble ({weighted.method})", "ensemble", evaluated, weighted.probabilities))
    if weighted.in_sample is not None:
        rows.append(_row("ensemble, in sample (optimistic)", "in sample", evaluated, weighted.in_sample))
    to_best = paired_difference(combined, of_best, evaluated.classes, rng=np.random.default_rng(0))
    notes = [*weighted.notes, *to_best["macro_f1"].notes]
    seeds = {s.label: len({p.seed for p in s.predictions[split]}) for s in systems}
    averaged = [f"{label} {count}" for label, count in seeds.items() if count > 1]
    if averaged:
        notes.append(f"Probabilities of a system's seeds are averaged first; seeds: {', '.join(averaged)}.")
    if evaluated.num_unlabelled:
        notes.append(f"{evaluated.num_unlabelled} predictions have no truth and are left out.")
    ensemble = Ensemble(
        format=1,
        classes=evaluated.classes,
        method=weighted.method,
        models=tuple(EnsembleModel(path=str(s.path), label=s.label, folders=s.folders) for s in systems),
        weights=tuple(tuple(map(float, row)) for row in weighted.weights),
        fitted_on=weighted.fitted_on,
        scores=tuple(asdict(row) for row in rows),
    )
    return EnsembleEvaluation(
        ensemble,
        split,
        weighted.fitted_by,
        num_utterances=len(evaluated.rows),
        rows=tuple(rows),
        best=rows[best].label,
        to_best=to_best,
        to_mean=to_mean,
        notes=tuple(notes),
    )


def _row(
    label: str,
    kind: Literal["system", "mean", "ensemble", "in sample"],
    evaluated: AlignedPredictions,
    probabilities: FloatArray,
) -> Row:
    confusion = confusion_matrix(evaluated.truth, probabilities.argmax(axis=1), len(evaluated.classes))
    scores = {name: 100 * float(score(confusion)) for name, score in SCORES.items()}
    f1 = [None if np.isnan(value) else 100 * float(value) for value in class_f1(confusion)]
    return Row(label, kind, **scores, f1=dict(zip(evaluated.classes, f1, strict=True)))


def _predictions(evaluated: AlignedPredictions, probabilities: FloatArray) -> list[EvalPrediction]:
    labels = [evaluated.classes[number] for number in probabilities.argmax(axis=1)]
    return [
        replace(row, prediction=name, probabilities=None, seed=0)
        for row, name in zip(evaluated.rows, labels, strict=True)
    ]

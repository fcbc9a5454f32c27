"""Ensembles of models: weights per model and class, fitted to macro-F1 by COBYLA; ensemble files; predictions.

Source: Diatlova et al. 2024, section 6.1 and equation 10. The two printed sums cannot both be 1; here each class's
weights over the models sum to 1 and none is negative. Macro-F1 is piecewise constant, so COBYLA stalls wherever it
starts. It is therefore started from the mean of the models, from each model alone and from random weights, and the best
point of all searches is kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from serein.audio import Waveform
from serein.checkpoint import needs_backbone
from serein.data.files import sha256, write_text
from serein.data.manifest import Utterance
from serein.errors import ModelError
from serein.evaluation.predictions import first_problem
from serein.inference.prediction import ClipPrediction
from serein.inference.predictor import Predictor, load
from serein.metrics import FloatArray, confusion_matrix, macro_f1_of
from serein.progress import Progress, Report
from serein.tasks.task import most_probable

FORMAT = 1
SUM_TOLERANCE = 1e-6
_REMEDY = "Write the file again: serein ensemble --help."
NUM_DRAWN_STARTS = 4
FIRST_STEP = 0.5
LAST_STEP = 0.01
EVALUATIONS_PER_WEIGHT = 10
_NUM_SHRINKAGES = 20

Classes = NDArray[np.int64]


@dataclass(frozen=True)
class Fit:
    """Weights, and their score on the predictions that they were fitted to, which is optimistic.

    Attributes:
        weights: ``(models, classes)``, at least 0; each column sums to 1.
        macro_f1: Macro-F1 on the fitted utterances, 0 to 1; never below that of the mean or of any single model.
        num_evaluations: Number of evaluations of macro-F1.
    """

    weights: FloatArray
    macro_f1: float
    num_evaluations: int


def uniform_weights(num_models: int, num_classes: int) -> FloatArray:
    """Return the weights of the plain mean: ``(models, classes)``, all ``1 / models``."""
    return np.full((num_models, num_classes), 1.0 / num_models)


def ensemble_probabilities(probabilities: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the weighted mean of the models' probabilities, normalised to sum to 1.

    Args:
        probabilities: ``(models, utterances, classes)``.
        weights: ``(models, classes)``, each column summing to 1.

    Returns:
        ``(utterances, classes)``; equal probabilities where every weighted probability is 0.

    Source: Diatlova et al. 2024, equation 10.

    Example:
        >>> probabilities = np.array([[[0.6, 0.4]], [[0.2, 0.8]]])
        >>> ensemble_probabilities(probabilities, np.array([[1.0, 0.5], [0.0, 0.5]])).round(3).tolist()
        [[0.5, 0.5]]
    """
    weighted = np.einsum("muc,mc->uc", probabilities, weights)
    total = weighted.sum(axis=1, keepdims=True)
    equal = np.full_like(weighted, 1.0 / weighted.shape[1])
    normalised: FloatArray = np.divide(weighted, total, out=equal, where=total > 0)
    return normalised


def ensemble_macro_f1(probabilities: FloatArray, truth: Classes, weights: FloatArray) -> float:
    """Return macro-F1 of an ensemble's predictions, 0 to 1.

    Args:
        probabilities: ``(models, utterances, classes)``.
        truth: ``(utterances,)`` class numbers.
        weights: ``(models, classes)``.
    """
    classes = np.einsum("muc,mc->uc", probabilities, weights).argmax(axis=1)
    return float(macro_f1_of(confusion_matrix(truth, classes, probabilities.shape[2])))


class _Search:
    """Macro-F1 as a function of weights; stores the first of the best weights.

    The classes are those of `ensemble_macro_f1`, found several times as fast: in float32, as a product of matrices for
    each class, and again in float64 only for utterances with two classes that are nearer than float32 can tell.
    """

    def __init__(self, probabilities: FloatArray, truth: Classes) -> None:
        self.probabilities = np.ascontiguousarray(probabilities)
        self.rounded = np.ascontiguousarray(probabilities.transpose(2, 0, 1), np.float32)  # (class, model, utterance)
        self.margin = np.float32(2 * (len(probabilities) + 2) * np.finfo(np.float32).eps)
        self.numbers = np.stack([np.arange(len(self.rounded)), np.ones(len(self.rounded))]).astype(np.float32)
        self.truth = truth
        self.best_weights = uniform_weights(probabilities.shape[0], probabilities.shape[2])
        self.best_macro_f1 = -1.0
        self.num_evaluations = 0

    def macro_f1_of(self, weights: FloatArray) -> float:
        sums = (weights.T[:, None].astype(np.float32) @ self.rounded)[:, 0]
        is_best = sums >= sums.max(axis=0) - self.margin
        number, count = self.numbers @ is_best.astype(np.float32)  # of the best class, if it is the only one
        classes, unsure = number.astype(np.int64), np.flatnonzero(count != 1)
        classes[unsure] = np.einsum("muc,mc->uc", self.probabilities[:, unsure], weights).argmax(axis=1)
        score = float(macro_f1_of(confusion_matrix(self.truth, classes, len(self.rounded))))
        self.num_evaluations += 1
        if score > self.best_macro_f1:
            self.best_weights, self.best_macro_f1 = weights, score
        return score

    def loss(self, point: Any) -> float:
        """Return the negative macro-F1 at the allowed weights that are nearest to a flat list of numbers."""
        return -self.macro_f1_of(allowed(np.asarray(point).reshape(self.best_weights.shape)))


def fit_weights(
    probabilities: FloatArray, truth: Classes, *, rng: np.random.Generator, on_progress: Progress | None = None
) -> Fit:
    """Find the weights with the highest macro-F1; among equally good ones, those nearest to the plain mean.

    Args:
        probabilities: ``(models, utterances, classes)``, each utterance's probabilities summing to 1.
        truth: ``(utterances,)`` class numbers.
        rng: Generator that draws some of the starts.
        on_progress: Called with the number of finished starts and the total.

    Raises:
        ValueError: The shapes of the arrays do not match, or there is no utterance.

    Example:
        >>> calm_expert, sad_expert = [[0.9, 0.1], [0.6, 0.4]], [[0.4, 0.6], [0.1, 0.9]]
        >>> fit = fit_weights(np.array([calm_expert, sad_expert]), np.array([0, 1]), rng=np.random.default_rng(0))
        >>> fit.macro_f1, fit.weights.tolist()
        (1.0, [[0.5, 0.5], [0.5, 0.5]])
    """
    from scipy.optimize import minimize

    if probabilities.ndim != 3 or 0 in probabilities.shape or truth.shape != probabilities.shape[1:2]:
        raise ValueError(
            f"probabilities have shape {probabilities.shape} and truth {truth.shape}; "
            "expected (models, utterances, classes), none of them 0, and (utterances,)."
        )
    num_models, _, num_classes = probabilities.shape
    search = _Search(probabilities, truth)
    # The plain mean, each model alone, and weights drawn uniformly from all that are allowed.
    mean = uniform_weights(num_models, num_classes)
    alone = [np.repeat(row[:, None], num_classes, axis=1) for row in np.eye(num_models)]
    drawn = [rng.dirichlet(np.ones(num_models), size=num_classes).T for _ in range(NUM_DRAWN_STARTS)]
    starts = [mean, *alone, *drawn]
    for start in starts:
        search.macro_f1_of(start)
    for number, start in enumerate(starts, start=1):
        # The search is unconstrained, and every point is evaluated at the nearest allowed weights. With explicit
        # constraints and without the last model's weights, SciPy's COBYLA took five times as long for 5 models and
        # 8 classes, and scored no higher on unseen utterances.
        options = {"rhobeg": FIRST_STEP, "tol": LAST_STEP, "maxiter": EVALUATIONS_PER_WEIGHT * (start.size + 1)}
        minimize(search.loss, start.reshape(-1), method="COBYLA", options=options)
        if on_progress is not None:
            on_progress(number, len(starts))
    # Among weights with equal scores, those nearest to the mean overfit least, so the weights of each class are shrunk
    # towards it as far as possible without lowering macro-F1.
    weights = search.best_weights
    for number in range(num_classes):
        for kept in np.linspace(0.0, 1.0, _NUM_SHRINKAGES, endpoint=False):
            shrunk = weights.copy()
            shrunk[:, number] += (1.0 - kept) * (mean - weights)[:, number]
            if search.macro_f1_of(shrunk) >= search.best_macro_f1:
                weights = shrunk
                break
    return Fit(weights, search.best_macro_f1, search.num_evaluations)


def allowed(weights: FloatArray) -> FloatArray:
    """Return the nearest weights that are not negative and sum to 1 in each column.

    Args:
        weights: ``(models, classes)``, any numbers.

    Source: the projection onto the simplex of Held, Wolfe & Crowder 1974; Duchi et al. 2008, figure 1.

    Example:
        >>> allowed(np.array([[0.5, 2.0], [0.9, 0.0]])).round(3).tolist()
        [[0.3, 1.0], [0.7, 0.0]]
    """
    descending = -np.sort(-weights, axis=0)
    rank = np.arange(1, len(weights) + 1)[:, None]
    excess = (descending.cumsum(axis=0) - 1.0) / rank
    num_positive = (descending > excess).sum(axis=0)
    return np.clip(weights - np.take_along_axis(excess, num_positive[None] - 1, axis=0), 0.0, None)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EnsembleModel(_Strict):
    """One model of an ensemble.

    Attributes:
        path: Its run folder or prediction file.
        label: Its name in tables.
        folders: Its model folders below ``path``, one per fold and seed; empty for a prediction file.
    """

    path: str
    label: str
    folders: tuple[str, ...]


class FittedOn(_Strict):
    """The predictions that the weights were fitted to.

    Attributes:
        split: The dev or the test predictions of the models; `None` if nothing was fitted.
        num_utterances: Number of utterances.
        seen: Their speakers, or their ids if speakers are unknown.
    """

    split: Literal["test", "dev"] | None
    num_utterances: int
    seen: tuple[str, ...]


class Ensemble(_Strict):
    """The contents of an ensemble file.

    Attributes:
        weights: One row per model, with one weight per class.
        scores: Scores of the models and their ensemble, in per cent, as `serein ensemble --json` prints them.
    """

    format: Literal[1]
    classes: tuple[str, ...]
    method: str
    models: tuple[EnsembleModel, ...]
    weights: tuple[tuple[float, ...], ...]
    fitted_on: FittedOn
    scores: tuple[dict[str, Any], ...]

    @property
    def weight_matrix(self) -> FloatArray:
        """The weights as ``(models, classes)``."""
        return np.array(self.weights, float)


def write_ensemble(ensemble: Ensemble, path: str | Path) -> None:
    """Write an ensemble file atomically; paths of models are made relative to it if possible."""
    models = []
    for model in ensemble.models:
        try:
            relative = Path(os.path.relpath(model.path, Path(path).parent)).as_posix()
        except ValueError:  # on another drive of Windows
            relative = str(Path(model.path).absolute())
        models.append(model.model_copy(update={"path": relative}))
    content = ensemble.model_copy(update={"models": tuple(models)}).model_dump(mode="json")
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_ensemble(path: str | Path) -> Ensemble:
    """Read an ensemble file; relative paths of models are resolved against the file's folder.

    Raises:
        ModelError: The file is missing or damaged, or its weights do not fit its models and classes.
    """
    path = Path(path)
    try:
        ensemble = Ensemble.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ModelError("no such ensemble file", where=path, remedy="Create one: serein ensemble --help.") from None
    except (IsADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        raise ModelError("is not an ensemble file: not JSON", where=path, remedy=_REMEDY) from None
    except ValidationError as error:
        raise ModelError(first_problem(error, "is not an ensemble file"), where=path, remedy=_REMEDY) from None
    num_models, num_classes, weights = len(ensemble.models), len(ensemble.classes), ensemble.weights
    if not num_models or not num_classes or len(set(ensemble.classes)) < num_classes:
        raise ModelError("names no model, no class or a class twice", where=path, remedy=_REMEDY)
    if [len(row) for row in weights] != [num_classes] * num_models:
        what = f"key 'weights': expected {num_models} rows, one per model, of {num_classes} weights, one per class"
        raise ModelError(what, where=path, remedy=_REMEDY)
    for name, column in zip(ensemble.classes, ensemble.weight_matrix.T, strict=True):
        if not (column >= 0).all():
            raise ModelError(f"key 'weights': class '{name}' has a weight below 0", where=path, remedy=_REMEDY)
        if not abs(column.sum() - 1.0) <= SUM_TOLERANCE:
            what = f"key 'weights': those of class '{name}' sum to {column.sum():.6f}, not 1"
            raise ModelError(what, where=path, remedy=_REMEDY)
    models = [
        model.model_copy(update={"path": os.path.normpath(path.parent / model.path)}) for model in ensemble.models
    ]
    return ensemble.model_copy(update={"models": tuple(models)})


class EnsemblePredictor(Predictor):
    """The models of an ensemble with their fitted weights; a model's probabilities are the mean over its folders.

    Args:
        path: The ensemble file.
        device: See `serein.device.device_of`.
        report: Called with the number of loaded model folders.
        backbone: Current location of their pretrained backbone, if it has moved.

    Raises:
        ModelError: The file cannot be read, or one of its models does not exist or has other classes.
    """

    def __init__(
        self,
        path: str | Path,
        device: str = "auto",
        report: Report | None = None,
        *,
        backbone: Path | None = None,
    ) -> None:
        self.ensemble = read_ensemble(path)
        self.path = Path(path)
        folders = []
        for model in self.ensemble.models:
            if not model.folders:
                what, remedy = f"'{model.label}' is a prediction file, not a model", "Fit the ensemble to run folders."
                raise ModelError(what, where=path, remedy=remedy)
            folders.append([Path(model.path) / folder for folder in model.folders])
            missing = [folder for folder in folders[-1] if not folder.is_dir()]
            if missing:
                what, remedy = (
                    f"names {missing[0]}, which does not exist",
                    "Keep the file and its runs where they were.",
                )
                raise ModelError(what, where=path, remedy=remedy)
        total, done = sum(map(len, folders)), 0
        self.members: list[list[Predictor]] = []
        for own in folders:
            self.members.append([])
            for folder in own:
                own_backbone = backbone if needs_backbone(folder) else None
                member = load(
                    folder, device, backbone=own_backbone
                ).uncalibrated()  # the weights were fitted without it
                if set(member.classes) != set(self.ensemble.classes):
                    raise ModelError(
                        f"has classes {', '.join(member.classes)}, but the ensemble {', '.join(self.classes)}",
                        where=folder,
                        remedy="Fit the ensemble again: the model has changed.",
                    )
                self.members[-1].append(member)
                done += 1
                if report is not None:
                    report("loading models", done, total, f"{total} model folders")
        first = self.members[0][0]
        super().__init__(first.with_task(first.task).checkpoint, device)  # only main tasks are combined

    def to(self, device: str) -> Predictor:
        """Move all models to a device, and return the ensemble."""
        for members in self.members:
            for member in members:
                member.to(device)
        return super().to(device)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Name and SHA-256 of the ensemble file."""
        return {"name": self.path.name, "sha256": sha256(self.path)}

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that the ensemble was fitted to."""
        return self.ensemble.classes

    def with_labels(self, labels: Sequence[str]) -> Predictor:
        """Raise an error: the weights belong to the classes."""
        raise ModelError("the classes of an ensemble are fixed", where=self.path, remedy="Use a single model.")

    def predict_clips(
        self,
        waveforms: Sequence[Waveform],
        utterances: Sequence[Utterance] | None = None,
        embedding: str | None = None,
    ) -> list[ClipPrediction]:
        """Run every model on clips and combine their probabilities; there is no embedding."""
        if not len(waveforms):
            return []
        probabilities = np.zeros((len(self.members), len(waveforms), len(self.classes)))
        for number, members in enumerate(self.members):
            for member in members:
                predicted = member.predict_clips(waveforms, utterances)
                given = [[each.main.probabilities[name] for name in self.classes] for each in predicted]
                probabilities[number] += np.array(given) / len(members)
        combined = ensemble_probabilities(probabilities, self.ensemble.weight_matrix)
        return [
            ClipPrediction(most_probable(dict(zip(self.classes, map(float, row), strict=True)))) for row in combined
        ]

"""Ensemble files, and prediction with the models that one names."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from serein.audio import Waveform
from serein.data.files import sha256, write_text
from serein.data.utterance import Utterance
from serein.ensemble.weights import ensemble_probabilities
from serein.errors import ModelError
from serein.evaluation.predictions import first_problem
from serein.inference.prediction import ClipPrediction
from serein.inference.predictor import Predictor, load
from serein.metrics import FloatArray
from serein.progress import Report
from serein.tasks.task import most_probable

FORMAT = 1
SUM_TOLERANCE = 1e-6
_REMEDY = "Write the file again: serein ensemble --help."


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EnsembleModel(_Strict):
    """One model of an ensemble.

    Attributes:
        path: Its run folder or prediction file.
        label: Its name in tables.
        folders: Its model folders below ``path``, one per fold and seed; none where it is a prediction file.
    """

    path: str
    label: str
    folders: tuple[str, ...]


class FittedOn(_Strict):
    """The predictions that the weights were fitted to.

    Attributes:
        split: The dev or the test predictions of the models; `None` where nothing was fitted.
        num_utterances: How many utterances.
        seen: Their speakers, or their ids where speakers are unknown.
    """

    split: Literal["test", "dev"] | None
    num_utterances: int
    seen: tuple[str, ...]


class Ensemble(_Strict):
    """The contents of an ensemble file.

    Attributes:
        weights: A row for each model, a weight for each class.
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
    """Write an ensemble file atomically; paths of models become relative to it where they can."""
    models = []
    for model in ensemble.models:
        try:
            relative = Path(os.path.relpath(model.path, Path(path).parent)).as_posix()
        except ValueError:  # another drive of Windows
            relative = str(Path(model.path).absolute())
        models.append(model.model_copy(update={"path": relative}))
    content = ensemble.model_copy(update={"models": tuple(models)}).model_dump(mode="json")
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_ensemble(path: str | Path) -> Ensemble:
    """Read an ensemble file; relative paths of models become relative to where it is read.

    Raises:
        ModelError: It is missing or damaged, or its weights do not fit its models and classes.
    """
    path = Path(path)
    try:
        ensemble = Ensemble.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ModelError("no such ensemble file", where=path, remedy="Write one: serein ensemble --help.") from None
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
    """The models of an ensemble, weighted as they were fitted; a model's probabilities are the mean over its folders.

    Args:
        path: The ensemble file.
        device: See `serein.device.device_of`.
        report: Called with the number of loaded model folders.
        backbone: Where their pretrained backbone is now, if it has moved.

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
                    "Keep the file and its runs in their places.",
                )
                raise ModelError(what, where=path, remedy=remedy)
        total, done = sum(map(len, folders)), 0
        self.members: list[list[Predictor]] = []
        for own in folders:
            self.members.append([])
            for folder in own:
                member = load(folder, device, backbone=backbone).uncalibrated()  # as the weights were fitted
                if set(member.classes) != set(self.ensemble.classes):
                    raise ModelError(
                        f"has the classes {', '.join(member.classes)}, and the ensemble {', '.join(self.classes)}",
                        where=folder,
                        remedy="Fit the ensemble again: the model has changed.",
                    )
                self.members[-1].append(member)
                done += 1
                if report is not None:
                    report("loading models", done, total, f"{total} model folders")
        super().__init__(self.members[0][0].checkpoint, device)

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
        """Refuse: the weights are those of the classes."""
        raise ModelError("the classes of an ensemble are fixed", where=self.path, remedy="Use one model alone.")

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

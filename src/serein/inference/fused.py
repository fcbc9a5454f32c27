"""Fusion files, and the models that one names, heard together."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from serein.data.files import write_text
from serein.data.utterance import Utterance
from serein.errors import AudioError, ModelError
from serein.inference.fusion import ensemble_probabilities
from serein.inference.predictor import Prediction, Predictor, load
from serein.metrics import FloatArray
from serein.progress import Report

FORMAT = 1
SUM_TOLERANCE = 1e-6
_REMEDY = "Write the file again: serein fuse --help."


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EnsembleModel(_Strict):
    """One of the models of a fusion.

    Attributes:
        path: Its run folder or prediction file.
        label: Its name in tables.
        folders: Its model folders below ``path``, one per fold and seed; none where it is a prediction file.
    """

    path: str
    label: str
    folders: tuple[str, ...]


class FittedOn(_Strict):
    """What the weights have seen.

    Attributes:
        split: The dev or the test predictions of the models; `None` where nothing was fitted.
        num_utterances: How many utterances.
        seen: Their speakers, or their ids where speakers are unknown.
    """

    split: Literal["test", "dev"] | None
    num_utterances: int
    seen: tuple[str, ...]


class Ensemble(_Strict):
    """What a fusion file holds.

    Attributes:
        weights: A row for each model, a weight for each class.
        scores: Scores of the models and their fusion, in per cent, as `serein fuse --json` prints them.
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


def write_ensemble(fusion: Ensemble, path: str | Path) -> None:
    """Write a fusion file atomically; paths of models become relative to it where they can."""
    models = [model.model_copy(update={"path": _relative(model.path, Path(path).parent)}) for model in fusion.models]
    content = fusion.model_copy(update={"models": tuple(models)}).model_dump(mode="json")
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_ensemble(path: str | Path) -> Ensemble:
    """Read a fusion file; relative paths of models become relative to where it is read.

    Raises:
        ModelError: It is missing or damaged, or its weights do not fit its models and classes.
    """
    path = Path(path)
    try:
        fusion = Ensemble.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ModelError("no such fusion file", where=path, remedy="Write one: serein fuse --help.") from None
    except (IsADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        raise ModelError("is no fusion file: not JSON", where=path, remedy=_REMEDY) from None
    except ValidationError as error:
        raise ModelError(_first_problem(error), where=path, remedy=_REMEDY) from None
    problem = _problem(fusion)
    if problem is not None:
        raise ModelError(problem, where=path, remedy=_REMEDY)
    models = [model.model_copy(update={"path": os.path.normpath(path.parent / model.path)}) for model in fusion.models]
    return fusion.model_copy(update={"models": tuple(models)})


class EnsemblePredictor:
    """The models of a fusion, heard one after the other, so that only one of them is ever in memory.

    Args:
        path: The fusion file.
        report: Told how many of its model folders are done.

    Raises:
        ModelError: The file cannot be read, or one of its models is not there.
    """

    def __init__(self, path: str | Path, report: Report) -> None:
        self.fusion = read_ensemble(path)
        self.classes = self.fusion.classes
        self.report = report
        self.folders = [_model_folders(model, path) for model in self.fusion.models]

    def predict_each(self, utterances: Sequence[Utterance]) -> Iterator[Prediction | AudioError]:
        """Answer for utterances in their order, or say what is wrong with each.

        A model's probabilities are the mean over its folds and seeds. The fused answer has no embedding.
        """
        errors: dict[int, AudioError] = {}
        answers: dict[int, Prediction] = {}
        probabilities = np.zeros((len(self.folders), len(utterances), len(self.classes)))
        for number, predictor in self._predictors():
            heard = [position for position in range(len(utterances)) if position not in errors]
            outcomes = predictor.predict_each([utterances[position] for position in heard])
            for position, outcome in zip(heard, outcomes, strict=True):
                if isinstance(outcome, AudioError):
                    errors[position] = outcome
                else:
                    answers[position] = outcome
                    given = [outcome.probabilities[name] for name in self.classes]
                    probabilities[number, position] += np.array(given) / len(self.folders[number])
        fused = ensemble_probabilities(probabilities, self.fusion.weight_matrix)
        for position in range(len(utterances)):
            yield errors[position] if position in errors else self._answer(answers[position], fused[position])

    def _predictors(self) -> Iterator[tuple[int, Predictor]]:
        """Load each model folder in its turn, with the number of the model that it belongs to."""
        work = [(number, folder) for number, folders in enumerate(self.folders) for folder in folders]
        for done, (number, folder) in enumerate(work, start=1):
            predictor = load(folder).uncalibrated()  # as the weights were fitted
            if set(predictor.classes) != set(self.classes):
                message = f"has the classes {', '.join(predictor.classes)}, and the fusion {', '.join(self.classes)}"
                raise ModelError(message, where=folder, remedy="Fuse again: the model has changed.")
            yield number, predictor
            self.report("hearing with each model", done, len(work), f"{len(work)} model folders")

    def _answer(self, answer: Prediction, probabilities: FloatArray) -> Prediction:
        by_class = dict(zip(self.classes, map(float, probabilities), strict=True))
        label = self.classes[int(probabilities.argmax())]
        return dataclasses.replace(answer, label=label, probabilities=by_class, embedding=np.empty(0, np.float32))


def _model_folders(model: EnsembleModel, path: str | Path) -> list[Path]:
    if not model.folders:
        raise ModelError(
            f"'{model.label}' is a prediction file, and cannot hear", where=path, remedy="Fuse run folders."
        )
    folders = [Path(model.path) / folder for folder in model.folders]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise ModelError(
            f"names {missing[0]}, which is not there", where=path, remedy="Keep the file and its runs where they were."
        )
    return folders


def _relative(path: str, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return str(Path(path).absolute())


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"key '{key}' is missing"
    if problem["type"] == "extra_forbidden":
        return f"key '{key}' is unknown"
    message = f"{problem['msg'][0].lower()}{problem['msg'][1:]}"
    return f"key '{key}': {message}" if key else f"is no fusion file ({message})"


def _problem(fusion: Ensemble) -> str | None:
    """Say what is wrong with the numbers of a fusion file; `None` when nothing is."""
    num_models, num_classes = len(fusion.models), len(fusion.classes)
    if not num_models or not num_classes or len(set(fusion.classes)) < num_classes:
        return "names no model, no class or a class twice"
    if [len(row) for row in fusion.weights] != [num_classes] * num_models:
        return f"key 'weights': expected {num_models} rows, one per model, of {num_classes} weights, one per class"
    weights = fusion.weight_matrix
    for number, name in enumerate(fusion.classes):
        column = weights[:, number]
        if not (column >= 0).all():
            return f"key 'weights': class '{name}' has a weight below 0"
        if not abs(column.sum() - 1.0) <= SUM_TOLERANCE:
            return f"key 'weights': those of class '{name}' sum to {column.sum():.6f}, not 1"
    return None

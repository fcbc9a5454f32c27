"""What the models of a fold say of its dev and test sets: one file for each task, the main task's last."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from serein.data.files import replacing
from serein.data.folds import Fold
from serein.data.recordings import Recordings
from serein.data.utterance import Utterance
from serein.evaluation.predictions import Prediction, write_predictions
from serein.inference.answering import recording_outputs
from serein.labels.attributes import Told, attribute
from serein.labels.transcripts import Alphabet, normalised
from serein.models import folder as model_folder
from serein.models.folder import ModelFolder
from serein.preparation import Experiment
from serein.recipe import Recipe

MAX_PROBABILITIES = 200


@dataclass(frozen=True)
class Said:
    """What a model says of some utterances, in their order.

    Attributes:
        by_task: Task -> predictions.
        embeddings: (utterance, feature).
    """

    by_task: dict[str, list[Prediction]]
    embeddings: NDArray[np.float32]


def unit_folder(run: Path, fold: Fold, seed: int) -> Path:
    """Return where a fold and seed of a run lie."""
    return run / f"fold-{fold.name}" / f"seed-{seed}"


def stage_folder(unit: Path, recipe: Recipe, number: int) -> Path:
    """Return where a stage of a unit lies."""
    return unit / f"{number}-{recipe.stages[number].name}"


def only_here(recipe: Recipe, number: int) -> list[str]:
    """Return the tasks that a stage learns and no later one: what lies below their heads moves on without them."""
    later = {name for stage in recipe.stages[number + 1 :] for name in recipe.tasks_of(stage)}
    return [name for name in recipe.tasks_of(recipe.stages[number]) if name not in later]


def predict_unit(experiment: Experiment, content: ModelFolder, fold: Fold, seed: int, folder: Path) -> None:
    """Write what a fold's models say of dev and test.

    `predictions.jsonl` is of the main task and comes last: it says that all is there. Other tasks have files of their
    own, by the last stage that learned them.
    """
    recipe, told = experiment.recipe, experiment.recipe.inference.conditions
    if experiment.learner(fold) is not fold:  # else its training did it
        predict_dev(experiment, content, fold, seed, folder)
    if (other := _other_attributes(experiment, fold)) is not None:
        said = _said(experiment, content, fold.test, fold, seed, other)
        write_predictions(said.by_task[content.task], folder / f"{other}_predictions.jsonl")
    unit = unit_folder(folder.parents[1], experiment.learner(fold), seed)
    for number in range(len(recipe.stages) - 1):
        if names := only_here(recipe, number):
            earlier = model_folder.load(stage_folder(unit, recipe, number) / "model")
            _write_others(_said(experiment, earlier, fold.test, fold, seed, told), names, folder)
    said = _said(experiment, content, fold.test, fold, seed, told)
    _write_others(said, [name for name in said.by_task if name != content.task], folder)
    write_predictions(said.by_task[content.task], folder / "predictions.jsonl.new")
    with replacing(folder / "embeddings.safetensors") as partial:
        save_file({"embeddings": said.embeddings}, partial)
    os.replace(folder / "predictions.jsonl.new", folder / "predictions.jsonl")


def predict_dev(experiment: Experiment, content: ModelFolder, fold: Fold, seed: int, folder: Path) -> list[Prediction]:
    """Write what a fold's model says of dev, if there is any, and return it."""
    dev = experiment.labelled(fold.dev)
    if not dev:
        return []
    said = _said(experiment, content, dev, fold, seed, experiment.recipe.inference.conditions)
    write_predictions(said.by_task[content.task], folder / "dev_predictions.jsonl")
    return said.by_task[content.task]


def _write_others(said: Said, names: Sequence[str], folder: Path) -> None:
    """Write the predictions of tasks of which the truth is known: speakers of the test set are new, for instance."""
    for name in names:
        if any(prediction.truth is not None for prediction in said.by_task[name]):
            write_predictions(said.by_task[name], folder / f"{name}_predictions.jsonl")


def _said(experiment: Experiment, content: ModelFolder, ids: Sequence[str], fold: Fold, seed: int, told: Told) -> Said:
    positions = experiment.positions(ids)
    return predictions_of(content, experiment.recordings, positions, fold=fold.name, seed=seed, told=told)


def _other_attributes(experiment: Experiment, fold: Fold) -> Told | None:
    """Return what else a conditioned model can be told of the test set, so that both are reported."""
    names = experiment.recipe.tasks.conditions
    other: Told = "oracle" if experiment.recipe.inference.conditions == "predicted" else "predicted"
    tested = [experiment.utterances[position] for position in experiment.positions(fold.test)]
    has_all = all(any(attribute(u, name, other) for u in tested) for name in names)
    return other if names and has_all else None


def predictions_of(
    content: ModelFolder,
    recordings: Recordings,
    positions: Sequence[int],
    *,
    fold: str,
    seed: int,
    told: Told,
    on_progress: Callable[[int, int], None] | None = None,
) -> Said:
    """Return a model's predictions of some utterances, and their embeddings in the same order.

    Probabilities of more than `MAX_PROBABILITIES` classes are left out: those of 1,251 speakers fill hundreds of MB.

    Args:
        told: What a conditioned model is told of them.
    """
    answers = recording_outputs(content, recordings, positions, told, on_progress)

    def prediction(position: int, truth: str | None, said: str, probabilities: dict[str, float] | None) -> Prediction:
        utterance = recordings.utterances[position]
        return Prediction(
            id=utterance.id,
            truth=truth,
            prediction=said,
            probabilities=probabilities,
            speaker=utterance.speaker,
            gender=utterance.gender,
            fold=fold,
            seed=seed,
            duration_s=round(float(recordings.durations_s[position]), 3),
            corpus=utterance.corpus,
        )

    by_task: dict[str, list[Prediction]] = {}
    for name, rows in answers.probabilities.items():
        classes = content.classes_of(name).classes
        by_task[name] = [
            prediction(
                position,
                truth_of(content, name, recordings.utterances[position]),
                classes[int(row.argmax())],
                dict(zip(classes, map(float, row), strict=True)) if len(classes) <= MAX_PROBABILITIES else None,
            )
            for position, row in zip(positions, rows, strict=True)
        ]
    for name, texts in answers.texts.items():
        by_task[name] = [
            prediction(position, truth_of(content, name, recordings.utterances[position]), text, None)
            for position, text in zip(positions, texts, strict=True)
        ]
    return Said(by_task, answers.embeddings)


def truth_of(content: ModelFolder, task: str, utterance: Utterance) -> str | None:
    """Return what a task should say of an utterance: a class, or a text as it is compared; `None` if unknown."""
    if isinstance(content.labels[task], Alphabet):
        return normalised(utterance.transcript) or None
    return content.classes_of(task).label(utterance)

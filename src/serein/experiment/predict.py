"""What the models of a fold say of its dev and test sets: one file for each task, the main task's last."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from serein import checkpoint as model_folder
from serein.checkpoint import Checkpoint
from serein.data.dataset import Recordings
from serein.data.files import replacing
from serein.data.splits import Fold
from serein.evaluation.predictions import Prediction, write_predictions
from serein.experiment.data import Experiment
from serein.inference.batching import recording_outputs
from serein.models.conditioning import ConditionSource, attribute
from serein.recipe import Recipe

MAX_PROBABILITIES = 200


@dataclass(frozen=True)
class SplitPredictions:
    """What a model says of some utterances, in their order.

    Attributes:
        by_task: Task -> predictions.
        embeddings: (utterance, feature).
    """

    by_task: dict[str, list[Prediction]]
    embeddings: NDArray[np.float32]


def fold_run_folder(run: Path, fold: Fold, seed: int) -> Path:
    """Return where a fold and seed of a run lie."""
    return run / f"fold-{fold.name}" / f"seed-{seed}"


def stage_folder(fold_run: Path, recipe: Recipe, number: int) -> Path:
    """Return where a stage of a unit lies."""
    return fold_run / f"{number}-{recipe.stages[number].name}"


def only_here(recipe: Recipe, number: int) -> list[str]:
    """Return the tasks that a stage learns and no later one: what lies below their heads moves on without them."""
    later = {name for stage in recipe.stages[number + 1 :] for name in recipe.tasks_of(stage)}
    return [name for name in recipe.tasks_of(recipe.stages[number]) if name not in later]


def predict_fold(experiment: Experiment, checkpoint: Checkpoint, fold: Fold, seed: int, folder: Path) -> None:
    """Write what a fold's models say of dev and test.

    `predictions.jsonl` is of the main task and comes last: it says that all is there. Other tasks have files of their
    own, by the last stage that learned them.
    """
    recipe, condition_source = experiment.recipe, experiment.recipe.inference.conditions
    if experiment.fold_with_same_training(fold) is not fold:  # else its training did it
        predict_dev(experiment, checkpoint, fold, seed, folder)
    if (other := _other_attributes(experiment, fold)) is not None:
        predictions = _predictions_on(experiment, checkpoint, fold.test, fold, seed, other)
        write_predictions(predictions.by_task[checkpoint.task], folder / f"{other}_predictions.jsonl")
    fold_run = fold_run_folder(folder.parents[1], experiment.fold_with_same_training(fold), seed)
    for number in range(len(recipe.stages) - 1):
        if names := only_here(recipe, number):
            earlier = model_folder.load(stage_folder(fold_run, recipe, number) / "model")
            _write_others(_predictions_on(experiment, earlier, fold.test, fold, seed, condition_source), names, folder)
    predictions = _predictions_on(experiment, checkpoint, fold.test, fold, seed, condition_source)
    _write_others(predictions, [name for name in predictions.by_task if name != checkpoint.task], folder)
    write_predictions(predictions.by_task[checkpoint.task], folder / "predictions.jsonl.new")
    with replacing(folder / "embeddings.safetensors") as partial:
        save_file({"embeddings": predictions.embeddings}, partial)
    os.replace(folder / "predictions.jsonl.new", folder / "predictions.jsonl")


def predict_dev(
    experiment: Experiment, checkpoint: Checkpoint, fold: Fold, seed: int, folder: Path
) -> list[Prediction]:
    """Write what a fold's model says of dev, if there is any, and return it."""
    dev = experiment.labelled(fold.dev)
    if not dev:
        return []
    predictions = _predictions_on(experiment, checkpoint, dev, fold, seed, experiment.recipe.inference.conditions)
    write_predictions(predictions.by_task[checkpoint.task], folder / "dev_predictions.jsonl")
    return predictions.by_task[checkpoint.task]


def _write_others(predictions: SplitPredictions, names: Sequence[str], folder: Path) -> None:
    """Write the predictions of tasks of which the truth is known: speakers of the test set are new, for instance."""
    for name in names:
        if any(prediction.truth is not None for prediction in predictions.by_task[name]):
            write_predictions(predictions.by_task[name], folder / f"{name}_predictions.jsonl")


def _predictions_on(
    experiment: Experiment,
    checkpoint: Checkpoint,
    ids: Sequence[str],
    fold: Fold,
    seed: int,
    condition_source: ConditionSource,
) -> SplitPredictions:
    positions = experiment.positions(ids)
    return predictions_of(
        checkpoint, experiment.recordings, positions, fold=fold.name, seed=seed, condition_source=condition_source
    )


def _other_attributes(experiment: Experiment, fold: Fold) -> ConditionSource | None:
    """Return the other source of the test set's conditions, so that both are reported."""
    names = experiment.recipe.tasks.conditions
    other: ConditionSource = "oracle" if experiment.recipe.inference.conditions == "predicted" else "predicted"
    tested = [experiment.utterances[position] for position in experiment.positions(fold.test)]
    has_all = all(any(attribute(u, name, other) for u in tested) for name in names)
    return other if names and has_all else None


def predictions_of(
    checkpoint: Checkpoint,
    recordings: Recordings,
    positions: Sequence[int],
    *,
    fold: str,
    seed: int,
    condition_source: ConditionSource,
    on_progress: Callable[[int, int], None] | None = None,
) -> SplitPredictions:
    """Return a model's predictions of some utterances, and their embeddings in the same order.

    Probabilities of more than `MAX_PROBABILITIES` classes are left out: those of 1,251 speakers fill hundreds of MB.

    Args:
        condition_source: Of the conditions of a conditioned model.
    """
    outputs = recording_outputs(checkpoint, recordings, positions, condition_source, on_progress)

    def prediction(position: int, truth: str | None, label: str, probabilities: dict[str, float] | None) -> Prediction:
        utterance = recordings.utterances[position]
        return Prediction(
            id=utterance.id,
            truth=truth,
            prediction=label,
            probabilities=probabilities,
            speaker=utterance.speaker,
            gender=utterance.gender,
            fold=fold,
            seed=seed,
            duration_s=round(float(recordings.durations_s[position]), 3),
            corpus=utterance.corpus,
        )

    by_task = {}
    for name, decoded in outputs.decoded.items():
        task = checkpoint.tasks[name]
        classes = task.spec.classes
        rows: list[Any]
        if decoded.values is None:
            rows = [(text, None) for text in decoded.texts or ()]
        elif len(classes) > MAX_PROBABILITIES:
            rows = [(classes[number], None) for number in decoded.values.argmax(axis=1)]
        else:
            said = task.predictions(decoded)
            rows = [
                (each.label or "" if each.value is None else f"{each.value:.6g}", dict(each.probabilities) or None)
                for each in said
            ]
        truths = [_text(task.truth(recordings.utterances[position])) for position in positions]
        by_task[name] = [prediction(p, truth, *row) for p, truth, row in zip(positions, truths, rows, strict=True)]
    return SplitPredictions(by_task, outputs.embeddings)


def _text(truth: str | float | None) -> str | None:
    """Return a truth as prediction files hold it."""
    return truth if truth is None or isinstance(truth, str) else f"{truth:.6g}"

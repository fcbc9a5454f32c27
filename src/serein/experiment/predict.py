"""Predictions of a fold's dev and test sets, one file for each task, and the evaluation of a model on a manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from serein import checkpoint as checkpoints
from serein.checkpoint import Checkpoint
from serein.corpora.prepare import NO_MAP, LabelMap, with_labels
from serein.data import manifest
from serein.data.dataset import HiddenLayers, Recordings
from serein.data.files import replacing
from serein.data.manifest import Utterance
from serein.data.splits import Fold
from serein.device import distributed_info, moved_to, own_device
from serein.errors import LeakError, ManifestError
from serein.evaluation.calibration import model_calibration, with_temperature
from serein.evaluation.predictions import EvalPrediction, among, write_predictions
from serein.evaluation.scores import Scores, TaskScore, classes_of_corpus, score_predictions
from serein.evaluation.task_scores import score_task
from serein.experiment.data import Experiment
from serein.experiment.outputs import cached_features, shared_outputs
from serein.inference.predictor import load
from serein.inference.runtimes import predicting_precision
from serein.models.conditioning import ConditionSource, attribute, require_attributes
from serein.progress import Report
from serein.recipe import Recipe
from serein.tasks.task import Task, TaskSpec, keep_labelled
from serein.training.normalisation import NormalisedFeatures

MAX_PROBABILITIES = 200


@dataclass(frozen=True)
class SplitPredictions:
    """A model's predictions for some utterances, in their order.

    Attributes:
        by_task: Task -> predictions.
        embeddings: (utterance, feature).
    """

    by_task: dict[str, list[EvalPrediction]]
    embeddings: NDArray[np.float32]


def fold_run_folder(run: Path, fold: Fold, seed: int) -> Path:
    """Return the folder of a fold and seed of a run."""
    return run / f"fold-{fold.name}" / f"seed-{seed}"


def stage_folder(fold_run: Path, recipe: Recipe, number: int) -> Path:
    """Return the folder of a stage, below that of its fold and seed."""
    return fold_run / f"{number}-{recipe.stages[number].name}"


def only_here(recipe: Recipe, number: int) -> list[str]:
    """Return the tasks that a stage trains and no later one does; later stages change the layers below their heads."""
    later = {name for stage in recipe.stages[number + 1 :] for name in recipe.tasks_of(stage)}
    return [name for name in recipe.tasks_of(recipe.stages[number]) if name not in later]


def predict_fold(
    experiment: Experiment, checkpoint: Checkpoint, fold: Fold, seed: int, folder: Path, report: Report
) -> None:
    """Write the predictions of a fold's models for dev and test.

    `predictions.jsonl` contains the main task's predictions and is written last, so it marks the fold as complete.
    Other tasks have files of their own, predicted by the last stage that trained them. If a fold has no test set, the
    predictions are those for dev, which is then scored.
    """
    scored = fold.test or tuple(experiment.labelled(fold.dev))
    recipe, condition_source = experiment.recipe, experiment.recipe.inference.conditions
    how: Any = {"fold": fold, "seed": seed, "report": report}
    if experiment.fold_with_same_training(fold) is not fold:  # otherwise training has predicted dev
        predict_dev(experiment, checkpoint, fold, seed, folder, report)
    other: ConditionSource = "oracle" if condition_source == "predicted" else "predicted"  # both are reported
    conditions = recipe.tasks.conditions
    tested = [experiment.utterances[position] for position in experiment.positions(scored)]
    if conditions and all(any(attribute(u, name, other) for u in tested) for name in conditions):
        predictions = _predictions_on(experiment, checkpoint, scored, other, **how)
        if distributed_info().is_first:
            write_predictions(predictions.by_task[checkpoint.task], folder / f"{other}_predictions.jsonl")
    fold_run = fold_run_folder(folder.parents[1], experiment.fold_with_same_training(fold), seed)
    for number in range(len(recipe.stages) - 1):
        if names := only_here(recipe, number):
            earlier = checkpoints.load(stage_folder(fold_run, recipe, number) / "model")
            _write_others(_predictions_on(experiment, earlier, scored, condition_source, **how), names, folder)
    predictions = _predictions_on(experiment, checkpoint, scored, condition_source, **how)
    _write_others(predictions, [name for name in predictions.by_task if name != checkpoint.task], folder)
    if not distributed_info().is_first:
        return
    write_predictions(predictions.by_task[checkpoint.task], folder / "predictions.jsonl.new")
    with replacing(folder / "embeddings.safetensors") as partial:
        save_file({"embeddings": predictions.embeddings}, partial)
    os.replace(folder / "predictions.jsonl.new", folder / "predictions.jsonl")


def predict_dev(
    experiment: Experiment, checkpoint: Checkpoint, fold: Fold, seed: int, folder: Path, report: Report
) -> list[EvalPrediction]:
    """Write and return the predictions of a fold's model for dev; return an empty list if there is no dev set."""
    dev = experiment.labelled(fold.dev)
    if not dev:
        return []
    condition_source = experiment.recipe.inference.conditions
    predictions = _predictions_on(experiment, checkpoint, dev, condition_source, fold=fold, seed=seed, report=report)
    if distributed_info().is_first:
        write_predictions(predictions.by_task[checkpoint.task], folder / "dev_predictions.jsonl")
    return predictions.by_task[checkpoint.task]


def _write_others(predictions: SplitPredictions, names: Sequence[str], folder: Path) -> None:
    """Write the predictions of tasks whose truth is known; for instance, new speakers of a test set have no class."""
    for name in names:
        is_known = any(prediction.truth is not None for prediction in predictions.by_task[name])
        if is_known and distributed_info().is_first:
            write_predictions(predictions.by_task[name], folder / f"{name}_predictions.jsonl")


def _predictions_on(
    experiment: Experiment,
    checkpoint: Checkpoint,
    ids: Sequence[str],
    condition_source: ConditionSource,
    *,
    fold: Fold,
    seed: int,
    report: Report,
) -> SplitPredictions:
    positions = experiment.positions(ids)
    with moved_to(checkpoint.model, own_device(experiment.device)):
        return predictions_of(
            checkpoint,
            experiment.recordings,
            positions,
            fold=fold.name,
            seed=seed,
            condition_source=condition_source,
            features=features_of(experiment, checkpoint, positions, report, f"fold {fold.name}  seed {seed}"),
        )


def features_of(
    experiment: Experiment, checkpoint: Checkpoint, positions: Sequence[int], report: Report, label: str
) -> HiddenLayers | None:
    """Return the cached features of dev or test utterances, normalised as the recipe specifies.

    Only backbones that no stage trains are cached: their features serve all seeds, and other recipes.

    Args:
        checkpoint: A model on its device.

    Returns:
        `None` if the model is to be run on waveforms.
    """
    recipe, norm = experiment.recipe, checkpoint.model.feature_norm
    if not recipe.has_frozen_backbones or not positions:
        return None
    group_of = experiment.normalised_by(positions, "test")
    features = cached_features(
        checkpoint,
        experiment.recordings,
        positions,
        recipe.feature_cache,
        precision=predicting_precision(recipe.inference.precision, own_device(experiment.device)),
        is_exact=not group_of,
        report=report,
        label=label,
    )
    if norm is None or features is None or not group_of:
        return features
    return NormalisedFeatures.of(features, group_of, norm)


def predictions_of(
    checkpoint: Checkpoint,
    recordings: Recordings,
    positions: Sequence[int],
    *,
    fold: str,
    seed: int,
    condition_source: ConditionSource,
    on_progress: Callable[[int, int], None] | None = None,
    features: HiddenLayers | None = None,
) -> SplitPredictions:
    """Return a model's predictions for some utterances, and the embeddings in the same order.

    Probabilities of more than `MAX_PROBABILITIES` classes are left out: those of 1,251 speakers take hundreds of MB.

    Args:
        condition_source: Source of a conditioned model's conditions.
        features: Features of the utterances, which replace their waveforms.
    """
    outputs = shared_outputs(checkpoint, recordings, positions, condition_source, on_progress, features=features)

    def prediction(
        task: Task, position: int, truth: str | None, label: str, probabilities: dict[str, float] | None
    ) -> EvalPrediction:
        utterance = recordings.utterances[position]
        return EvalPrediction.of(
            utterance,
            truth,
            label,
            probabilities,
            fold=fold,
            seed=seed,
            duration_s=round(float(recordings.durations_s[position]), 3),
            ratings=task.ratings(utterance) or None,
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
            decoded_predictions = task.predictions(decoded)
            rows = [(each.written, dict(each.probabilities) or None) for each in decoded_predictions]
        known = [task.truth(recordings.utterances[position]) for position in positions]
        truths = [truth if truth is None or isinstance(truth, str) else f"{truth:.6g}" for truth in known]
        by_task[name] = [
            prediction(task, p, truth, *row) for p, truth, row in zip(positions, truths, rows, strict=True)
        ]
    return SplitPredictions(by_task, outputs.embeddings)


AllowedClasses = Literal["model", "corpus"]


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    allow_seen_speakers: bool = False,
    conditions: Literal["predicted", "known", "oracle"] | None = None,
    labels: LabelMap = NO_MAP,
    classes: AllowedClasses = "model",
    device: str = "auto",
    backbone: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[EvalPrediction], Scores | list[TaskScore]]:
    """Predict and score a manifest.

    Utterances whose class the model does not have are left out, as are changed copies; the notes of the main task's
    scores count them.

    Returns:
        The predictions of the main task, and its scores; if the main task has no classes, a list with its `TaskScore`
        and that of each other task whose truth is known.

    Args:
        model: Folder or Hub name.
        data: The manifest.
        allow_seen_speakers: Also score speakers that the model was trained on; a note of the scores then states this.
        conditions: Source of a conditioned model's conditions; `None` uses the recipe's.
        labels: Manifest label -> the model's label; case and spaces are always ignored.
        classes: Classes that may be predicted: all of the `model`'s, or only those that occur in the `corpus`.
        device: Device that the model runs on; see `serein.load`.
        backbone: Current location of the model's pretrained backbone, if it has moved.

    Raises:
        ManifestError: No utterance has a class of the model, or the conditions that it requires; or predictions are
            restricted to the corpus's classes and it has only one; or the main task predicts numbers, and ratings are
            on another scale.
        LeakError: The model was trained on speakers of the manifest, and `allow_seen_speakers` is false.
    """
    checkpoint = load(model, device, backbone=backbone).checkpoint
    utterances, found = scored_utterances(
        checkpoint, Path(data), allow_seen_speakers=allow_seen_speakers, labels=labels
    )
    notes = list(found)
    condition_source = conditions or checkpoint.options.inference.conditions
    if checkpoint.options.tasks.conditions:
        notes.append(f"Conditions of each clip: {', '.join(checkpoint.options.tasks.conditions)} ({condition_source}).")
    notes += require_attributes(utterances, checkpoint.options.tasks.conditions, condition_source)
    specs: dict[str, TaskSpec] = {}
    for name in checkpoint.answered:
        try:
            specs[name] = checkpoint.tasks[name].spec_of(utterances)
        except ManifestError as error:
            if not checkpoint.tasks[checkpoint.task].spec.has_classes:
                raise
            notes.append(f"The task '{name}' is not scored: {error.what}. {error.remedy}")
    recordings = Recordings(utterances, trim_db=checkpoint.options.clips.trim_db)
    positions = range(len(utterances))
    outcome = predictions_of(
        checkpoint,
        recordings,
        positions,
        fold="all",
        seed=0,
        condition_source=condition_source,
        on_progress=on_progress,
    )
    predictions = outcome.by_task[checkpoint.task]
    others = [  # only those of the other tasks for which some truth is known
        score_task(specs[name], rows)
        for name, rows in outcome.by_task.items()
        if name != checkpoint.task and name in specs and any(p.truth is not None for p in rows)
    ]
    if not checkpoint.tasks[checkpoint.task].spec.has_classes:
        main = score_task(specs[checkpoint.task], predictions)
        return predictions, [replace(main, notes=(*notes, *main.notes)), *others]
    names, brought = checkpoint.tasks[checkpoint.task].spec.classes, checkpoint.calibration
    if classes == "corpus":
        names = classes_of_corpus(predictions, names, where=data)
        predictions = among(predictions, names)
        notes.append(f"Predictions are restricted to the classes of the corpus: {', '.join(names)}.")
    calibration = model_calibration(predictions, names, None if brought is None else brought.temperature)
    if brought is not None and calibration is not None:
        predictions = with_temperature(predictions, brought.temperature)
        notes.append(f"Probabilities are calibrated with the model's temperature of {brought.temperature:.2f}.")
        if calibration.after is not None and calibration.after.is_worse_than(calibration.before):
            errors = [each.expected_calibration_error for each in (calibration.before, calibration.after)]
            notes.append(
                "This makes them worse here: calibration error {:.1f} points before, {:.1f} after.".format(*errors)
            )
    scores = score_predictions(predictions, names, notes=tuple(notes))
    return predictions, replace(scores, calibration=calibration, tasks=tuple(others))


def scored_utterances(
    checkpoint: Checkpoint,
    data: Path,
    *,
    allow_seen_speakers: bool,
    labels: LabelMap = NO_MAP,
    only: Container[str] | None = None,
) -> tuple[list[Utterance], tuple[str, ...]]:
    """Return the utterances of a manifest that a model can be scored on, and notes on those left out.

    Args:
        only: Ids of the utterances to use; `None` uses all.

    Raises:
        ManifestError: No utterance has a class of the model.
        LeakError: The model was trained on speakers of the manifest, and `allow_seen_speakers` is false.
    """
    read = [u for u in manifest.read(data) if only is None or u.id in only]
    everything, map_notes = with_labels(read, labels)
    originals = [u for u in everything if u.copy_of is None]
    utterances, left_out = keep_labelled(originals, checkpoint.tasks[checkpoint.task])
    if not utterances:
        raise ManifestError(
            f"no utterance has a label that the model predicts; the data has {', '.join(left_out)}",
            where=data,
            remedy=f"The model predicts {checkpoint.tasks[checkpoint.task].describe().rstrip('.')}.",
        )
    notes = [f"Left out because the model has no such class: {count} {name}." for name, count in left_out.most_common()]
    notes += [f"{note}." for note in map_notes]
    if num_copies := len(everything) - len(originals):
        notes.append(f"Left out: {num_copies} changed copies of other utterances.")
    shared = checkpoint.learned_speakers(utterances, data.stem)
    if shared and not allow_seen_speakers:
        named = ", ".join(name.lstrip("/") for name in shared[:5])  # speakers without a corpus start with a slash
        raise LeakError(
            f"the model was trained on {len(shared)} of these speakers: {named}",
            where=data,
            remedy="Use new speakers, or pass --allow-seen-speakers, which adds a note to the scores.",
        )
    if shared:
        notes.append(f"SPEAKER-DEPENDENT: the model was trained on {len(shared)} of these speakers.")
    # Speakers of a model that was trained without corpora are compared by their names alone.
    is_nameless = any(name.startswith("/") for name in checkpoint.training.get("speakers", []))
    unknown = sum(u.speaker is None or (u.corpus is None and not is_nameless) for u in utterances)
    if unknown:
        notes.append(f"{unknown} utterances lack a corpus or a speaker: the model may have been trained on them.")
    return utterances, tuple(notes)

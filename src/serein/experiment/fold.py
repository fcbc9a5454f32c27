"""One fold of an experiment with one seed: targets from teachers, training stage by stage, predictions."""

from __future__ import annotations

import filecmp
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from serein import checkpoint as checkpoints
from serein.checkpoint import Calibration, Checkpoint, ModelOptions, VerificationThreshold
from serein.corpora import licence_of
from serein.data import manifest
from serein.data.dataset import Targets, TrainingConditions
from serein.data.files import link_or_copy, replacing, sha256, write_text
from serein.data.manifest import Utterance
from serein.data.protocols import speaker_key, speaker_keys
from serein.data.splits import Fold
from serein.device import distributed_info, moved_to, own_device, wait_for_all
from serein.errors import ModelError
from serein.evaluation.calibration import fitted_temperature
from serein.evaluation.predictions import read_metrics
from serein.evaluation.verification import score_verification
from serein.experiment.build import (
    PretrainedBranch,
    load_pretrained_branches,
    new_model,
    origins_of,
    resolve,
    tasks_with,
    text_size,
    training_of,
)
from serein.experiment.data import Experiment, targets_of
from serein.experiment.outputs import cached_features, feature_outputs, shared_outputs
from serein.experiment.predict import (
    features_of,
    fold_run_folder,
    only_here,
    predict_dev,
    predict_fold,
    stage_folder,
)
from serein.experiment.shared_stages import train_shared_stage
from serein.inference.batching import recording_outputs
from serein.model_card import card
from serein.models.conditioning import attribute_vectors
from serein.models.model import SpeechModel
from serein.progress import Report
from serein.recipe import MAIN, Branch
from serein.tasks.task import Task
from serein.training.checkpointing import INITIAL_WEIGHTS, METRICS_FILE, WEIGHTS
from serein.training.module import monitored_score
from serein.training.stages import (
    TrainingData,
    chosen_precision,
    fit_backbones,
    fit_feature_norm,
    stage_seed,
    train_stage,
)

logger = logging.getLogger(__name__)

# -- one fold, one seed ---------------------------------------------------------------------------------------------


def run_fold(experiment: Experiment, fold: Fold, seed: int, run: Path, report: Report) -> None:
    """Train one fold with one seed and predict its test set; do nothing if its predictions exist.

    A fold with the same training data as an earlier one uses the earlier fold's model, which must exist. Processes that
    train together also share the work of prediction; the first one writes the predictions.
    """
    folder = fold_run_folder(run, fold, seed)
    if (folder / "predictions.jsonl").exists():
        return
    fold_with_same_training = experiment.fold_with_same_training(fold)
    if fold_with_same_training is fold:
        checkpoint = train_fold(experiment, fold, seed, folder, report, label=f"fold {fold.name}  seed {seed}")
    else:
        checkpoint = checkpoints.load(fold_run_folder(run, fold_with_same_training, seed) / "model")
    predict_fold(experiment, checkpoint, fold, seed, folder, report)
    wait_for_all()


def train_fold(
    experiment: Experiment, fold: Fold, seed: int, folder: Path, report: Report, *, label: str
) -> Checkpoint:
    """Train every stage of a recipe on one fold and save the model; resume a training that was stopped."""
    recipe = experiment.recipe
    pretrained_branches = load_pretrained_branches(recipe, fold.name, seed)
    origins = {name: resolve(source, fold.name, seed) for name, source in origins_of(recipe).items()}
    teachers = {name: origins[f"teacher of {name}"] for name, head in recipe.tasks.chosen.items() if head.taught_by}
    tasks = tasks_with(experiment, fold, pretrained_branches)
    torch.manual_seed(stage_seed(seed, fold.name, "model"))
    model = new_model(recipe, tasks, pretrained_branches)
    targets = targets_of(experiment, fold, tasks)
    train, dev = experiment.positions(fold.train), experiment.positions(fold.dev)
    data = TrainingData(
        experiment.recordings,
        distilled(experiment, fold, tasks, targets, teachers=teachers, folder=folder, report=report, label=label),
        train,
        dev,
        recipe.clips,
        training_conditions(experiment, fold),
        recipe.feature_cache,
        normalised_by=experiment.normalised_by(train, "train") | experiment.normalised_by(dev, "test"),
        device=own_device(experiment.device),
    )
    unfitted = [name for name in (MAIN, *model.branches) if name not in pretrained_branches]
    fit_backbones(model, data, unfitted, report=report, label=label)
    if recipe.feature_normalisation is not None:
        fit_feature_norm(model, recipe.stages[0], data, report=report, label=label)
    for number, stage in enumerate(recipe.stages):
        if number and distributed_info().is_first:
            before, own = (stage_folder(folder, recipe, each) for each in (number - 1, number))
            own.mkdir(parents=True, exist_ok=True)
            start = {"stage": before.name, "weights_sha256": sha256(before / WEIGHTS)}
            write_text(own / INITIAL_WEIGHTS, json.dumps(start, indent=1) + "\n")
        model.train()  # the previous stage ended with an evaluation
        own, root = stage_folder(folder, recipe, number), stage_seed(seed, fold.name, stage.name)
        has_target = np.any([data.targets[name].is_known for name in recipe.tasks_of(stage)], axis=0)
        known_train, known_dev = ([p for p in positions if has_target[p]] for positions in (data.train, data.dev))
        of_stage = replace(data, train=known_train, dev=known_dev)
        how: Any = {"seed": root, "report": report, "label": f"{label}  {stage.name}"}
        if experiment.shared is None:
            train_stage(model, tasks, stage, of_stage, own, **how)
        else:
            train_shared_stage(model, tasks, recipe, number, of_stage, folder=own, shared=experiment.shared, **how)
        checkpoint = checkpoint_after(
            experiment, fold, model, tasks, folder, number, pretrained_branches, origins=origins
        )
        if stage is recipe.stages[-1] or only_here(recipe, number):
            checkpoint = calibrate_and_save(checkpoint, experiment, fold, seed, folder, report, number=number)
    model.eval()
    return checkpoint


def calibrate_and_save(
    checkpoint: Checkpoint, experiment: Experiment, fold: Fold, seed: int, folder: Path, report: Report, *, number: int
) -> Checkpoint:
    """Save the model of a stage, and return it with what was fitted on dev.

    This is the verification threshold and, after the last stage, the temperature.

    Args:
        folder: Folder of the fold and seed.
        number: Number of the stage in the recipe.
    """
    own, is_last = stage_folder(folder, experiment.recipe, number), number == len(experiment.recipe.stages) - 1
    classes, calibration = checkpoint.tasks[checkpoint.task].spec.classes, None
    if is_last:
        dev = predict_dev(experiment, checkpoint, fold, seed, folder, report)
        if classes and (found := fitted_temperature(dev, classes)) is not None:
            if found.helps:
                calibration = Calibration(
                    temperature=found.temperature, fitted_on="its own dev set", num_utterances=len(dev)
                )
            state = "They are calibrated" if found.helps else "They are uncalibrated"
            checkpoint.training["calibration"] = f"{state}: {found}."
    threshold = verification_threshold(experiment, checkpoint, fold, report)
    checkpoint = replace(checkpoint, verification=threshold, calibration=calibration)
    if distributed_info().is_first:
        answered = sorted(checkpoint.answered, key=lambda task: task != checkpoint.task)  # the evaluated one first
        text = card(experiment.recipe.name, [checkpoint.tasks[task] for task in answered], checkpoint.training)
        saved = (folder if is_last else own) / "model"
        checkpoints.save(saved, checkpoint, text)
        if filecmp.cmp(own / WEIGHTS, saved / "model.safetensors", shallow=False):
            link_or_copy(own / WEIGHTS, saved / "model.safetensors")
    wait_for_all()  # other processes read it
    return checkpoint


def verification_threshold(
    experiment: Experiment, checkpoint: Checkpoint, fold: Fold, report: Report
) -> VerificationThreshold | None:
    """Return the verification threshold fitted on dev; `None` if no speakers were learned or there is no dev set."""
    utterances = experiment.utterances
    positions = [p for p in experiment.positions(fold.dev) if utterances[p].speaker is not None]
    task = next((name for name, task in checkpoint.tasks.items() if task.spec.field == "speaker"), None)
    if task is None or not positions:
        return None
    condition_source = experiment.recipe.inference.conditions
    with moved_to(checkpoint.model, own_device(experiment.device)):
        features = features_of(experiment, checkpoint, positions, report, f"fold {fold.name}")
        outputs = shared_outputs(
            checkpoint, experiment.recordings, positions, condition_source, embedding=task, features=features
        )
    vectors = outputs.embeddings
    found = score_verification(vectors, [speaker_key(utterances[p]) for p in positions], np.random.default_rng(0))
    if found is None:
        return None
    return VerificationThreshold(
        threshold=found.threshold,
        equal_error_rate=found.equal_error_rate,
        num_clips=len(positions),
        num_speakers=found.num_speakers,
    )


def training_conditions(experiment: Experiment, fold: Fold) -> TrainingConditions:
    """Return the conditions: everything known for training clips, those of evaluation for all others."""
    recipe = experiment.recipe
    is_train = np.zeros((len(experiment.utterances), 1), bool)
    is_train[experiment.positions(fold.train)] = True
    known, evaluated = (
        attribute_vectors(experiment.utterances, recipe.tasks.conditions, condition_source, recipe.text.encoder)
        for condition_source in ("known", recipe.inference.conditions)
    )
    nothing = [Utterance(id="-", audio="-")]
    unknown = attribute_vectors(nothing, recipe.tasks.conditions, "known", recipe.text.encoder)
    values = {name: np.where(is_train, known[name], evaluated[name]) for name in known}
    return TrainingConditions(
        values, {name: vectors[0] for name, vectors in unknown.items()}, recipe.tasks.condition_dropout
    )


def checkpoint_after(
    experiment: Experiment,
    fold: Fold,
    model: SpeechModel,
    tasks: Mapping[str, Task],
    folder: Path,
    number: int,
    pretrained_branches: Mapping[str, PretrainedBranch],
    *,
    origins: Mapping[str, Path],
) -> Checkpoint:
    """Return the checkpoint of a model after a stage, which predicts the tasks of that stage.

    Args:
        origins: Branch, backbone or teacher -> folder of the finished model that it comes from.
    """
    recipe = experiment.recipe
    before = [training_of(origin) for origin in origins.values()]
    learned = [experiment.utterances[p] for p in experiment.positions((*fold.train, *fold.dev))]
    speakers = {speaker for training in before for speaker in training.get("speakers", [])}
    speakers = speakers.union(*(speaker_keys(u, experiment.manifest.stem) for u in learned if u.speaker is not None))
    corpora = sorted({u.corpus or "own" for u in learned})
    epochs = read_metrics(stage_folder(folder, recipe, number) / METRICS_FILE)
    monitor = monitored_score(recipe.stages[number], tasks[recipe.tasks_of(recipe.stages[number])[0]])
    training = {
        "recipe": recipe.name,
        "fold": fold.name,
        "manifest_sha256": manifest.digest(experiment.utterances),
        "num_utterances": len(learned),
        "num_speakers": len({speaker_key(u) for u in learned}),
        "speakers": sorted(speakers),
        "origins": {
            name: {"model": str(origin), "sha256": sha256(origin / "model.safetensors")}
            for name, origin in origins.items()
        },
        "licences": {name: licence for training in before for name, licence in training.get("licences", {}).items()}
        | {name: licence_of(name) or "not stated" for name in corpora},
        "languages": sorted(
            {language for training in before for language in training.get("languages", [])}
            | {u.language for u in learned if u.language}
        ),
        "dev_score": (min if monitor == "loss" else max)(
            (metrics[f"dev_{monitor}"] for metrics in epochs.values() if f"dev_{monitor}" in metrics), default=None
        ),
        "monitor": monitor,
    }
    kept_names = ("encoder", "ensemble_size", "tasks", "clips", "text", "inference", "feature_normalisation")
    kept = {name: getattr(recipe, name) for name in kept_names}
    finished = {
        name: Branch(encoder=pretrained_branches[name].checkpoint.options.encoder)
        for name in model.branches
        if name in pretrained_branches
    }
    branches = {name: Branch(encoder=recipe.branches[name].encoder) for name in model.branches} | finished
    answered = recipe.answered_after(number)
    options = ModelOptions(**kept, branches=branches, text_size=text_size(recipe), answered=answered)
    return Checkpoint(model, options, dict(tasks), training)


def distilled(
    experiment: Experiment,
    fold: Fold,
    tasks: Mapping[str, Task],
    targets: Mapping[str, Targets],
    *,
    teachers: Mapping[str, Path],
    folder: Path,
    report: Report,
    label: str,
) -> dict[str, Targets]:
    """Return the targets, with those of training clips mixed with the teacher's probabilities if a task has a teacher.

    A changed copy (`copy_of`) gets the teacher's probabilities for the original. The teacher predicts each clip once;
    its probabilities are kept in `folder` until its weights change.

    Args:
        targets: Task -> targets of all utterances; those of dev are not changed.
        teachers: Task -> model folder of its teacher.

    Raises:
        ModelError: A teacher has none of the task's classes.
    """
    train = experiment.positions(fold.train)
    position_of = {experiment.utterances[position].id: position for position in train}
    originals = [position_of.get(experiment.utterances[p].copy_of or "", p) for p in train]
    mixed = dict(targets)
    for name, task in tasks.items():
        options = task.options.taught_by
        if options is None:
            continue
        kept = folder / f"teacher_{name}.safetensors"
        asked = sorted(set(originals))
        if distributed_info().is_first:
            how: Any = {"report": report, "label": f"{label}  teacher"}
            ask_teacher(experiment, task, teachers[name], asked, kept, **how)
        wait_for_all()
        probabilities = load_file(kept)["probabilities"]
        row_of = {position: row for row, position in enumerate(asked)}
        softened = probabilities[[row_of[p] for p in originals]] ** (1.0 / options.temperature)
        softened /= softened.sum(axis=1, keepdims=True)
        values, is_known = targets[name].values.copy(), targets[name].is_known.copy()
        labels, is_lacked = values[train, : task.num_outputs], probabilities.max(axis=0) == 0
        is_untaught = labels[:, is_lacked].sum(axis=1) > 0  # the teacher would call them something else
        if is_untaught.any():
            lacked = ", ".join(np.array(task.spec.classes)[is_lacked].tolist())
            logger.info(
                "%s: the teacher of '%s' does not know %s; the label is the only target of these %d clips",
                label,
                name,
                lacked,
                is_untaught.sum(),
            )
        weights = np.where(is_known[train], options.weight, 1.0)[:, None]  # only the teacher's where there is no label
        weights = np.where(is_untaught[:, None], 0.0, weights)
        values[train, : task.num_outputs] = weights * softened + (1.0 - weights) * labels
        is_known[train] = True
        mixed[name] = Targets(values, is_known)
    return mixed


def ask_teacher(
    experiment: Experiment, task: Task, teacher: Path, positions: list[int], kept: Path, *, report: Report, label: str
) -> None:
    """Write a teacher's (clip, class) probabilities of a task's classes, 0 for classes that the teacher lacks.

    Args:
        kept: File to write; it is left unchanged if it contains the same teacher's probabilities for the same clips.

    Raises:
        ModelError: The teacher has no such task, or none of its classes.
    """
    classes = task.spec.classes
    ids = [experiment.utterances[position].id for position in positions]
    asked = json.dumps([sha256(teacher / "model.json"), sha256(teacher / "model.safetensors"), *classes, *ids])
    if kept.exists():
        with safe_open(kept, framework="numpy") as file:
            if (file.metadata() or {}).get("asked") == asked:
                return
    checkpoint = checkpoints.load(teacher)
    own = checkpoint.tasks.get(task.name)
    if own is None or not set(own.spec.classes) & set(classes):
        what = f"has none of the classes of '{task.name}': {', '.join(classes)}"
        raise ModelError(what, where=teacher, remedy="Name a teacher trained on them, or leave out 'distillation'.")
    found = teacher_probabilities(experiment, checkpoint, own, positions, report=report, label=label)
    known = own.spec.classes
    columns = np.array([list(known).index(name) if name in known else -1 for name in classes])
    probabilities = np.where(columns >= 0, found[:, columns], 0.0).astype(np.float32)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with replacing(kept) as partial:
        rows = np.ascontiguousarray(probabilities)  # safetensors writes memory in the order in which it is stored
        save_file({"probabilities": rows}, partial, metadata={"asked": asked})


def teacher_probabilities(
    experiment: Experiment, teacher: Checkpoint, task: Task, positions: list[int], *, report: Report, label: str
) -> NDArray[np.float32]:
    """Return the teacher's (clip, class) probabilities.

    The backbone's features are cached, so the teachers of all folds that share a frozen backbone run it only once.
    """
    recordings, recipe, source = experiment.recordings, experiment.recipe, experiment.recipe.inference.conditions
    device = own_device(experiment.device)

    def tell(done: int, total: int) -> None:
        report(label, done, total, f"{total} clips")

    with moved_to(teacher.model, device):
        features = cached_features(
            teacher,
            recordings,
            positions,
            recipe.feature_cache,
            precision=chosen_precision("auto", device),
            is_exact=False,
            report=report,
            label=label,
        )
        if features is None:
            outputs = recording_outputs(teacher, recordings, positions, source, tell)
        else:
            outputs = feature_outputs(teacher, recordings, positions, source, features)
    values = outputs.decoded[task.name].values
    assert values is not None
    return values

"""Targets from a teacher: what a trained model says of the training clips (knowledge distillation, Hinton 2015)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from serein import checkpoint as model_folder
from serein.checkpoint import Checkpoint
from serein.data.dataset import BucketSampler, ClipDataset, Targets, batch_durations, collate
from serein.data.files import replacing, sha256
from serein.data.splits import Fold
from serein.device import moved_to, own_device
from serein.distributed import distributed_info, wait_for_all
from serein.errors import ModelError
from serein.experiment.data import Experiment
from serein.inference.batching import recording_outputs
from serein.models.logmel import LogMelBackbone
from serein.progress import Report
from serein.recipe import Batches, SpectrogramAugmentation, Stage
from serein.tasks.task import Task
from serein.training.feature_cache import FeatureCache, only_backbone, tapped_layers
from serein.training.module import encode_batch
from serein.training.stages import chosen_precision


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
    """Return the targets, of training clips mixed with the teacher's probabilities where a task has a teacher.

    A changed copy (`copy_of`) gets what the teacher says of the original. The teacher hears each clip once: what it
    said is kept in `folder` until its weights change.

    Args:
        targets: Task -> targets of all utterances; those of dev stay as they are.
        teachers: Task -> model folder of its teacher.

    Raises:
        ModelError: A teacher knows none of the task's classes.
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
        said = probabilities[[row_of[p] for p in originals]] ** (1.0 / options.temperature)
        said /= said.sum(axis=1, keepdims=True)
        values, is_known = targets[name].values.copy(), targets[name].is_known.copy()
        weights = np.where(is_known[train], options.weight, 1.0)[:, None]  # the teacher's alone where there is no label
        classes = slice(0, task.num_outputs)
        values[train, classes] = weights * said + (1.0 - weights) * values[train, classes]
        is_known[train] = True
        mixed[name] = Targets(values, is_known)
    return mixed


def ask_teacher(
    experiment: Experiment, task: Task, teacher: Path, positions: list[int], kept: Path, *, report: Report, label: str
) -> None:
    """Write (clip, class) probabilities of a task's classes, 0 of classes that the teacher does not know.

    Args:
        kept: Stays as it is when it has the same teacher's answers to the same.

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
    checkpoint = model_folder.load(teacher)
    own = checkpoint.tasks.get(task.name)
    if own is None or not set(own.spec.classes) & set(classes):
        what = f"knows none of the classes of '{task.name}': {', '.join(classes)}"
        raise ModelError(what, where=teacher, remedy="Name a teacher that learned them, or leave 'distillation' out.")
    said = answers(experiment, checkpoint, own, positions, report=report, label=label)
    known = own.spec.classes
    columns = np.array([list(known).index(name) if name in known else -1 for name in classes])
    probabilities = np.where(columns >= 0, said[:, columns], 0.0).astype(np.float32)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with replacing(kept) as partial:
        rows = np.ascontiguousarray(probabilities)  # safetensors writes the memory as it lies
        save_file({"probabilities": rows}, partial, metadata={"asked": asked})


@torch.no_grad()
def answers(
    experiment: Experiment, teacher: Checkpoint, task: Task, positions: list[int], *, report: Report, label: str
) -> NDArray[np.float32]:
    """Return the teacher's (clip, class) probabilities.

    The features of its backbone go through their cache, so that teachers of all folds that stand on one frozen backbone
    run it once.
    """
    recordings, recipe, model, clips = experiment.recordings, experiment.recipe, teacher.model, teacher.options.clips
    stage, device = Stage(name="teacher", tasks=(task.name,)), own_device(experiment.device)
    backbone = only_backbone(model, stage)
    is_conditioned, is_long = teacher.options.tasks.conditions, recordings.durations_s[positions].max() > clips.window_s
    has_cache = recipe.feature_cache.dtype != "none" and not isinstance(backbone, LogMelBackbone)
    if backbone is None or not has_cache or is_conditioned or is_long:
        source = recipe.inference.conditions
        with moved_to(model, device):
            outputs = recording_outputs(
                teacher, recordings, positions, source, lambda done, total: report(label, done, total, f"{total} clips")
            )
        whole = outputs.decoded[task.name].values
        assert whole is not None
        return whole
    branches = model.branches_of(stage.tasks)
    layers = tapped_layers(model, branches)
    cache = FeatureCache(backbone, layers, recipe.feature_cache, chosen_precision("auto", device), device=device)
    dataset = ClipDataset(recordings, {}, clips, features=cache.of(recordings, clips, positions, report, label))
    durations_s = batch_durations(recordings, clips, is_training=False)
    answer_of: dict[int, NDArray[np.float32]] = {}
    for items in BucketSampler(positions, durations_s, Batches(), is_training=False):
        batch = collate([dataset[item] for item in items])
        hidden_states = encode_batch(model, batch, SpectrogramAugmentation(), branches).hidden_states
        output = model.decode(hidden_states, tasks=stage.tasks)[task.name].output
        values = task.decode(output).values
        assert values is not None
        answer_of |= dict(zip((position for _, position in items), values, strict=True))
    return np.stack([answer_of[position] for position in positions])

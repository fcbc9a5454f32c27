"""Stages trained once and shared by all runs, such as rows of a table, that begin with them on the same data.

    folder / key (hash of all that determines the weights) / weights.safetensors, metrics.jsonl, stage.json

A stage is stored complete or not at all. If two processes need the same one, the second waits for the first.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from serein.cache import keep_within_limit, mark_used, size_limit
from serein.data.files import link_or_copy, replacing, replacing_folder, sha256, try_lock, write_text
from serein.device import distributed_info, wait_for_all
from serein.models.model import SpeechModel
from serein.models.pretrained import weights_hash
from serein.progress import Report
from serein.recipe import MAIN, Recipe, Stage
from serein.tasks.task import Task
from serein.training.checkpointing import METRICS_FILE, WEIGHTS
from serein.training.stages import TrainingData, chosen_precision, train_stage

FORMAT = 2  # of the key; a new number retrains every stage
DESCRIPTION = "stage.json"
WAIT_S = 1.0


def used_weights(model: SpeechModel, stage: Stage) -> dict[str, torch.Tensor]:
    """Return the weights that a stage uses, frozen or not: its tasks' heads, their encoders and backbones.

    All other weights keep their values and have no influence on these.
    """
    branches = model.branches_of(stage.tasks, stage.use_fusion)
    prefixes = [f"branches.{name}." for name in branches if name != MAIN]
    if MAIN in branches or any(model.source_of(name) == MAIN for name in branches):
        prefixes += ["backbone.", "feature_norm."]
    for number, member in enumerate(model.ensemble):
        heads = member.in_order(member.heads if stage.tasks is None else stage.tasks, stage.use_fusion)
        prefixes += [f"ensemble.{number}.heads.{name}." for name in heads]
        prefixes += [f"ensemble.{number}.encoder."] if MAIN in branches else []
    unused = () if stage.use_fusion else (".fusion.inputs",)
    state = model.state_dict().items()
    return {name: tensor for name, tensor in state if name.startswith(tuple(prefixes)) and not name.endswith(unused)}


def stage_options(recipe: Recipe, number: int) -> dict[str, Any]:
    """Return the options of a stage and its tasks that determine what it trains.

    A stage without fusion is the same whether or not other networks are fused later.
    """
    stage = recipe.stages[number]
    names = recipe.tasks_of(stage)
    tasks = {name: recipe.tasks.chosen[name].model_dump(mode="json") for name in names}
    joins = any(recipe.tasks.chosen[name].fusion_inputs for name in names) and stage.use_fusion
    for own in tasks.values():
        if not joins and own.get("fusion"):
            own["fusion"] = {}
    return stage.model_dump(mode="json", exclude={"name"}) | {"tasks": tasks, "use_fusion": joins}


def stage_key(
    model: SpeechModel, tasks: Mapping[str, Task], recipe: Recipe, number: int, data: TrainingData, seed: int
) -> str:
    """Return a hash of everything that determines what a stage learns.

    It covers the stage's options, the parts of the network that it runs and their initial weights, its tasks and their
    targets, the recordings of train and dev in order, how clips are cut, conditions, seed, precision, and software
    versions.

    Args:
        number: Number of the stage in the recipe.
        data: The stage's training data.
        seed: Root of all random draws of the stage.
    """
    stage = recipe.stages[number]
    names = list(tasks if stage.tasks is None else stage.tasks)
    running = model.ensemble[0].in_order(names, stage.use_fusion)
    branches = model.branches_of(names, stage.use_fusion)
    parts: list[nn.Module | None] = [model.branches[name] for name in branches if name != MAIN]
    parts += [model.backbone, *(member.encoder for member in model.ensemble)] if MAIN in branches else []
    parts += [member.heads[name] for member in model.ensemble for name in running]
    utterances = [data.recordings.utterances[position] for position in (*data.train, *data.dev)]
    device = torch.cuda.get_device_name(data.device) if data.device.type == "cuda" else data.device.type
    facts = {
        "format": FORMAT,
        "versions": torch.__version__,
        "device": [device, distributed_info().size, chosen_precision(stage.precision, data.device)],
        "stage": stage_options(recipe, number),
        "tasks": {name: tasks[name].to_json() for name in running},
        "joining": {name: tasks[name].options.model_dump(mode="json") for name in running if name not in names},
        "recipe": recipe.model_dump(mode="json", include={"backbone", "adapter", "encoder", "ensemble_size", "text"}),
        "branches": {name: recipe.branches[name].model_dump(mode="json") for name in branches if name != MAIN},
        "parts": [repr(part) for part in parts],
        "clips": data.clips.model_dump(mode="json"),
        "features": None if data.features is None else data.features.dtype,
        "num_train": len(data.train),
        "audio": [[u.id, u.audio, u.start_s, u.end_s, u.corpus] for u in utterances],
        "seed": seed,
        "weights": weights_hash(used_weights(model, stage)),
        "condition_dropout": data.conditions.dropout,
    }
    if data.normalised_by:
        facts["normalised_by"] = [data.normalised_by.get(position) for position in (*data.train, *data.dev)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    positions = [*data.train, *data.dev]
    digest.update(data.recordings.durations_s[positions].tobytes())
    for name in names:
        digest.update(data.targets[name].values[positions].tobytes())
        digest.update(data.targets[name].is_known[positions].tobytes())
    for _, values in sorted((data.conditions.values or {}).items()):
        digest.update(values[positions].tobytes())
    return digest.hexdigest()[:24]


def train_shared_stage(
    model: SpeechModel,
    tasks: Mapping[str, Task],
    recipe: Recipe,
    number: int,
    data: TrainingData,
    *,
    folder: Path,
    shared: Path,
    seed: int,
    report: Report,
    label: str,
) -> None:
    """Train a stage as `train_stage` does, or load its weights from an identical stage that was trained before.

    Args:
        number: Number of the stage in the recipe.
        folder: The stage's own folder; it receives the same files either way, and is resumed as usual.
        shared: Folder of the shared stages.

    Raises:
        RecipeError: `$SEREIN_CACHE_SIZE` is not a size.
    """
    size_limit()  # raises before the stage is trained, not after it
    is_first, path, stage = distributed_info().is_first, folder / WEIGHTS, recipe.stages[number]
    model.train_only(stage.trainable, stage.tasks)  # which branches share a backbone is part of the key
    entry = shared / stage_key(model, tasks, recipe, number, data, seed)
    shared.mkdir(parents=True, exist_ok=True)
    with open(shared / f".{entry.name}.lock", "wb") as file:
        while is_first and distributed_info().size == 1 and not try_lock(file):
            report(label, 0, 1, "waiting for the process that is training the same stage")
            time.sleep(WAIT_S)
        if is_first and not path.exists() and (entry / DESCRIPTION).exists():
            _take(model, stage, entry, folder)
            described = json.loads((entry / DESCRIPTION).read_text(encoding="utf-8"))
            report(label, 1, 1, f"shared: {described['trained_as']}")
        wait_for_all()
        others = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        others = {name: others[name] for name in others.keys() - used_weights(model, stage).keys()}
        train_stage(model, tasks, stage, data, folder, seed=seed, report=report, label=label)
        state = model.state_dict()
        is_contained = all(torch.equal(state[name], before) for name, before in others.items())
        if is_first and is_contained and not (entry / DESCRIPTION).exists():
            _publish(entry, folder, label, stage)
            keep_within_limit(stages=[shared])


def _take(model: SpeechModel, stage: Stage, entry: Path, folder: Path) -> None:
    """Copy a shared stage's files into a stage's folder; weights that the stage does not use stay this model's."""
    with safe_open(entry / WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    found, state = load_file(entry / WEIGHTS), model.state_dict()
    used = used_weights(model, stage).keys() & found.keys()
    mark_used(entry)
    is_backbone_left_out = not any(name.startswith("backbone.") for name in found)
    merged = {
        name: (found[name] if name in used else tensor.detach().cpu()).contiguous()
        for name, tensor in state.items()
        if not (is_backbone_left_out and name.startswith("backbone."))
    }
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(entry / METRICS_FILE, folder / METRICS_FILE)
    shutil.copyfile(entry / DESCRIPTION, folder / DESCRIPTION)
    with replacing(folder / WEIGHTS) as partial:
        save_file(merged, partial, metadata)


def _publish(entry: Path, folder: Path, label: str, stage: Stage) -> None:
    """Copy a finished stage to the shared folder."""
    with replacing_folder(entry) as partial:
        link_or_copy(folder / WEIGHTS, partial / WEIGHTS)
        shutil.copyfile(folder / METRICS_FILE, partial / METRICS_FILE)
        description = {"trained_as": " ".join(label.split()), "stage": stage.model_dump(mode="json")}
        description |= {"weights_sha256": sha256(folder / WEIGHTS), "folder": str(folder.absolute())}
        write_text(partial / DESCRIPTION, json.dumps(description, indent=1) + "\n")

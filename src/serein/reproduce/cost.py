"""Estimate the cost of a reproduction before it starts: runs, shared stages, hours on the current device, and disk.

The estimate counts the multiplications of backbones, which are by far the most, in every epoch that a stage may have.
Stages that stop early take less time; reading audio adds some. The speed of the device is measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serein.choices import choose
from serein.data import manifest
from serein.data.dataset import durations, fixed_durations
from serein.data.manifest import Utterance
from serein.data.splits import make_folds
from serein.device import device_of
from serein.errors import SereinError
from serein.experiment.shared_stages import stage_options
from serein.exporting.benchmark import matrix_peak
from serein.models.pretrained import is_own, place_of
from serein.recipe import Lora, Recipe
from serein.reproduce.reproduction import Request
from serein.reproduce.table import Table
from serein.reproduce.trials import Trial, is_finished, require_pretrained, row_recipe, take_data, trial_of
from serein.tasks.task import keep_labelled, without_dropped
from serein.training.stages import chosen_precision

EFFICIENCY = 0.5  # fraction of a network's time that bare matrix products would take
FRAMES_PER_S = 50
LOGMEL_MULTIPLY_ADDS = 1e8  # per second of audio, for small networks on log-mel bands
SAMPLED_CLIPS = 400
# Hidden size, layers, intermediate size; used if the configuration is not available
KNOWN = {"base": (768, 12, 3072), "large": (1024, 24, 4096)}
KNOWN_WHISPER = {
    "base": (512, 6, 2048),
    "tiny": (384, 4, 1536),
    "small": (768, 12, 3072),
    "medium": (1024, 24, 4096),
    "large": (1280, 32, 5120),
}
CONVOLUTIONS = ((512,) * 7, (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))


@dataclass(frozen=True)
class Network:
    """The size of a backbone.

    Attributes:
        multiply_adds: Multiply-adds of a forward pass over one second of audio.
        num_weights: Number of weights.
        num_layers: Number of transformer layers.
    """

    multiply_adds: float
    num_weights: float
    num_layers: int
    hidden_size: int


@dataclass(frozen=True)
class Cost:
    """The cost of a run.

    Attributes:
        multiply_adds: Multiply-adds of all folds, including backward passes.
        num_bytes: Disk space of the finished run.
    """

    multiply_adds: float
    num_bytes: float


def network_of(options: Any) -> Network:
    """Return the size of a backbone, from its configuration if that is in a local folder, otherwise from its name.

    Example:
        >>> from serein.recipe import HuggingFace
        >>> network = network_of(HuggingFace(source="facebook/wav2vec2-base"))
        >>> round(network.num_weights / 1e6), round(network.multiply_adds / 1e9, 1)
        (89, 6.7)
        >>> round(network_of(HuggingFace(source="openai/whisper-base", layers=4)).num_weights / 1e6, 1)
        13.5
    """
    if options.name == "logmel":
        return Network(LOGMEL_MULTIPLY_ADDS, 5e5, 0, 64)
    place, name = Path(options.source).expanduser(), options.source.lower()
    is_there = place.is_dir() or is_own(options.source)
    config: dict[str, Any] = place_of(options.source, options.revision).read_config() if is_there else {}
    if "whisper" in config.get("model_type", name):
        names, known = ("d_model", "encoder_layers", "encoder_ffn_dim"), KNOWN_WHISPER
    else:
        names, known = ("hidden_size", "num_hidden_layers", "intermediate_size"), KNOWN
    usual = next((sizes for size, sizes in known.items() if size in name), known["base"])
    hidden, layers, between = (int(config.get(key, number)) for key, number in zip(names, usual, strict=True))
    if known is KNOWN_WHISPER:
        rate_hz, inputs, convolutions = 100.0, config.get("num_mel_bins", 80), ((hidden, hidden), (3, 3), (1, 2))
    else:
        keys = ("conv_dim", "conv_kernel", "conv_stride")
        rate_hz, inputs = 16_000.0, 1
        convolutions = tuple(config.get(key, usual) for key, usual in zip(keys, CONVOLUTIONS, strict=True))
    multiply_adds, num_weights = 0.0, 0.0
    for channels, kernel, stride in zip(*convolutions, strict=True):
        rate_hz /= stride
        multiply_adds += rate_hz * kernel * inputs * channels
        num_weights += kernel * inputs * channels
        inputs = channels
    layers = min(layers, options.layers or layers)
    transformer = layers * (4 * hidden**2 + 2 * hidden * between)
    return Network(multiply_adds + FRAMES_PER_S * transformer, num_weights + transformer, layers, hidden)


def trained_part(trainable: Sequence[str], num_layers: int, adapter: Lora | None = None) -> float:
    """Return the fraction of a backbone through which gradients are propagated.

    Args:
        trainable: The trainable parts of a stage.
        adapter: The backbone's adapter; gradients reach down to the lowest layer that has one.

    Example:
        >>> [trained_part(names, 12) for names in (["layers 7-12", "heads"], ["layer 10"], ["encoder"], ["all"])]
        [0.5, 0.25, 0.0, 1.0]
    """
    part = 0.0
    for name in trainable:
        is_whole = name in ("all", "backbone")
        if name == "transformer" or (is_whole and adapter is None):
            return 1.0
        if (is_whole or name == "adapter") and adapter is not None:
            part = max(part, (num_layers + 1 - min(adapter.layers or (1,))) / max(num_layers, 1))
        elif layers := re.fullmatch(r"layers? (\d+)(-\d+)?", name):
            part = max(part, (num_layers + 1 - int(layers[1])) / max(num_layers, 1))
    return part


def stage_keys(recipe: Recipe) -> list[str]:
    """Return keys that identify each stage of a recipe, with the stages before it, among runs on the same data."""
    parts = {"labels", "protocol", "clips", "backbone", "encoder", "adapter", "seeds", "ensemble_size"}
    keys, before = [], json.dumps(recipe.model_dump(mode="json", include=parts), sort_keys=True)
    for number in range(len(recipe.stages)):
        before = json.dumps([before, stage_options(recipe, number)], sort_keys=True)
        keys.append(before)
    return keys


class Estimator:
    """Estimate the costs of runs on some data; stages and features that runs share are counted once.

    Args:
        utterances: The utterances of the manifest.
    """

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        self.utterances = utterances
        step = max(1, len(utterances) // SAMPLED_CLIPS)
        self._durations_s = durations(utterances[::step])
        self._sizes: dict[str, list[tuple[int, int, int]]] = {}
        self._seen: set[str] = set()

    def fold_sizes(self, recipe: Recipe) -> list[tuple[int, int, int]]:
        """Return the number of utterances of train, dev and test in each fold.

        Raises:
            SereinError: The data does not fit the recipe.
        """
        main = recipe.tasks.main
        parts = recipe.model_dump(mode="json", include={"labels", "protocol"})
        key = json.dumps([parts, main, recipe.tasks.chosen[main].model_dump(mode="json")])
        if key not in self._sizes:
            utterances = without_dropped(self.utterances, recipe.labels.drop)
            task = choose("task", main).fit(main, recipe.tasks.chosen[main], recipe, utterances)
            kept, _ = keep_labelled(utterances, task, recipe.labels.unknown_labels)
            folds = make_folds(kept, recipe.protocol, {}).folds
            self._sizes[key] = [(len(fold.train), len(fold.dev), len(fold.test)) for fold in folds]
        return self._sizes[key]

    def cost(self, recipe: Recipe) -> Cost:
        """Return the cost of a run, without the parts that earlier runs have already counted.

        Raises:
            SereinError: The data does not fit the recipe.
        """
        network, clips = network_of(recipe.backbone), recipe.clips
        whole_s = float(fixed_durations(self._durations_s, clips).mean())
        clip_s = float(np.minimum(fixed_durations(self._durations_s, clips), clips.crop_s or np.inf).mean())
        sizes = self.fold_sizes(recipe)
        num_train, num_dev, num_test = (sum(numbers) for numbers in zip(*sizes, strict=True))
        work, num_bytes, is_any_saved = whole_s * (num_dev + num_test), 0.0, False
        for key, stage in zip(stage_keys(recipe), recipe.stages, strict=True):
            trained = trained_part(stage.trainable, network.num_layers, recipe.adapter)
            own = [name for name in stage.trainable if recipe.adapter is None or name not in ("all", "backbone")]
            saves_backbone = trained_part(own, network.num_layers) > 0  # an adapter is small
            is_any_saved |= saves_backbone
            if key in self._seen:
                continue
            self._seen.add(key)
            views = stage.waveform_augmentation.num_views
            is_plain = stage.waveform_augmentation.name == "none" and clips.crop_s is None
            is_kept = trained < 1 and is_plain and recipe.backbone.name != "logmel"
            fixed = 1 - trained if is_kept else 0.0  # the layers below the lowest trained layer run once
            forward = (fixed + (1 - fixed) * stage.epochs) * (views * num_train * clip_s + num_dev * whole_s)
            num_networks = 1 + (len(recipe.branches) if stage.use_fusion else 0)
            work += num_networks * forward + 2 * trained * stage.epochs * views * num_train * clip_s
            num_bytes += 4 * len(sizes) * network.num_weights if saves_backbone else 0.0
            features = f"features of {recipe.backbone}"
            if is_kept and features not in self._seen:
                self._seen.add(features)
                num_bytes += 2.0 * network.hidden_size * FRAMES_PER_S * whole_s * len(self.utterances)
        num_bytes += 4 * len(sizes) * network.num_weights if is_any_saved else 0.0  # the model folders
        return Cost(work * network.multiply_adds, num_bytes)


@dataclass(frozen=True)
class PlannedTable:
    """The work that one table requires.

    Attributes:
        num_rows: Rows that train something.
        num_runs: Different runs of these rows, for all seeds; rows with the same configuration count once.
        num_finished: Runs that are finished.
        num_shared: Runs that an earlier table of the plan also has.
        num_stages: Stages of the runs that are new in this table.
        num_shared_stages: Those of these stages that are trained once because several runs begin with them.
        hours: Hours of training and prediction on this device if no stage stops early; `None` if there is a `problem`.
        gigabytes: Disk space of the finished runs.
        problem: Why the data does not fit, or the models that are missing to start from; `None` if there is none.
    """

    name: str
    num_rows: int
    num_runs: int
    num_finished: int
    num_shared: int
    num_stages: int
    num_shared_stages: int
    hours: float | None
    gigabytes: float | None
    problem: str | None = None

    @property
    def num_to_train(self) -> int:
        """Runs that are left to train."""
        return self.num_runs - self.num_finished - self.num_shared


def plan(tables: Sequence[tuple[Table, Path]], request: Request) -> list[PlannedTable]:
    """Return the work that each table requires, in order; nothing is trained.

    With a limit, the sampled manifests are written to the output folder, as for a reproduction.

    Args:
        tables: Tables, each with its manifest.

    Raises:
        RecipeError: A row or its recipe is invalid.
        ManifestError: The data cannot be read.
    """
    device = device_of(request.device)
    peak = matrix_peak(device, chosen_precision("auto", device), 1024 if device.type == "cpu" else 8192)
    speed = EFFICIENCY * peak / 2  # a multiply-add is two operations
    data = {path: take_data(path, request.limit, request.out) for path in dict.fromkeys(path for _, path in tables)}
    estimators = {path: Estimator(manifest.read(own.manifest)) for path, own in data.items()}
    known: set[tuple[str, int]] = set()
    known_stages: set[str] = set()
    planned = []
    for table, path in tables:
        rows = [row for row in table.picked(request.rows) if row.is_trained]
        recipes = [row_recipe(table, row, request.overrides) for row in rows]
        wanted = [
            trial_of(row.name, recipe, seed, data[path], request.out)
            for row, recipe in zip(rows, recipes, strict=True)
            for seed in range(request.num_seeds)
        ]
        trials = {(trial.recipe.name, trial.seed): trial for trial in wanted}
        shared = trials.keys() & known
        finished: set[tuple[str, int]] = set()
        new: list[Trial] = []
        problem: str | None = None
        hours = gigabytes = None
        try:
            finished = {key for key, trial in trials.items() if key not in shared and is_finished(trial)}
            new = [trial for key, trial in trials.items() if key not in shared | finished]
            require_pretrained(table, [trial for trial in trials.values() if not is_finished(trial)])
            costs = [estimators[path].cost(trial.recipe) for trial in new]
        except SereinError as error:
            problem = str(error)
        else:
            hours = sum(cost.multiply_adds for cost in costs) / speed / 3600
            gigabytes = sum(cost.num_bytes for cost in costs) / 1e9
        stages = [key for trial in new for key in stage_keys(trial.recipe)]
        num_new_stages = len(set(stages) - known_stages)
        counts = (len(trials), len(finished), len(shared), len(stages), len(stages) - num_new_stages)
        planned.append(PlannedTable(table.name, len(rows), *counts, hours, gigabytes, problem))
        known |= trials.keys()
        known_stages |= set(stages)
    return planned

"""Training stages: each starts from the weights that the previous one passed on, and may be compiled."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger

from serein.data.augmentation import WaveformAugmenter
from serein.data.dataset import (
    Batch,
    BucketSampler,
    ClipDataset,
    HiddenLayers,
    Recordings,
    Targets,
    TrainingConditions,
    batch_durations,
    collate,
    draw_seed,
    loader,
)
from serein.device import computes_bfloat16, distributed_info, own_device, wait_for_all
from serein.errors import AudioError, RecipeError, RunError
from serein.models.backbones import HuggingFaceBackbone
from serein.models.logmel import BANDS, LogMelBackbone
from serein.models.model import SpeechModel
from serein.progress import Report
from serein.recipe import MAIN, Batches, Clips, FeatureCacheOptions, LogMel, Stage
from serein.tasks.task import Task
from serein.training.batches import bands_of
from serein.training.checkpointing import (
    PARTIAL,
    RESUME,
    WEIGHTS,
    CheckpointCallback,
    StageProgress,
    load_weights,
    readable_state,
)
from serein.training.feature_cache import (
    FeatureCache,
    cached_layers,
    evaluating,
    num_fixed_layers,
    only_backbone,
    reads_means,
)
from serein.training.module import StageModule
from serein.training.normalisation import NormalisedFeatures, fit

MOST_WORKERS = 8
FACTORISED_CLIPS = 256  # evenly spaced in the training set
LONGEST_BANDS_S = 180_000.0  # bands of fifty hours are about 5 GB
# Log-mel batches of many lengths need more kernels than oneDNN caches by default (1024): it would rebuild them.
# Padded batches of pretrained models have few different lengths.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")


def most_workers() -> int:
    """Return the maximum number of processes that decode or change clips alongside training."""
    return min(MOST_WORKERS, os.cpu_count() or 1)


@dataclass(frozen=True)
class TrainingData:
    """The data on which a stage trains.

    Attributes:
        recordings: All recordings.
        targets: Task -> targets of all recordings.
        train: Positions of the training utterances.
        dev: Positions of the dev utterances, possibly none.
        clips: How clips are cut and padded.
        conditions: Conditions of all recordings.
        features: Where and how to cache the features of a frozen backbone; `None` runs it in every epoch.
        stored: Stored features of train and dev, which replace their waveforms.
        normalised_by: Position -> speaker or corpus whose mean is removed from the features of an utterance, if any.
        device: Where the stage trains.
    """

    recordings: Recordings
    targets: Mapping[str, Targets]
    train: Sequence[int]
    dev: Sequence[int]
    clips: Clips
    conditions: TrainingConditions = field(default_factory=TrainingConditions)
    features: FeatureCacheOptions | None = None
    stored: HiddenLayers | None = None
    normalised_by: Mapping[int, str] = field(default_factory=dict)
    device: torch.device = field(default_factory=own_device)

    def sampler(self, batches: Batches, seed: int, *, is_training: bool, **drawing: Any) -> BucketSampler:
        """Return this process's share of the batches of train or dev; `drawing`: see `BucketSampler`."""
        return BucketSampler(
            self.train if is_training else self.dev,
            batch_durations(self.recordings, self.clips, is_training=is_training),
            batches,
            seed=seed,
            is_training=is_training,
            **drawing,
            rank=distributed_info().rank,
            world_size=distributed_info().size,
        )

    def dataset(
        self, seed: int, *, is_training: bool, augment: WaveformAugmenter | None = None, num_views: int = 1
    ) -> ClipDataset:
        """Return the clips, cropped and augmented in training."""
        return ClipDataset(
            self.recordings,
            self.targets,
            self.clips,
            self.conditions,
            seed=seed,
            is_training=is_training,
            features=self.stored,
            augment=augment,
            num_views=num_views,
        )

    @property
    def num_workers(self) -> int:
        """Number of decoding processes; none if the audio stays in memory or is not needed."""
        return 0 if self.recordings.fits_memory or self.stored is not None else most_workers()


class EpochLoaders(lightning.LightningDataModule):
    """Gives Lightning a new training loader every epoch, because the number of batches differs between epochs."""

    def __init__(self, data: TrainingData, stage: Stage, seed: int, tasks: Mapping[str, Task] | None = None) -> None:
        super().__init__()
        self.data, self.stage, self.seed = data, stage, seed
        drawing: dict[str, Any] = {}  # how an epoch draws its clips: by the classes of the stage's first task
        if stage.sampling != "all":
            name = next(iter(stage.tasks or tasks or {}))
            targets, task = data.targets[name], (tasks or {})[name]
            found = task.classes(torch.from_numpy(targets.values))
            assert found is not None  # otherwise the recipe would have been rejected
            has_own = np.array([task.has_target(each) for each in data.recordings.utterances])  # not only a teacher's
            drawing = {"classes": np.where(targets.is_known & has_own, found.numpy(), -1)}
        if stage.sampling == "corpora":
            train = list(data.train)
            corpora = np.array([utterance.corpus or "" for utterance in data.recordings.utterances])
            weights = np.zeros(len(corpora))
            weights[train] = corpus_weights(corpora[train], drawing["classes"][train])
            drawing = {"weights": weights, "num_drawn": stage.epoch_clips}
        self.sampler = data.sampler(stage.batches, seed, is_training=True, **drawing)
        self.augment = (
            None if stage.waveform_augmentation.name == "none" else WaveformAugmenter(stage.waveform_augmentation)
        )

    def train_dataloader(self) -> Any:
        self.sampler.set_epoch(self.trainer.current_epoch if self.trainer else 0)
        num_views = self.stage.waveform_augmentation.num_views
        dataset = self.data.dataset(self.seed, is_training=True, augment=self.augment, num_views=num_views)
        is_light = self.augment is None or self.augment.is_light
        return loader(dataset, self.sampler, num_workers=self.data.num_workers if is_light else most_workers())

    def val_dataloader(self) -> Any:
        if not len(self.data.dev):
            return []
        sampler = self.data.sampler(self.stage.batches, self.seed, is_training=False)
        if not len(sampler):
            sampler.rank = 0  # fewer batches than processes: none may be idle, and repeated clips are scored once
        return loader(self.data.dataset(self.seed, is_training=False), sampler, num_workers=self.data.num_workers)

    def num_steps(self) -> int:
        """Return the number of optimiser steps of all epochs."""
        steps = 0
        for epoch in range(self.stage.epochs):
            self.sampler.set_epoch(epoch)
            steps += -(-len(self.sampler) // self.stage.batches.accumulate)
        return steps


def train_stage(
    model: SpeechModel,
    tasks: Mapping[str, Task],
    stage: Stage,
    data: TrainingData,
    folder: Path,
    *,
    seed: int,
    report: Report,
    label: str,
) -> None:
    """Train a model in place, or load its weights if the stage is already done; an interrupted stage is resumed.

    Args:
        model: The model, in the state in which the previous stage left it.
        tasks: All tasks of the recipe; the stage names those to train.
        folder: Receives `metrics.jsonl`, `weights.safetensors` and, until the stage is done, the state to resume from.
        seed: Seed of all random draws.
        report: Receives progress, under `label`.
    """
    weights = folder / WEIGHTS
    if not weights.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name, task in tasks.items():
            task.prepare(torch.from_numpy(data.targets[name].values[list(data.train)]))
        with _plainly(folder):
            data = with_features(model, stage, data, report, label)
        loaders = EpochLoaders(data, stage, seed, tasks)
        module = StageModule(model, tasks, stage, num_steps=loaders.num_steps(), seed=seed)
        progress = StageProgress(report, label, module.monitored)
        callbacks: list[lightning.Callback] = [CheckpointCallback(folder, stage.checkpoint, progress), progress]
        if stage.patience is not None:
            mode = "min" if stage.monitor == "loss" else "max"
            callbacks.append(
                EarlyStopping(module.monitored, mode=mode, patience=stage.patience, check_on_train_epoch_end=False)
            )
        resume = readable_state(folder)
        with warnings.catch_warnings():  # about workers, loggers and devices: meant for direct users of Lightning
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", category=FutureWarning)
            for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
                logging.getLogger(name).setLevel(logging.ERROR)
            trainer = build_trainer(model, stage, folder, callbacks, data.device)
            with _plainly(folder), compiled(model, enabled=stage.compile):
                trainer.fit(module, datamodule=loaders, ckpt_path=resume, weights_only=True)
        if distributed_info().is_first:
            os.replace(folder / f".best.{WEIGHTS}", weights)
        wait_for_all()
    if distributed_info().is_first:
        for name in (RESUME, PARTIAL):
            (folder / name).unlink(missing_ok=True)
    load_weights(model, weights)


def with_features(model: SpeechModel, stage: Stage, data: TrainingData, report: Report, label: str) -> TrainingData:
    """Return the data with stored hidden layers of train and dev, if these are the same in every epoch.

    Raises:
        AudioError: A recording cannot be read.
        RunError: The disk lacks space for them, or nothing can be written.
    """
    model.train_only(stage.trainable, stage.tasks)
    positions = [*data.train, *data.dev]
    longest_s = float(batch_durations(data.recordings, data.clips, is_training=False)[list(data.train)].max())
    options = data.features or FeatureCacheOptions(dtype="none")
    num_fixed = num_fixed_layers(model, stage, longest_s, data.clips)
    backbone = only_backbone(model, stage)
    if options.dtype == "none" or backbone is None or not num_fixed:
        return data
    if isinstance(backbone, LogMelBackbone):
        return with_bands(data, backbone, positions, report, label)
    layers = cached_layers(model, model.branches_of(stage.tasks, stage.use_fusion))
    means = num_fixed == len(backbone.sizes) and reads_means(model, stage)
    if num_fixed < len(backbone.sizes):  # training continues from the highest of them
        if num_fixed == 1:  # only the input of the transformer layers: a hundred gigabytes would save little
            return data
        below = {layer for layer in layers if layer != "last" and int(layer) < num_fixed}
        layers = tuple(sorted(below | {str(num_fixed - 1)}))
    precision = chosen_precision(stage.precision, data.device)
    cache = FeatureCache(backbone, layers, options, precision, stage.batches, data.device, means)
    stored: HiddenLayers = cache.of(data.recordings, data.clips, positions, report, label)
    if model.feature_norm is not None and data.normalised_by:
        stored = NormalisedFeatures.of(stored, data.normalised_by, model.feature_norm)
    return replace(data, stored=stored)


def with_bands(
    data: TrainingData, backbone: LogMelBackbone, positions: Sequence[int], report: Report, label: str
) -> TrainingData:
    """Return the data with stored log-mel bands of whole clips, unless nothing is to be stored or clips are cropped."""
    options, clips = data.features or FeatureCacheOptions(dtype="none"), data.clips
    durations_s = batch_durations(data.recordings, clips, is_training=False)
    is_whole = clips.crop_s is None or durations_s[list(data.train)].max() <= clips.crop_s
    if options.dtype == "none" or not is_whole or data.recordings.durations_s.sum() > LONGEST_BANDS_S:
        return data
    cache = FeatureCache(backbone, (BANDS,), options, "float32", device=data.device)
    return replace(data, stored=cache.of(data.recordings, clips, positions, report, label))


def build_trainer(
    model: SpeechModel, stage: Stage, folder: Path, callbacks: list[lightning.Callback], device: torch.device
) -> lightning.Trainer:
    """Return Lightning's trainer for a stage, which writes TensorBoard logs if TensorBoard is installed."""
    processes = distributed_info()
    devices: dict[str, Any] = {"devices": [device.index or 0] if device.type == "cuda" else 1}
    if processes.size > 1:
        has_layers = any(len(encoder.sizes) > 1 for encoder in model.encoders) or len(model.branches) > 0
        # If a layer below the last is selected, some weights are unused; a batch may have no targets of some task.
        uses_all = isinstance(model.backbone, LogMelBackbone) and not has_layers and len(model.ensemble[0].heads) == 1
        devices = {
            "devices": processes.local_size,
            "num_nodes": processes.size // processes.local_size,
            "strategy": "ddp" if uses_all else "ddp_find_unused_parameters_true",
        }
    is_alone = processes.size == 1 and "SLURM_STEP_NUM_TASKS" not in os.environ  # even if SLURM reserved more tasks
    has_tensorboard = importlib.util.find_spec("tensorboard") is not None
    trainer = lightning.Trainer(
        max_epochs=stage.epochs,
        accelerator=device.type,
        **devices,
        plugins=LightningEnvironment() if is_alone else None,
        precision=PRECISIONS[chosen_precision(stage.precision, device)],
        accumulate_grad_batches=stage.batches.accumulate,
        callbacks=callbacks,
        logger=TensorBoardLogger(folder, name="tensorboard", version="") if has_tensorboard else False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=True,
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        log_every_n_steps=1_000_000,
        deterministic="warn",
        benchmark=False,
    )
    # SIGTERM ends the process at once, as files are complete or absent. Lightning would exit with status 0, and first
    # tell the other processes, of which one may have ended.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    # Filling takes a tenth of a step, and nothing here reads uninitialised memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return trainer


def corpus_weights(corpora: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return each clip's sampling weight: the square root of its corpus's size, shared by its classes and their clips.

    Args:
        corpora: (clip,) corpus names.
        classes: (clip,) class numbers.

    Example:
        >>> corpus_weights(np.array(["a", "b", "b", "b", "b"]), np.array([0, 0, 0, 0, 1])).round(2).tolist()
        [1.0, 0.33, 0.33, 0.33, 1.0]
    """
    weights = np.zeros(len(corpora))
    for corpus in np.unique(corpora):
        is_own = corpora == corpus
        numbers, counts = np.unique(classes[is_own], return_counts=True)
        share = dict(zip(numbers.tolist(), 1.0 / (counts * len(numbers)), strict=True))
        weights[is_own] = np.sqrt(is_own.sum()) * np.array([share[number] for number in classes[is_own].tolist()])
    return weights


PRECISIONS: dict[str, Any] = {"float32": "32-true", "bfloat16": "bf16-mixed"}


def chosen_precision(precision: str, device: torch.device) -> str:
    """Return the precision that `auto` selects on a device: bfloat16 if the GPU or processor computes in it."""
    if precision != "auto":
        return precision
    return "bfloat16" if computes_bfloat16(device) else "float32"


def fit_backbones(
    model: SpeechModel,
    data: TrainingData,
    branches: Iterable[str] = (MAIN,),
    *,
    report: Report,
    label: str,
) -> None:
    """Fit the parts of backbones that are computed from the training set without gradients.

    Log-mel backbones are fitted to the mean and deviation of all its bands, which are stored for the stages. Pretrained
    backbones with `max_parameters` are factorised by the principal components of some of its clips.
    """
    fitted: dict[LogMel, LogMelBackbone] = {}
    for backbone in (model.backbone_of(name) for name in branches):
        if isinstance(backbone, HuggingFaceBackbone) and backbone.max_parameters is not None:
            places = np.linspace(0, len(data.train) - 1, FACTORISED_CLIPS).astype(int)
            clips = _whole_clips(data, [data.train[place] for place in sorted(set(places.tolist()))])
            with evaluating(backbone, data.device):
                on_device = (batch.to(data.device) for batch in clips)
                backbone.factorise(backbone.max_parameters, ((each.waveforms, each.num_samples) for each in on_device))
        if not isinstance(backbone, LogMelBackbone):
            continue
        if (alike := fitted.get(backbone.options)) is not None:
            backbone.load_state_dict(alike.state_dict())
            continue
        kept = with_bands(data, backbone, data.train, report, label)
        backbone.fit(bands_of(backbone, batch) for batch in _whole_clips(kept, data.train))
        fitted[backbone.options] = backbone


def fit_feature_norm(model: SpeechModel, stage: Stage, data: TrainingData, *, report: Report, label: str) -> None:
    """Fit the standardisation of a frozen backbone's features to the training clips.

    Args:
        stage: A stage that is trained on these features.

    Raises:
        RecipeError: The features are not the same in every epoch.
    """
    own = with_features(model, stage, replace(data, dev=[], normalised_by={}), report, label)
    if model.feature_norm is None or own.stored is None:
        raise RecipeError(
            "the features of clips are not the same in every epoch",
            where="feature_normalisation",
            remedy="Leave out clips.crop_s and backbone.overrides that draw at random, or feature_normalisation.",
        )
    fit(model.feature_norm, own.stored, data.train, data.normalised_by)


def _whole_clips(data: TrainingData, positions: Sequence[int]) -> Iterator[Batch]:
    """Return clips in batches, cut as in the dev set."""
    dataset = data.dataset(0, is_training=False)
    durations_s = batch_durations(data.recordings, data.clips, is_training=False)
    whole = BucketSampler(positions, durations_s, Batches(), is_training=False)
    return (collate([dataset[item] for item in items]) for items in whole)


def stage_seed(seed: int, fold: str, stage: str) -> int:
    """Return the seed of a stage's random draws, below 2**31."""
    return draw_seed(seed, 0, f"{fold}/{stage}") & 0x7FFFFFFF


@contextmanager
def _plainly(folder: Path) -> Iterator[None]:
    """Restore a keyboard interrupt or audio error that Lightning or a loader replaces; explain their other errors."""
    try:
        yield
    except SystemExit as stop:
        raise (KeyboardInterrupt if isinstance(stop.__context__, KeyboardInterrupt) else stop) from None
    except AudioError as error:  # from a loader's process: a traceback with the message in its last line
        raise AudioError(str(error).rpartition("Error: ")[2]) from None
    except torch.OutOfMemoryError:
        raise RunError(
            "the device's memory is too small for weights, gradients and their averages, or for dev",
            where=folder,
            remedy="Lower batches.max_seconds or batches.max_clips, or train fewer layers.",
        ) from None
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise RunError(
            f"a process that reads clips was stopped ({str(error).partition('. ')[0]})",
            where=folder,
            remedy="If memory ran out (a bus error: /dev/shm), free some. Continue with --resume.",
        ) from None


COMPILER_BACKEND = "inductor"
# `optimize_ddp` splits a layer between gradient buckets, and fails for WavLM's (pytorch/pytorch#134182); a layer has
# more variants than 8: with and without mask, gradients, padding. Gradients are read twice for the cosines of tasks, so
# that no buffer may be reused (`donated_buffer`).
COMPILER_OPTIONS = {"optimize_ddp": False, "recompile_limit": 64}


def require_compiler(device: torch.device, where: str = "stages.compile") -> None:
    """Compile one sum, so that a missing compiler is reported before training starts.

    Raises:
        RunError: This machine cannot compile for the device: CPUs require a C++ compiler with OpenMP, GPUs Triton.
    """

    def double(numbers: torch.Tensor) -> torch.Tensor:
        return numbers + numbers

    try:
        torch.compile(double, backend=COMPILER_BACKEND)(torch.ones(8, device=device))
    except (RuntimeError, OSError, ImportError) as error:  # PyTorch raises RuntimeErrors; each system adds others
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        needed = "Triton" if device.type == "cuda" else "a C++ compiler with OpenMP, for instance g++,"
        raise RunError(
            f"torch.compile does not work on this machine for {device} ({reason})",
            where=where,
            remedy=f"Install {needed} or leave compile out: it changes only the speed.",
        ) from None


@contextmanager
def compiled(model: SpeechModel, *, enabled: bool = True) -> Iterator[None]:
    """Run the transformer layers of pretrained backbones compiled until the block ends; weights keep their names.

    They are compiled one by one (PyTorch's regional compilation): all layers of a model share one program, compiled
    once for any number of clips and frames. Everything else runs uncompiled.
    """
    branches = (MAIN, *model.branches) if enabled else ()
    parts = [block for branch in branches for block in model.backbone_of(branch).repeated_blocks]
    if not parts:
        yield
        return
    for part in parts:
        part.compile(backend=COMPILER_BACKEND, dynamic=True)
    try:
        with torch._dynamo.config.patch(COMPILER_OPTIONS), torch._functorch.config.patch(donated_buffer=False):
            yield
    finally:
        for part in parts:
            part._compiled_call_impl = None  # there is no public method to undo it

"""The training module of a stage: from a batch to weighted losses, and to the dev scores that select weights."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from torch import nn

from serein.data.dataset import Batch, draw_seed
from serein.device import all_gather, all_gather_rows, memory_errors, release_memory, sent
from serein.errors import RunError
from serein.losses import supervised_contrastive
from serein.models.heads import HeadOutput
from serein.models.hidden_states import ADAPTER_WEIGHT, own_weights
from serein.models.model import SpeechModel, is_frozen
from serein.models.pretrained import weights_hash
from serein.recipe import SpectrogramAugmentation, Stage
from serein.tasks.task import Task
from serein.training.batches import BatchOutputs, Parts, encode_batch, split
from serein.training.optimizers import MovingAverage, build_optimizer, build_scheduler

logger = logging.getLogger(__name__)

NUM_SAMPLED = 2  # batches at the start of an epoch: each costs another backward pass for every task


def gradient_cosines(
    losses: Mapping[str, torch.Tensor], shared: Sequence[torch.nn.Parameter]
) -> dict[tuple[str, str], float]:
    """Return the cosine between each two tasks' gradients (Yu 2020, gao2023); below 0, the tasks counteract each other.

    A pair is left out if a task's gradient does not reach the shared weights. Reversed gradients are used as the
    weights receive them. The graph is kept, no gradient is stored, and no random numbers are drawn.

    Args:
        losses: Task -> its loss, with a graph.
        shared: The trainable weights below all heads.

    Example:
        >>> weights = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> gradient_cosines({"a": weights[0] * 2, "b": weights.sum()}, [weights])
        {('a', 'b'): 0.7071...}
    """
    if not shared or len(losses) < 2:
        return {}
    flat = {}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(w) if g is None else g for g, w in zip(gradients, shared, strict=True)]
        gradient = torch.cat([part.detach().flatten().float() for part in parts])
        if gradient.any():
            flat[name] = gradient / gradient.norm()
    return {(one, other): float(flat[one] @ flat[other]) for one, other in combinations(flat, 2)}


DevOutputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # (clip,) positions, (clip, ...) truth, kept outputs


class StageModule(lightning.LightningModule):
    """Trains a speech model for one stage.

    Args:
        model: The model, which is trained in place.
        tasks: Task name -> task, for all tasks of the recipe. Those of the stage are trained; its first one's dev score
            selects the weights.
        stage: The stage's part of the recipe.
        num_steps: Optimiser steps of the whole stage.
        seed: Seed of the random draws in the model, such as dropout.

    Attributes:
        frozen_sha256: Hash of a backbone that is frozen except for an adapter; otherwise `None`. No file of the stage
            contains such a backbone's own weights.
        num_parts: Number of parts into which a batch is split, because it did not fit into the device's memory.
    """

    def __init__(
        self, model: SpeechModel, tasks: Mapping[str, Task], stage: Stage, *, num_steps: int, seed: int
    ) -> None:
        super().__init__()
        self.model, self.stage = model, stage
        self.tasks = {name: tasks[name] for name in stage.tasks or tasks}
        self.weights = loss_weights(self.tasks, stage.main_task_weight, stage.weights)
        self.branches = model.branches_of(self.tasks, stage.use_fusion)
        self.goes_on = not all(is_frozen(model.backbone_of(branch)) for branch in self.branches)
        self.num_steps, self.seed = num_steps, seed
        model.train_only(stage.trainable, self.tasks)
        named = model.backbone.named_parameters()
        own = [parameter for name, parameter in named if not ADAPTER_WEIGHT.search(name)]
        is_fixed = bool(own) and not any(parameter.requires_grad for parameter in own)
        self.frozen_sha256 = weights_hash(own_weights(model.backbone)) if is_fixed else None
        self.averaged = None if stage.ema_decay is None else MovingAverage(model, stage.ema_decay)
        if self.averaged is not None and is_frozen(model.backbone):
            self.averaged.module.backbone = model.backbone
        self.num_parts = 1
        self._batch: Batch  # the current training batch
        self._batch_index = 0
        self._parts: Parts | None = None
        self._dev: dict[str, list[DevOutputs]] = {}
        self._dev_losses: dict[int, torch.Tensor] = {}  # a batch's first clip -> (2,) sum over clips and their number

    @property
    def eval_model(self) -> SpeechModel:
        """The model that is scored: the averaged one if the stage averages weights."""
        return self.model if self.averaged is None else self.averaged.module

    @property
    def monitored(self) -> str:
        """Name of the metric that selects the checkpoint and stops training."""
        return f"dev_{monitored_score(self.stage, next(iter(self.tasks.values())))}"

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Return the weighted sum of the losses of the stage's tasks."""
        self._batch, self._batch_index = batch, batch_index
        loss, losses = self.fitting_losses()
        many = self.trainer.world_size > 1
        each = losses if len(self.tasks) > 1 and not many else {}
        for name, value in {"train_loss": loss, **{f"train_{name}_loss": own for name, own in each.items()}}.items():
            self.log(
                name,
                value.detach(),
                on_step=False,
                on_epoch=True,
                batch_size=len(batch.num_samples),
                sync_dist=many,
            )
        if batch_index < NUM_SAMPLED and not many and self.num_parts == 1:
            groups = self.model.parameter_groups()
            shared = [p for name, group in groups.items() if name != "heads" for p in group if p.requires_grad]
            try:
                with memory_errors():
                    cosines = gradient_cosines(losses, shared)
            except torch.OutOfMemoryError:  # they are only a diagnosis
                cosines = {}
                release_memory(self.device)
            for (one, other), cosine in cosines.items():
                self.log(f"cosine_{one}_{other}", cosine, on_step=False, on_epoch=True, batch_size=1)
        return loss

    def fitting_losses(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the batch's loss and those of its tasks, computed in as many parts as the device's memory requires."""
        while True:
            try:
                with memory_errors():
                    return self.batch_losses()
            except torch.OutOfMemoryError:
                pass
            self.halve()  # outside the `except` block, where the error would keep all intermediate results alive

    def batch_losses(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the batch's loss and those of its tasks."""
        parts = split(self._batch, self.num_parts)
        self._parts = Parts(parts, self.decode, self.model) if len(parts) > 1 else None
        decoded = self.decode(self._batch) if self._parts is None else self._parts.decode()
        losses = self.losses(decoded.head_outputs, decoded.targets, decoded.has_target)
        return self.weighted(losses, decoded.head_outputs), losses

    def decode(self, batch: Batch, part: int | None = None) -> BatchOutputs:
        """Return the heads' training outputs for the batch or a part of it, the same at every call.

        The generators are seeded per batch, because loaders also draw from torch's, and a resumed run creates more of
        them. Transformers draws the masks of SpecAugment from NumPy's.
        """
        name = f"dropout/{self._batch_index}/{self.global_rank}"
        name += "" if part is None else f"/{part} of {self.num_parts}"
        seed = draw_seed(self.seed, self.current_epoch, name)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        encoded = encode_batch(
            self.model, batch, self.stage.spectrogram_augmentation, self.branches, goes_on=self.goes_on
        )
        head_outputs = self.model.decode(encoded.hidden_states, encoded.conditions, self.tasks, self.stage.use_fusion)
        return BatchOutputs(head_outputs, encoded.targets, encoded.has_target)

    def halve(self) -> None:
        """Split this batch and all that follow into twice as many parts.

        Raises:
            RunError: The batch has one clip; or several processes train, each of which waits for the others' gradients.
        """
        self._parts, num_clips = None, len(self._batch.num_samples)
        what = f"the memory of {self.device} cannot hold a batch of {num_clips} clips"
        if self.trainer.world_size > 1:
            raise RunError(
                f"{what}, and with several processes, batches cannot be split",
                where="batches.max_clips",
                remedy="Lower it or batches.max_seconds, and raise batches.accumulate by the same factor. Start again: "
                "a run cannot be resumed with other batches.",
            )
        if self.num_parts >= num_clips:
            raise RunError(
                f"the memory of {self.device} cannot hold a clip of {self._batch.audio_s / num_clips:.1f} s",
                where="clips.crop_s",
                remedy="Lower it, or set backbone.gradient_checkpointing.",
            )
        self.num_parts *= 2
        release_memory(self.device)
        logger.info(
            "%s: from now on, the stage '%s' splits each batch into %d parts, which takes about a third longer; "
            "to avoid this, lower batches.max_clips and raise batches.accumulate",
            what,
            self.stage.name,
            self.num_parts,
        )

    def backward(self, loss: torch.Tensor, *arguments: Any, **options: Any) -> None:
        """Run the backward pass; if the device's memory is too small, repeat it with the batch in parts."""
        if self.trainer.world_size > 1:
            super().backward(loss, *arguments, **options)
            return
        weights = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        before = [parameter.grad for parameter in weights]  # of earlier batches in the same step
        while True:
            for parameter in weights:
                parameter.grad = None
            try:
                with memory_errors():
                    super().backward(loss, *arguments, **options)
                    if self._parts is not None:
                        with self.trainer.precision_plugin.train_step_context():
                            self._parts.backward()
                break
            except torch.OutOfMemoryError:
                loss.detach_()  # Lightning keeps it, and with it all intermediate results
            self.halve()
            with self.trainer.precision_plugin.train_step_context():
                loss = self.fitting_losses()[0] / self.trainer.accumulate_grad_batches
        for parameter, earlier in zip(weights, before, strict=True):
            if earlier is not None:
                parameter.grad = earlier if parameter.grad is None else parameter.grad.add_(earlier)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip gradients by value, then by norm."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if self.stage.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, self.stage.clip_value)
        if self.stage.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.stage.clip_norm)

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Take an optimiser step, then update the averaged weights."""
        num_before = self.trainer.global_step
        super().optimizer_step(*arguments, **options)
        if self.averaged is not None:
            self.averaged.update(self.model, num_before)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Keep truth and outputs, which are scored at the end of the epoch."""
        encoded = encode_batch(self.eval_model, batch, SpectrogramAugmentation(), self.branches, goes_on=self.goes_on)
        head_outputs = self.eval_model.decode(
            encoded.hidden_states, batch.conditions, self.tasks, self.stage.use_fusion
        )
        for name, head_output in head_outputs.items():
            known = batch.has_target[name]
            if known.any():
                of_known = _rows(known, head_output.output.device)
                truth = of_known(batch.targets[name])
                if name == next(iter(self.tasks)) and "loss" in (self.stage.monitor, self.stage.schedule.monitor):
                    outputs = of_known(head_output.outputs, 1)
                    mean = _summed(self.tasks[name], truth, outputs).detach() / len(outputs)
                    total = torch.stack([mean * len(truth), torch.ones_like(mean) * len(truth)])
                    self._dev_losses[int(batch.positions[0])] = total
                kept = self.tasks[name].kept(truth, of_known(head_output.output))
                self._dev.setdefault(name, []).append((batch.positions[known], truth.cpu(), kept.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Score the whole dev set, with the same result on every process."""
        loss = 0.0
        if "loss" in (self.stage.monitor, self.stage.schedule.monitor):
            own = {first: total.cpu() for first, total in self._dev_losses.items()}
            self._dev_losses.clear()
            batches = {first: total for each in all_gather(own) for first, total in each.items()}
            total = torch.stack(list(batches.values()) or [torch.zeros(2)]).sum(dim=0)
            loss = float(total[0] / total[1].clamp_min(1.0))
            self.log("dev_loss", loss, rank_zero_only=False)
        of_processes = all_gather(self._dev)
        for name in dict.fromkeys(name for own in of_processes for name in own):
            outputs = [output for own in of_processes for output in own.get(name, [])]
            positions, truth, kept = (torch.cat(part) for part in zip(*outputs, strict=True))
            if self.trainer.world_size > 1:  # with few batches, some clips occur in several processes
                once = list({position: row for row, position in enumerate(positions.tolist())}.values())
                truth, kept = truth[once], kept[once]
            scores = self.tasks[name].scores(truth, kept)
            is_main = name == next(iter(self.tasks))
            prefix = "dev" if is_main else f"dev_{name}"
            for score_name, score in scores.items():
                self.log(f"{prefix}_{score_name}", score, rank_zero_only=False)
            if is_main and self.stage.schedule.name == "plateau":
                monitor = self.stage.schedule.monitor or monitored_score(self.stage, self.tasks[name])
                self.lr_schedulers().step(loss if monitor == "loss" else scores[monitor])  # type: ignore[union-attr,arg-type]
        self._dev.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out a frozen backbone, whose weights would make up most of the file."""
        checkpoint[NUM_PARTS] = self.num_parts
        if self.frozen_sha256 is not None:
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: state[name] for name in state if not BACKBONE_WEIGHT.match(name)}
            checkpoint[FROZEN] = self.frozen_sha256

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore a frozen backbone.

        Raises:
            RunError: The backbone has changed.
        """
        self.num_parts = checkpoint.get(NUM_PARTS, 1)
        if FROZEN in checkpoint:
            require_backbone(checkpoint[FROZEN], self.frozen_sha256)
            own = self.state_dict()
            checkpoint["state_dict"] |= {name: own[name] for name in own if BACKBONE_WEIGHT.match(name)}

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and the schedule if the learning rate is not constant."""
        optimizer = build_optimizer(self.model, self.stage.optimizer)
        schedule = self.stage.schedule
        if schedule.name == "constant":
            return optimizer
        if schedule.name == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer,
                mode="min" if "loss" in (schedule.monitor, self.stage.monitor) else "max",
                factor=schedule.factor,
                patience=schedule.patience,
            )
            # Lightning would step it after writing the resume state, so on_validation_epoch_end does it
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": plateau, "monitor": self.monitored, "frequency": NEVER},
            }
        scheduler = build_scheduler(optimizer, schedule, self.num_steps)
        interval = "epoch" if schedule.name == "exponential" else "step"
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}

    def losses(
        self,
        head_outputs: Mapping[str, HeadOutput],
        targets: Mapping[str, torch.Tensor],
        has_target: Mapping[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Return the loss of each task that has targets in the batch, before weighting."""
        losses: dict[str, torch.Tensor] = {}
        for name, task in self.tasks.items():
            known, head_output = has_target[name], head_outputs[name]
            contrast = getattr(task.options, "contrastive", None)
            of_known = _rows(known, head_output.output.device)
            truth, own_weight, parts = of_known(targets[name]), 1.0, []
            classes = None if contrast is None else task.classes(truth)
            if contrast is not None and classes is not None:
                own_weight = 1.0 - contrast.weight
                embeddings = of_known(head_output.embedding)
                if self.trainer.world_size > 1:  # over the clips of all processes, whose batches may differ in size
                    classes, embeddings = all_gather_rows(classes), all_gather_rows(embeddings)
                pulled = supervised_contrastive(classes, embeddings, contrast.temperature, contrast.reduction)
                parts.append(contrast.weight * pulled)
            if known.any():
                parts.append(own_weight * _summed(task, truth, of_known(head_output.outputs, 1)))
            if parts:
                losses[name] = torch.stack(parts).sum()
        return losses

    def weighted(self, losses: Mapping[str, torch.Tensor], head_outputs: Mapping[str, HeadOutput]) -> torch.Tensor:
        """Return the weighted sum of the tasks' losses; 0 for a batch without any targets."""
        if not losses:
            return sum(head_output.output.sum() for head_output in head_outputs.values()) * 0.0  # type: ignore[return-value]
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()


NEVER = 1 << 62
NO_WEIGHTS: Mapping[Any, float] = {}
NUM_PARTS = "num_parts"
FROZEN = "frozen_backbone_sha256"  # in files without the backbone's weights
BACKBONE_WEIGHT = re.compile(r"((model|averaged\.module)\.)?backbone\.(?!.*\.lora_)")  # except those of an adapter


def require_backbone(expected_sha256: str, found_sha256: str | None) -> None:
    """Raise RunError if a stage's weights were trained on a different backbone from the current one."""
    if expected_sha256 != found_sha256:
        raise RunError(
            "the backbone's weights are not those that training started with",
            where="backbone.source",
            remedy="Restore them, or train again into another --out.",
        )


def loss_weights(
    tasks: Mapping[str, Task], main_task_weight: float | None, weights: Mapping[Any, float] = NO_WEIGHTS
) -> dict[str, float]:
    """Return the weight of each task's loss: its own or the stage's, or a for the first and (1 - a) / n for n others.

    The last case is equation 1 of gao2023; equation 2 is the same with a reversed gradient. A single task then has
    weight 1. The stage's weights are a and b of park2023's equation 6.
    """
    if main_task_weight is None:
        return {**{name: task.options.weight for name, task in tasks.items()}, **weights}
    main, *others = tasks
    if not others:
        return {main: 1.0}
    return {main: main_task_weight, **dict.fromkeys(others, (1.0 - main_task_weight) / len(others))}


def monitored_score(stage: Stage, first: Task) -> str:
    """Return the monitored score of a stage's first task: the stage's choice, or else the task's own."""
    return stage.monitor or first.monitors[0]


def _rows(known: torch.Tensor, device: torch.device) -> Callable[..., torch.Tensor]:
    """Return a function that selects the known clips of (batch, ...), or along another dimension.

    Args:
        known: (batch,) bool, on the host, so that counting them does not synchronise with the device.
        device: Device of the clips' tensors.
    """
    if known.all():
        return lambda values, dim=0: values
    rows = sent(known.nonzero().squeeze(1), device)
    return lambda values, dim=0: values.index_select(dim, rows)


def _summed(task: Task, truth: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Return the sum of the members' losses: each is trained as if it were alone."""
    return torch.stack([task.loss(truth, output) for output in outputs]).sum()

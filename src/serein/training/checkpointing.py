"""The progress reports, metrics and checkpoints of a training stage."""

from __future__ import annotations

import json
import math
import os
import pickle  # only for its exception class
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import Checkpoint
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from serein.data.dataset import Batch
from serein.data.files import replacing, write_text
from serein.errors import RunError
from serein.metrics.titles import metric_of
from serein.models.hidden_states import own_weights
from serein.models.model import SpeechModel
from serein.models.pretrained import weights_hash
from serein.progress import Report
from serein.training.module import BACKBONE_WEIGHT, FROZEN, StageModule, require_backbone

SECONDS_BETWEEN_REPORTS = 0.2


class StageProgress(lightning.Callback):
    """Reports a stage's batches, score and speed.

    Args:
        report: Receives the progress.
        label: Label of the progress, for instance "fold 2/6  seed 0  emotion".
        monitored: Name of the dev score to show.

    Attributes:
        audio_s: Seconds of audio that the epoch has trained on so far.
        started: Start of the epoch on the monotonic clock.
    """

    def __init__(self, report: Report, label: str, monitored: str = "dev_ua") -> None:
        self.report, self.label, self.monitored = report, label, monitored
        self.audio_s = 0.0
        self.started = self.reported = time.monotonic()

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.audio_s, self.started = 0.0, time.monotonic()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        index: int,
    ) -> None:
        self.audio_s += batch.audio_s
        if time.monotonic() - self.reported > SECONDS_BETWEEN_REPORTS:
            self.reported = time.monotonic()
            total = (trainer.max_epochs or 1) * int(trainer.num_training_batches)
            done = trainer.current_epoch * int(trainer.num_training_batches) + index
            self.report(self.label, min(done, total - 1), total, self._detail(trainer))

    def on_fit_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.report(self.label, 1, 1, self._detail(trainer))

    def _detail(self, trainer: lightning.Trainer) -> str:
        rate = self.audio_s / max(time.monotonic() - self.started, 1e-6)
        metrics = trainer.callback_metrics
        loss = f"  loss {float(metrics['train_loss']):.3f}" if "train_loss" in metrics else ""
        score = metrics.get(self.monitored)
        metric = metric_of(self.monitored.removeprefix("dev_"))
        dev = "" if score is None else f"  dev {metric.title} {metric.shown(float(score))}"
        epoch = min(trainer.current_epoch + 1, trainer.max_epochs or 1)
        return f"epoch {epoch}/{trainer.max_epochs}{loss}{dev}  {rate:.0f}x real time"


RESUME = "resume.ckpt"
PARTIAL = f".partial.{RESUME}"
WEIGHTS = "weights.safetensors"
METRICS_FILE = "metrics.jsonl"
INITIAL_WEIGHTS = "initial_weights.json"  # which weights a stage started from


class CheckpointCallback(Checkpoint):
    """Writes metrics, the best weights and the state to resume from; files are replaced atomically.

    A loss that is not finite stops training (RunError).

    The order matters: weights and metrics first, the resume state last. If the process is killed in between, the epoch
    is repeated with the same random draws and writes the same files.

    Args:
        folder: The stage's folder.
        checkpoint: `best` keeps the weights of the best dev score, `last` those of the last epoch.
        progress: Provides the name of that score in the metrics, and the epoch's audio and time.
    """

    def __init__(self, folder: Path, checkpoint: str, progress: StageProgress) -> None:
        self.folder, self.checkpoint, self.progress = folder, checkpoint, progress
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self.is_over = False

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Stop a resumed stage that had run out of patience before it was killed."""
        trainer.should_stop = self.is_over

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        seconds = time.monotonic() - self.progress.started
        line = {
            "epoch": trainer.current_epoch,
            **{name: float(value) for name, value in trainer.callback_metrics.items()},
            "learning_rate": float(trainer.optimizers[0].param_groups[-1]["lr"]),
            "seconds": round(seconds, 3),
            "audio_s_per_s": round(self.progress.audio_s / max(seconds, 1e-6), 1),
        }
        if not math.isfinite(line["train_loss"]):
            raise RunError(
                f"training diverged: the loss of epoch {trainer.current_epoch + 1} is {line['train_loss']}",
                where=self.folder,
                remedy="Lower optimizer.learning_rate, or set clip_norm.",
            )
        self.history.append(line)
        self.is_over = trainer.should_stop
        monitor = self.progress.monitored
        score = line.get(monitor)
        sign = -1.0 if monitor == "dev_loss" else 1.0
        best = self.best.get(monitor, math.nan)  # any score is better than one that is not a number
        is_best = self.checkpoint == "last" or score is None or math.isnan(best) or sign * score > sign * best
        if is_best:
            self.best = line
        if trainer.is_global_zero:
            if is_best:
                save_weights(module, self.folder / f".best.{WEIGHTS}")
            write_text(self.folder / METRICS_FILE, "".join(json.dumps(each) + "\n" for each in self.history))
        partial = self.folder / PARTIAL
        trainer.save_checkpoint(partial)  # every process takes part; the first one writes
        if trainer.is_global_zero:
            os.replace(partial, self.folder / RESUME)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "best": self.best, "is_over": self.is_over}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history, self.best = list(state_dict["history"]), dict(state_dict["best"])
        self.is_over = bool(state_dict["is_over"])


def save_weights(module: lightning.LightningModule, path: Path) -> None:
    """Write the evaluated model's weights atomically; for a frozen backbone, only its hash."""
    assert isinstance(module, StageModule)
    sha256 = module.frozen_sha256
    state = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in module.eval_model.state_dict().items()
        if sha256 is None or not BACKBONE_WEIGHT.match(name)
    }
    with replacing(path) as partial:
        save_file(state, partial, None if sha256 is None else {FROZEN: sha256})


def load_weights(model: SpeechModel, path: Path) -> None:
    """Load weights into a model, strictly; a backbone that was frozen must already be loaded.

    Raises:
        RunError: The weights are damaged, or belong to another model or backbone.
    """
    try:
        with safe_open(path, framework="pt") as file:
            sha256 = (file.metadata() or {}).get(FROZEN)
        state = load_file(path)
        if sha256 is not None:
            require_backbone(sha256, weights_hash(own_weights(model.backbone)))
            state |= {name: tensor for name, tensor in model.state_dict().items() if BACKBONE_WEIGHT.match(name)}
        model.load_state_dict(state, strict=True)
    except (SafetensorError, RuntimeError):
        raise _damaged(path) from None


def readable_state(folder: Path) -> Path | None:
    """Return the file of the state that a stage resumes from, or `None` if there is none.

    Raises:
        RunError: The file is damaged, or contains more than tensors and plain values.
    """
    path = folder / RESUME
    if not path.exists():
        return None
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, EOFError, OSError, RuntimeError):
        raise _damaged(path) from None
    return path


def _damaged(path: Path) -> RunError:
    return RunError("is damaged", where=path, remedy="Delete it: the stage is trained again.")

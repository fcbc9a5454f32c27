"""What a stage says while it trains."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as lightning

from serein.data.batches import Batch
from serein.progress import Report

SECONDS_BETWEEN_REPORTS = 0.2


class StageProgress(lightning.Callback):
    """Reports a stage's batches, score and speed.

    Args:
        report: Receives the progress.
        label: For instance "fold 2/6  seed 0  emotion".
        watched: Name of the dev score that is shown.
    """

    def __init__(self, report: Report, label: str, watched: str = "dev_ua") -> None:
        self.report, self.label, self.watched = report, label, watched
        self.heard_s = 0.0
        self.started = self.reported = time.monotonic()

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.heard_s, self.started = 0.0, time.monotonic()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        index: int,
    ) -> None:
        self.heard_s += batch.audio_s
        if time.monotonic() - self.reported > SECONDS_BETWEEN_REPORTS:
            self.reported = time.monotonic()
            total = (trainer.max_epochs or 1) * int(trainer.num_training_batches)
            done = trainer.current_epoch * int(trainer.num_training_batches) + index
            self.report(self.label, min(done, total - 1), total, self._detail(trainer))

    def on_fit_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.report(self.label, 1, 1, self._detail(trainer))

    def _detail(self, trainer: lightning.Trainer) -> str:
        rate = self.heard_s / max(time.monotonic() - self.started, 1e-6)
        metrics = trainer.callback_metrics
        loss = f"  loss {float(metrics['train_loss']):.3f}" if "train_loss" in metrics else ""
        score = metrics.get(self.watched)
        name = {"ua": "UA", "macro_f1": "macro-F1"}.get(self.watched.removeprefix("dev_"), self.watched[4:])
        dev = "" if score is None else f"  dev {name.replace('_', ' ')} {100 * float(score):.1f} %"
        epoch = min(trainer.current_epoch + 1, trainer.max_epochs or 1)
        return f"epoch {epoch}/{trainer.max_epochs}{loss}{dev}  {rate:.0f}x real time"

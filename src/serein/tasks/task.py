"""What a task is to a training: targets, a loss and scores of one head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from serein.data.dataset import Targets
from serein.data.utterance import Utterance
from serein.recipe import Head
from serein.tasks.classes import ClassLabels
from serein.tasks.ctc import Alphabet
from serein.tasks.word_vectors import WordClasses


class Task(Protocol):
    """One thing that is learned.

    Attributes:
        name: The task's key in recipes, batches and heads.
        num_outputs: Numbers that its head puts out for a clip.
    """

    name: str
    num_outputs: int

    @property
    def options(self) -> Head:
        """What it reads from the model, and its weight."""
        ...

    @property
    def labels(self) -> ClassLabels | WordClasses | Alphabet:
        """What its output means."""
        ...

    def targets(self, utterances: Sequence[Utterance]) -> Targets:
        """Return the target of every utterance, and which have one."""
        ...

    def prepare(self, truth: torch.Tensor) -> None:
        """Take what the loss needs from the training targets."""
        ...

    def loss(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch.

        Args:
            truth: (batch, ...) targets.
            output: (batch, ...) what the head puts out.
        """
        ...

    def kept(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return what of a batch's outputs is kept until the whole set is scored, (batch, ...) of one width."""
        ...

    def scores(self, truth: torch.Tensor, kept: torch.Tensor) -> dict[str, float]:
        """Return scores of a whole set by name, the higher the better, the one that is watched first; and `loss`."""
        ...


@runtime_checkable
class ClassTask(Task, Protocol):
    """A task whose targets belong to classes."""

    def classes(self, truth: torch.Tensor) -> torch.Tensor:
        """Return the class numbers of targets, (batch,)."""
        ...

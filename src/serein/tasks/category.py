"""A task of classes: a category per utterance, learned by any of `LOSSES`, evaluated by unweighted accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from serein import losses, metrics
from serein.data.batches import Targets
from serein.data.utterance import Utterance
from serein.labels.categories import ClassLabels
from serein.recipe import Category


class CategoryTask:
    """Binds target, loss and score of categories.

    Attributes:
        name: The task's key in recipes, batches and heads.
        num_outputs: Classes.
        labels: The classes.
    """

    def __init__(self, options: Category, class_labels: ClassLabels) -> None:
        self.name = class_labels.field
        self.options, self.labels = options, class_labels
        self.num_outputs = len(class_labels.classes)
        self.class_weights: torch.Tensor | None = None

    def targets(self, utterances: Sequence[Utterance]) -> Targets:
        """Return class probabilities, (utterance, class), and which utterances have a class."""
        values = np.stack([self.labels.probabilities(u) for u in utterances])
        return Targets(values, values.sum(axis=1) > 0)

    def prepare(self, truth: torch.Tensor) -> None:
        """Take what the loss needs from the training targets, (utterance, class)."""
        if self.options.class_weights == "balanced":
            self.class_weights = losses.balanced_class_weights(truth.sum(dim=0))

    def loss(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch: probabilities and logits, both (batch, class)."""
        weights = None if self.class_weights is None else self.class_weights.to(output.device)
        own = self.options.arcface.model_dump() if self.options.loss == "arcface" else {}
        each = losses.LOSSES[self.options.loss](truth, output, weights, self.options.label_smoothing, **own)
        return losses.weighted_mean(each, truth, weights)

    def kept(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return what of a batch's outputs is kept until the whole set is scored: all of it, (batch, class)."""
        return output

    def classes(self, truth: torch.Tensor) -> torch.Tensor:
        """Return the class numbers of probabilities, (batch, class): (batch,)."""
        return truth.argmax(dim=1)

    def scores(self, truth: torch.Tensor, output: torch.Tensor) -> dict[str, float]:
        """Return the scores of a whole set, 0 to 1, and its loss, by name; both arguments are (utterance, class)."""
        scores = class_scores(self.classes(truth).numpy(), output.argmax(dim=1).numpy(), self.num_outputs)
        return {**scores, "loss": float(self.loss(truth, output))}


def class_scores(truth: np.ndarray, predictions: np.ndarray, num_classes: int) -> dict[str, float]:
    """Return every score, 0 to 1, of class numbers, both (utterance,)."""
    confusion = metrics.confusion_matrix(truth, predictions, num_classes)
    return {name: float(score(confusion)) for name, score in metrics.SCORES.items()}

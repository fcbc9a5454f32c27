"""Categories: the classes of a task, and what an utterance's label means among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray

from serein import losses, metrics
from serein.choices import choose
from serein.data.dataset import Targets
from serein.data.utterance import Utterance
from serein.errors import RecipeError
from serein.recipe import Category, Head, Labels, Recipe
from serein.tasks.task import Decoded, Task, TaskPrediction, TaskSpec, label_of, most_probable


@dataclass(frozen=True)
class ClassLabels:
    """The classes in their order, and the corpus words that are merged into them.

    Attributes:
        field: Of an utterance, that is meant.

    Example:
        >>> class_labels = ClassLabels(("happy", "sad"), {"excited": "happy"})
        >>> class_labels.of("excited"), class_labels.of("bored")
        ('happy', None)
    """

    classes: tuple[str, ...]
    merge: dict[str, str]
    field: str = "emotion"

    def of(self, word: str | None) -> str | None:
        """Return the class of a corpus word, or `None` when it has none."""
        name = self.merge.get(word or "", word)
        return name if name in self.classes else None

    def label(self, utterance: Utterance) -> str | None:
        """Return the class of an utterance, or `None` when it has none."""
        return self.of(label_of(utterance, self.field))

    def probabilities(self, utterance: Utterance) -> NDArray[np.float32]:
        """Return (class,) with 1 at the utterance's class; all zero when it has none."""
        label = self.label(utterance)
        return np.array([name == label for name in self.classes], np.float32)


def class_labels_of(utterances: Sequence[Utterance], labels: Labels, task: str = "emotion") -> ClassLabels:
    """Return the classes of a task: for emotions those that a recipe names, or those that the utterances hold.

    Raises:
        RecipeError: No class, one class, or a class that no utterance has.
    """
    if task in FIXED_CLASSES or task in FOUND_CLASSES:
        found_classes = sorted({value for u in utterances if (value := label_of(u, task)) is not None})
        remedy = f"Fill in the field '{task}', or leave the task out."
        fixed = FIXED_CLASSES.get(task)
        if fixed is not None and not set(fixed) <= set(found_classes):
            what = f"the data does not have utterances of each {task}: {', '.join(fixed)}"
            raise RecipeError(what, where=f"tasks.{task}", remedy=remedy)
        if len(found_classes) < 2:
            listed = f"{': ' if found_classes else ''}{', '.join(found_classes)}"
            what = f"the data to learn from has {len(found_classes)} {task}s{listed}"
            raise RecipeError(what, where=f"tasks.{task}", remedy=f"Two are needed: {remedy[0].lower()}{remedy[1:]}")
        return ClassLabels(fixed or tuple(found_classes), {}, task)
    merge = dict(labels.merge)
    found = Counter(merge.get(u.emotion, u.emotion) for u in utterances if u.emotion)
    classes = labels.classes or tuple(sorted(found))
    if len(classes) < 2:
        raise RecipeError(
            f"{len(classes)} emotion classes in the data",
            where="labels.classes",
            remedy="Emotions need at least two.",
        )
    if len(set(classes)) < len(classes):
        raise RecipeError("a class is named twice", where="labels.classes", remedy="Name each once.")
    absent = [name for name in classes if not found[name]]
    if absent:
        raise RecipeError(
            f"no utterance is labelled {', '.join(absent)}; the data has: {', '.join(sorted(found)) or 'no emotion'}",
            where="labels.classes",
            remedy="Name the data's own words, or merge them with labels.merge.",
        )
    return ClassLabels(tuple(classes), merge)


FIXED_CLASSES = {"gender": ("female", "male")}
FOUND_CLASSES = ("style", "speaker")


class ClassTask(Task):
    """A task of classes: emotion, gender, style, speaker; learned by any of `LOSSES`.

    Attributes:
        class_labels: The classes, and the corpus words that are merged into them.
    """

    Options = Category

    def __init__(self, options: Category, class_labels: ClassLabels) -> None:
        self.spec = TaskSpec(class_labels.field, class_labels.field, self.problem, class_labels.classes)
        self.options: Category = options
        self.class_labels = class_labels
        self.num_outputs = len(class_labels.classes)
        self.class_weights: torch.Tensor | None = None

    @classmethod
    def fit(cls, name: str, options: Head, recipe: Recipe, utterances: Sequence[Utterance]) -> Self:
        """Return the task with the classes that utterances hold."""
        return cls(cast(Category, options), class_labels_of(utterances, recipe.labels, name))

    @classmethod
    def from_json(cls, name: str, options: Head, description: Mapping[str, Any]) -> Self:
        """Return the task that `to_json` described."""
        labels = ClassLabels(tuple(description["classes"]), dict(description["merge"]), name)
        return cls(cast(Category, options), labels)

    def to_json(self) -> dict[str, Any]:
        """Return the classes and what is merged into them."""
        return {"classes": self.class_labels.classes, "merge": self.class_labels.merge}

    def truth(self, utterance: Utterance) -> str | None:
        """Return the class of an utterance."""
        return self.class_labels.label(utterance)

    def targets(self, utterances: Sequence[Utterance]) -> Targets:
        """Return class probabilities, (utterance, class), and which utterances have a class."""
        values = np.stack([self.class_labels.probabilities(u) for u in utterances])
        return Targets(values, values.sum(axis=1) > 0)

    def prepare(self, truth: torch.Tensor) -> None:
        """Take what the loss needs from the training targets, (utterance, class)."""
        if self.options.class_weights == "balanced":
            self.class_weights = losses.balanced_class_weights(truth.sum(dim=0))

    def loss(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch: probabilities and logits, both (batch, class)."""
        weights = None if self.class_weights is None else self.class_weights.to(output.device)
        own = self.options.arcface.model_dump() if self.options.loss == "arcface" else {}
        each = choose("loss", self.options.loss)(truth, output, weights, self.options.label_smoothing, **own)
        return losses.weighted_mean(each, truth, weights)

    def classes(self, truth: torch.Tensor) -> torch.Tensor:
        """Return the class numbers of probabilities, (batch, class): (batch,)."""
        return truth.argmax(dim=1)

    def scores(self, truth: torch.Tensor, output: torch.Tensor) -> dict[str, float]:
        """Return the scores of a whole set, 0 to 1, and its loss, by name; both arguments are (utterance, class)."""
        scores = class_scores(self.classes(truth).numpy(), output.argmax(dim=1).numpy(), self.num_outputs)
        return {**scores, "loss": float(self.loss(truth, output))}

    def decode(self, output: torch.Tensor) -> Decoded:
        """Return the probabilities of (batch, class) logits."""
        return Decoded(output.softmax(dim=1).cpu().numpy())

    def predictions(self, decoded: Decoded) -> list[TaskPrediction]:
        """Return the most probable class of each clip."""
        return class_predictions(self.spec.classes, decoded)


class SpeakerTask(ClassTask):
    """The speakers of the training set (park2023)."""

    fits_on = "train"
    needs_shared_speakers = True


def class_predictions(classes: Sequence[str], decoded: Decoded) -> list[TaskPrediction]:
    """Return the most probable class of each row of probabilities, (clip, class)."""
    assert decoded.values is not None
    return [most_probable(dict(zip(classes, row, strict=True))) for row in decoded.values.tolist()]


def class_scores(truth: np.ndarray, predictions: np.ndarray, num_classes: int) -> dict[str, float]:
    """Return every score, 0 to 1, of class numbers, both (utterance,)."""
    confusion = metrics.confusion_matrix(truth, predictions, num_classes)
    return {name: float(score(confusion)) for name, score in metrics.SCORES.items()}

"""The contract of a task: it owns all that its output means, from the label in a manifest to the label in a prediction.

Nobody else asks what kind of task one is. To add a task is one class here and its name in `serein.tasks.TASKS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from serein.data.dataset import Targets
from serein.data.manifest import Utterance
from serein.data.protocols import speaker_key
from serein.errors import ModelError, RecipeError
from serein.metrics import NUMBER_SCORES
from serein.recipe import Head, Recipe
from serein.text.word_vectors import Vocabulary


def label_of(utterance: Utterance, field_name: str) -> str | None:
    """Return what an utterance's field says; a speaker is told apart from those of other corpora."""
    if field_name == "speaker":
        return None if utterance.speaker is None else speaker_key(utterance).removeprefix("/")
    value: str | None = getattr(utterance, field_name)
    return value


_DIGITS = 6  # of numbers in JSON


@dataclass(frozen=True)
class Decoded:
    """What a task says of clips, in their order.

    Attributes:
        values: (clip, class) probabilities, or (clip, 1) numbers; `None` of texts.
        texts: What was said in each clip; `None` of values.
    """

    values: NDArray[np.float32] | None = None
    texts: tuple[str, ...] | None = None

    @staticmethod
    def concatenated(parts: Sequence[Decoded]) -> Decoded:
        """Return what is said of the clips of all parts."""
        if parts[0].values is None:
            return Decoded(texts=tuple(text for part in parts for text in part.texts or ()))
        return Decoded(np.concatenate([part.values for part in parts if part.values is not None]))

    def mean(self, part: slice, weights: NDArray[np.float64]) -> Decoded:
        """Return what is said of one clip that was cut: the weighted mean of its parts, or their texts in a row."""
        if self.values is None:
            return Decoded(texts=(" ".join(text for text in (self.texts or ())[part] if text),))
        return Decoded(np.average(self.values[part], axis=0, weights=weights).astype(np.float32)[None])


@dataclass(frozen=True)
class TaskPrediction:
    """What a task says of a clip.

    Attributes:
        label: The class with the largest probability, or the words that were said; `None` of a number.
        confidence: The largest probability; `None` where there are no classes.
        probabilities: Class -> probability; they sum to 1.
        value: The number that a task of regression predicts.
        dimensions: Name -> number, of a task that predicts several.
    """

    label: str | None
    confidence: float | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    value: float | None = None
    dimensions: Mapping[str, float] = field(default_factory=dict)

    @property
    def written(self) -> str:
        """The answer as prediction files hold it: the label, the number, or the numbers one after the other."""
        numbers = list(self.dimensions.values()) if self.value is None else [self.value]
        return self.label or " ".join(f"{number:.6g}" for number in numbers)

    @property
    def text(self) -> str:
        """What people read: the label, the number, or the numbers with their names."""
        return self.label or numbers_text(self.dimensions if self.value is None else {"": self.value})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `value` and `dimensions` only where the task predicts numbers."""
        return {
            "label": self.label,
            "confidence": None if self.confidence is None else round(self.confidence, _DIGITS),
            "probabilities": rounded(self.probabilities),
            **({} if self.value is None else {"value": round(self.value, _DIGITS)}),
            **({"dimensions": rounded(self.dimensions)} if self.dimensions else {}),
        }


def numbers_text(numbers: Mapping[str, float]) -> str:
    """Return numbers as people read them.

    Example:
        >>> numbers_text({"arousal": 0.617, "valence": 0.25}), numbers_text({"": 0.5})
        ('arousal 0.62, valence 0.25', '0.50')
    """
    return ", ".join(f"{name} {number:.2f}".strip() for name, number in numbers.items())


def rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return name -> number as JSON holds it."""
    return {name: round(number, _DIGITS) for name, number in numbers.items()}


def most_probable(probabilities: Mapping[str, float]) -> TaskPrediction:
    """Return the prediction of a task of classes: the class with the largest probability, the first of equal ones."""
    label = max(probabilities, key=lambda name: probabilities[name])
    return TaskPrediction(label, probabilities[label], probabilities)


def mean_of(parts: Sequence[TaskPrediction], weights: Sequence[float]) -> TaskPrediction:
    """Return the weighted mean of what a task says of the parts of a recording; texts stand one after the other."""
    first = parts[0]
    if len(parts) == 1:
        return TaskPrediction(first.label, first.confidence, first.probabilities, first.value, first.dimensions)

    def mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
        columns = np.average([list(row.values()) for row in rows], axis=0, weights=weights)
        return dict(zip(rows[0], map(float, columns), strict=True))

    dimensions = mean([part.dimensions for part in parts]) if first.dimensions else {}
    if first.probabilities:
        return replace(most_probable(mean([part.probabilities for part in parts])), dimensions=dimensions)
    if first.value is not None:
        value = mean([{"value": part.value or 0.0} for part in parts])["value"]
        return TaskPrediction(None, value=value, dimensions=dimensions)
    text = " ".join(part.label for part in parts if part.label)
    return TaskPrediction(None if first.dimensions else text, dimensions=dimensions)


Problem = Literal["classes", "vector", "sequence", "regression"]


@dataclass(frozen=True)
class TaskSpec:
    """What a task is about; run folders store it (`data.json`).

    Attributes:
        name: Its key in recipes, batches, heads and labels.json.
        field: The field of an utterance that holds its truth.
        problem: `classes`; `vector`: a word vector, answered by the nearest class; `sequence`: words; `regression`: a
            number.
        classes: Names of the classes; none where there are no classes.
        monitor: The score that training monitors unless a stage names another.
        dimensions: Names of the numbers of a regression of several; none of one number.
        scale: What its numbers are, in words.
    """

    name: str
    field: str
    problem: Problem
    classes: tuple[str, ...] = ()
    monitor: str = "ua"
    dimensions: tuple[str, ...] = ()
    scale: str = ""

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the numbers that are predicted; none of other tasks."""
        return self.dimensions or ((self.name,) if self.problem == "regression" else ())

    @property
    def has_classes(self) -> bool:
        """Whether a class is what is predicted."""
        return self.problem in ("classes", "vector")


class Task(ABC):
    """One thing that is learned.

    Attributes:
        Options: What recipes say of such a task.
        problem: What kind of output it has, see `TaskSpec`.
        mixes: Whether targets and outputs of several clips or models have a mean.
        fits_on: Whose labels its outputs are: of all data, or of a fold's training set alone.
        needs_shared_speakers: Whether test speakers must be among the training speakers.
        monitors: The scores that training can monitor; the first unless a stage names another.
        spec: What it is about.
        options: What it reads from the model, its loss and its weight.
        num_outputs: Numbers that its head puts out for a clip, or for a frame.
    """

    Options: ClassVar[type[Head]]
    problem: ClassVar[Problem] = "classes"
    mixes: ClassVar[bool] = True
    fits_on: ClassVar[Literal["all", "train"]] = "all"
    needs_shared_speakers: ClassVar[bool] = False
    monitors: ClassVar[tuple[str, ...]] = ("ua", "wa", "macro_f1")

    spec: TaskSpec
    options: Head
    num_outputs: int

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The word vectors among which its output is one; `None`: it is no word vector."""
        return None

    @property
    def name(self) -> str:
        """The task's key in recipes, batches and heads."""
        return self.spec.name

    @classmethod
    @abstractmethod
    def fit(cls, name: str, options: Head, recipe: Recipe, utterances: Sequence[Utterance]) -> Self:
        """Return the task with the labels that utterances hold.

        Raises:
            RecipeError, ManifestError: They hold too few.
        """

    @classmethod
    @abstractmethod
    def from_json(cls, name: str, options: Head, description: Mapping[str, Any]) -> Self:
        """Return the task that `to_json` described.

        Raises:
            KeyError, TypeError, ValueError: It did not.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return what labels.json says of the task."""

    def label(self, utterance: Utterance) -> str | None:
        """Return what the corpus says in the task's field, in its own words; `None` when it says nothing."""
        return label_of(utterance, self.spec.field)

    @abstractmethod
    def truth(self, utterance: Utterance) -> str | float | None:
        """Return what the task should say of an utterance; `None` where that is unknown."""

    def has_target(self, utterance: Utterance) -> bool:
        """Tell whether an utterance can be learned from and tested."""
        return self.truth(utterance) is not None

    def ratings(self, utterance: Utterance) -> tuple[tuple[str, ...], ...]:
        """Return the classes that each rater gave an utterance; none of a task that no rater judges."""
        return ()

    @abstractmethod
    def targets(self, utterances: Sequence[Utterance]) -> Targets:
        """Return the target of every utterance, and which have one."""

    def prepare(self, truth: torch.Tensor) -> None:  # noqa: B027  (most need nothing)
        """Take what the loss needs from the training targets."""

    @abstractmethod
    def loss(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch.

        Args:
            truth: (batch, ...) targets.
            output: (batch, ...) what the head puts out.
        """

    def classes(self, truth: torch.Tensor) -> torch.Tensor | None:
        """Return the class numbers of targets, (batch,); `None` of a task without classes."""
        return None

    def kept(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return what of a batch's outputs is kept until the whole set is scored, (batch, ...) of one width."""
        return output

    @abstractmethod
    def scores(self, truth: torch.Tensor, kept: torch.Tensor) -> dict[str, float]:
        """Return scores of a whole set by name, the higher the better, the one that is monitored first; and `loss`."""

    def values(self, output: torch.Tensor) -> torch.Tensor:
        """Return what (batch, ...) outputs of the head mean, as an exported model computes it by tensors alone.

        Returns:
            (batch, class) probabilities, or (batch, ...) numbers.

        Raises:
            ModelError: They are no steps of tensors.
        """
        what = f"what the task '{self.name}' says cannot be part of an exported file"
        raise ModelError(what, where=f"tasks.{self.name}", remedy="Use the model folder for it.")

    def decode(self, output: torch.Tensor) -> Decoded:
        """Return what (batch, ...) outputs of the head mean; by default their `values`."""
        return Decoded(self.values(output).cpu().numpy())

    def predictions(self, decoded: Decoded) -> list[TaskPrediction]:
        """Return what is said of each clip; by default the most probable class."""
        assert decoded.values is not None
        return [most_probable(dict(zip(self.spec.classes, row, strict=True))) for row in decoded.values.tolist()]

    @classmethod
    def score_numbers(cls, truth: NDArray[np.float64], prediction: NDArray[np.float64]) -> dict[str, float]:
        """Return scores of what a task of regression predicted, the one that it is reported by first.

        Args:
            truth: (utterance,) numbers.
            prediction: (utterance,) numbers.
        """
        return {name: score(truth, prediction) for name, score in NUMBER_SCORES.items()}

    def describe(self) -> str:
        """Return what the task predicts, for the model's card."""
        classes = self.spec.classes
        if not classes:
            return f"{self.name}."
        return f"probabilities of {len(classes)} classes of {self.name}:\n{', '.join(classes)}"

    def with_labels(self, labels: Sequence[str]) -> Task:
        """Return the same task with other words as classes.

        Raises:
            ModelError: It has fixed classes.
        """
        known = f"has the fixed classes {', '.join(self.spec.classes)}" if self.spec.classes else "has no classes"
        raise ModelError(known, where="labels", remedy="Choose a model whose task is 'words'.")


def keep_labelled(
    utterances: Sequence[Utterance], task: Task, unknown: Literal["drop", "error"] = "drop"
) -> tuple[list[Utterance], Counter[str]]:
    """Split off the utterances without a truth for a task.

    Returns:
        The utterances with one, and how many of each other label were left out.

    Raises:
        RecipeError: `unknown` is "error" and there are some.
    """
    kept = [u for u in utterances if task.has_target(u)]
    left_out = Counter(task.label(u) or f"(no {task.spec.field})" for u in utterances if not task.has_target(u))
    if left_out and unknown == "error":
        counts = ", ".join(f"{count} {name}" for name, count in left_out.most_common(5))
        raise RecipeError(
            f"{left_out.total()} utterances belong to none of the classes: {counts}",
            where="labels.classes",
            remedy="Add the class, merge it with labels.merge, or leave them out with labels.unknown_labels=drop.",
        )
    return kept, left_out

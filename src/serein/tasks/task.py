"""The interface of a task, which defines the meaning of its outputs, from manifest labels to predicted labels.

To add one, write a class and add its name to `serein.tasks.TASKS`. The training step and the prediction of recordings
use only this interface; scores, comparisons, exports and checks of recipes and data also read `TaskSpec.problem`.
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
from serein.data.manifest import Utterance, plain_label
from serein.data.protocols import speaker_key
from serein.errors import ModelError, RecipeError
from serein.metrics import NUMBER_SCORES
from serein.recipe import Head, Recipe
from serein.text.word_vectors import Vocabulary


def label_of(utterance: Utterance, field_name: str) -> str | None:
    """Return the value of an utterance's field; a speaker's is made distinct from those of other corpora."""
    if field_name == "speaker":
        return None if utterance.speaker is None else speaker_key(utterance).removeprefix("/")
    value: str | None = getattr(utterance, field_name)
    return value


_DIGITS = 6  # decimal places of numbers in JSON


@dataclass(frozen=True)
class Decoded:
    """A task's decoded outputs for several clips, in their order.

    Attributes:
        values: (clip, class) probabilities, or (clip, 1) numbers; `None` for texts.
        texts: The transcript of each clip; `None` for values.
    """

    values: NDArray[np.float32] | None = None
    texts: tuple[str, ...] | None = None

    @staticmethod
    def concatenated(parts: Sequence[Decoded]) -> Decoded:
        """Return the outputs for the clips of all parts."""
        if parts[0].values is None:
            return Decoded(texts=tuple(text for part in parts for text in part.texts or ()))
        return Decoded(np.concatenate([part.values for part in parts if part.values is not None]))

    def mean(self, part: slice, weights: NDArray[np.float64]) -> Decoded:
        """Return the output for a clip that was cut: the weighted mean of its parts, or their texts joined."""
        if self.values is None:
            return Decoded(texts=(" ".join(text for text in (self.texts or ())[part] if text),))
        return Decoded(np.average(self.values[part], axis=0, weights=weights).astype(np.float32)[None])


@dataclass(frozen=True)
class TaskPrediction:
    """A task's prediction for a clip.

    Attributes:
        label: The class with the largest probability, or the spoken words; `None` for a number.
        confidence: The largest probability; `None` without classes.
        probabilities: Class -> probability; they sum to 1.
        value: The number that a regression task predicts.
        dimensions: Name -> number, for a task that predicts several.
    """

    label: str | None
    confidence: float | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    value: float | None = None
    dimensions: Mapping[str, float] = field(default_factory=dict)

    @property
    def written(self) -> str:
        """The prediction as stored in prediction files: the label, the number, or the numbers separated by spaces."""
        numbers = list(self.dimensions.values()) if self.value is None else [self.value]
        return self.label or " ".join(f"{number:.6g}" for number in numbers)

    @property
    def text(self) -> str:
        """The prediction as displayed: the label, or the numbers; with their names, except that of a task itself."""
        return self.label or numbers_text(self.dimensions or ({} if self.value is None else {"": self.value}))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `value` and `dimensions` only if the task predicts numbers."""
        return {
            "label": self.label,
            "confidence": None if self.confidence is None else round(self.confidence, _DIGITS),
            "probabilities": rounded(self.probabilities),
            **({} if self.value is None else {"value": round(self.value, _DIGITS)}),
            **({"dimensions": rounded(self.dimensions)} if self.dimensions else {}),
        }


def numbers_text(numbers: Mapping[str, float]) -> str:
    """Return numbers formatted for display.

    Example:
        >>> numbers_text({"arousal": 0.617, "valence": 0.25}), numbers_text({"": 0.5})
        ('arousal 0.62, valence 0.25', '0.50')
    """
    return ", ".join(f"{name} {number:.2f}".strip() for name, number in numbers.items())


def rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return name -> number, rounded for JSON."""
    return {name: round(number, _DIGITS) for name, number in numbers.items()}


def most_probable(probabilities: Mapping[str, float]) -> TaskPrediction:
    """Return a classification task's prediction: the class with the largest probability, the first in case of a tie."""
    label = max(probabilities, key=lambda name: probabilities[name])
    return TaskPrediction(label, probabilities[label], probabilities)


def mean_of(parts: Sequence[TaskPrediction], weights: Sequence[float]) -> TaskPrediction:
    """Return the weighted mean of a task's predictions for the parts of a recording; texts are joined."""
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
    """The description of a task, which run folders store (`data.json`).

    Attributes:
        name: The task's key in recipes, batches, heads and labels.json.
        field: The field of an utterance that contains its truth.
        problem: `classes`; `vector`: a word vector, decoded to the nearest class; `sequence`: words; `regression`: a
            number.
        classes: Names of the classes, if there are any.
        monitor: The score that training monitors if the stage names none.
        dimensions: Names of the numbers if a regression task predicts several; empty for a single number.
        scale: Description of the scale of its numbers.
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
        """Names of the predicted numbers; empty for other tasks."""
        return self.dimensions or ((self.name,) if self.problem == "regression" else ())

    @property
    def has_classes(self) -> bool:
        """Whether the task predicts a class."""
        return self.problem in ("classes", "vector")

    @property
    def has_transcript(self) -> bool:
        """Whether the task predicts spoken words."""
        return self.problem == "sequence"


class Task(ABC):
    """A task that a model learns.

    Attributes:
        Options: The task's options in a recipe.
        problem: The kind of its output, see `TaskSpec`.
        mixes: Whether targets and outputs of several clips or models can be averaged.
        fits_on: Where its labels come from: all data, or only a fold's training set.
        needs_shared_speakers: Whether test speakers must be among the training speakers.
        monitors: The scores that training can monitor; the first one if the stage names none.
        spec: Its description.
        options: The options of its head, its loss and its weight.
        num_outputs: Number of outputs of its head per clip, or per frame.
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
        """The vocabulary of the word vectors that the task predicts; `None`: it predicts no word vector."""
        return None

    @property
    def name(self) -> str:
        """The task's key in recipes, batches and heads."""
        return self.spec.name

    @classmethod
    @abstractmethod
    def fit(cls, name: str, options: Head, recipe: Recipe, utterances: Sequence[Utterance]) -> Self:
        """Return the task with the labels that occur in the utterances.

        Raises:
            RecipeError, ManifestError: There are too few labels.
        """

    @classmethod
    @abstractmethod
    def from_json(cls, name: str, options: Head, description: Mapping[str, Any]) -> Self:
        """Return the task that `to_json` described.

        Raises:
            KeyError, TypeError, ValueError: The description is not one of `to_json`.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the task's description in labels.json."""

    def label(self, utterance: Utterance) -> str | None:
        """Return the corpus's own label in the task's field; `None` if there is none."""
        return label_of(utterance, self.spec.field)

    @abstractmethod
    def truth(self, utterance: Utterance) -> str | float | None:
        """Return the correct prediction for an utterance; `None` if it is unknown."""

    def has_target(self, utterance: Utterance) -> bool:
        """Return whether an utterance can be used for training and testing."""
        return self.truth(utterance) is not None

    def spec_of(self, utterances: Sequence[Utterance]) -> TaskSpec:
        """Return the description for the scores of these utterances, which states the scale of their numbers.

        Raises:
            ManifestError: Their numbers are on another scale.
        """
        return self.spec

    def ratings(self, utterance: Utterance) -> tuple[tuple[str, ...], ...]:
        """Return the classes that each rater gave an utterance; empty for a task without raters."""
        return ()

    @abstractmethod
    def targets(self, utterances: Sequence[Utterance]) -> Targets:
        """Return the target of every utterance, and which utterances have one."""

    def prepare(self, truth: torch.Tensor) -> None:  # noqa: B027  (most need nothing)
        """Compute what the loss needs from the training targets."""

    @abstractmethod
    def loss(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch.

        Args:
            truth: (batch, ...) targets.
            output: (batch, ...) outputs of the head.
        """

    def classes(self, truth: torch.Tensor) -> torch.Tensor | None:
        """Return the class numbers of targets, (batch,); `None` for a task without classes."""
        return None

    def kept(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the part of a batch's outputs to keep for scoring the whole set, (batch, ...) of a fixed width."""
        return output

    @abstractmethod
    def scores(self, truth: torch.Tensor, kept: torch.Tensor) -> dict[str, float]:
        """Return scores of a whole set by name, higher is better, the monitored one first; and `loss`.

        Args:
            truth: (clip, ...) targets.
            kept: (clip, ...) what `kept` returned for its batches.
        """

    def values(self, output: torch.Tensor) -> torch.Tensor:
        """Convert (batch, ...) outputs of the head to predictions by tensor operations alone, as in an exported model.

        Returns:
            (batch, class) probabilities, or (batch, ...) numbers.

        Raises:
            ModelError: The conversion cannot be expressed by tensor operations.
        """
        what = f"predictions of the task '{self.name}' cannot be part of an exported file"
        raise ModelError(what, where=f"tasks.{self.name}", remedy="Use the model folder for it.")

    def decode(self, output: torch.Tensor) -> Decoded:
        """Decode (batch, ...) outputs of the head; by default to their `values`."""
        return Decoded(self.values(output).cpu().numpy())

    def predictions(self, decoded: Decoded) -> list[TaskPrediction]:
        """Return the prediction for each clip; by default the most probable class."""
        assert decoded.values is not None
        return [most_probable(dict(zip(self.spec.classes, row, strict=True))) for row in decoded.values.tolist()]

    @classmethod
    def score_numbers(cls, truth: NDArray[np.float64], prediction: NDArray[np.float64]) -> dict[str, float]:
        """Return the scores of a regression task's predictions, the one to report first.

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
            ModelError: The task's classes are fixed.
        """
        known = f"has the fixed classes {', '.join(self.spec.classes)}" if self.spec.classes else "has no classes"
        raise ModelError(known, where="labels", remedy="Choose a model whose task is 'words'.")


def without_dropped(utterances: Sequence[Utterance], drop: Sequence[str]) -> list[Utterance]:
    """Return the utterances whose emotion is not among the labels that a recipe drops (`labels.drop`)."""
    dropped = {plain_label(label) for label in drop}
    return [u for u in utterances if u.emotion is None or plain_label(u.emotion) not in dropped]


def keep_labelled(
    utterances: Sequence[Utterance], task: Task, unknown: Literal["drop", "error"] = "drop"
) -> tuple[list[Utterance], Counter[str]]:
    """Separate the utterances that have a target for a task from those that do not.

    Args:
        unknown: See `Labels.unknown_labels`; of a task that does not learn emotions, utterances are always left out.

    Returns:
        The utterances with a target, and the number of utterances that were left out, by label.

    Raises:
        RecipeError: `unknown` is "error" and some utterances have no target.
    """
    kept = [u for u in utterances if task.has_target(u)]
    left_out = Counter(task.label(u) or f"(no {task.spec.field})" for u in utterances if not task.has_target(u))
    if left_out and unknown == "error" and task.spec.field == "emotion":
        counts = ", ".join(f"{count} {name}" for name, count in left_out.most_common(5))
        raise RecipeError(
            f"{left_out.total()} utterances belong to none of the classes: {counts}",
            where="labels.classes",
            remedy="Add the class, merge it with labels.merge, or leave them out with labels.unknown_labels=drop.",
        )
    return kept, left_out

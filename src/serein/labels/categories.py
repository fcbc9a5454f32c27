"""Categories: the classes of a task, and what an utterance's label means among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serein.data.groups import speaker_key
from serein.data.utterance import Utterance
from serein.errors import RecipeError
from serein.recipe import Labels


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


def label_of(utterance: Utterance, field: str) -> str | None:
    """Return what an utterance's field says; a speaker is told apart from those of other corpora."""
    if field == "speaker":
        return None if utterance.speaker is None else speaker_key(utterance).removeprefix("/")
    value: str | None = getattr(utterance, field)
    return value


def class_labels_of(utterances: Sequence[Utterance], labels: Labels, task: str = "emotion") -> ClassLabels:
    """Return the classes of a task: for emotions those that a recipe names, or those that the utterances hold.

    Raises:
        RecipeError: No class, one class, or a class that no utterance has.
    """
    if task in FIXED_CLASSES:
        return _fixed(utterances, task)
    if task in FOUND_CLASSES:
        return _found(utterances, task)
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


def keep_labelled(
    utterances: Sequence[Utterance], class_labels: ClassLabels, others: str
) -> tuple[list[Utterance], Counter[str]]:
    """Split off the utterances that belong to no class.

    Returns:
        The utterances with a class, and how many of each other label were left out.

    Raises:
        RecipeError: `others` is "error" and there are some.
    """
    field = class_labels.field
    left_out = Counter(label_of(u, field) or f"(no {field})" for u in utterances if class_labels.label(u) is None)
    if left_out and others == "error":
        counts = ", ".join(f"{count} {name}" for name, count in left_out.most_common(5))
        raise RecipeError(
            f"{left_out.total()} utterances belong to none of the classes: {counts}",
            where="labels.classes",
            remedy="Add the class, merge it with labels.merge, or leave them out with labels.unknown_labels=drop.",
        )
    return [u for u in utterances if class_labels.label(u) is not None], left_out


FIXED_CLASSES = {"gender": ("female", "male")}
FOUND_CLASSES = ("style", "speaker")


def _found(utterances: Sequence[Utterance], task: str) -> ClassLabels:
    classes = sorted({value for u in utterances if (value := label_of(u, task)) is not None})
    if len(classes) < 2:
        raise RecipeError(
            f"the data to learn from has {len(classes)} {task}s{': ' if classes else ''}{', '.join(classes)}",
            where=f"tasks.{task}",
            remedy=f"Two are needed: fill in the field '{task}', or leave the task out.",
        )
    return ClassLabels(tuple(classes), {}, task)


def _fixed(utterances: Sequence[Utterance], task: str) -> ClassLabels:
    class_labels = ClassLabels(FIXED_CLASSES[task], {}, task)
    if not all(any(class_labels.label(u) == name for u in utterances) for name in class_labels.classes):
        raise RecipeError(
            f"the data does not have utterances of each {task}: {', '.join(class_labels.classes)}",
            where=f"tasks.{task}",
            remedy=f"Fill in the field '{task}', or leave the task out.",
        )
    return class_labels

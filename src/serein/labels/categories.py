"""Emotion categories: the classes of an experiment, and what an utterance's label means among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serein.data.utterance import Utterance
from serein.errors import RecipeError
from serein.recipe import Labels


@dataclass(frozen=True)
class Categories:
    """The classes in their order, and the corpus words that are merged into them.

    Example:
        >>> categories = Categories(("happy", "sad"), {"excited": "happy"})
        >>> categories.of("excited"), categories.of("bored")
        ('happy', None)
    """

    classes: tuple[str, ...]
    merge: dict[str, str]

    def of(self, emotion: str | None) -> str | None:
        """Return the class of a corpus word, or `None` when it has none."""
        name = self.merge.get(emotion or "", emotion)
        return name if name in self.classes else None

    def index(self, emotion: str | None) -> int:
        """Return the position of a corpus word's class, or -1."""
        name = self.of(emotion)
        return -1 if name is None else self.classes.index(name)

    def shares(self, emotion: str | None) -> NDArray[np.float32]:
        """Return (class,) with 1 at the word's class; all zero when it has none."""
        shares = np.zeros(len(self.classes), np.float32)
        if (index := self.index(emotion)) >= 0:
            shares[index] = 1.0
        return shares


def categories_of(utterances: Sequence[Utterance], labels: Labels) -> Categories:
    """Return the classes that a recipe names, or those that the utterances hold.

    Raises:
        RecipeError: No class, one class, or a class that no utterance has.
    """
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
    return Categories(tuple(classes), merge)


def with_class(
    utterances: Sequence[Utterance], categories: Categories, others: str
) -> tuple[list[Utterance], Counter[str]]:
    """Split off the utterances that belong to no class.

    Returns:
        The utterances with a class, and how many of each other label were left out.

    Raises:
        RecipeError: `others` is "error" and there are some.
    """
    left_out = Counter(u.emotion or "(no emotion)" for u in utterances if categories.of(u.emotion) is None)
    if left_out and others == "error":
        counts = ", ".join(f"{count} {name}" for name, count in left_out.most_common(5))
        raise RecipeError(
            f"{left_out.total()} utterances belong to none of the classes: {counts}",
            where="labels.classes",
            remedy="Add the class, merge it with labels.merge, or leave them out with labels.others=drop.",
        )
    return [u for u in utterances if categories.of(u.emotion) is not None], left_out

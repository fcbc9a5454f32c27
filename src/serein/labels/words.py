"""Classes as word vectors: what a vector means among them (stanley2023, sections 3.1 and 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serein.errors import ModelError, RecipeError
from serein.labels.categories import ClassLabels

if TYPE_CHECKING:
    from serein.labels.vocabulary import Vocabulary

TEMPERATURE = 0.1  # of the softmax; the nearest class does not depend on it


@dataclass(frozen=True, eq=False)
class WordClasses:
    """Classes, the noun of each, and its vector.

    Attributes:
        class_labels: The classes and what is merged into them.
        nouns: (class,) the word that stands for each class.
        vectors: (class, feature) float32.
        vocabulary: Where the vectors come from, as the recipe names it.
        digest: Of the vocabulary.

    Example:
        >>> two = WordClasses(ClassLabels(("sad", "calm"), {}), ("sadness", "calm"), np.eye(2, dtype=np.float32))
        >>> two.probabilities([[3.0, 0.0]]).round(4).tolist()
        [[1.0, 0.0]]
    """

    class_labels: ClassLabels
    nouns: tuple[str, ...]
    vectors: NDArray[np.float32]
    vocabulary: str = ""
    digest: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.class_labels.classes

    def cosines(self, vectors: ArrayLike) -> NDArray[np.float64]:
        """Return the cosine of every vector, (utterance, feature), with every class: (utterance, class)."""
        return normalised(vectors) @ normalised(self.vectors).T

    def probabilities(self, vectors: ArrayLike) -> NDArray[np.float64]:
        """Return class probabilities, (utterance, class): softmax of the cosines by a fixed temperature.

        The nearest class has the largest share: equation 5, whose argmin must be argmax.
        """
        scaled = self.cosines(vectors) / TEMPERATURE
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return probabilities


def relabelled(classes: WordClasses, labels: Sequence[str]) -> WordClasses:
    """Return other words in the place of the classes.

    Raises:
        RecipeError: Fewer than two labels, or one twice.
        VocabularyError: A word has no vector.
        ModelError: The vocabulary is not the one that the model learned with.
    """
    labels = [label.strip() for label in labels]
    if len(labels) < 2 or len(set(labels)) < len(labels) or not all(labels):
        raise RecipeError("are not two or more different words", where="labels", remedy="Write: bored,excited.")
    vocabulary = vocabulary_of(classes)
    vectors = phrase_vectors(labels, vocabulary)
    return WordClasses(ClassLabels(tuple(labels), {}), tuple(labels), vectors, classes.vocabulary, classes.digest)


def vocabulary_of(classes: WordClasses) -> Vocabulary:
    """Open the vocabulary that a model learned with.

    Raises:
        ModelError: It is another one now.
    """
    from serein.labels.vocabulary import open_vocabulary

    vocabulary = open_vocabulary(classes.vocabulary)
    if vocabulary.digest != classes.digest:
        raise ModelError(
            "is not the vocabulary that the model learned with",
            where=classes.vocabulary,
            remedy="Restore it, or prepare it again from the same file.",
        )
    return vocabulary


def phrase_vectors(texts: Sequence[str], vocabulary: Vocabulary) -> NDArray[np.float32]:
    """Return a vector for each text, (text, feature): the word's own, or the mean of its words'."""

    def vector(text: str) -> NDArray[np.float32]:
        return vocabulary.vector(text) if text in vocabulary else vocabulary.vectors(text.split()).mean(axis=0)

    return np.stack([vector(text) for text in texts]).astype(np.float32)


def normalised(vectors: ArrayLike) -> NDArray[np.float64]:
    """Return (row, feature) of length one; a row of zeros stays."""
    rows = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: NDArray[np.float64] = rows / np.where(lengths > 0, lengths, 1.0)
    return unit


def mean_cosine(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Return the mean cosine of targets and predictions, both (utterance, feature) (stanley2023, Table 3).

    Example:
        >>> mean_cosine([[1.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [1.0, 0.0]])
        0.5
    """
    return float((normalised(truth) * normalised(prediction)).sum(axis=1).mean())

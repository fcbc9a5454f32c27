"""Classes as word vectors: what a vector means among them (stanley2023, sections 3.1 and 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serein.errors import ModelError, RecipeError
from serein.tasks.classes import ClassLabels

if TYPE_CHECKING:
    from serein.labels.vocabulary import Vocabulary


import torch

from serein import losses
from serein.data.dataset import Targets
from serein.data.utterance import Utterance
from serein.labels.vocabulary import Vocabulary, open_vocabulary
from serein.recipe import Nouns, Words
from serein.tasks.classes import class_scores
from serein.tasks.votes import NOUNS, distinct_targets, target_words

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


class WordTask:
    """Binds target vectors, loss and score.

    Targets are (utterance, feature + class): the vector to learn, and beside it the class, by which is evaluated.

    Attributes:
        name: The task's key in recipes, batches and heads.
        num_outputs: Features of a word vector.
        labels: The classes as word vectors.
        scale: What targets are multiplied by.

    Raises:
        VocabularyError: A class has no vector.
    """

    name = "words"

    def __init__(self, options: Words, class_labels: ClassLabels, nouns: Nouns) -> None:
        self.options = options
        self.vocabulary = open_vocabulary(nouns.vocabulary)
        self.nouns = {**NOUNS, **nouns.nouns}
        self.num_outputs = self.vocabulary.size
        self.labels = word_classes(class_labels, self.vocabulary, self.nouns, nouns.vocabulary)
        self.scale = 1.0 if nouns.scale == "none" else 1.0 / float(np.sqrt(np.mean(self.labels.vectors**2)))

    def words(self, utterances: Sequence[Utterance]) -> list[tuple[str, ...]]:
        """Return the words that each utterance's target is the mean of."""
        class_labels, known = self.labels.class_labels, self.vocabulary
        return [target_words(u, class_labels, self.options.targets, self.nouns, known) for u in utterances]

    def targets(self, utterances: Sequence[Utterance]) -> Targets:
        """Return vectors and classes, (utterance, feature + class), and which utterances have both."""
        words = self.words(utterances)
        values = np.zeros((len(utterances), self.num_outputs + len(self.labels.classes)), np.float32)
        values[:, : self.num_outputs] = self.scale * mean_vectors(words, self.vocabulary)
        values[:, self.num_outputs :] = np.stack([self.labels.class_labels.probabilities(u) for u in utterances])
        has_both = np.array([bool(some) for some in words]) & values[:, self.num_outputs :].any(axis=1)
        return Targets(values, has_both)

    def num_distinct(self, utterances: Sequence[Utterance]) -> int:
        """Return the number of different targets (129 and 629 in the paper)."""
        return distinct_targets(self.words(utterances))

    def prepare(self, truth: torch.Tensor) -> None:
        """Take what the loss needs from the training targets: nothing."""

    def loss(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch: targets, (batch, feature + class), and vectors, (batch, feature)."""
        return losses.VECTOR_LOSSES[self.options.loss](truth[:, : self.num_outputs], output).mean()

    def kept(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return what of a batch's outputs is kept until the whole set is scored: all of it, (batch, feature)."""
        return output

    def classes(self, truth: torch.Tensor) -> torch.Tensor:
        """Return the class numbers of targets, (batch, feature + class): (batch,)."""
        return truth[:, self.num_outputs :].argmax(dim=1)

    def scores(self, truth: torch.Tensor, output: torch.Tensor) -> dict[str, float]:
        """Return the scores of a whole set, 0 to 1, by name, the mean cosine with the targets, and the loss."""
        classes = self.classes(truth).numpy()
        predictions = self.labels.cosines(output.numpy()).argmax(axis=1)
        cosine = mean_cosine(truth[:, : self.num_outputs].numpy(), output.numpy())
        scores = class_scores(classes, predictions, len(self.labels.classes))
        return {**scores, "cosine": cosine, "loss": float(self.loss(truth, output))}


def word_classes(class_labels: ClassLabels, vocabulary: Vocabulary, nouns: dict[str, str], name: str) -> WordClasses:
    """Return classes as the vectors of their nouns.

    Raises:
        VocabularyError: A noun has no vector.
        RecipeError: Two classes have one noun.
    """
    words = tuple(nouns.get(each, each) for each in class_labels.classes)
    if len(set(words)) < len(words):
        raise RecipeError(f"two classes have one noun: {', '.join(words)}", where="words.nouns", remedy="Name another.")
    return WordClasses(class_labels, words, vocabulary.vectors(words), name, vocabulary.digest)


def mean_vectors(words: Sequence[Sequence[str]], vocabulary: Vocabulary) -> np.ndarray:
    """Return the mean vector of each list of words, multiplicity kept (equation 4): (list, feature), zeros for none."""
    distinct = sorted({word for some in words for word in some})
    position = {word: number for number, word in enumerate(distinct)}
    vectors = vocabulary.vectors(distinct) if distinct else np.zeros((0, vocabulary.size), np.float32)
    means = np.zeros((len(words), vocabulary.size), np.float32)
    for row, some in enumerate(words):
        if some:
            means[row] = vectors[[position[word] for word in some]].mean(axis=0)
    return means

"""The task of words: the vector of an utterance's emotion words, evaluated by the nearest class (stanley2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from serein import losses
from serein.data.batches import Targets
from serein.data.utterance import Utterance
from serein.errors import RecipeError
from serein.labels.categories import ClassLabels
from serein.labels.vocabulary import Vocabulary, open_vocabulary
from serein.labels.votes import NOUNS, distinct_targets, target_words
from serein.labels.words import WordClasses, mean_cosine
from serein.recipe import Nouns, Words
from serein.tasks.category import class_scores


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

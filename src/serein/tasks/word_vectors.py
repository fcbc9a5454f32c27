"""Classes as word vectors: decoding a vector to a class, and the words that raters give an utterance (stanley2023).

Word vectors are looked up for nouns (happiness), but corpora label with adjectives (happy), so words are mapped by
`NOUNS`. The label set specifies which words form an utterance's target, the consensus or the raters' words (section
4.2):

| set  | words of an utterance                                                                             |
|------|---------------------------------------------------------------------------------------------------|
| `s1` | its class                                                                                         |
| `s2` | every label of every rater, as often as it was given; "other" is uninformative and left out       |
| `s3` | those of `s2`, and the raters' one-word comments that have a vector                               |

Actors who rate themselves (IEMOCAP's C-F... and C-M...) are not annotators: no set contains their labels.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import gcd
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

from serein.choices import choose
from serein.data.dataset import Targets
from serein.data.manifest import Rating, Utterance, is_self_evaluation, plain_label
from serein.errors import ModelError, RecipeError, VocabularyError, expected_one_of
from serein.recipe import Head, Nouns, Recipe, Words
from serein.tasks.classes import ClassLabels, class_labels_of, class_scores
from serein.tasks.task import Decoded, Task, TaskSpec
from serein.text.word_vectors import Vocabulary, open_vocabulary

TEMPERATURE = 0.1  # of the softmax; the nearest class does not depend on it

LabelSet = Literal["s1", "s2", "s3"]
LABEL_SETS: tuple[LabelSet, ...] = ("s1", "s2", "s3")
OTHER = "other"

NOUNS: Mapping[str, str] = MappingProxyType(
    {  # of every label in the corpora that serein reads, except "other"
        "amused": "amusement",
        "anger": "anger",
        "angry": "anger",
        "annoyed": "annoyance",
        "anxious": "anxiety",
        "apologetic": "apology",
        "assertive": "assertiveness",
        "bored": "boredom",
        "boredom": "boredom",
        "calm": "calm",
        "concerned": "concern",
        "confused": "confusion",
        "contempt": "contempt",
        "depressed": "depression",
        "disappointed": "disappointment",
        "disgust": "disgust",
        "disgusted": "disgust",
        "encouraging": "encouragement",
        "excited": "excitement",
        "excitement": "excitement",
        "fear": "fear",
        "fearful": "fear",
        "frustrated": "frustration",
        "frustration": "frustration",
        "happiness": "happiness",
        "happy": "happiness",
        "joy": "joy",
        "neutral": "neutral",
        "neutral state": "neutral",  # the label in IEMOCAP's files of single raters
        "pleasant surprise": "surprise",
        "sad": "sadness",
        "sadness": "sadness",
        "surprise": "surprise",
        "surprised": "surprise",
    }
)

_QUOTES = "\"'`´“”„‘’«»"
_ONE_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


@dataclass(frozen=True, eq=False)
class WordClasses:
    """Classes with their nouns and word vectors.

    Attributes:
        class_labels: The classes and the labels that are merged into them.
        nouns: (class,) the noun that represents each class.
        vectors: (class, feature) float32.
        vocabulary: The source of the vectors, as named in the recipe.
        digest: Hash of the vocabulary.

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
        """Return the cosine of every vector, (utterance, feature), to every class: (utterance, class)."""
        return normalised(vectors) @ normalised(self.vectors).T

    def probabilities(self, vectors: ArrayLike) -> NDArray[np.float64]:
        """Return class probabilities, (utterance, class): the softmax of the cosines at a fixed temperature.

        The nearest class has the largest probability, as in equation 5, whose argmin should read argmax.
        """
        scaled = self.cosines(vectors) / TEMPERATURE
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return probabilities


def phrase_vectors(texts: Sequence[str], vocabulary: Vocabulary) -> NDArray[np.float32]:
    """Return a vector for each text, (text, feature): its own, or else the mean of the vectors of its words."""
    phrases = [[text] if text in vocabulary else text.split() or [text] for text in texts]
    vectors = iter(vocabulary.vectors([word for words in phrases for word in words]))
    return np.array([np.mean([next(vectors) for _ in words], axis=0) for words in phrases], np.float32)


def normalised(vectors: ArrayLike) -> NDArray[np.float64]:
    """Return (row, feature), scaled to length one; rows of zeros are unchanged."""
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


class WordVectorTask(Task):
    """The vector of an utterance's emotion words (stanley2023); the prediction is the class with the nearest noun.

    Targets are (utterance, feature + class): the vector to learn, followed by the class, which is used for evaluation.

    Attributes:
        word_classes: The classes as word vectors.
        nouns: Class or rater's label -> the noun that represents it.
        scale: Factor of the targets.
    """

    Options = Words
    problem = "vector"
    monitors = ("ua", "wa", "macro_f1", "cosine")

    def __init__(
        self, options: Words, word_classes: WordClasses, nouns: Nouns | None = None, name: str = "words"
    ) -> None:
        nouns = nouns or Nouns()
        self.spec = TaskSpec(name, word_classes.class_labels.field, self.problem, word_classes.classes)
        self.options: Words = options
        self.word_classes, self.class_labels = word_classes, word_classes.class_labels
        self.num_outputs = word_classes.vectors.shape[1]
        self.own_nouns, self.nouns = nouns, all_nouns(nouns)
        self.scale = 1.0 if nouns.scale == "none" else 1.0 / float(np.sqrt(np.mean(word_classes.vectors**2)))

    @classmethod
    def fit(cls, name: str, options: Head, recipe: Recipe, utterances: Sequence[Utterance]) -> Self:
        """Return the task with the classes that occur in the utterances, as vectors of their nouns.

        Raises:
            VocabularyError: A class has no vector.
        """
        class_labels = class_labels_of(utterances, recipe.labels, name)
        nouns, vocabulary = recipe.words, open_vocabulary(recipe.words.vocabulary)
        classes = word_classes(class_labels, vocabulary, all_nouns(nouns), nouns.vocabulary)
        return cls(cast(Words, options), classes, nouns, name)

    @classmethod
    def from_json(cls, name: str, options: Head, description: Mapping[str, Any]) -> Self:
        """Return the task that `to_json` described."""
        class_labels = ClassLabels(tuple(description["classes"]), dict(description["merge"]))
        vectors = np.array(description["vectors"], np.float32)
        if vectors.ndim != 2 or len(vectors) != len(class_labels.classes) or not np.isfinite(vectors).all():
            raise ValueError("not every class has one vector of finite numbers")
        where = description["vocabulary"], description["vocabulary_digest"]
        classes = WordClasses(class_labels, tuple(description["nouns"]), vectors, *where)
        nouns = Nouns.model_validate(description.get("words", {}))  # models from before do not have it
        return cls(cast(Words, options), classes, nouns, name)

    def to_json(self) -> dict[str, Any]:
        """Return the classes, their nouns and vectors, the vocabulary that contains these, and the recipe's `words`."""
        classes = self.word_classes
        return {
            "classes": classes.classes,
            "merge": classes.class_labels.merge,
            "nouns": classes.nouns,
            "vectors": classes.vectors.tolist(),
            "vocabulary": classes.vocabulary,
            "vocabulary_digest": classes.digest,
            "words": self.own_nouns.model_dump(include={"nouns", "scale"}),
        }

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary that contains the vectors.

        Raises:
            ModelError: It has changed since the model was trained.
        """
        name = self.word_classes.vocabulary
        opened = open_vocabulary(name)
        if opened.digest != self.word_classes.digest:
            what = "is not the vocabulary that the model was trained with"
            raise ModelError(what, where=name, remedy="Restore it, or prepare it again from the same file.")
        return opened

    def truth(self, utterance: Utterance) -> str | None:
        """Return the class of an utterance."""
        return self.class_labels.label(utterance)

    def with_labels(self, labels: Sequence[str]) -> WordVectorTask:
        """Return the same task with other words as classes.

        Raises:
            RecipeError: There are fewer than two labels, or one occurs twice.
            VocabularyError: A word has no vector.
            ModelError: The vocabulary is not the one that the model was trained with.
        """
        words = tuple(label.strip() for label in labels)
        if len(words) < 2 or len(set(words)) < len(words) or not all(words):
            raise RecipeError("are not two or more different words", where="labels", remedy="Write: bored,excited.")
        own = self.word_classes
        vectors = phrase_vectors(words, self.vocabulary)
        classes = WordClasses(ClassLabels(words, {}), words, vectors, own.vocabulary, own.digest)
        return WordVectorTask(self.options, classes, name=self.name)

    def words(self, utterances: Sequence[Utterance]) -> list[tuple[str, ...]]:
        """Return the words whose vectors are averaged into each utterance's target."""
        class_labels, known = self.class_labels, self.vocabulary
        return [target_words(u, class_labels, self.options.targets, self.nouns, known) for u in utterances]

    def targets(self, utterances: Sequence[Utterance]) -> Targets:
        """Return vectors and classes, (utterance, feature + class), and which utterances have both.

        Raises:
            VocabularyError: A rater's label has no vector.
        """
        if self.options.targets != "s1":  # the classes have vectors
            ids_of: dict[str, set[str]] = defaultdict(set)
            for utterance in utterances:
                for label in raters_labels(utterance):
                    ids_of[plain_label(label)].add(utterance.id)
            uses = {
                label: f"the raters' label '{label}' of {len(ids)} utterances, such as {min(ids)},"
                for label, ids in sorted(ids_of.items(), key=lambda item: -len(item[1]))
            }
            require_vectors(uses, self.nouns, self.vocabulary)
        words = self.words(utterances)
        values = np.zeros((len(utterances), self.num_outputs + len(self.spec.classes)), np.float32)
        values[:, : self.num_outputs] = self.scale * mean_vectors(words, self.vocabulary)
        values[:, self.num_outputs :] = np.stack([self.class_labels.probabilities(u) for u in utterances])
        has_both = np.array([bool(some) for some in words]) & values[:, self.num_outputs :].any(axis=1)
        return Targets(values, has_both)

    def loss(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch of targets, (batch, feature + class), and vectors, (batch, feature)."""
        return choose("vector-loss", self.options.loss)(truth[:, : self.num_outputs], output).mean()  # type: ignore[no-any-return]

    def classes(self, truth: torch.Tensor) -> torch.Tensor:
        """Return the class numbers of targets, (batch, feature + class): (batch,)."""
        return truth[:, self.num_outputs :].argmax(dim=1)

    def scores(self, truth: torch.Tensor, output: torch.Tensor) -> dict[str, float]:
        """Return the scores of a whole set, 0 to 1, by name, the mean cosine with the targets, and the loss."""
        classes = self.classes(truth).numpy()
        predictions = self.word_classes.cosines(output.numpy()).argmax(axis=1)
        cosine = mean_cosine(truth[:, : self.num_outputs].numpy(), output.numpy())
        scores = class_scores(classes, predictions, len(self.spec.classes))
        return {**scores, "cosine": cosine, "loss": float(self.loss(truth, output))}

    def values(self, output: torch.Tensor) -> torch.Tensor:
        """Return the same probabilities as `decode`, by tensor operations."""
        classes = torch.tensor(normalised(self.word_classes.vectors), dtype=output.dtype)
        return (F.normalize(output, dim=1, eps=1e-30) @ classes.T / TEMPERATURE).softmax(dim=1)

    def decode(self, output: torch.Tensor) -> Decoded:
        """Return the probabilities of the classes, from their cosines to (batch, feature) vectors."""
        return Decoded(self.word_classes.probabilities(output.cpu().numpy()).astype(np.float32))


def word_classes(class_labels: ClassLabels, vocabulary: Vocabulary, nouns: dict[str, str], name: str) -> WordClasses:
    """Return classes as the vectors of their nouns.

    Args:
        nouns: As in `noun_of`.

    Raises:
        VocabularyError: A noun has no vector.
        RecipeError: Two classes have the same noun.
    """
    require_vectors({each: f"the class '{each}'" for each in class_labels.classes}, nouns, vocabulary)
    words = tuple(noun_of(each, nouns) for each in class_labels.classes)
    if len(set(words)) < len(words):
        raise RecipeError(
            f"two classes have the same noun: {', '.join(words)}", where="words.nouns", remedy="Name another."
        )
    return WordClasses(class_labels, words, phrase_vectors(words, vocabulary), name, vocabulary.digest)


def require_vectors(uses: Mapping[str, str], nouns: Mapping[str, str], vocabulary: Vocabulary) -> None:
    """Raise VocabularyError if a label's noun, or a word of it, has no vector.

    Args:
        uses: Label -> what it labels, for the message, the most important first.
        nouns: As in `noun_of`.
    """
    lacking = [
        label
        for label in uses
        if (noun := noun_of(label, nouns)) not in vocabulary and not all(word in vocabulary for word in noun.split())
    ]
    if lacking:
        label, more = lacking[0], len(lacking) - 1
        raise VocabularyError(
            f"{uses[label]} is represented by '{noun_of(label, nouns)}', which has no vector"
            + (f" (and {more} other labels)" if more else ""),
            where=vocabulary.name,
            remedy=f"Name a noun that has one in the recipe: words.nouns: {{{label}: NOUN}}.",
        )


def mean_vectors(words: Sequence[Sequence[str]], vocabulary: Vocabulary) -> np.ndarray:
    """Return each list's mean vector, counting repeated words (equation 4): (list, feature), zeros if it is empty."""
    distinct = sorted({word for some in words for word in some})
    position = {word: number for number, word in enumerate(distinct)}
    vectors = phrase_vectors(distinct, vocabulary) if distinct else np.zeros((0, vocabulary.size), np.float32)
    means = np.zeros((len(words), vocabulary.size), np.float32)
    for row, some in enumerate(words):
        if some:
            means[row] = vectors[[position[word] for word in some]].mean(axis=0)
    return means


def similarity(embeddings: Sequence[NDArray[np.float32]], text: str, vocabulary: Vocabulary) -> NDArray[np.float64]:
    """Return the cosine of each recording's word vector to a text, (recording,).

    Args:
        embeddings: A word vector for each recording (`Prediction.embedding` of a word-vector model).
        text: A word; or several words, represented by the mean of their vectors, or by a sentence vector if the
            vocabulary provides these.

    Raises:
        RecipeError: The text is empty.
        VocabularyError: A word has no vector; the message names the nearest spellings.
    """
    if not text.strip():
        raise RecipeError("is empty", where="--text", remedy="Write some words: 'tender sadness'.")
    cosines: NDArray[np.float64] = (
        normalised(np.stack(embeddings)) @ normalised(phrase_vectors([text.strip()], vocabulary))[0]
    )
    return cosines


class Frequent(NamedTuple):
    """The most frequent words of an utterance.

    Attributes:
        first: The most frequent one.
        second: The next one; `None` if there is only one distinct word.
        is_tied: Whether the order of the labels decided which word is first, or which is second.
    """

    first: str
    second: str | None
    is_tied: bool


def target_words(
    utterance: Utterance,
    class_labels: ClassLabels,
    label_set: LabelSet,
    nouns: Mapping[str, str],
    known: Container[str],
) -> tuple[str, ...]:
    """Return the words whose vectors are averaged into an utterance's target; empty if there are no labels.

    Args:
        class_labels: The recipe's classes; their `merge` applies to the class of `s1`, not to raters' labels.
        nouns: As in `noun_of`.
        known: The vocabulary: words that have a vector. Comments outside it are misspelt or rare, and are left out; a
            Sentence-Transformers model contains every word, also misspelt ones.

    Raises:
        RecipeError: There is no such label set.

    Example:
        >>> from serein.data.manifest import Rating
        >>> ratings = (Rating(labels=("angry",), comment="fed up, Bitter"), Rating(labels=("sad", "other", "sad")))
        >>> utterance = Utterance(id="a", audio="a.wav", emotion="sad", ratings=ratings)
        >>> class_labels = ClassLabels(("angry", "sad"), {})
        >>> [target_words(utterance, class_labels, name, NOUNS, {"bitter"}) for name in LABEL_SETS]
        [('sadness',), ('anger', 'sadness', 'sadness'), ('anger', 'sadness', 'sadness', 'bitter')]
    """
    if label_set == "s1":
        label = class_labels.label(utterance)
        return (noun_of(label, nouns),) if label else ()
    if label_set not in LABEL_SETS:
        raise RecipeError(expected_one_of(label_set, LABEL_SETS, kind="label set"))
    words = [noun_of(label, nouns) for label in raters_labels(utterance)]
    if label_set == "s3":
        parts = [part for rating in _annotators(utterance) for part in (rating.comment or "").split(",")]
        comments = [_lower(part.strip().strip(_QUOTES)) for part in parts]
        words += [word for word in comments if _ONE_WORD.fullmatch(word) and word in known]
    return tuple(words)


def distinct_targets(targets: Iterable[Sequence[str]]) -> int:
    """Return the number of distinct targets; the paper has 129 in S2 and 629 in S3.

    A target is the mean of its words' vectors, so neither the order of the words nor a common factor of their counts
    makes a different one. Utterances without words are not counted.

    Example:
        >>> distinct_targets([("anger", "sadness"), ("sadness", "anger"), ("anger", "sadness", "sadness"), ()])
        2
    """
    counts = [Counter(words) for words in targets if words]
    return len(
        {frozenset((word, number // gcd(*count.values())) for word, number in count.items()) for count in counts}
    )


def first_and_second(words: Sequence[str], order: Sequence[str] = ()) -> Frequent:
    """Return the most and the second most frequent word (l1 and l2 of stanley2023, section 5.2.2).

    Args:
        words: The words of one utterance, at least one.
        order: The recipe's labels, as nouns: of equally frequent words, the earlier one wins. Words that are not among
            them come last, in alphabetical order.

    Raises:
        RecipeError: There is no word.

    Example:
        >>> first_and_second(("anger", "sadness", "sadness"))
        Frequent(first='sadness', second='anger', is_tied=False)
        >>> first_and_second(("fear", "sadness", "anger"), order=("sadness", "anger"))
        Frequent(first='sadness', second='anger', is_tied=True)
    """
    if not words:
        raise RecipeError("an utterance without words has no most frequent one", remedy="Leave it out.")
    place = {word: index for index, word in enumerate(order)}
    numbers = Counter(words)
    ranked = sorted(numbers, key=lambda word: (-numbers[word], place.get(word, len(place)), word))
    is_tied = any(numbers[one] == numbers[after] for one, after in pairwise(ranked[:3]))
    return Frequent(ranked[0], ranked[1] if len(ranked) > 1 else None, is_tied)


def all_nouns(nouns: Nouns) -> dict[str, str]:
    """Return label -> noun, as in `noun_of`: serein's own, and those of a recipe, which take precedence."""
    return {**NOUNS, **{plain_label(label): noun for label, noun in nouns.nouns.items()}}


def noun_of(label: str, nouns: Mapping[str, str]) -> str:
    """Return the noun that represents a label; a label without one represents itself, in lower case.

    Args:
        nouns: Label, as `plain_label` writes it -> its noun, such as `NOUNS`.

    Example:
        >>> noun_of("Neutral  state", NOUNS), noun_of("Wistful ", NOUNS)
        ('neutral', 'wistful')
    """
    return nouns.get(plain_label(label), _lower(label))


def raters_labels(utterance: Utterance) -> list[str]:
    """Return the labels of every annotator, as often as they were given, without empty ones and "other"."""
    labels = (label for rating in _annotators(utterance) for label in rating.labels)
    return [label for label in labels if plain_label(label) not in ("", OTHER)]


def _annotators(utterance: Utterance) -> Iterator[Rating]:
    return (rating for rating in utterance.ratings if not is_self_evaluation(rating))


def _lower(text: str) -> str:
    """Return words as vocabularies write them; unlike `plain_label`, it does not turn "ß" into "ss"."""
    return unicodedata.normalize("NFC", " ".join(text.split()).lower())

"""The words that raters give an utterance: targets of stanley2023 (section 4.2), beside the one word of the consensus.

A word vector is looked up for a noun (happiness), while corpora label with adjectives (happy), so words go through
`NOUNS`. Which of the raters' words count is a label set:

| set  | words of an utterance                                                                             |
|------|---------------------------------------------------------------------------------------------------|
| `s1` | its class                                                                                         |
| `s2` | every label of every rater, as often as it was given; "other" says nothing and is left out        |
| `s3` | those of `s2`, and the raters' comments of one word                                               |

Actors who judge themselves (IEMOCAP's C-F... and C-M...) are no annotators: what they say counts in no set.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import pairwise
from math import gcd
from types import MappingProxyType
from typing import Literal, NamedTuple

from serein.data.utterance import Utterance, is_self_evaluation
from serein.errors import RecipeError, expected_one_of
from serein.tasks.classes import ClassLabels

LabelSet = Literal["s1", "s2", "s3"]
LABEL_SETS = ("s1", "s2", "s3")
OTHER = "other"

NOUNS: Mapping[str, str] = MappingProxyType(
    {  # of every label in the corpora that serein reads, but for "other"
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
        "neutral state": "neutral",  # as IEMOCAP's files of single raters call it
        "pleasant surprise": "surprise",
        "sad": "sadness",
        "sadness": "sadness",
        "surprise": "surprise",
        "surprised": "surprise",
    }
)

_QUOTES = "\"'`´“”„‘’«»"
_ONE_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


class Frequent(NamedTuple):
    """The most frequent words of an utterance.

    Attributes:
        first: The most frequent one.
        second: The next; `None` when there is one word only, however often.
        is_tied: Whether the order of the labels had to decide which word is first, or which is second.
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
    """Return the words whose vectors are averaged to an utterance's target; none when nothing was said.

    Args:
        class_labels: The classes of the recipe; their `merge` applies to the class of `s1`, not to raters' labels.
        nouns: Label -> its noun, such as `NOUNS`; a label that is missing there stays as it is.
        known: The dictionary: words that have a vector. Comments that are not in it are misspelt, or rare.

    Raises:
        RecipeError: There is no such label set.

    Example:
        >>> from serein.data.utterance import Rating
        >>> ratings = (Rating(labels=("angry",), comment="fed up, Bitter"), Rating(labels=("sad", "other", "sad")))
        >>> utterance = Utterance(id="a", audio="a.wav", emotion="sad", ratings=ratings)
        >>> class_labels = ClassLabels(("angry", "sad"), {})
        >>> [target_words(utterance, class_labels, name, NOUNS, {"bitter"}) for name in LABEL_SETS]
        [('sadness',), ('anger', 'sadness', 'sadness'), ('anger', 'sadness', 'sadness', 'bitter')]
    """
    if label_set == "s1":
        label = class_labels.label(utterance)
        return (_noun(label, nouns),) if label else ()
    if label_set not in LABEL_SETS:
        raise RecipeError(expected_one_of(label_set, LABEL_SETS, kind="label set"))
    annotators = [rating for rating in utterance.ratings if not is_self_evaluation(rating)]
    labels = [label for rating in annotators for label in rating.labels]
    words = [_noun(label, nouns) for label in labels if label.strip().lower() != OTHER]
    if label_set == "s3":
        parts = [part for rating in annotators for part in (rating.comment or "").split(",")]
        comments = [part.strip().strip(_QUOTES).strip().lower() for part in parts]
        words += [word for word in comments if _ONE_WORD.fullmatch(word) and word in known]
    return tuple(words)


def distinct_targets(targets: Iterable[Sequence[str]]) -> int:
    """Return how many different targets there are: the paper has 129 in S2 and 629 in S3.

    A target is the mean of its words' vectors, so the order of the words and a common factor of their numbers do not
    make another one. Utterances without words are not counted.

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
        words: Of one utterance, at least one.
        order: Of the recipe's labels, as nouns: of equally frequent words, the earlier one wins. Words that are not
            among them come after those that are, by the alphabet.

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


def _noun(label: str, nouns: Mapping[str, str]) -> str:
    word = label.strip().lower()
    return nouns.get(word, word)

"""What is known of an utterance beside its emotion, as numbers: the speaker's gender, the text.

An attribute is what the corpus says of it, or what a model predicted (`Utterance.predicted`); which of the two a
model gets is the caller's choice (`ConditionSource`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serein.data.corpora.iemocap_files import is_self_evaluation
from serein.data.utterance import Utterance
from serein.errors import ManifestError

GENDERS = ("unknown", "female", "male")
ConditionSource = Literal["known", "predicted", "oracle"]
_FIELDS = {"gender": "gender", "text": "transcript"}


def attribute(utterance: Utterance, name: str, condition_source: ConditionSource) -> str | None:
    """Return the `gender` or the `text` of an utterance, stripped; `None` when it is unknown or empty.

    Args:
        condition_source: `oracle`: what the corpus says; `predicted`: what a model predicted; `known`: the
            first, else the second.

    Example:
        >>> attribute(Utterance(id="a", audio="a.wav", transcript=" "), "text", "oracle") is None
        True
    """
    field = _FIELDS[name]
    value = None if condition_source == "predicted" else getattr(utterance, field)
    if value is None and condition_source != "oracle":
        value = getattr(utterance.predicted, field, None)
    return (value or "").strip() or None


def attribute_vectors(
    utterances: Sequence[Utterance], names: Iterable[str], condition_source: ConditionSource, encoder: str
) -> dict[str, NDArray[np.float32]]:
    """Return each attribute's vectors, (utterance, feature).

    Args:
        names: Of `gender`: probabilities of `GENDERS`; `text`: sentence vectors, zeros where there is no text.
        encoder: Of the sentence vectors (`serein.labels.sentences`).
    """
    vectors: dict[str, NDArray[np.float32]] = {}
    for name in names:
        values = [attribute(utterance, name, condition_source) for utterance in utterances]
        vectors[name] = gender_probabilities(values) if name == "gender" else _text_vectors(values, encoder)
    return vectors


def gender_probabilities(genders: Sequence[str | None]) -> NDArray[np.float32]:
    """Return (utterance, gender) with 1 at the gender; others than female and male are unknown.

    Example:
        >>> gender_probabilities(["male", None]).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    indices = [GENDERS.index(gender) if gender in GENDERS else 0 for gender in genders]
    return np.eye(len(GENDERS), dtype=np.float32)[indices]


def require_attributes(
    utterances: Sequence[Utterance], names: Iterable[str], condition_source: ConditionSource
) -> None:
    """Raise ManifestError when no utterance has a needed attribute."""
    for name in names:
        if any(attribute(utterance, name, condition_source) for utterance in utterances):
            continue
        option = {"gender": "--gender", "text": "--transcripts --all"}[name]
        if condition_source == "predicted":
            raise ManifestError(
                f"no utterance has a predicted {_FIELDS[name]}, which the model needs in evaluation",
                where="inference.conditions",
                remedy=f"Predict it: serein corpus annotate {option}; or use the labels: inference.conditions=oracle.",
            )
        raise ManifestError(
            f"no utterance has a {_FIELDS[name]}, which the model needs",
            where="tasks.emotion.conditioning",
            remedy=f"Fill it in, or predict it: serein corpus annotate {option}.",
        )


def agreement(utterance: Utterance) -> float | None:
    """Return the share of raters whose first label is the utterance's emotion; `None` without raters.

    Speakers who judge themselves (IEMOCAP) are no raters.

    Example:
        >>> from serein.data.utterance import Rating
        >>> ratings = (Rating(labels=("sad", "tired")), Rating(labels=("calm",)))
        >>> agreement(Utterance(id="a", audio="a.wav", emotion="sad", ratings=ratings))
        0.5
    """
    annotators = [rating for rating in utterance.ratings if rating.labels and not is_self_evaluation(rating)]
    first = [rating.labels[0] for rating in annotators]
    return first.count(utterance.emotion) / len(first) if first and utterance.emotion else None


def _text_vectors(texts: Sequence[str | None], encoder: str) -> NDArray[np.float32]:
    from serein.labels.sentences import sentence_vectors

    return sentence_vectors(texts, encoder)

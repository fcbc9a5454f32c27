"""Attributes of an utterance in addition to its emotion, as numbers: the speaker's gender and the text.

An attribute comes from the corpus or from a model's prediction (`Utterance.predicted`); the caller chooses which of the
two a model is given (`ConditionSource`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from serein.data.manifest import Utterance, is_self_evaluation, plain_label
from serein.errors import ManifestError, RecipeError
from serein.recipe import Conditioning
from serein.text.sentences import SentenceEncoder

GENDERS = ("unknown", "female", "male")
ConditionSource = Literal["known", "predicted", "oracle"]
_FIELDS = {"gender": "gender", "text": "transcript"}


def attribute(utterance: Utterance, name: str, condition_source: ConditionSource) -> str | None:
    """Return the `gender` or the `text` of an utterance, stripped; `None` if it is unknown or empty.

    Args:
        condition_source: `oracle`: the corpus's label; `predicted`: a model's prediction; `known`: the corpus's label,
            or else the prediction.

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
    """Return the vectors of each attribute, (utterance, feature).

    Args:
        names: `gender`: probabilities of `GENDERS`, with 1 at the gender, where any other than female and male is
            unknown; `text`: sentence vectors, zeros if there is no text.
        encoder: Encoder of the sentence vectors (`serein.text.sentences`).

    Example:
        >>> utterances = [Utterance(id="a", audio="a.wav", gender="male"), Utterance(id="b", audio="b.wav")]
        >>> attribute_vectors(utterances, ["gender"], "known", "")["gender"].tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    vectors: dict[str, NDArray[np.float32]] = {}
    for name in names:
        values = [attribute(utterance, name, condition_source) for utterance in utterances]
        if name == "gender":
            indices = [GENDERS.index(gender) if gender in GENDERS else 0 for gender in values]
            vectors[name] = np.eye(len(GENDERS), dtype=np.float32)[indices]
        else:
            vectors[name] = SentenceEncoder(encoder).vectors(values)
    return vectors


def require_attributes(
    utterances: Sequence[Utterance], names: Iterable[str], condition_source: ConditionSource, split: str = ""
) -> tuple[str, ...]:
    """Return notes on the utterances that lack a required attribute.

    Args:
        split: `dev` or `test`, for the texts, if these are its utterances.

    Raises:
        ManifestError: No utterance has it.

    Example:
        >>> utterances = [Utterance(id="a", audio="a.wav", gender="male"), Utterance(id="b", audio="b.wav")]
        >>> require_attributes(utterances, ["gender"], "known", "dev")
        ('1 of 2 dev utterances have no gender: it is unknown to the model.',)
    """
    notes = []
    kind = "predicted " if condition_source == "predicted" else ""
    for name in names:
        lacking = sum(attribute(utterance, name, condition_source) is None for utterance in utterances)
        if lacking < len(utterances):
            what = f"{split} utterances have no {kind}{_FIELDS[name]}: it is unknown to the model."
            notes += [f"{lacking} of {len(utterances)} {what.lstrip()}"] if lacking else []
            continue
        option = {"gender": "--gender", "text": "--transcripts --all"}[name]
        which = f"{split} utterance".lstrip()
        if condition_source == "predicted":
            raise ManifestError(
                f"no {which} has a predicted {_FIELDS[name]}, which the model needs in evaluation",
                where="inference.conditions",
                remedy=f"Predict it: serein corpus annotate {option}; or use the labels: inference.conditions=oracle.",
            )
        raise ManifestError(
            f"no {which} has a {_FIELDS[name]}, which the model needs",
            where="tasks.emotion.conditioning",
            remedy=f"Fill it in, or predict it: serein corpus annotate {option}.",
        )
    return tuple(notes)


def agreement(utterance: Utterance, emotion: str, class_of: Callable[[str], str | None] = plain_label) -> float | None:
    """Return the fraction of raters whose first label belongs to an utterance's emotion; `None` without raters.

    Speakers who rate themselves (IEMOCAP) are not counted as raters.

    Args:
        emotion: The utterance's class; empty if it has none.
        class_of: Returns the class of a rater's label.

    Example:
        >>> from serein.data.manifest import Rating
        >>> ratings = (Rating(labels=("Sad", "tired")), Rating(labels=("calm",)))
        >>> agreement(Utterance(id="a", audio="a.wav", ratings=ratings), "sad")
        0.5
    """
    annotators = [rating for rating in utterance.ratings if rating.labels and not is_self_evaluation(rating)]
    first = [class_of(rating.labels[0]) for rating in annotators]
    return first.count(emotion) / len(first) if first and emotion else None


Conditions = Mapping[str, torch.Tensor]
NO_CONDITIONS: Conditions = {}


class Combination(nn.Module):
    """Base class for combining a pooled vector x with conditions; by default, they are reduced feature by feature.

    Args:
        size: Features of the pooled vector and of the output.
        condition_sizes: Features of each condition's vector.
    """

    neutral = 0.0  # a condition with this value changes nothing
    takes_any_size = False
    reduce: ClassVar[Callable[..., torch.Tensor]]

    def __init__(self, size: int, condition_sizes: Sequence[int]) -> None:
        super().__init__()
        if not self.takes_any_size and any(other != size for other in condition_sizes):
            other = next(other for other in condition_sizes if other != size)
            raise RecipeError(
                f"a condition of {other} features and a pooled vector of {size} differ in size",
                where="conditioning.size",
                remedy=f"Leave it out, set it to {size}, or choose 'stack-linear' or 'cln', which take any size.",
            )

    def forward(self, pooled: torch.Tensor, conditions: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return (batch, size) from (batch, size) and one (batch, condition size) for each condition."""
        return type(self).reduce(torch.stack([pooled, *conditions]), dim=0)


class Sum(Combination):
    """x + e_1 + ... + e_n."""

    reduce = torch.sum


class Mean(Combination):
    """(x + e_1 + ... + e_n) / (n + 1): equation 7, and Table 4's "sum / 2"."""

    reduce = torch.mean


class Multiplication(Combination):
    """x * e_1 * ... * e_n: equation 6."""

    neutral = 1.0
    reduce = torch.prod


class StackLinear(Combination):
    """Concatenation, followed by a linear layer back to the size of x: section 5.2."""

    takes_any_size = True

    def __init__(self, size: int, condition_sizes: Sequence[int]) -> None:
        super().__init__(size, condition_sizes)
        self.linear = nn.Linear(size + sum(condition_sizes), size)

    def forward(self, pooled: torch.Tensor, conditions: Sequence[torch.Tensor]) -> torch.Tensor:
        joined: torch.Tensor = self.linear(torch.cat([pooled, *conditions], dim=1))
        return joined


class ConditionalLayerNorm(Combination):
    """f(e) * (x - mean) / deviation + g(e), f and g linear: equation 9, whose "var" is layer norm's deviation.

    A linear layer combines several conditions into one e (section 5.3). Initially, f(e) = 1 and g(e) = 0.
    """

    takes_any_size = True

    def __init__(self, size: int, condition_sizes: Sequence[int]) -> None:
        super().__init__(size, condition_sizes)
        total = sum(condition_sizes)
        self.joint: nn.Module = nn.Linear(total, size) if len(condition_sizes) > 1 else nn.Identity()
        width = size if len(condition_sizes) > 1 else total
        self.norm = nn.LayerNorm(size, elementwise_affine=False)
        self.gain, self.shift = nn.Linear(width, size), nn.Linear(width, size)
        for linear, start in ((self.gain, 1.0), (self.shift, 0.0)):
            nn.init.normal_(linear.weight, std=0.1 / math.sqrt(width))
            nn.init.constant_(linear.bias, start)

    def forward(self, pooled: torch.Tensor, conditions: Sequence[torch.Tensor]) -> torch.Tensor:
        condition = self.joint(torch.cat(list(conditions), dim=1))
        conditioned: torch.Tensor = self.gain(condition) * self.norm(pooled) + self.shift(condition)
        return conditioned


COMBINATIONS: dict[str, type[Combination]] = {
    "sum": Sum,
    "mean": Mean,
    "multiplication": Multiplication,
    "stack-linear": StackLinear,
    "cln": ConditionalLayerNorm,
}


class GenderVectors(nn.Module):
    """A trainable vector for each gender and for the unknown gender.

    Args:
        size: Features of a vector.
        neutral: Initial mean of the vectors, so that training starts near the unconditioned model.
    """

    def __init__(self, size: int, neutral: float) -> None:
        super().__init__()
        self.table = nn.Parameter(neutral + 0.1 * torch.randn(len(GENDERS), size))

    def forward(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Return (batch, size) from (batch, gender) probabilities; with probability 1, it is that gender's row."""
        return probabilities @ self.table


class TextVectors(nn.Module):
    """The text branch F: linear layer, layer norm, ReLU, dropout (section 3.3), with a vector for a missing text.

    Args:
        text_size: Features of a sentence vector.
        size: Features of the output.
        neutral: Initial value of the vector for a missing text.
        dropout: Dropout rate.
    """

    def __init__(self, text_size: int, size: int, neutral: float, dropout: float) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(text_size, size), nn.LayerNorm(size), nn.ReLU(), nn.Dropout(dropout))
        self.no_text = nn.Parameter(torch.full((size,), neutral))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return (batch, size) from (batch, text size) sentence vectors, zeros if there is no text."""
        has_text = vectors.any(dim=1, keepdim=True)
        return torch.where(has_text, self.branch(vectors), self.no_text)


class ConditionedVector(nn.Module):
    """Conditions a pooled vector on what is known of the clip.

    Args:
        options: The recipe's choice.
        size: Features of the pooled vector.
        text_size: Features of a sentence vector; 0 without text.

    Raises:
        RecipeError: The condition's size does not fit.
    """

    def __init__(self, options: Conditioning, size: int, text_size: int) -> None:
        super().__init__()
        own = options.size or size
        self.combination = COMBINATIONS[options.mode](size, [own] * len(options.attributes))
        neutral = self.combination.neutral
        branches: dict[str, nn.Module] = {}
        for name in options.attributes:
            is_text = name == "text"
            branches[name] = (
                TextVectors(text_size, own, neutral, options.dropout) if is_text else GenderVectors(own, neutral)
            )
        self.branches = nn.ModuleDict(branches)
        self._unknown_sizes = {"gender": len(GENDERS), "text": text_size}

    def forward(self, pooled: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """Return (batch, size); a condition that is not given is unknown for every clip."""
        vectors = []
        for name, branch in self.branches.items():
            if name in conditions:
                vectors.append(branch(conditions[name]))
                continue
            unknown = pooled.new_zeros(len(pooled), self._unknown_sizes[name])
            if name == "gender":
                unknown[:, 0] = 1.0
            vectors.append(branch(unknown))
        conditioned: torch.Tensor = self.combination(pooled, vectors)
        return conditioned

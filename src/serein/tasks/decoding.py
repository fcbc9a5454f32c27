"""What a task says: of a batch as arrays, of one clip as a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DIGITS = 6  # of numbers in JSON


@dataclass(frozen=True)
class Decoded:
    """What a task says of clips, in their order.

    Attributes:
        values: (clip, class) probabilities, or (clip, 1) numbers; `None` of texts.
        texts: What was said in each clip; `None` of values.
    """

    values: NDArray[np.float32] | None = None
    texts: tuple[str, ...] | None = None

    @staticmethod
    def concatenated(parts: Sequence[Decoded]) -> Decoded:
        """Return what is said of the clips of all parts."""
        if parts[0].values is None:
            return Decoded(texts=tuple(text for part in parts for text in part.texts or ()))
        return Decoded(np.concatenate([part.values for part in parts if part.values is not None]))

    def mean(self, part: slice, weights: NDArray[np.float64]) -> Decoded:
        """Return what is said of one clip that was cut: the weighted mean of its parts, or their texts in a row."""
        if self.values is None:
            return Decoded(texts=(" ".join(text for text in (self.texts or ())[part] if text),))
        return Decoded(np.average(self.values[part], axis=0, weights=weights).astype(np.float32)[None])


@dataclass(frozen=True)
class TaskPrediction:
    """What a task says of a clip.

    Attributes:
        label: The class with the largest probability, or the words that were said; `None` of a number.
        confidence: The largest probability; `None` where there are no classes.
        probabilities: Class -> probability; they sum to 1.
        value: The number that a task of regression predicts.
    """

    label: str | None
    confidence: float | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    value: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `value` only where the task predicts a number."""
        return {
            "label": self.label,
            "confidence": None if self.confidence is None else round(self.confidence, _DIGITS),
            "probabilities": {name: round(value, _DIGITS) for name, value in self.probabilities.items()},
            **({} if self.value is None else {"value": round(self.value, _DIGITS)}),
        }


def most_probable(probabilities: Mapping[str, float]) -> TaskPrediction:
    """Return the prediction of a task of classes: the class with the largest probability, the first of equal ones."""
    label = max(probabilities, key=lambda name: probabilities[name])
    return TaskPrediction(label, probabilities[label], probabilities)


def mean_of(parts: Sequence[TaskPrediction], weights: Sequence[float]) -> TaskPrediction:
    """Return the weighted mean of what a task says of the parts of a recording; texts stand one after the other."""
    first = parts[0]
    if len(parts) == 1:
        return TaskPrediction(first.label, first.confidence, first.probabilities, first.value)
    if first.value is not None:
        return TaskPrediction(None, value=float(np.average([part.value or 0.0 for part in parts], weights=weights)))
    if not first.probabilities:
        return TaskPrediction(" ".join(part.label for part in parts if part.label))
    means = np.average([list(part.probabilities.values()) for part in parts], axis=0, weights=weights)
    return most_probable(dict(zip(first.probabilities, map(float, means), strict=True)))

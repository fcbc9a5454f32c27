"""When a model's answer is withheld: it is not sure enough, or has heard too little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from serein.errors import RecipeError
from serein.inference.predictor import Prediction

LOW_CONFIDENCE = "don't know"
TOO_SHORT = "too short"


@dataclass(frozen=True)
class RejectOption:
    """What an answer must have.

    Attributes:
        min_confidence: Least probability of the class that is answered; calibrated probabilities make it a promise.
        min_duration_s: Least length of what is heard.

    Raises:
        RecipeError: The share is not between 0 and 1, or the length is negative.
    """

    min_confidence: float = 0.0
    min_duration_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_confidence <= 1.0:
            raise RecipeError(f"{self.min_confidence:g} is no share", where="abstain", remedy="Take one from 0 to 1.")
        if not self.min_duration_s >= 0.0:
            raise RecipeError(f"{self.min_duration_s:g} s is no length", where="shortest", remedy="Take 0 or more.")

    def reason(self, probabilities: Mapping[str, float], duration_s: float | None = None) -> str | None:
        """Return why there is no answer, or `None` when there is one.

        Example:
            >>> careful = RejectOption(min_confidence=0.5, min_duration_s=0.3)
            >>> careful.reason({"sad": 0.4, "calm": 0.6}), careful.reason({"sad": 0.4, "calm": 0.6}, duration_s=0.2)
            (None, 'too short')
        """
        if duration_s is not None and duration_s < self.min_duration_s:
            return TOO_SHORT
        return LOW_CONFIDENCE if max(probabilities.values()) < self.min_confidence else None

    def applied(self, answer: Prediction) -> Prediction:
        """Return the answer, withheld where there is a reason."""
        return replace(answer, rejected=self.reason(answer.probabilities, answer.duration_s))


NO_REJECT_OPTION = RejectOption()

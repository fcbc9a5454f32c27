"""The reject option: a prediction is rejected when its confidence is low or its recording too short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from serein.errors import RecipeError
from serein.inference.predictor import Prediction

LOW_CONFIDENCE = "low confidence"
TOO_SHORT = "too short"


@dataclass(frozen=True)
class RejectOption:
    """When a prediction is rejected.

    Attributes:
        min_confidence: Smallest confidence that is accepted. With calibrated probabilities it is a promise of accuracy.
        min_duration_s: Shortest recording that is accepted.

    Raises:
        RecipeError: The confidence is not between 0 and 1, or the duration is negative.
    """

    min_confidence: float = 0.0
    min_duration_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_confidence <= 1.0:
            raise RecipeError(
                f"{self.min_confidence:g} is not a probability",
                where="min_confidence",
                remedy="Choose one from 0 to 1.",
            )
        if not self.min_duration_s >= 0.0:
            raise RecipeError(
                f"{self.min_duration_s:g} s is not a duration", where="min_duration_s", remedy="Choose 0 or more."
            )

    def reason(self, probabilities: Mapping[str, float], duration_s: float | None = None) -> str | None:
        """Return why a prediction is rejected, or `None` when it is accepted.

        Example:
            >>> strict = RejectOption(min_confidence=0.5, min_duration_s=0.3)
            >>> strict.reason({"sad": 0.4, "calm": 0.6}), strict.reason({"sad": 0.4, "calm": 0.6}, duration_s=0.2)
            (None, 'too short')
        """
        if duration_s is not None and duration_s < self.min_duration_s:
            return TOO_SHORT
        return LOW_CONFIDENCE if max(probabilities.values()) < self.min_confidence else None

    def applied_to(self, prediction: Prediction) -> Prediction:
        """Return the prediction, marked as rejected where there is a reason."""
        return replace(prediction, rejected=self.reason(prediction.probabilities, prediction.duration_s))


NO_REJECT_OPTION = RejectOption()

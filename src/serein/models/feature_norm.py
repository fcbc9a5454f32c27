"""Standardisation of a backbone's hidden layers by means and deviations that do not change in training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from serein.errors import RecipeError
from serein.models.blocks import MeanPooling
from serein.models.hidden_states import HiddenStates

LAST = "last"  # the final output of a backbone, where it is not the last hidden layer


class FeatureNorm(nn.Module):
    """Subtract the mean of each feature of each hidden layer, divide by its standard deviation, and add an offset.

    Initially, features are left as they are. The mean is that of training clips, or of the speaker or corpus whose
    recordings are predicted. The offset is 0 if the heads were trained on standardised features. Otherwise, it is the
    mean of training clips, so that features keep it, whatever recordings are predicted.

    Args:
        sizes: Feature size of each hidden layer.

    Attributes:
        mean: (layer + 1, feature), the last row for the final output.
        deviation: The same shape.
        offset: The same shape.

    Raises:
        RecipeError: The layers differ in size.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    offset: torch.Tensor

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        if len(set(sizes)) > 1:
            raise RecipeError(
                f"layers of sizes {sizes} cannot be standardised", where="feature_normalisation", remedy="Leave it out."
            )
        self.register_buffer("mean", torch.zeros(len(sizes) + 1, sizes[0]))
        self.register_buffer("deviation", torch.ones(len(sizes) + 1, sizes[0]))
        self.register_buffer("offset", torch.zeros(len(sizes) + 1, sizes[0]))

    def mean_of(self, layer: str) -> torch.Tensor:
        """Return the (feature,) mean of a layer, `last` or a number."""
        return self.mean[-1 if layer == LAST else int(layer)]

    def set_means(self, means: Mapping[str, torch.Tensor]) -> None:
        """Replace the means of some layers: layer -> (feature,)."""
        _set(self.mean, means)

    def set_deviations(self, deviations: Mapping[str, torch.Tensor]) -> None:
        """Replace the deviations of some layers: layer -> (feature,); constant features are not divided."""
        _set(self.deviation, {layer: own.where(own > 0, 1.0) for layer, own in deviations.items()})

    def clip_means(self, hidden: HiddenStates) -> torch.Tensor:
        """Return (clip, layer + 1, feature), the mean over time of each layer, before standardisation."""
        pool = MeanPooling(self.mean.shape[1])
        return torch.stack([pool(each.float(), hidden.is_frame) for each in (*hidden.layers, hidden.last)], dim=1)

    def forward(self, hidden: HiddenStates) -> HiddenStates:
        """Standardise the frames of every layer; a layer without values is one that no head reads."""
        scale = 1.0 / self.deviation
        shift = self.offset - self.mean * scale

        def standardised(frames: torch.Tensor, row: int) -> torch.Tensor:
            return torch.addcmul(shift[row], frames, scale[row]) if frames.numel() else frames

        layers = tuple(standardised(frames, row) for row, frames in enumerate(hidden.layers))
        output = None if hidden.output is None else standardised(hidden.output, len(self.mean) - 1)
        return HiddenStates(layers, hidden.is_frame, output)


def _set(rows: torch.Tensor, values: Mapping[str, torch.Tensor]) -> None:
    """Set the rows of layers; the final output is also that of the last layer unless the backbone changes it again."""
    if LAST in values:
        rows[-2:] = values[LAST].to(rows)
    for layer, own in values.items():
        if layer != LAST:
            rows[int(layer)] = own.to(rows)

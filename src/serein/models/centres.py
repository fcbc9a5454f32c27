"""The output layer of angular losses: a centre for each class on the unit sphere."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class CosineClassifier(nn.Module):
    """Cosines between vectors and the classes' centres, times a scale (Deng 2019): without margin, as in inference.

    Args:
        size: Features of a vector.
        num_classes: Centres.
        scale: What the cosines are multiplied by, before the softmax.

    Attributes:
        weight: (class, feature); only the directions count.
    """

    def __init__(self, size: int, num_classes: int, scale: float = 30.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, size))
        nn.init.xavier_uniform_(self.weight)
        self.scale = scale

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return (batch, class) float32, from -scale to scale."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self.scale * F.linear(F.normalize(vectors.float(), dim=1), F.normalize(self.weight.float(), dim=1))

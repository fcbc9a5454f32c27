"""Several vectors of a clip become one: tensor fusion (park2023, equation 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from serein.errors import RecipeError


class TensorFusion(nn.Module):
    """E = sum of W_i * h_i, feature by feature, over a network's own vectors and those of others that join it.

    The rows of its own vectors start at 1, so that training starts at their sum.

    Args:
        num_own: The network's own vectors, k.
        size: Features of each vector.
        num_joined: Vectors of other networks.
        start: First value of the rows of joined vectors; at 0 the first answer is that of the own vectors alone.

    Example:
        >>> fusion = TensorFusion(num_own=2, size=1)
        >>> fusion([torch.tensor([[3.0]]), torch.tensor([[4.0]])]).tolist()
        [[7.0]]
    """

    def __init__(self, num_own: int, size: int, num_joined: int = 0, start: float = 0.0) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.ones(num_own, size))
        self.joined = nn.Parameter(torch.full((num_joined, size), start)) if num_joined else None

    @property
    def matrix(self) -> torch.Tensor:
        """(vector, feature): all rows, those of joined vectors last."""
        return self.own if self.joined is None else torch.cat([self.own, self.joined])

    def forward(self, own: Sequence[torch.Tensor], joined: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """Fuse.

        Args:
            own: k vectors, each (batch, feature).
            joined: As many as there are rows for, or none: the own vectors alone.

        Returns:
            (batch, feature) float32.
        """
        with torch.autocast(own[0].device.type, enabled=False):
            fused = (self.own * torch.stack(list(own), dim=1).float()).sum(dim=1)
            if joined:
                assert self.joined is not None
                fused = fused + (self.joined * torch.stack(list(joined), dim=1).float()).sum(dim=1)
            return fused

    def extended(self, num_joined: int, start: float = 0.0) -> TensorFusion:
        """Return a fusion of more vectors: these rows as they are trained, and new ones at `start`."""
        num_own, size = self.own.shape
        wider = TensorFusion(num_own, size, num_joined + (0 if self.joined is None else len(self.joined)), start)
        with torch.no_grad():
            wider.own.copy_(self.own)
            if self.joined is not None and wider.joined is not None:
                wider.joined[: len(self.joined)] = self.joined
        return wider


def require_one_size(size: int, joined: dict[str, int]) -> None:
    """Raise RecipeError when vectors that are to be fused differ in size.

    Args:
        size: Features of the network's own vectors.
        joined: Task -> features of the vector that joins.
    """
    for name, other in joined.items():
        if other != size:
            raise RecipeError(
                f"the vector of '{name}' has {other} features, those that it joins have {size}",
                where="fusion.joined",
                remedy="Give both one size: encoder.size, or a projection.",
            )

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
        num_inputs: Vectors of other networks.
        start: First value of the rows of joined vectors; at 0 the first output is that of the own vectors alone.

    Example:
        >>> fusion = TensorFusion(num_own=2, size=1)
        >>> fusion([torch.tensor([[3.0]]), torch.tensor([[4.0]])]).tolist()
        [[7.0]]
    """

    def __init__(self, num_own: int, size: int, num_inputs: int = 0, start: float = 0.0) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.ones(num_own, size))
        self.inputs = nn.Parameter(torch.full((num_inputs, size), start)) if num_inputs else None

    @property
    def matrix(self) -> torch.Tensor:
        """(vector, feature): all rows, those of joined vectors last."""
        return self.own if self.inputs is None else torch.cat([self.own, self.inputs])

    def forward(self, own: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """Fuse.

        Args:
            own: k vectors, each (batch, feature).
            inputs: As many as there are rows for, or none: the own vectors alone.

        Returns:
            (batch, feature) float32.
        """
        with torch.autocast(own[0].device.type, enabled=False):
            fused = (self.own * torch.stack(list(own), dim=1).float()).sum(dim=1)
            if inputs:
                assert self.inputs is not None
                fused = fused + (self.inputs * torch.stack(list(inputs), dim=1).float()).sum(dim=1)
            return fused

    def extended(self, num_inputs: int, start: float = 0.0) -> TensorFusion:
        """Return a fusion of more vectors: these rows as they are trained, and new ones at `start`."""
        num_own, size = self.own.shape
        wider = TensorFusion(num_own, size, num_inputs + (0 if self.inputs is None else len(self.inputs)), start)
        with torch.no_grad():
            wider.own.copy_(self.own)
            if self.inputs is not None and wider.inputs is not None:
                wider.inputs[: len(self.inputs)] = self.inputs
        return wider


def require_one_size(size: int, inputs: dict[str, int]) -> None:
    """Raise RecipeError when vectors that are to be fused differ in size.

    Args:
        size: Features of the network's own vectors.
        inputs: Task -> features of the vector that joins.
    """
    for name, other in inputs.items():
        if other != size:
            raise RecipeError(
                f"the vector of '{name}' has {other} features, those that it joins have {size}",
                where="fusion.joined",
                remedy="Give both one size: encoder.size, or a projection.",
            )

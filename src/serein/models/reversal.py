"""Gradient reversal: forwards nothing happens, backwards the gradient turns around."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: torch.Tensor, scale: float) -> torch.Tensor:
        context.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -context.scale * gradient, None


class GradientReversal(nn.Module):
    """What lies below learns to make the head above fail (Ganin 2016, section 3; gao2023, equation 2).

    Args:
        scale: The gradient is multiplied by minus this.

    Example:
        >>> values = torch.ones(2, requires_grad=True)
        >>> GradientReversal(0.5)(values).sum().backward()
        >>> values.grad
        tensor([-0.5000, -0.5000])
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values as they are."""
        reversed_: torch.Tensor = _Reversal.apply(values, self.scale)  # type: ignore[no-untyped-call]
        return reversed_

"""Low-rank factorisation: a linear layer becomes two smaller ones, by principal components of its outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def factors(linear: nn.Linear, rank: int) -> tuple[nn.Linear, nn.Linear]:
    """Return two linear layers that replace one, with random weights: the second runs after the first."""
    place: dict[str, Any] = {"device": linear.weight.device, "dtype": linear.weight.dtype}
    narrow = nn.Linear(linear.in_features, rank, bias=False, **place)
    return narrow, nn.Linear(rank, linear.out_features, bias=linear.bias is not None, **place)


class Components:
    """The principal components of a linear layer's outputs without its bias.

    Args:
        linear: The layer, whose outputs are recorded until `factorised` is called.
    """

    def __init__(self, linear: nn.Linear) -> None:
        size, device = linear.out_features, linear.weight.device
        self.count = 0
        self.total = torch.zeros(size, dtype=torch.float64, device=device)
        self.squares = torch.zeros(size, size, dtype=torch.float64, device=device)
        self._handle = linear.register_forward_hook(self._add)

    def _add(self, linear: nn.Linear, given: tuple[torch.Tensor, ...], returned: torch.Tensor) -> None:
        frames = returned.flatten(0, -2).float()
        if linear.bias is not None:
            frames = frames - linear.bias
        self.count += len(frames)
        self.total += frames.sum(0)
        self.squares += frames.T @ frames

    def factorised(self, linear: nn.Linear, rank: int) -> nn.Sequential:
        """Return two layers: W x + b = U U' W x + (1 - U U') m + b, with m the mean of W x; without a bias, m is 0."""
        self._handle.remove()
        narrow, wide = factors(linear, rank)
        mean, squares = self.total / self.count, self.squares / self.count
        if linear.bias is None:
            mean = torch.zeros_like(mean)
        kept = torch.linalg.eigh(squares - mean.outer(mean))[1][:, -rank:]
        narrow.weight.copy_(kept.T @ linear.weight.double())
        wide.weight.copy_(kept)
        if linear.bias is not None:
            wide.bias.copy_(linear.bias + mean - kept @ (kept.T @ mean))
        return nn.Sequential(narrow, wide)

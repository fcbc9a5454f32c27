"""Low-rank factorisation: a matrix becomes a product of two smaller ones, by principal components of its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import nn

Matrix = nn.Linear | nn.Conv1d


def factors(matrix: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """Return two layers that replace one, with random weights: the second, which has any bias, runs after the first."""
    place: dict[str, Any] = {"device": matrix.weight.device, "dtype": matrix.weight.dtype}
    has_bias = matrix.bias is not None
    if isinstance(matrix, nn.Linear):
        narrow = nn.Linear(matrix.in_features, rank, bias=False, **place)
        return narrow, nn.Linear(rank, matrix.out_features, bias=has_bias, **place)
    shape: dict[str, Any] = {"kernel_size": matrix.kernel_size, "stride": matrix.stride, "padding": matrix.padding}
    inner = nn.Conv1d(matrix.in_channels, rank, bias=False, **shape, **place)
    return inner, nn.Conv1d(rank, matrix.out_channels, 1, bias=has_bias, **place)


def num_component_weights(matrix: Matrix) -> int:
    """Return the number of weights of one component: a row of the first factor and a column of the second."""
    return len(matrix.weight) + matrix.weight[0].numel()


class Components(nn.Module):
    """Records the outputs of a matrix, runs after it, and finds the principal components of the outputs less the bias.

    Args:
        matrix: A linear layer, or a convolution over time.
    """

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.matrix = [matrix]  # in a list, since it is a part of the model, not of this module
        self.num_frames = 0
        device = "cpu" if matrix.weight.device.type == "mps" else matrix.weight.device  # MPS has no float64
        self.total = torch.zeros(len(matrix.weight), dtype=torch.float64, device=device)
        self.squares = torch.zeros(2 * (len(matrix.weight),), dtype=torch.float64, device=device)

    def forward(self, returned: torch.Tensor) -> torch.Tensor:
        """Record and return (..., feature); frames of padding are recorded as well."""
        (matrix,) = self.matrix
        frames = returned.flatten(0, -2).to(self.total.device).double()  # so that ranks do not depend on the machine
        if matrix.bias is not None:
            frames = frames - matrix.bias.to(frames.device).double()
        self.num_frames += len(frames)
        self.total += frames.sum(0)
        self.squares += frames.T @ frames
        return returned

    @cached_property
    def principal(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The variances (component,), the largest first, the components (feature, component), and the mean.

        Without a bias, which could hold the mean, the mean is 0 and variances are mean squares.
        """
        (matrix,) = self.matrix
        mean = self.total / self.num_frames * (matrix.bias is not None)
        variances, components = torch.linalg.eigh(self.squares / self.num_frames - mean.outer(mean))
        return variances.flip(0).clamp(min=0.0), components.flip(1), mean

    def factorised(self, rank: int) -> nn.Sequential:
        """Return two layers: W x + b = U U' W x + (1 - U U') m + b, with m the mean of W x; without a bias, m is 0."""
        (matrix,) = self.matrix
        narrow, wide = factors(matrix, rank)
        _, components, mean = self.principal
        kept = components[:, :rank]
        narrow.weight.copy_((kept.T @ matrix.weight.to(kept.device).double().flatten(1)).view_as(narrow.weight))
        wide.weight.copy_(kept.view_as(wide.weight))
        if matrix.bias is not None and wide.bias is not None:
            wide.bias.copy_(matrix.bias.to(mean.device).double() + mean - kept @ (kept.T @ mean))
        return nn.Sequential(narrow, wide)


def ranks_within(max_weights: int, components: Mapping[str, Components]) -> dict[str, int]:
    """Choose the ranks of matrices so that all products together have at most `max_weights` weights.

    Components are taken in order of the share of their matrix's variance that they explain, divided by their number of
    weights; the first of each matrix is always taken. Matrices that would not become smaller stay as they are.

    Args:
        max_weights: At least the sum of the weights of one component of each matrix.
        components: Name of a matrix -> its components.

    Returns:
        The ranks, without those of matrices that stay as they are.
    """
    sizes = {name: num_component_weights(each.matrix[0]) for name, each in components.items()}
    gains, costs, owners = [], [], []
    for number, (name, each) in enumerate(components.items()):
        variances = each.principal[0]
        num_useful = min(len(variances), -(-each.matrix[0].weight.numel() // sizes[name]))
        shares = variances[:num_useful] / variances.sum().clamp(min=torch.finfo(torch.float64).tiny)
        shares[0] = torch.inf
        gains.append(shares / sizes[name])
        costs.append(torch.full((num_useful,), sizes[name]))
        owners.append(torch.full((num_useful,), number))
    order = torch.argsort(torch.cat(gains), descending=True, stable=True)
    spent = torch.cat(costs).to(order.device)[order].cumsum(0)
    taken = torch.cat(owners).to(order.device)[order][spent <= max_weights]
    ranks = dict(zip(components, torch.bincount(taken, minlength=len(components)).tolist(), strict=True))
    return {
        name: rank for name, rank in ranks.items() if rank * sizes[name] < components[name].matrix[0].weight.numel()
    }

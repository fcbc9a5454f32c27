"""Rows of all processes of a distributed training, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed
from torch.nn import functional as F


def all_gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows of all processes, in their order; each may have another number of them.

    Every process computes the same loss of all rows, and gradients of a row are summed over processes; the mean that
    distributed training takes of them is then the gradient of one process that has all rows.

    Args:
        rows: (own row, ...).

    Returns:
        (row, ...).
    """
    from torch.distributed.nn import functional as differentiable

    numbers: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(numbers, len(rows))
    padded = F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, max(numbers) - len(rows))).contiguous()
    if rows.requires_grad:
        parts = list(differentiable.all_gather(padded))  # type: ignore[no-untyped-call]
    else:
        parts = [torch.empty_like(padded) for _ in numbers]
        distributed.all_gather(parts, padded)
    return torch.cat([part[:number] for part, number in zip(parts, numbers, strict=True)])

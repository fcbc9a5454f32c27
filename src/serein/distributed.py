"""How many processes work together: one, unless `torchrun` or SLURM started more; children end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import threading
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import torch
from torch import distributed
from torch.nn import functional as F


@dataclass(frozen=True)
class DistributedInfo:
    """The processes of one training.

    Attributes:
        rank: This process, from 0.
        size: All processes.
        local_size: Processes on this machine.
    """

    rank: int
    size: int
    local_size: int

    @property
    def is_first(self) -> bool:
        """Tell whether this process writes files and speaks."""
        return self.rank == 0


def distributed_info() -> DistributedInfo:
    """Read what `torchrun` or SLURM say in the environment."""
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        size = int(os.environ["WORLD_SIZE"])
        return DistributedInfo(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    size = int(os.environ.get("SLURM_NTASKS", "1"))
    if size > 1 and "SLURM_PROCID" in os.environ:
        per_node = os.environ.get("SLURM_NTASKS_PER_NODE", str(size))
        return DistributedInfo(int(os.environ["SLURM_PROCID"]), size, int(per_node))
    return DistributedInfo(0, 1, 1)


def wait_for_all() -> None:
    """Wait until every process is here; nothing when there is one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()


def end_with_parent() -> None:
    """Let this process end when the one that started it does, even by `kill -9`."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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

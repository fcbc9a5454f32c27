"""Two processes with parts of a batch have the loss and the gradient of one with all of it."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import distributed, multiprocessing

from serein.device import all_gather_rows
from serein.losses import supervised_contrastive

LABELS = torch.tensor([0, 0, 1, 2, 1, 2, 2, 0])
EMBEDDINGS = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
PARTS = (slice(0, 3), slice(3, 8))


def work(rank: int, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    own = EMBEDDINGS[PARTS[rank]].clone().requires_grad_()
    loss = supervised_contrastive(all_gather_rows(LABELS[PARTS[rank]]), all_gather_rows(own))
    loss.backward()
    torch.save({"loss": loss.detach(), "gradient": own.grad}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path: Path) -> None:
    multiprocessing.start_processes(work, (tmp_path,), nprocs=2, start_method="fork")  # spawn cannot import tests
    said = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    alone = EMBEDDINGS.clone().requires_grad_()
    loss = supervised_contrastive(LABELS, alone)
    loss.backward()
    for part, each in zip(PARTS, said, strict=True):
        torch.testing.assert_close(each["loss"], loss.detach())
        torch.testing.assert_close(each["gradient"] / 2, alone.grad[part])  # the mean over processes follows

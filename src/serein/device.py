"""The device that models run on: a GPU where there is one, unless another is named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from serein.distributed import distributed_info
from serein.errors import ModelError


def device_of(name: str | torch.device = "auto") -> torch.device:
    """Return a device by its name.

    Args:
        name: `auto`: CUDA, else Apple's MPS, else the CPU; or `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        ModelError: There is no such device on this machine.

    Example:
        >>> device_of("cpu")
        device(type='cpu')
    """
    if str(name) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        why = "" if reason.startswith("Expected one of") else f" ({reason})"  # a list of all that PyTorch knows
        raise ModelError(
            f"no device '{name}' on this machine{why}",
            where="--device",
            remedy="Choose auto, cpu, cuda, cuda:1 or mps.",
        ) from None
    return device


def own_device(name: str = "auto") -> torch.device:
    """Return the device of this process: of several that train together on GPUs, each has its own.

    Args:
        name: See `device_of`.

    Raises:
        ModelError: There is no such device, or several processes would share one GPU.
    """
    device = device_of(name)
    if device.type != "cuda" or distributed_info().size == 1:
        return device
    if device.index is not None:
        what, remedy = f"several processes cannot train on '{name}' alone", "Name auto or cuda: each takes its own GPU."
        raise ModelError(what, where="--device", remedy=remedy)
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))))


@contextmanager
def moved_to(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a module to a device, and back when the block ends: training leaves its model on the CPU."""
    home = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    try:
        module.to(device)
        yield
    finally:
        module.to(home)

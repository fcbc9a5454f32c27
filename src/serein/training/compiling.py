"""Compiled training: `torch.compile` of a network's transformer layers, in place, while a stage learns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from serein.errors import RunError
from serein.models.model import SpeechModel
from serein.recipe import MAIN

BACKEND = "inductor"


def require_compiler(device: torch.device, where: str = "stages.compile") -> None:
    """Compile one sum, so that a compiler that is missing is reported before a training starts.

    Raises:
        RunError: This machine cannot compile for the device: CPUs need a C++ compiler with OpenMP, GPUs Triton.
    """

    def double(numbers: torch.Tensor) -> torch.Tensor:
        return numbers + numbers

    try:
        torch.compile(double, backend=BACKEND)(torch.ones(8, device=device))
    except (RuntimeError, OSError, ImportError) as error:  # PyTorch's own are RuntimeErrors; each system has others
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        needed = "Triton" if device.type == "cuda" else "a C++ compiler with OpenMP, for instance g++,"
        raise RunError(
            f"torch.compile does not work here for {device} ({reason})",
            where=where,
            remedy=f"Install {needed} or leave compile out: it changes the speed alone.",
        ) from None


@contextmanager
def compiled(model: SpeechModel, *, enabled: bool = True) -> Iterator[None]:
    """Let the transformer layers of pretrained backbones run compiled until the block ends; weights keep their names.

    They are compiled one by one (PyTorch's regional compilation): all layers of a model are one program, made once for
    any number of clips and frames. All else runs as ever.
    """
    branches = (MAIN, *model.branches) if enabled else ()
    parts = [block for branch in branches for block in model.backbone_of(branch).repeated_blocks]
    for part in parts:
        part.compile(backend=BACKEND, dynamic=True)
    try:
        yield
    finally:
        for part in parts:
            part._compiled_call_impl = None  # there is no public way back

"""A batch that the device's memory does not hold, learned in parts (Gao 2021, arXiv 2101.06983, "GradCache").

The parts run without a graph, and the loss is taken of what the heads put out for all of their clips: losses that
compare clips with each other (contrastive, concordance) or weigh them (classes, transcripts) are those of the whole
batch. Then each part runs again, with a graph, and goes back from the gradients of its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from serein.data.dataset import Batch
from serein.models.heads import HeadOutput


@dataclass(frozen=True)
class Decoded:
    """What the heads put out for clips, and the targets of the same clips, which mixup may have changed."""

    head_outputs: Mapping[str, HeadOutput]
    targets: Mapping[str, torch.Tensor]
    has_target: Mapping[str, torch.Tensor]


def split(batch: Batch, num_parts: int) -> list[Batch]:
    """Return a batch in so many parts of equal size, give or take a clip; fewer when it has fewer clips."""
    parts = []
    for rows in torch.arange(len(batch.num_samples)).tensor_split(min(num_parts, len(batch.num_samples))):
        own = slice(int(rows[0]), int(rows[-1]) + 1)
        parts.append(
            replace(
                batch,
                positions=batch.positions[own],
                waveforms=batch.waveforms[own],
                num_samples=batch.num_samples[own],
                targets={name: target[own] for name, target in batch.targets.items()},
                has_target={name: mask[own] for name, mask in batch.has_target.items()},
                seeds=batch.seeds[own],
                conditions={name: values[own] for name, values in batch.conditions.items()},
                layers={name: frames[own] for name, frames in batch.layers.items()},
                num_frames=batch.num_frames[own],
            )
        )
    return parts


class Parts:
    """A batch in parts.

    Args:
        parts: Of the batch.
        run: From a part and its number to what the heads put out; it draws the same at every call.
        model: Whose running statistics count each part once.
    """

    def __init__(self, parts: Sequence[Batch], run: Callable[[Batch, int], Decoded], model: nn.Module) -> None:
        self.parts, self.run, self.model = parts, run, model
        self.numpy_states: list[Any] = []  # before each part: SpecAugment draws from it
        self.leaves: dict[str, HeadOutput] = {}

    def decode(self) -> Decoded:
        """Run all parts without a graph; return their outputs as one batch, from which a loss can go back."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        found = []
        with torch.no_grad():
            for number, part in enumerate(self.parts):
                self.numpy_states.append(np.random.get_state())  # noqa: NPY002  (the library's own)
                found.append(self.run(part, number))
            for buffer, before in buffers:
                buffer.copy_(before)
        for name, first in found[0].head_outputs.items():
            own = [each.head_outputs[name] for each in found]
            widest = max(each.outputs.shape[2] for each in own)  # frames, where a head puts out frames
            padding = [(0, 0) * (each.outputs.ndim - 3) + (0, widest - each.outputs.shape[2]) for each in own]
            outputs = torch.cat([F.pad(each.outputs, pad) for each, pad in zip(own, padding, strict=True)], dim=1)
            embedding = torch.cat([each.embedding for each in own])
            self.leaves[name] = replace(first, outputs=outputs.requires_grad_(), embedding=embedding.requires_grad_())
        targets = {name: torch.cat([each.targets[name] for each in found]) for name in found[0].targets}
        has_target = {name: torch.cat([each.has_target[name] for each in found]) for name in found[0].has_target}
        return Decoded(self.leaves, targets, has_target)

    def backward(self) -> None:
        """Run each part again and go back to the weights, after the loss has gone back to the outputs."""
        start = 0
        for number, part in enumerate(self.parts):
            rows = slice(start, start + len(part.num_samples))
            start = rows.stop
            np.random.set_state(self.numpy_states[number])  # noqa: NPY002
            outputs, gradients = [], []
            for name, own in self.run(part, number).head_outputs.items():
                leaf = self.leaves[name]
                if leaf.outputs.grad is not None and own.outputs.requires_grad:
                    outputs.append(own.outputs)
                    gradients.append(leaf.outputs.grad[:, rows, : own.outputs.shape[2]])
                if leaf.embedding.grad is not None and own.embedding.requires_grad:
                    outputs.append(own.embedding)
                    gradients.append(leaf.embedding.grad[rows])
            torch.autograd.backward(outputs, gradients)

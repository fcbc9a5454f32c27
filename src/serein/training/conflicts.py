"""Whether tasks pull the layers that they share the same way: cosines between their gradients (Yu 2020, gao2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch

NUM_SAMPLED = 2  # batches at the start of an epoch: each costs another way back for every task


def gradient_cosines(
    losses: Mapping[str, torch.Tensor], shared: Sequence[torch.nn.Parameter]
) -> dict[tuple[str, str], float]:
    """Return the cosine of every two tasks' gradients; below 0 one undoes what the other learns.

    A pair is left out when a task's gradient does not reach the shared weights. Reversed gradients are taken as the
    weights receive them. The graph is kept, no gradient is stored, and nothing is drawn.

    Args:
        losses: Task -> its loss, with a graph.
        shared: The weights that learn below all heads.

    Example:
        >>> weights = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> gradient_cosines({"a": weights[0] * 2, "b": weights.sum()}, [weights])
        {('a', 'b'): 0.7071...}
    """
    if not shared or len(losses) < 2:
        return {}
    flat = {}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(w) if g is None else g for g, w in zip(gradients, shared, strict=True)]
        gradient = torch.cat([part.detach().flatten().float() for part in parts])
        if gradient.any():
            flat[name] = gradient / gradient.norm()
    return {(one, other): float(flat[one] @ flat[other]) for one, other in combinations(flat, 2)}

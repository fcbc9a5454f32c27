"""Cosines between tasks' gradients: by hand, without a trace."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from serein.training.module import gradient_cosines


def test_cosines_by_hand() -> None:
    """Gradients (3, 4), (-3, -4) and (4, -3) over two weights: opposed, and at right angles."""
    one, two = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([1.0]))
    losses = {"a": (3 * one + 4 * two).sum(), "b": (-3 * one - 4 * two).sum(), "c": (4 * one - 3 * two).sum()}
    cosines = gradient_cosines(losses, [one, two])
    assert cosines == pytest.approx({("a", "b"): -1.0, ("a", "c"): 0.0, ("b", "c"): 0.0}, abs=1e-6)


def test_weights_that_a_task_does_not_reach_have_no_gradient() -> None:
    one, two = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([1.0]))
    cosines = gradient_cosines(
        {"a": one.sum(), "b": (one + two).sum(), "c": torch.zeros(1, requires_grad=True).sum()}, [one, two]
    )
    assert cosines == pytest.approx({("a", "b"): 1 / math.sqrt(2)})
    assert gradient_cosines({"a": one.sum()}, [one]) == {}
    assert gradient_cosines({"a": one.sum(), "b": one.sum()}, []) == {}


def test_the_step_is_the_same_with_and_without_it() -> None:
    weights = nn.Parameter(torch.ones(3))
    losses = {"a": weights.square().sum(), "b": weights[0] * 2}
    gradient_cosines(losses, [weights])
    assert weights.grad is None
    torch.stack([*losses.values()]).sum().backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [4.0, 2.0, 2.0]

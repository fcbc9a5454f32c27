"""Gradient reversal: nothing forwards, sign and scale backwards, and a head that uses it."""

from __future__ import annotations

import pytest
import torch

from serein.models.blocks import GradientReversal
from serein.models.heads import build_head
from serein.models.hidden_states import HiddenStates
from serein.recipe import Category, Head, Transcript


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_the_gradient_is_multiplied_by_minus_the_scale(scale: float) -> None:
    values = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    turned = GradientReversal(scale)(values)
    assert turned.tolist() == [1.0, -2.0, 3.0]
    (turned * torch.tensor([1.0, 10.0, 100.0])).sum().backward()  # d/dx = 1, 10, 100
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([-scale, -10 * scale, -100 * scale])


@pytest.mark.parametrize("kind", [Category, Transcript])
def test_a_head_learns_as_ever_and_what_lies_below_it_the_opposite(kind: type[Head]) -> None:
    gradients = {}
    for scale in (None, 0.5):
        torch.manual_seed(0)
        head = build_head(kind(gradient_reversal=scale), (3,), 2)
        frames = torch.ones(2, 4, 3, requires_grad=True)
        head_output = head(HiddenStates((frames,), torch.ones(2, 4, dtype=torch.bool)))
        head_output.output[..., :2].square().sum().backward()
        assert frames.grad is not None
        assert head.output.weight.grad is not None
        gradients[scale] = frames.grad, head.output.weight.grad
    assert gradients[None][0].abs().sum() > 0
    assert torch.allclose(gradients[0.5][0], -0.5 * gradients[None][0])
    assert torch.equal(gradients[0.5][1], gradients[None][1])

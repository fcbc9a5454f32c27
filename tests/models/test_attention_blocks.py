"""The attention block: torch's own by hand, and masked padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from serein.errors import RecipeError
from serein.models.blocks import AttentionBlock

SIZE = 8
LENGTHS = (9, 4, 1)


def block(num_heads: int = 4) -> AttentionBlock:
    torch.manual_seed(0)
    return AttentionBlock(SIZE, num_heads).eval()


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    frames = torch.randn(len(LENGTHS), max(LENGTHS), SIZE, generator=torch.Generator().manual_seed(1))
    is_frame = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return torch.where(is_frame[..., None], frames, 1e3), is_frame


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("num_heads", [1, 4])
def test_padding_changes_nothing(num_heads: int, is_training: bool) -> None:
    """With gradients and without, where torch takes different ways."""
    attention, (frames, is_frame) = block(num_heads), clips()
    with torch.set_grad_enabled(is_training):
        together = attention(frames, is_frame)
        for row, length in enumerate(LENGTHS):
            alone = attention(frames[row : row + 1, :length], is_frame[row : row + 1, :length])
            np.testing.assert_allclose(together[row, :length].detach(), alone[0].detach(), atol=1e-5)


@torch.no_grad()
def test_by_its_equation() -> None:
    """softmax(q k / sqrt(d)) v in each head, the heads side by side through a linear layer (Vaswani 2017)."""
    attention, (frames, _) = block(2), clips()
    one = frames[:1]
    weights, biases = attention.attention.in_proj_weight, attention.attention.in_proj_bias
    query, key, value = (one @ weights.T + biases).chunk(3, dim=2)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        scores = query[..., part] @ key[..., part].transpose(1, 2) / np.sqrt(4)
        heads.append(scores.softmax(dim=2) @ value[..., part])
    expected = attention.attention.out_proj(torch.cat(heads, dim=2))
    np.testing.assert_allclose(attention(one, torch.ones(1, 9, dtype=torch.bool)), expected, atol=1e-5)


def test_there_is_no_path_around_it() -> None:
    attention, (frames, is_frame) = block(), clips()
    with torch.no_grad():
        attention.attention.out_proj.weight.zero_()
        attention.attention.out_proj.bias.zero_()
    assert not attention(frames, is_frame).any()


def test_dropout_is_of_training_alone() -> None:
    attention, (frames, is_frame) = block(), clips()
    assert torch.equal(attention(frames, is_frame), attention(frames, is_frame))
    attention.train()
    assert not torch.equal(attention(frames, is_frame), attention(frames, is_frame))


def test_heads_must_divide_the_features() -> None:
    with pytest.raises(RecipeError, match="3 heads do not divide frames of 8 features. Choose a divisor"):
        AttentionBlock(SIZE, 3)

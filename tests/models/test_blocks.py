"""Parts that heads and encoders are built from, each against its equation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from serein.errors import RecipeError
from serein.models.blocks import AttentionBlock, CosineClassifier, GradientReversal, TensorFusion
from serein.models.heads import HEADS, PooledHead
from serein.models.hidden_states import HiddenStates
from serein.recipe import Category, Head, Transcript

# --- attention blocks ---


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
def test_padding_changes_nothing_of_attention(num_heads: int, is_training: bool) -> None:
    """With gradients and without, where torch takes different ways."""
    attention, (frames, is_frame) = block(num_heads), clips()
    with torch.set_grad_enabled(is_training):
        together = attention(frames, is_frame)
        for row, length in enumerate(LENGTHS):
            alone = attention(frames[row : row + 1, :length], is_frame[row : row + 1, :length])
            np.testing.assert_allclose(together[row, :length].detach(), alone[0].detach(), atol=1e-5)


@torch.no_grad()
def test_attention_by_its_equation() -> None:
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


def test_dropout_of_attention_is_of_training_alone() -> None:
    attention, (frames, is_frame) = block(), clips()
    assert torch.equal(attention(frames, is_frame), attention(frames, is_frame))
    attention.train()
    assert not torch.equal(attention(frames, is_frame), attention(frames, is_frame))


def test_heads_must_divide_the_features() -> None:
    with pytest.raises(RecipeError, match="3 heads do not divide frames of 8 features. Choose a divisor"):
        AttentionBlock(SIZE, 3)


# --- cosine classifier ---


def centres() -> CosineClassifier:
    made = CosineClassifier(2, 3)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([[5.0, 0.0], [0.0, 0.1], [-1.0, -1.0]]))
    return made


def test_scores_are_scaled_cosines() -> None:
    half = 30 * math.sqrt(0.5)
    assert centres()(torch.tensor([[3.0, 0.0], [7.0, 7.0]])).tolist() == [
        pytest.approx([30.0, 0.0, -half], abs=1e-5),
        pytest.approx([half, half, -30.0], abs=1e-5),
    ]


def test_lengths_do_not_count() -> None:
    made, vectors = centres(), torch.randn(4, 2)
    torch.testing.assert_close(made(vectors), made(100 * vectors))
    assert made(vectors).abs().max() <= 30.0001
    assert made(torch.zeros(1, 2)).tolist() == [[0.0, 0.0, 0.0]]


def test_float32_under_autocast() -> None:
    made, vectors = centres(), torch.randn(4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        inside = made(vectors.bfloat16())
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, made(vectors.bfloat16().float()))


# --- gradient reversal ---


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
        options = kind(gradient_reversal=scale)
        head = HEADS[options.reads](options, (3,), 2)
        frames = torch.ones(2, 4, 3, requires_grad=True)
        head_output = head(HiddenStates((frames,), torch.ones(2, 4, dtype=torch.bool)))
        head_output.output[..., :2].square().sum().backward()
        assert frames.grad is not None
        assert head.output.weight.grad is not None
        gradients[scale] = frames.grad, head.output.weight.grad
    assert gradients[None][0].abs().sum() > 0
    assert torch.allclose(gradients[0.5][0], -0.5 * gradients[None][0])
    assert torch.equal(gradients[0.5][1], gradients[None][1])


# --- tensor fusion ---


def fusion(num_inputs: int = 0) -> TensorFusion:
    made = TensorFusion(num_own=2, size=3, num_inputs=num_inputs)
    with torch.no_grad():
        made.own.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        if made.inputs is not None:
            made.inputs.copy_(torch.tensor([[10.0, 20.0, 30.0]]))
    return made


OWN = [torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0, 1.0, 0.5]])]
INPUTS = [torch.tensor([[0.1, 0.2, 0.3]])]


def test_fusion_by_hand() -> None:
    """1*1 + 4*2, 2*0 + 5*1, 3*(-1) + 6*0.5; and with the joined one 10*0.1, 20*0.2, 30*0.3 more."""
    assert fusion()(OWN).tolist() == [[9.0, 5.0, 0.0]]
    assert fusion(1)(OWN, INPUTS).tolist() == [pytest.approx([10.0, 9.0, 9.0])]
    assert fusion(1)(OWN).tolist() == [[9.0, 5.0, 0.0]]  # the own ones alone


def test_fusion_by_its_equation() -> None:
    """E = sum_i W_i * h_i over all k + 1 rows."""
    torch.manual_seed(0)
    made = TensorFusion(4, 5, 1, start=0.5)
    vectors = [torch.randn(7, 5) for _ in range(5)]
    expected = (made.matrix[None] * torch.stack(vectors, dim=1)).sum(dim=1)
    torch.testing.assert_close(made(vectors[:4], vectors[4:]), expected)
    assert made.matrix.tolist() == [[1.0] * 5] * 4 + [[0.5] * 5]


def test_a_new_row_leaves_the_first_answer_as_it_was_and_learns() -> None:
    trained = fusion()
    wider = trained.extended(1)
    assert wider.matrix.shape == (3, 3)
    assert torch.equal(wider.matrix[:2], trained.matrix)
    assert not wider.matrix[2].any()
    assert torch.equal(wider(OWN, INPUTS), trained(OWN))
    wider(OWN, INPUTS).sum().backward()
    assert wider.inputs.grad.tolist() == INPUTS[0].tolist()


def test_rows_are_added_below_those_there_are() -> None:
    wider = fusion(1).extended(1, start=7.0)
    assert wider.matrix.tolist() == [*fusion(1).matrix.tolist(), [7.0, 7.0, 7.0]]


def test_alone_the_joined_rows_neither_count_nor_learn() -> None:
    made = fusion(1)
    made(OWN).sum().backward()
    assert made.inputs.grad is None
    assert made.own.grad is not None


def test_vectors_of_two_sizes_are_no_sum() -> None:
    options = Category(pooling="mean", fusion={"inputs": ("speaker",)})
    assert PooledHead(options, (3,), 2, input_sizes={"speaker": 3}).fusion is not None
    with pytest.raises(RecipeError, match="the vector of 'speaker' has 6 features, but the fusion needs 3"):
        PooledHead(options, (3,), 2, input_sizes={"speaker": 6})

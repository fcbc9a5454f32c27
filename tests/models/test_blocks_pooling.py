"""Poolings on numbers small enough to check by hand; padding never counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import torch

from serein.models.blocks import POOLINGS, VARIANCE_FLOOR, AttentionPooling, ChannelAttentionPooling

SIZE = 6


def pooling(name: str, size: int = SIZE) -> torch.nn.Module:
    torch.manual_seed(0)
    return POOLINGS[name](size)


def clips(*lengths: int, size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    """Return frames of some lengths, with garbage on the padding."""
    generator = torch.Generator().manual_seed(len(lengths))
    frames = torch.randn(len(lengths), max(lengths), size, generator=generator)
    is_frame = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.where(is_frame[..., None], frames, 1e6), is_frame


# -- by hand

TWO = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [9.0, 9.0]]]), torch.tensor([[True, True, False]])


def test_mean_and_std_by_hand() -> None:
    assert pooling("mean", 2)(*TWO).tolist() == [[2.0, 2.0]]
    np.testing.assert_allclose(pooling("std", 2)(*TWO), [[2.0, 2.0, 1.0, 2.0]])


def test_max_by_hand() -> None:
    """The greatest real frame, though all be below the zeros and the garbage of padding."""
    assert pooling("max", 2)(*TWO).tolist() == [[3.0, 4.0]]
    assert pooling("max", 2)(-TWO[0], TWO[1]).tolist() == [[-1.0, 0.0]]


def test_attention_by_hand() -> None:
    """Scores ln 1 and ln 3 weigh the two frames 1/4 and 3/4."""
    attention = AttentionPooling(2, bottleneck=1)
    with torch.no_grad():
        attention.score[0].weight.copy_(torch.tensor([[1e4, 0.0]]))
        attention.score[0].bias.copy_(torch.tensor([-2e4]))  # tanh: -1 for the first frame, +1 for the second
        attention.score[2].weight.fill_(math.log(3) / 2)
        attention.score[2].bias.fill_(7.0)
    mean = [0.25 * 1 + 0.75 * 3, 0.75 * 4]
    deviation = [math.sqrt(0.25 * 1.5**2 + 0.75 * 0.5**2), math.sqrt(0.25 * 3**2 + 0.75 * 1**2)]
    np.testing.assert_allclose(attention(*TWO).detach(), [mean + deviation], rtol=1e-6)


def test_channel_attention_by_hand() -> None:
    """Each feature has its own weights: the first 1/4 and 3/4, the second 1/2 and 1/2."""
    attention = ChannelAttentionPooling(2, bottleneck=1)
    with torch.no_grad():
        attention.score[0].weight.copy_(torch.tensor([[1e4, 0.0]]))
        attention.score[0].bias.copy_(torch.tensor([-2e4]))
        attention.score[2].weight.copy_(torch.tensor([[math.log(3) / 2], [0.0]]))
    expected = [2.5, 2.0, math.sqrt(0.75), 2.0]
    np.testing.assert_allclose(attention(*TWO).detach(), [expected], rtol=1e-6)


@pytest.mark.parametrize("name", ["attention", "channel-attention"])
def test_attention_that_minds_nothing_is_mean_and_deviation(name: str) -> None:
    attention = pooling(name)
    torch.nn.init.zeros_(attention.score[2].weight)
    np.testing.assert_allclose(attention(*clips(5, 9)).detach(), pooling("std")(*clips(5, 9)), rtol=1e-5, atol=1e-6)


# -- properties of all


@pytest.mark.parametrize("name", POOLINGS)
def test_a_clip_is_pooled_alike_alone_and_beside_others(name: str) -> None:
    pool, (frames, is_frame) = pooling(name), clips(7, 1, 12)
    together = pool(frames, is_frame)
    assert together.shape == (3, pool.size)
    assert pool.size == (SIZE if name in ("mean", "max") else 2 * SIZE)
    for row, length in enumerate((7, 1, 12)):
        alone = pool(frames[row : row + 1, :length], torch.ones(1, length, dtype=torch.bool))
        np.testing.assert_allclose(together[row].detach(), alone[0].detach(), atol=1e-5)


@pytest.mark.parametrize("name", POOLINGS)
def test_the_order_of_frames_does_not_matter(name: str) -> None:
    pool, (frames, is_frame) = pooling(name), clips(8)
    np.testing.assert_allclose(
        pool(frames, is_frame).detach(), pool(frames.flip(1), is_frame).detach(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("name", POOLINGS)
def test_one_frame_has_a_finite_gradient(name: str) -> None:
    pool = pooling(name)
    frames = torch.randn(1, 1, SIZE, requires_grad=True)
    pooled = pool(frames, torch.ones(1, 1, dtype=torch.bool))
    pooled.sum().backward()
    np.testing.assert_allclose(pooled[0, :SIZE].detach(), frames[0, 0].detach(), rtol=1e-6)
    np.testing.assert_allclose(pooled[0, SIZE:].detach(), math.sqrt(VARIANCE_FLOOR), rtol=1e-6)
    np.testing.assert_allclose(frames.grad, 1.0)


@pytest.mark.parametrize("name", POOLINGS)
def test_gradients_reach_every_weight_and_no_padding(name: str) -> None:
    pool, (frames, is_frame) = pooling(name), clips(5, 8)
    frames.requires_grad_()
    pool(frames, is_frame).square().sum().backward()
    assert frames.grad is not None
    assert not frames.grad[~is_frame].any()
    if name != "max":  # which takes each feature from one frame alone
        assert frames.grad[is_frame].any(dim=1).all()
    for key, parameter in pool.named_parameters():
        assert parameter.grad is not None, key
        if (name, key) != ("attention", "score.2.bias"):  # one score per frame: adding to all changes no weight
            assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", POOLINGS)
def test_statistics_are_float32_under_autocast(name: str) -> None:
    pool, (frames, is_frame) = pooling(name), clips(50)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = pool(frames, is_frame)
    assert pooled.dtype == torch.float32
    assert torch.equal(pooled, pool(frames, is_frame))


def test_deviation_is_numpys() -> None:
    frames = torch.randn(3, 40, 6)
    pooled = POOLINGS["std"](6)(frames, torch.ones(3, 40, dtype=torch.bool)).numpy()
    np.testing.assert_allclose(pooled[:, :6], frames.numpy().mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(pooled[:, 6:], frames.numpy().std(axis=1), atol=1e-5)


@pytest.mark.parametrize("name", ["attention", "channel-attention"])
def test_attentive_statistics_are_numpys_averages_by_scipys_softmax(name: str) -> None:
    """Okabe 2018, equations 3 to 7, written with what others wrote."""
    frames, pooling = torch.randn(3, 40, 6), POOLINGS[name](6).eval()
    with torch.no_grad():
        pooled = pooling(frames, torch.ones(3, 40, dtype=torch.bool)).numpy()
        first, _, second = pooling.score
        hidden = np.tanh(frames.numpy() @ first.weight.numpy().T + first.bias.numpy())
        scores = hidden @ second.weight.numpy().T + second.bias.numpy()
    weights = np.broadcast_to(scipy.special.softmax(scores, axis=1), frames.shape)
    for clip, own, both in zip(frames.numpy(), weights, pooled, strict=True):
        mean = np.average(clip, axis=0, weights=own)
        deviation = np.sqrt(np.average((clip - mean) ** 2, axis=0, weights=own))
        np.testing.assert_allclose(both, [*mean, *deviation], atol=1e-5)


def test_equation_4_of_diatlova2024_scores_frames_by_one_vector() -> None:
    pool = pooling("vector-attention", 2)
    assert [parameter.shape for parameter in pool.parameters()] == [(1, 2)]
    frames, is_frame = TWO
    with torch.no_grad():
        next(pool.parameters()).copy_(torch.tensor([[1.0, 0.0]]))
    weights = scipy.special.softmax(np.tanh([1.0, 3.0]))
    first = weights @ [1.0, 3.0]
    np.testing.assert_allclose(pool(frames, is_frame).detach()[0, 0], first, rtol=1e-6)
    deviation = math.sqrt(weights @ [(1.0 - first) ** 2, (3.0 - first) ** 2])
    np.testing.assert_allclose(pool(frames, is_frame).detach()[0, 2], deviation, rtol=1e-5)

"""Attention by plain products is that of PyTorch's kernel, where it is taken."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from serein.models import masking


def tensors(num_frames: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(num_frames)
    return [
        torch.randn(2, 3, num_frames, 8, generator=generator, dtype=dtype).div(2).requires_grad_() for _ in range(3)
    ]


@pytest.mark.parametrize("kind", ["bool", "added", "none"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_plain_products_attend_as_the_kernel_does(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    is_frame = (torch.arange(9) < torch.tensor([[9], [4]]))[:, None, None]
    mask = {"bool": is_frame, "none": None, "added": torch.where(is_frame, 0.0, -1e9).to(dtype)}[kind]
    gradients = {}
    for attend in (masking.weighted, lambda *of, dropout: F.scaled_dot_product_attention(*of, dropout, scale=1.0)):
        own = tensors(9, dtype)
        attended = attend(*own, mask, dropout=0.0)
        attended.square().sum().backward()
        gradients[attend] = [attended.detach(), *(each.grad for each in own)]
    for found, expected in zip(*gradients.values(), strict=True):
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("num_frames", "dtype", "learns", "is_plain"),
    [
        (9, torch.bfloat16, True, True),
        (9, torch.bfloat16, False, False),
        (9, torch.float32, True, False),
        (masking.MOST_PLAIN_FRAMES + 1, torch.bfloat16, True, False),
    ],
)
def test_few_frames_that_learn_in_bfloat16_take_them(
    num_frames: int, dtype: torch.dtype, learns: bool, is_plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    real = masking.weighted
    monkeypatch.setattr(masking, "weighted", lambda *of, **options: taken.append(1) or real(*of, **options))
    own = [each.requires_grad_(learns) for each in tensors(num_frames, dtype)]
    masking.attend(*own, None, dropout=0.0)
    assert bool(taken) == is_plain


def test_weights_are_dropped_at_their_rate() -> None:
    query, key, _ = tensors(400, torch.float32)
    value = torch.ones(2, 3, 400, 8)
    torch.manual_seed(0)
    kept = masking.weighted(query, key, value, None, dropout=0.25)
    assert kept.mean().item() == pytest.approx(1.0, abs=0.01)
    assert kept.std() > 0.01
    torch.testing.assert_close(masking.weighted(query, key, value, None, dropout=0.0), value)

"""The output layer of angular losses."""

from __future__ import annotations

import math

import pytest
import torch

from serein.models.blocks import CosineClassifier


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

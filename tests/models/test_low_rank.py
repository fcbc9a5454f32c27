"""Backbones whose matrices are products of two: close to the source's, smaller, and loaded as they were saved."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from models.test_backbones import CASES, backbone_of, batch, clips, deviation, plain_model
from models.test_backbones_adapters import ONE_OF_EACH, last
from serein.errors import RecipeError
from serein.models.backbones import HuggingFaceBackbone
from serein.models.low_rank import Components
from serein.recipe import Lora

RANK = 5


def shrink(model: Any) -> Any:
    """Give every matrix of a model the rank 5, so that a product of that rank loses nothing."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            left, values, right = torch.linalg.svd(module.weight.data, full_matrices=False)
            module.weight.data = left[:, :RANK] @ (values[:RANK, None] * right[:RANK])
    return model


def ranked(model: Any, rank: int = RANK) -> HuggingFaceBackbone:
    backbone = backbone_of(model)
    backbone.factorise(rank, [batch(clips((16_000, 9_000, 15_000, 4_000)))])
    return backbone.eval()


@pytest.mark.parametrize("bias", [True, False])
def test_no_product_of_the_rank_changes_less_of_what_a_layer_returns(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(12, 20, bias=bias)
    frames = torch.randn(2, 40, 12) @ torch.randn(12, 12) + (3.0 if bias else 0.0)
    components = Components(linear)
    with torch.no_grad():
        linear(frames)
        product = components.factorised(linear, 3)
        exact = (linear(frames)).flatten(0, 1)
        centre = exact.mean(0) if bias else 0.0
        lost = (product(frames).flatten(0, 1) - exact).square().sum()
        torch.testing.assert_close(lost, torch.linalg.svdvals(exact - centre)[3:].square().sum(), rtol=1e-4, atol=0)
        plain = torch.linalg.svd(linear.weight)
        closest = plain.U[:, :3] @ (plain.S[:3, None] * plain.Vh[:3])
        assert lost < 0.9 * ((closest - linear.weight) @ frames.flatten(0, 1).T).square().sum()


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_matrices_of_that_rank_are_met(case: str) -> None:
    torch.manual_seed(0)
    model = shrink(plain_model(*CASES[case], spread=0.2))
    whole, backbone = backbone_of(model), ranked(model)
    assert deviation(last(backbone), last(whole)) < 5e-3  # components that hardly vary drown in rounding
    assert deviation(last(ranked(model, 2)), last(whole)) > 5e-2
    sizes = [sum(each.numel() for each in one.parameters()) for one in (backbone, whole)]
    assert sizes[0] < 0.8 * sizes[1]
    groups = backbone.parameter_groups()
    assert sum(len(group) for group in groups.values()) == len(list(backbone.parameters()))


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_its_description_builds_it_again(case: str) -> None:
    backbone = ranked(plain_model(*CASES[case]))
    described = json.loads(json.dumps(backbone.describe()))
    with torch.device("meta"):
        again = HuggingFaceBackbone.from_description(described)
    again.load_state_dict(backbone.state_dict(), strict=True, assign=True)
    assert torch.equal(last(again.eval()), last(backbone))


def test_a_matrix_that_would_not_become_smaller_stays() -> None:
    backbone = ranked(plain_model(*CASES["whisper"]), 9)  # 16 x 16: 9 (16 + 16) > 256
    attention: Any = backbone.architecture.layers[0].self_attn
    assert isinstance(attention.q_proj, nn.Linear)
    inner: Any = backbone.architecture.layers[0].fc1
    assert [each.out_features for each in inner] == [9, 32]


def test_a_rank_that_makes_nothing_smaller_is_refused() -> None:
    with pytest.raises(RecipeError, match="rank 11 makes no matrix smaller"):  # 16 x 32: 11 (16 + 32) > 512
        ranked(plain_model(*CASES["whisper"]), 11)


def test_it_takes_no_adapter() -> None:
    with pytest.raises(RecipeError, match="takes no adapter"):
        ranked(plain_model(*CASES["whisper"])).add_adapter(Lora())

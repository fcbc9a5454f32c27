"""Backbones whose matrices are products of two: close to the source's, smaller, and loaded as they were saved."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from models.test_backbones import CASES, backbone_of, batch, clips, deviation, plain_model
from models.test_backbones_adapters import ONE_OF_EACH, last
from serein.errors import ModelError, RecipeError
from serein.models.backbones import HuggingFaceBackbone
from serein.models.low_rank import Components, ranks_within
from serein.models.masking import convolve
from serein.recipe import Lora

RANK = 5


def shrink(model: Any) -> Any:
    """Give every matrix of a model the rank 5, so that a product of that rank loses nothing."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            left, values, right = torch.linalg.svd(module.weight.data, full_matrices=False)
            module.weight.data = left[:, :RANK] @ (values[:RANK, None] * right[:RANK])
    return model


def size(backbone: HuggingFaceBackbone) -> int:
    return sum(each.numel() for each in backbone.parameters())


def factorised(model: Any, share: float = 0.8) -> HuggingFaceBackbone:
    """Return a backbone that kept a share of its parameters."""
    backbone = backbone_of(model)
    backbone.factorise(int(share * size(backbone)), [batch(clips((16_000, 9_000, 15_000, 4_000)))])
    return backbone.eval()


@pytest.mark.parametrize("bias", [True, False])
def test_no_product_of_the_rank_changes_less_of_what_a_layer_returns(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(12, 20, bias=bias)
    frames = torch.randn(2, 40, 12) @ torch.randn(12, 12) + (3.0 if bias else 0.0)
    components = Components(linear)
    with torch.no_grad():
        components(linear(frames))
        product = components.factorised(3)
        exact = (linear(frames)).flatten(0, 1)
        centre = exact.mean(0) if bias else 0.0
        lost = (product(frames).flatten(0, 1) - exact).square().sum()
        torch.testing.assert_close(lost, torch.linalg.svdvals(exact - centre)[3:].square().sum(), rtol=1e-4, atol=0)
        plain = torch.linalg.svd(linear.weight)
        closest = plain.U[:, :3] @ (plain.S[:3, None] * plain.Vh[:3])
        assert lost < 0.9 * ((closest - linear.weight) @ frames.flatten(0, 1).T).square().sum()


def test_a_convolution_becomes_two() -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(6, 20, 3, stride=2, padding=1)
    frames = torch.randn(2, 40, 2) @ torch.randn(2, 6)  # three taps of two dimensions: six components
    components = Components(conv)
    with torch.no_grad():
        exact = convolve(nn.Sequential(conv, components), frames)
        torch.testing.assert_close(convolve(components.factorised(6), frames), exact, rtol=1e-4, atol=1e-4)
        less = convolve(components.factorised(3), frames) - exact
        lost = components.principal[0][3:].sum()
    torch.testing.assert_close(less.square().sum(2).mean().double(), lost, rtol=1e-4, atol=0)


def test_components_go_where_they_explain_most_per_weight() -> None:
    torch.manual_seed(0)
    plain, rich = nn.Linear(16, 16), nn.Linear(16, 16)
    seen = {"plain": Components(plain), "rich": Components(rich)}
    few = torch.randn(100, 16)
    few[:, 2:] *= 0.01
    seen["plain"](few)
    seen["rich"](torch.randn(100, 16))
    assert ranks_within(32 * 8, seen) == {"plain": 2, "rich": 6}
    assert ranks_within(32 * 2 + 16 * 16, seen) == {"plain": 2}  # `rich` would not become smaller
    assert ranks_within(32 * 2, seen) == {"plain": 1, "rich": 1}


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_matrices_of_low_rank_are_met(case: str) -> None:
    torch.manual_seed(0)
    model = shrink(plain_model(*CASES[case], spread=0.2))
    whole, backbone = backbone_of(model), factorised(model, 0.9)
    assert deviation(last(backbone), last(whole)) < 5e-3  # components that hardly vary drown in rounding
    assert size(backbone) <= 0.9 * size(whole)
    groups = backbone.parameter_groups()
    assert sum(len(group) for group in groups.values()) == len(list(backbone.parameters()))


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_the_number_of_parameters_is_kept(case: str) -> None:
    torch.manual_seed(0)
    model = plain_model(*CASES[case], spread=0.2)
    whole, backbone = backbone_of(model), factorised(model, 0.75)
    assert 0.6 * size(whole) < size(backbone) <= 0.75 * size(whole)
    assert deviation(last(backbone), last(whole)) > 5e-2


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_its_description_builds_it_again(case: str) -> None:
    backbone = factorised(plain_model(*CASES[case]))
    described = json.loads(json.dumps(backbone.describe()))
    with torch.device("meta"):
        again = HuggingFaceBackbone.from_description(described)
    again.load_state_dict(backbone.state_dict(), strict=True, assign=True)
    assert torch.equal(last(again.eval()), last(backbone))


def test_a_description_of_other_matrices_is_refused() -> None:
    described = backbone_of(plain_model(*CASES["whisper"])).describe()
    with pytest.raises(ModelError, match="the model has no matrix conv9"):
        HuggingFaceBackbone.from_description(described | {"ranks": {"conv9": 3}})


def test_its_convolutions_train_with_the_others() -> None:
    backbone = factorised(plain_model(*CASES["whisper"]), 0.7)
    assert "conv2" in backbone.ranks
    group = {id(parameter) for parameter in backbone.parameter_groups()["cnn"]}
    conv2: Any = backbone.model.conv2
    assert {id(parameter) for parameter in conv2.parameters()} < group


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_a_size_that_cannot_be_reached_is_refused(share: float) -> None:
    with pytest.raises(RecipeError, match=r": of the backbone's [\d,]+ parameters, at least [\d,]+ must remain"):
        factorised(plain_model(*CASES["whisper"]), share)


def test_it_takes_no_adapter() -> None:
    with pytest.raises(RecipeError, match="takes no adapter"):
        factorised(plain_model(*CASES["whisper"])).add_adapter(Lora())

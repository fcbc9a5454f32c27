"""Conditioning: the equations of diatlova2024 by hand, the unknown, and the sizes that do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from serein.errors import RecipeError
from serein.models.conditioning import COMBINATIONS, GENDERS, ConditionedVector, GenderVectors, TextVectors
from serein.models.heads import PooledHead
from serein.models.hidden_states import HiddenStates
from serein.recipe import Category, Conditioning

POOLED = torch.tensor([[2.0, 4.0]])
GENDER, TEXT = torch.tensor([[3.0, 5.0]]), torch.tensor([[1.0, -3.0]])
TEXT_SIZE = 6


def told(mode: str, *attributes: str, size: int = 4, **options: object) -> ConditionedVector:
    conditioning = Conditioning(attributes=attributes or ("gender",), mode=mode, **options)
    return ConditionedVector(conditioning, size, TEXT_SIZE).eval()


@pytest.mark.parametrize(
    ("mode", "gender_alone", "gender_and_text"),
    [
        ("sum", [5.0, 9.0], [6.0, 6.0]),
        ("mean", [2.5, 4.5], [2.0, 2.0]),  # Table 4's sum / 2 and equation 7
        ("multiplication", [6.0, 20.0], [6.0, -60.0]),  # equation 6
    ],
)
def test_by_hand(mode: str, gender_alone: list[float], gender_and_text: list[float]) -> None:
    assert COMBINATIONS[mode](2, [2])(POOLED, [GENDER])[0].tolist() == pytest.approx(gender_alone)
    assert COMBINATIONS[mode](2, [2, 2])(POOLED, [GENDER, TEXT])[0].tolist() == pytest.approx(gender_and_text)


def test_stacked_by_hand() -> None:
    combination = COMBINATIONS["stack-linear"](2, [2])
    combination.linear.weight.data = torch.tensor([[1.0, 0.0, 10.0, 0.0], [0.0, 1.0, 0.0, 100.0]])
    combination.linear.bias.data = torch.tensor([0.5, 0.0])
    assert combination(POOLED, [GENDER])[0].tolist() == [32.5, 504.0]


def test_conditional_layer_norm_by_hand() -> None:
    """Equation 9: x = (2, 4) has mean 3 and deviation 1, so the norm is (-1, 1)."""
    combination = COMBINATIONS["cln"](2, [1])
    combination.gain.weight.data, combination.gain.bias.data = torch.tensor([[2.0], [3.0]]), torch.zeros(2)
    combination.shift.weight.data, combination.shift.bias.data = torch.tensor([[10.0], [0.0]]), torch.tensor([0.0, 7.0])
    answer = combination(POOLED, [torch.tensor([[1.0]])])
    assert answer[0].tolist() == pytest.approx([-2.0 + 10.0, 3.0 + 7.0], abs=1e-4)


def test_several_conditions_become_one_before_the_layer_norm() -> None:
    combination = COMBINATIONS["cln"](2, [2, 2])
    assert isinstance(combination.joint, nn.Linear)
    assert combination.joint.weight.shape == (2, 4)


def test_a_certain_gender_is_its_row_and_a_mixed_one_lies_between() -> None:
    vectors = GenderVectors(3, neutral=0.0)
    female, male = torch.eye(len(GENDERS))[1:]
    assert torch.equal(vectors(female[None])[0], vectors.table[1])
    assert torch.allclose(
        vectors((0.25 * female + 0.75 * male)[None])[0], 0.25 * vectors.table[1] + 0.75 * vectors.table[2]
    )


def test_the_text_branch_is_linear_norm_relu_and_dropout() -> None:
    branch = TextVectors(TEXT_SIZE, 4, neutral=0.0, dropout=0.3)
    assert [type(layer) for layer in branch.branch] == [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Dropout]
    text = torch.randn(2, TEXT_SIZE)
    linear = branch.branch[0]
    expected = nn.functional.layer_norm(text @ linear.weight.T + linear.bias, (4,)).relu()
    assert torch.allclose(branch.eval()(text), expected, atol=1e-6)


@pytest.mark.parametrize("mode", COMBINATIONS)
@pytest.mark.parametrize("attributes", [("gender",), ("text",), ("gender", "text")])
def test_what_is_not_told_is_unknown(mode: str, attributes: tuple[str, ...]) -> None:
    vector, pooled = told(mode, *attributes), torch.randn(3, 4)
    unknown = {"gender": torch.eye(len(GENDERS))[:1].expand(3, -1), "text": torch.zeros(3, TEXT_SIZE)}
    assert torch.equal(vector(pooled, {}), vector(pooled, unknown))
    known = {"gender": torch.eye(len(GENDERS))[[1, 2, 1]], "text": torch.randn(3, TEXT_SIZE)}
    nn.init.normal_(vector.combination.gain.weight) if mode == "cln" else None
    assert not torch.allclose(vector(pooled, {}), vector(pooled, known))


@pytest.mark.parametrize("mode", COMBINATIONS)
def test_every_condition_learns(mode: str) -> None:
    vector = told(mode, "gender", "text").train()
    conditions = {
        "gender": torch.eye(len(GENDERS)),
        "text": torch.randn(3, TEXT_SIZE) * torch.tensor([[0.0], [1], [1]]),
    }
    vector(torch.randn(3, 4), conditions).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vector.parameters())


@pytest.mark.parametrize("mode", ["sum", "mean", "multiplication"])
def test_a_size_that_does_not_fit_names_both(mode: str) -> None:
    with pytest.raises(RecipeError, match="a condition of 7 features and a pooled vector of 4"):
        ConditionedVector(Conditioning(attributes=("gender",), mode=mode, size=7), 4, 0)


@pytest.mark.parametrize("mode", ["stack-linear", "cln"])
def test_these_take_any_size(mode: str) -> None:
    vector = ConditionedVector(Conditioning(attributes=("gender", "text"), mode=mode, size=7), 4, TEXT_SIZE)
    assert vector(torch.randn(2, 4), {}).shape == (2, 4)


@pytest.mark.parametrize("mode", COMBINATIONS)
@pytest.mark.parametrize("projection", [None, ("pooled", "linear"), ("frames", "block")])
def test_conditioning_projection_and_pooling_compose(mode: str, projection: tuple[str, str] | None) -> None:
    place = {} if projection is None else dict(zip(("projection_at", "projection_kind"), projection, strict=True))
    conditioning = Conditioning(attributes=("gender", "text"), mode=mode)
    options = Category(pooling="std", projection=projection and 5, conditioning=conditioning, hidden=(3,), **place)
    head = PooledHead(options, (4, 4), 2, TEXT_SIZE)
    hidden = HiddenStates((torch.randn(2, 3, 4),) * 2, torch.ones(2, 3, dtype=torch.bool))
    assert head(hidden, {"gender": torch.eye(len(GENDERS))[1:]}).output.shape == (2, 2)


def test_the_paper_pools_then_projects_then_conditions() -> None:
    options = Category(pooling="mean", projection=2, conditioning=Conditioning(attributes=("gender",), mode="sum"))
    head = PooledHead(options, (3,), 2).eval()
    frames, is_frame = torch.randn(1, 4, 3), torch.ones(1, 4, dtype=torch.bool)
    projected = head.projection(frames.mean(dim=1))
    male = head.conditioning.branches["gender"].table[2]
    told_male = {"gender": torch.eye(len(GENDERS))[2:]}
    assert torch.allclose(head(HiddenStates((frames,), is_frame), told_male).embedding, projected + male, atol=1e-6)

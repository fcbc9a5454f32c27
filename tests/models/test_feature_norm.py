"""Standardised features: the formula, layers that share a row, and the model that applies it."""

from __future__ import annotations

import pytest
import torch

from serein.errors import RecipeError
from serein.models.feature_norm import FeatureNorm
from serein.models.hidden_states import HiddenStates


def hidden(*values: float, output: float | None = None) -> HiddenStates:
    """Return one clip of one real frame and one of padding, with the same value for both features of a layer."""
    layers = tuple(torch.full((1, 2, 2), value) for value in values)
    is_frame = torch.tensor([[True, False]])
    return HiddenStates(layers, is_frame, None if output is None else torch.full((1, 2, 2), output))


def first(frames: torch.Tensor) -> list[float]:
    values: list[float] = frames[0, 0].tolist()
    return values


def test_features_are_left_as_they_are_until_means_are_set() -> None:
    found = FeatureNorm((2, 2))(hidden(3.0, 5.0, output=7.0))
    assert [first(layer) for layer in (*found.layers, found.last)] == [[3.0] * 2, [5.0] * 2, [7.0] * 2]


def test_less_the_mean_over_the_deviation() -> None:
    norm = FeatureNorm((2, 2))
    norm.set_means({"0": torch.tensor([1.0, 2.0]), "1": torch.tensor([5.0, 0.0])})
    norm.set_deviations({"0": torch.tensor([2.0, 0.5]), "1": torch.tensor([0.0, 1.0])})  # one does not vary
    found = norm(hidden(3.0, 5.0))
    assert first(found.layers[0]) == [1.0, 2.0]
    assert first(found.layers[1]) == [0.0, 5.0]
    assert first(found.last) == [0.0, 5.0]


def test_the_final_output_is_the_last_layer_unless_the_backbone_changes_it() -> None:
    norm = FeatureNorm((2, 2))
    norm.set_means({"last": torch.tensor([1.0, 1.0])})
    assert first(norm(hidden(0.0, 5.0)).last) == [4.0, 4.0]
    assert first(norm(hidden(0.0, 5.0, output=7.0)).last) == [6.0, 6.0]
    norm.set_means({"last": torch.tensor([1.0, 1.0]), "1": torch.tensor([2.0, 2.0])})
    found = norm(hidden(0.0, 5.0, output=7.0))
    assert first(found.layers[1]) == [3.0, 3.0]
    assert first(found.last) == [6.0, 6.0]


def test_a_layer_that_is_not_read_has_no_values() -> None:
    norm = FeatureNorm((2, 2))
    found = norm(HiddenStates((torch.zeros(0), torch.ones(1, 1, 2)), torch.tensor([[True]])))
    assert found.layers[0].shape == (0,)


def test_means_over_time_leave_padding_out() -> None:
    norm = FeatureNorm((2, 2))
    frames = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]])
    means = norm.clip_means(HiddenStates((frames, 2 * frames), torch.tensor([[True, True, False]])))
    assert means.tolist() == [[[2.0, 3.0], [4.0, 6.0], [4.0, 6.0]]]


def test_layers_of_different_sizes_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"layers of sizes \(2, 3\) cannot be standardised"):
        FeatureNorm((2, 3))

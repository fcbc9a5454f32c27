"""Taps and heads: which layer is read, and what comes of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from serein.errors import RecipeError
from serein.models.blocks import POOLINGS
from serein.models.heads import LayerSelection, PooledHead, VectorNorm
from serein.models.hidden_states import HiddenStates, frame_mask
from serein.recipe import Category

SIZES = (4, 4, 4)


def heard(*lengths: int, sizes: tuple[int, ...] = SIZES) -> HiddenStates:
    generator = torch.Generator().manual_seed(0)
    is_frame = frame_mask(torch.tensor(lengths), max(lengths))
    layers = [torch.randn(len(lengths), max(lengths), size, generator=generator) for size in sizes]
    return HiddenStates(tuple(layer * is_frame[..., None] for layer in layers), is_frame)


def head(num_outputs: int = 3, sizes: tuple[int, ...] = SIZES, **options: object) -> PooledHead:
    torch.manual_seed(0)
    return PooledHead(Category(**options), sizes, num_outputs).eval()


# -- taps


@pytest.mark.parametrize(("selection", "layer"), [("last", 2), (0, 0), (1, 1), (2, 2)])
def test_a_selection_takes_a_layer(selection: str | int, layer: int) -> None:
    hidden = heard(3, 5, sizes=(4, 5, 6))
    chosen = LayerSelection(selection, (4, 5, 6))
    assert chosen(hidden) is hidden.layers[layer]
    assert chosen.size == 4 + layer
    assert not list(chosen.parameters())


def test_a_weighted_tap_sums_all_layers() -> None:
    """It starts as their mean; the weights ln 1, ln 1, ln 2 give 1/4, 1/4, 1/2."""
    selection, hidden = LayerSelection("weighted", SIZES), heard(3, 5)
    first, second, third = hidden.layers
    np.testing.assert_allclose(selection(hidden).detach(), (first + second + third) / 3, atol=1e-6)
    nn.init.constant_(selection.weights, 0.0)
    with torch.no_grad():
        selection.weights[2] = math.log(2)
    np.testing.assert_allclose(selection(hidden).detach(), first / 4 + second / 4 + third / 2, atol=1e-6)
    selection(hidden).square().sum().backward()
    assert selection.weights.grad is not None
    assert selection.weights.grad.abs().min() > 0


@pytest.mark.parametrize("number", [3, -1, 24])
def test_a_layer_that_is_not_there(number: int) -> None:
    with pytest.raises(RecipeError, match=f"layer: there is no hidden layer {number}, the model has 0 to 2. Choose"):
        LayerSelection(number, SIZES)


def test_layers_of_two_sizes_cannot_be_summed() -> None:
    with pytest.raises(RecipeError, match=r"layer: layers of sizes \(4, 5\) cannot be summed"):
        LayerSelection("weighted", (4, 5))


# -- heads


def test_a_bare_head_is_a_linear_layer_on_the_pooled_frames() -> None:
    read, hidden = head(pooling="mean"), heard(3, 5)
    head_output = read(hidden)
    means = [hidden.layers[2][0, :3].mean(dim=0), hidden.layers[2][1].mean(dim=0)]
    np.testing.assert_allclose(head_output.embedding, torch.stack(means), atol=1e-6)
    np.testing.assert_allclose(head_output.output.detach(), read.output(torch.stack(means)).detach(), atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, None),
        ({"projection": 5}, 5),
        ({"projection": 5, "projection_at": "frames"}, None),
        ({"projection": 5, "hidden": (7, 6), "batch_norm": True, "dropout": 0.5}, 6),
    ],
)
def test_the_embedding_is_what_the_output_reads(pooling: str, options: dict[str, object], size: int | None) -> None:
    read = head(pooling=pooling, **options)
    head_output = read(heard(3, 5))
    width = 5 if options.get("projection_at") == "frames" else 4
    assert head_output.embedding.shape == (2, size or width * (1 if pooling in ("mean", "max") else 2))
    assert head_output.output.shape == (2, 3)
    assert read.size == head_output.embedding.shape[1]
    assert torch.equal(head_output.output, read.output(head_output.embedding))


def test_projecting_frames_and_projecting_their_mean_are_one() -> None:
    at_frames, at_pooled = (head(pooling="mean", projection=5, projection_at=at) for at in ("frames", "pooled"))
    at_frames.frame_projection.load_state_dict(at_pooled.projection.state_dict())
    at_frames.output.load_state_dict(at_pooled.output.state_dict())
    one, other = at_frames(heard(3, 5)), at_pooled(heard(3, 5))
    np.testing.assert_allclose(one.embedding.detach(), other.embedding.detach(), atol=1e-6)
    np.testing.assert_allclose(one.output.detach(), other.output.detach(), atol=1e-6)


def test_hidden_layers_have_a_relu() -> None:
    assert (head(hidden=(50,))(heard(3, 5)).embedding >= 0).all()


def test_dropout_acts_in_training_alone() -> None:
    read, hidden = head(dropout=0.5, hidden=(8,)), heard(3, 5)
    assert torch.equal(read(hidden).output, read(hidden).output)
    read.train()
    assert not torch.equal(read(hidden).output, read(hidden).output)


def test_what_a_head_answers_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        head_output = head(hidden=(8,))(heard(3, 5))
    assert head_output.output.dtype == head_output.embedding.dtype == torch.float32


# -- batch norm


def test_vector_norm_is_batch_norm() -> None:
    vectors, own, theirs = torch.randn(6, 4), VectorNorm(4), nn.BatchNorm1d(4)
    assert torch.equal(own(vectors), theirs(vectors))
    assert own.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(own.state_dict()[key], value) for key, value in theirs.state_dict().items())
    assert torch.equal(own.eval()(vectors[:1]), theirs.eval()(vectors[:1]))


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1)])
def test_a_lone_vector_can_be_trained_on(shape: tuple[int, ...]) -> None:
    """The last batch of an epoch may hold one clip, for which torch's batch norm raises."""
    norm, vector = VectorNorm(4), torch.randn(shape, requires_grad=True)
    norm(torch.randn(8, 4))
    before = norm.running_mean.clone()
    normalised = norm(vector)
    normalised.square().sum().backward()
    assert torch.equal(norm.running_mean, before)
    assert norm.weight.grad is not None
    assert torch.equal(normalised, norm.eval()(vector))


def test_a_head_with_batch_norm_learns_from_one_clip() -> None:
    read = head(batch_norm=True).train()
    read(heard(3)).output.sum().backward()
    assert read.output.weight.grad is not None


# -- attention and fusion


def test_each_block_makes_a_vector_and_fusion_sums_them() -> None:
    reader, hidden = head(attention={"blocks": 3, "heads": 2}, pooling="max", fusion={}), heard(3, 5)
    frames, is_frame = reader.layer_selection(hidden), hidden.is_frame
    vectors = [reader.pooling(block(frames, is_frame), is_frame) for block in reader.blocks]
    assert len(vectors) == 3
    assert not torch.allclose(vectors[0], vectors[1])
    torch.testing.assert_close(reader(hidden).embedding, sum(vectors))  # rows of the matrix start at 1


def test_other_vectors_join() -> None:
    joining = {"inputs": ("speaker",), "init": 2.0}
    options = Category(attention={"heads": 2}, pooling="max", fusion=joining)
    reader, hidden, speaker = PooledHead(options, SIZES, 3, input_sizes={"speaker": 4}).eval(), heard(3, 5), 7.0
    alone = reader(hidden).embedding
    joined = reader(hidden, inputs=[torch.full((2, 4), speaker)]).embedding
    torch.testing.assert_close(joined, alone + 2.0 * speaker)


def test_a_vector_of_another_size_cannot_join() -> None:
    options = Category(pooling="max", fusion={"inputs": ("speaker",)})
    with pytest.raises(RecipeError, match="the vector of 'speaker' has 9 features, but the fusion needs 4"):
        PooledHead(options, SIZES, 3, input_sizes={"speaker": 9})


def test_several_blocks_need_a_fusion() -> None:
    with pytest.raises(ValueError, match="2 attention blocks produce several vectors: add 'fusion: {}'"):
        Category(attention={"blocks": 2})


def test_the_projection_of_park2023_is_relu_then_linear() -> None:
    reader, hidden = head(projection=4, projection_at="frames", projection_kind="relu-linear", pooling="max"), heard(3)
    relu, linear = reader.frame_projection
    expected = linear(hidden.last.clamp_min(0)).amax(dim=1)
    assert isinstance(relu, nn.ReLU)
    torch.testing.assert_close(reader(hidden).embedding, expected)


def test_arcface_answers_with_scaled_cosines() -> None:
    reader, hidden = head(loss="arcface", arcface={"scale": 20.0}, pooling="mean"), heard(3, 5)
    head_output = reader(hidden)
    centres = nn.functional.normalize(reader.output.weight)
    expected = 20 * nn.functional.normalize(head_output.embedding) @ centres.T
    torch.testing.assert_close(head_output.output, expected)


def test_a_free_sum_of_layers_has_any_weights() -> None:
    selection, hidden = LayerSelection("weighted-free", SIZES), heard(3, 5)
    first, second, third = hidden.layers
    np.testing.assert_allclose(selection(hidden).detach(), (first + second + third) / 3, atol=1e-6)
    with torch.no_grad():
        selection.weights.copy_(torch.tensor([2.0, -1.0, 0.0]))
    np.testing.assert_allclose(selection(hidden).detach(), 2 * first - second, atol=1e-6)


def test_where_dropout_stands() -> None:
    kinds = {
        at: [type(layer).__name__ for layer in head(hidden=(5, 5), dropout=0.5, dropout_at=at).layers]
        for at in ("inputs", "hidden")
    }
    assert kinds["inputs"] == ["Dropout", "Linear", "ReLU"] * 2
    assert kinds["hidden"] == ["Linear", "ReLU", "Dropout"] * 2
    assert head(hidden=(5,), dropout=0.5).dropout.p == 0.5
    assert head(hidden=(5,), dropout=0.5, dropout_at="hidden").dropout.p == 0.0

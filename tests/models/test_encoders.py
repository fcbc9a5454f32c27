"""Encoders: how frames become fewer, and small convolutions checked by hand."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from serein.errors import RecipeError
from serein.models.encoders import Cnn2dEncoder, CnnBlstmEncoder, ConvolutionBlock, TransformerEncoder, build_encoder
from serein.models.hidden_states import Backbone, HiddenStates, frame_mask
from serein.models.logmel import LogMelBackbone
from serein.models.model import assemble, new_backbone
from serein.recipe import Category, Cnn2d, CnnBlstm, FeatureProjection, LogMel, Transformer

SMALL = {"channels": (2, 3, 4, 5, 6), "size": 7}


def heard(*lengths: int, size: int = 12) -> HiddenStates:
    generator = torch.Generator().manual_seed(0)
    is_frame = frame_mask(torch.tensor(lengths), max(lengths))
    frames = torch.randn(len(lengths), max(lengths), size, generator=generator)
    return HiddenStates((frames * is_frame[..., None],), is_frame)


def halved(number: int, times: int) -> int:
    return halved(-(-number // 2), times - 1) if times else number


# -- convolutions over time and bands


@pytest.mark.parametrize(
    ("stem", "time_downsampling", "times"),
    [("stride", 1, 1), ("stride", 2, 2), ("stride", 3, 3), ("pool", 0, 0), ("pool", 1, 1), ("pool", 3, 3)],
)
@pytest.mark.parametrize("convolutions", [1, 2])
def test_time_is_halved_as_often_as_asked(stem: str, time_downsampling: int, times: int, convolutions: int) -> None:
    options = Cnn2d(stem=stem, time_downsampling=time_downsampling, convolutions=convolutions, **SMALL)
    shrunk = Cnn2dEncoder(options, bands=12, num_channels=1).eval()(heard(45, 1, 16, 17))
    assert shrunk.num_frames.tolist() == [halved(number, times) for number in (45, 1, 16, 17)]
    assert shrunk.layers[0].shape == (4, halved(45, times), 7)
    assert not shrunk.layers[0][~shrunk.is_frame].any()


@pytest.mark.parametrize("stem", ["stride", "pool"])
@pytest.mark.parametrize("bands", [1, 2, 17, 64])
def test_bands_are_halved_four_times(stem: str, bands: int) -> None:
    encoder = Cnn2dEncoder(Cnn2d(stem=stem, **SMALL), bands=bands, num_channels=2).eval()
    assert encoder.join.in_features == 6 * halved(bands, 4)
    assert encoder(heard(9, size=2 * bands)).layers[0].shape[2] == encoder.size == 7


def test_images_side_by_side_are_channels() -> None:
    """A first convolution that sees the second image alone is deaf to the first."""
    encoder, hidden = Cnn2dEncoder(Cnn2d(**SMALL), bands=6, num_channels=2).eval(), heard(20)
    nn.init.zeros_(encoder.blocks[0].convolutions[0].weight[:, 0])
    changed = hidden.layers[0].clone()
    changed[..., :6] += 1.0
    assert torch.equal(encoder(hidden).layers[0], encoder(HiddenStates((changed,), hidden.is_frame)).layers[0])
    changed[..., 6:] += 1.0
    assert not torch.equal(encoder(hidden).layers[0], encoder(HiddenStates((changed,), hidden.is_frame)).layers[0])


def identity(block: ConvolutionBlock) -> ConvolutionBlock:
    """Let every convolution take the middle of its kernel, and the norms do nothing (but for epsilon)."""
    for convolution in (*block.convolutions, *([block.path] if block.path is not None else [])):
        middle = convolution.kernel_size[0] // 2
        nn.init.zeros_(convolution.weight)
        with torch.no_grad():
            convolution.weight[:, :, middle, middle] = 1.0
    return block.eval()


IMAGE = torch.tensor([[[[1.0, -2.0], [3.0, 4.0], [-5.0, 6.0]]]])  # (clip, channel, frame, band)
LAST_IS_PADDING = torch.tensor([[True, True, False]])
UNPOOLED = (1, 1)


def test_a_block_by_hand() -> None:
    once = identity(ConvolutionBlock(1, 1, 1))(IMAGE, LAST_IS_PADDING, UNPOOLED)
    np.testing.assert_allclose(once[0, 0].detach(), [[1, 0], [3, 4], [0, 0]], rtol=1e-4)
    residual = identity(ConvolutionBlock(1, 1, 2))(IMAGE, LAST_IS_PADDING, UNPOOLED)  # relu(relu(x) + x)
    np.testing.assert_allclose(residual[0, 0].detach(), [[2, 0], [6, 8], [0, 0]], rtol=1e-4)
    pooled = identity(ConvolutionBlock(1, 1, 1))(IMAGE, LAST_IS_PADDING, (2, 2))  # the 6 is on padding
    np.testing.assert_allclose(pooled[0, 0].detach(), [[4], [0]], rtol=1e-4)


def test_a_striding_block_by_hand() -> None:
    image = torch.arange(20.0).view(1, 1, 5, 4)
    strided = identity(ConvolutionBlock(1, 1, 1, stride=2))(image, torch.ones(1, 3, dtype=torch.bool), UNPOOLED)
    np.testing.assert_allclose(strided[0, 0].detach(), [[0, 2], [8, 10], [16, 18]], rtol=1e-4)


def test_a_block_learns_as_by_the_plain_formula() -> None:
    """ReLU, then padding at zero, then pooling: the same output and gradients."""
    generator = torch.Generator().manual_seed(0)
    block = ConvolutionBlock(3, 4, 2)
    images = torch.randn(3, 3, 7, 6, generator=generator)
    is_frame = frame_mask(torch.tensor([7, 4, 1]), 7)
    mask = is_frame[:, None, :, None].float()

    def plainly(images: torch.Tensor) -> torch.Tensor:
        (first, second), (before, after) = block.convolutions, block.norms
        inner = before(first(images)).relu() * mask
        return F.max_pool2d((after(second(inner)) + block.path(images)).relu() * mask, (2, 2), ceil_mode=True)

    outputs, gradients = [], []
    for run in (lambda images: block(images, is_frame, (2, 2)), plainly):
        entering = images.clone().requires_grad_()
        block.zero_grad()
        outputs.append(run(entering))
        (outputs[-1] * torch.arange(outputs[-1].numel()).view_as(outputs[-1])).sum().backward()
        gradients.append([entering.grad, *(parameter.grad.clone() for parameter in block.parameters())])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)
    assert all(gradient.any() for gradient in gradients[0])


# -- convolutions and LSTM


def test_cnn_blstm_is_figure_1_of_stanley_2023() -> None:
    """The same layers, put together once more by hand for each clip alone."""
    options = CnnBlstm(channels=(4, 5, 6), kernels=(5, 3, 3), hidden=3)
    encoder, hidden = CnnBlstmEncoder(options, (12,)).eval(), heard(45, 9)
    shrunk = encoder(hidden)
    assert shrunk.num_frames.tolist() == [6, 2]  # 45 -> 23 -> 12 -> 6; 9 -> 5 -> 3 -> 2
    for clip, length in enumerate((45, 9)):
        images = hidden.layers[0][clip : clip + 1, :length].transpose(1, 2)
        for convolution in encoder.convolutions:
            images = F.max_pool1d(convolution(images).relu(), 2, ceil_mode=True)
        expected = encoder.lstm(images.transpose(1, 2))[0][0]
        actual = shrunk.layers[0][clip, : len(expected)]
        np.testing.assert_allclose(actual.detach(), expected.detach(), atol=1e-6)


def test_the_papers_sizes_are_the_default() -> None:
    encoder = CnnBlstmEncoder(CnnBlstm(), (1024,))
    assert [(c.in_channels, c.out_channels, c.kernel_size) for c in encoder.convolutions] == [
        (1024, 96, (15,)),
        (96, 256, (5,)),
        (256, 256, (3,)),
    ]
    assert (encoder.lstm.hidden_size, encoder.lstm.num_layers, encoder.lstm.dropout, encoder.size) == (64, 2, 0.5, 128)


def test_cnn_blstm_taps_the_layer_that_the_recipe_names() -> None:
    hidden = HiddenStates((*heard(20).layers, *heard(20, size=5).layers), heard(20).is_frame)
    encoder = CnnBlstmEncoder(CnnBlstm(layer=0, channels=(4,), kernels=(3,), hidden=2, layers=1), (12, 5)).eval()
    silenced = HiddenStates((hidden.layers[0], 0 * hidden.layers[1]), hidden.is_frame)
    assert torch.equal(encoder(hidden).layers[0], encoder(silenced).layers[0])
    with pytest.raises(RecipeError, match="no hidden layer 2"):
        CnnBlstmEncoder(CnnBlstm(layer=2), (12, 5))


# -- either


def test_every_body_of_a_recipe_is_built() -> None:
    backbone = LogMelBackbone(LogMel(n_mels=12))
    from serein.recipe import Encoder

    for kind in get_args(get_args(Encoder)[0]):
        encoder = build_encoder(kind(), backbone)
        assert isinstance(encoder, Cnn2dEncoder | CnnBlstmEncoder | TransformerEncoder)


class Layers(Backbone):
    """Hidden layers of two sizes, no image."""

    sizes, num_layers, frame_rate_hz = (4, 6), 1, 50.0

    def forward(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> HiddenStates:
        raise NotImplementedError

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {}

    def describe(self) -> dict[str, object]:
        return {}


def test_images_are_needed_for_convolutions_over_bands() -> None:
    with pytest.raises(
        RecipeError, match=r"encoder\.name: 'cnn2d' reads mel bands, but the backbone outputs hidden layers"
    ):
        build_encoder(Cnn2d(), Layers())
    assert build_encoder(CnnBlstm(layer=0), Layers()).layer_selection.size == 4
    with pytest.raises(RecipeError, match="'transformer' with a projection"):
        build_encoder(Transformer(), Layers())


def test_layers_over_a_pretrained_backbone_read_groups_of_its_frames() -> None:
    """Seven frames in groups of three: the third holds one frame and zeros, and reads the layer that was chosen."""
    torch.manual_seed(0)
    options = Transformer(projection=FeatureProjection(layer=0, stride=3, size=8), layers=2, heads=2)
    encoder = build_encoder(options, Layers()).eval()
    frames = torch.randn(2, 7, 4)
    is_frame = frame_mask(torch.tensor([7, 5]), 7)
    heard = encoder(HiddenStates((frames, torch.zeros(2, 7, 6)), is_frame))
    assert heard.num_frames.tolist() == [3, 2]
    assert [layer.shape for layer in heard.layers] == [(2, 3, 8)] * 3
    alone = encoder(HiddenStates((frames[1:, :5], torch.ones(1, 5, 6)), is_frame[1:, :5]))
    torch.testing.assert_close(heard.last[1:, :2], alone.last)
    stem = encoder.projection
    groups = torch.cat([stem.norm(frames[0]), torch.zeros(2, 4)]).view(3, 3, 4)
    expected = torch.einsum("gsf,ofs->go", groups, stem.projection.weight) + stem.projection.bias
    torch.testing.assert_close(stem(HiddenStates((frames[:1],), is_frame[:1])).last[0], expected)


def test_the_projection_is_frozen_by_its_name() -> None:
    options = Transformer(projection=FeatureProjection(size=8), layers=2, heads=2)
    model = assemble(new_backbone(LogMel(n_mels=16)), options, {"emotion": (Category(), 2)})
    assert list(model.parameter_groups()) == ["encoder projection", "encoder layer 1", "encoder layer 2", "heads"]
    model.train_only(["encoder layers 1-2", "heads"])
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if ".encoder.projection." in name} != set()
    with pytest.raises(RecipeError, match="Choose an even encoder.projection.size"):
        build_encoder(Transformer(projection=FeatureProjection(size=9)), Layers())


def test_frames_enter_by_one_way() -> None:
    """Convolutions beside a projection would be left unused in silence."""
    with pytest.raises(ValidationError, match="'cnn' and 'projection' both produce the input frames"):
        Transformer(projection=FeatureProjection(), cnn=Cnn2d(size=64))
    options = Transformer(projection=FeatureProjection())
    assert Transformer.model_validate(options.model_dump()) == options  # as a model folder holds it


def test_the_third_convolution_may_go_without_pooling() -> None:
    """Stanley 2023, Figure 1, names CNN-MP and CNN: with the third unpooled, frames are a quarter."""
    options = CnnBlstm(channels=(4, 5, 6), kernels=(5, 3, 3), hidden=3, num_pooled=2)
    encoder = CnnBlstmEncoder(options, (12,)).eval()
    assert encoder(heard(45, 9)).num_frames.tolist() == [12, 3]
    assert encoder.shrinks == 4

"""The small transformer: named layers, freezing to the bit, taps, and attention beside torch's own layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from serein.errors import RecipeError
from serein.models.encoders import TransformerLayer
from serein.models.hidden_states import HiddenStates, frame_mask
from serein.models.model import SpeechModel, assemble, new_backbone
from serein.recipe import MAIN, Category, Cnn2d, LogMel, Transcript, Transformer

CNN = Cnn2d(channels=(3, 4), size=8, stem="pool", time_downsampling=0)
NUM_LAYERS = 4


def model_of(**options: object) -> SpeechModel:
    torch.manual_seed(0)
    encoder = Transformer(cnn=CNN, layers=NUM_LAYERS, heads=2, feed_forward_size=12, **options)
    tasks = {"emotion": (Category(pooling="mean"), 3), "gender": (Category(layer=(2, "last"), pooling="mean"), 2)}
    return assemble(new_backbone(LogMel(n_mels=16)), encoder, {**tasks, "asr": (Transcript(), 5)})


def loss_of(model: SpeechModel) -> torch.Tensor:
    head_outputs = model(torch.randn(2, 9000, generator=torch.Generator().manual_seed(1)), torch.tensor([9000, 5000]))
    return torch.stack([head_output.output.square().sum() for head_output in head_outputs.values()]).sum()


def test_every_frame_stays_and_every_layer_is_there() -> None:
    model = model_of().eval()
    hidden = model.backbone(torch.randn(2, 16_000), torch.tensor([16_000, 8_000]))
    heard = model.encoders[0](hidden)
    assert heard.num_frames.tolist() == hidden.num_frames.tolist() == [50, 25]
    assert [layer.shape for layer in heard.layers] == [(2, 50, 8)] * (NUM_LAYERS + 1)
    assert model.decode({MAIN: hidden})["asr"].output.shape == (2, 50, 6)


@pytest.mark.parametrize("mode", [nn.Module.eval, nn.Module.train])
def test_a_layer_is_torchs_with_the_norm_first(mode: Callable[[nn.Module], nn.Module]) -> None:
    own = TransformerLayer(8, 2, 12, 0.0)
    mode(own)
    theirs = nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    pairs = {
        theirs.self_attn.in_proj_weight: own.qkv.weight,
        theirs.self_attn.in_proj_bias: own.qkv.bias,
        theirs.self_attn.out_proj.weight: own.attention_output.weight,
        theirs.self_attn.out_proj.bias: own.attention_output.bias,
        theirs.linear1.weight: own.widened.weight,
        theirs.linear1.bias: own.widened.bias,
        theirs.linear2.weight: own.narrowed.weight,
        theirs.linear2.bias: own.narrowed.bias,
    }
    for to, from_ in pairs.items():
        to.data.copy_(from_.data)
    frames, is_frame = torch.randn(2, 5, 8), frame_mask(torch.tensor([5, 3]), 5)
    with torch.enable_grad():  # or torch would take its fast path, which fills padding with zeros
        expected = theirs(frames, src_key_padding_mask=~is_frame)
    torch.testing.assert_close(own(frames, is_frame)[is_frame], expected[is_frame], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("num_trained", range(NUM_LAYERS + 1))
def test_what_is_frozen_stays_to_the_bit(num_trained: int) -> None:
    """For every n: the upper n layers and the heads move, nothing else does, running statistics included."""
    model = model_of().train()
    trained = [f"encoder layers {NUM_LAYERS - num_trained + 1}-{NUM_LAYERS}"] if num_trained else []
    model.train_only([*trained, "heads"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.1)
    loss_of(model).backward()
    optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    layers = {int(name.split(".layers.")[1].split(".")[0]) for name in moved if ".encoder.layers." in name}
    assert layers == set(range(NUM_LAYERS - num_trained, NUM_LAYERS))
    assert all(".heads." in name or ".encoder.layers." in name for name in moved)
    assert {name.split(".heads.")[1].split(".")[0] for name in moved if ".heads." in name} == {
        "emotion",
        "gender",
        "asr",
    }


def test_frozen_layers_drop_nothing_out() -> None:
    model = model_of(dropout=0.5).train()
    model.train_only(["encoder layer 4", "heads"])
    hidden = HiddenStates((torch.randn(1, 6, 16),), torch.ones(1, 6, dtype=torch.bool))
    encoder = model.encoders[0]
    assert [layer.training for layer in encoder.layers] == [False, False, False, True]
    assert not encoder.cnn.training
    torch.manual_seed(0)
    first = encoder(hidden).layers
    torch.manual_seed(1)
    second = encoder(hidden).layers
    assert [torch.equal(one, other) for one, other in zip(first, second, strict=True)] == [True] * 4 + [False]


def test_the_names_of_its_parts_are_known() -> None:
    model = model_of()
    groups = model.parameter_groups()
    assert list(groups) == ["encoder cnn", *(f"encoder layer {n}" for n in range(1, 5)), "heads"]
    assert sum(len(group) for group in groups.values()) == len(list(model.parameters()))
    model.train_only(["encoder"])
    assert {name.split(".")[2] for name, p in model.named_parameters() if p.requires_grad} == {"encoder"}
    with pytest.raises(RecipeError, match="'encoder layers 4-5' is not a part of this model"):
        model.train_only(["encoder layers 4-5"])


@pytest.mark.parametrize("heads", [3, 16])
def test_heads_that_do_not_divide_the_features_are_refused(heads: int) -> None:
    with pytest.raises(RecipeError, match=f"{heads} heads do not divide 8 features"):
        assemble(new_backbone(LogMel(n_mels=16)), Transformer(cnn=CNN, heads=heads), {"emotion": (Category(), 2)})

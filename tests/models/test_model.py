"""The assembly: every combination answers alike alone and in any batch, learns, and freezes what it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from serein.errors import ModelError, RecipeError
from serein.models.blocks import POOLINGS
from serein.models.encoders import ENCODERS as KINDS
from serein.models.hidden_states import Backbone, HiddenStates, frame_mask
from serein.models.model import SpeechModel, assemble, described_backbone, new_backbone
from serein.recipe import Category, Cnn2d, CnnBlstm, FeatureProjection, LogMel, Transformer

ENCODERS: dict[str, Any] = {
    "no encoder": None,
    "cnn2d": Cnn2d(channels=(3, 4, 5), size=6),
    "cnn2d pooled": Cnn2d(channels=(3, 4, 5), size=6, stem="pool"),
    "cnn2d residual": Cnn2d(channels=(3, 4, 5, 6), size=6, convolutions=2),
    "cnn-blstm": CnnBlstm(channels=(4, 5), kernels=(5, 3), hidden=3),
    "transformer": Transformer(
        cnn=Cnn2d(channels=(3, 4), size=8, stem="pool", time_downsampling=0), layers=2, heads=2, feed_forward_size=12
    ),
    "transformer, projected": Transformer(
        projection=FeatureProjection(stride=2, size=8), layers=2, heads=2, feed_forward_size=12
    ),
}
PROJECTIONS: dict[str, dict[str, Any]] = {
    "no projection": {},
    "pooled": {"projection": 5, "batch_norm": True, "hidden": (6,)},
    "frames": {"projection": 5, "projection_at": "frames"},
    "attention": {
        "projection": 8,
        "projection_at": "frames",
        "projection_kind": "relu-linear",
        "attention": {"blocks": 2},
        "fusion": {},
        "loss": "arcface",
        "arcface": {"scale": 1.0},  # the cosines themselves are exact to 1e-5
    },
}
LENGTHS = (12_000, 7_321, 640, 321, 1)


def model_of(
    encoder: Any = None, normalisation: tuple[str, ...] = ("level", "corpus"), ensemble_size: int = 1, **options: Any
) -> SpeechModel:
    """Return a small model with weights and statistics as after a training."""
    torch.manual_seed(0)
    backbone = new_backbone(LogMel(n_mels=16, normalisation=normalisation))
    model = assemble(backbone, encoder, {"emotion": (Category(**options), 4)}, ensemble_size)
    backbone.fit([backbone.bands(*waves(16_000, 5_000))])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.5)
            nn.init.normal_(module.running_mean, 0.0, 0.5)
            nn.init.uniform_(module.running_var, 0.3, 2.0)
    return model


def waves(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise of some lengths, padded with what must not be heard."""
    waveforms = 0.1 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(1))
    return waveforms, torch.tensor(lengths)


@torch.inference_mode()
def require_batching_changes_nothing(model: SpeechModel) -> None:
    waveforms, num_samples = waves(*LENGTHS)
    together = model.eval()(waveforms, num_samples)["emotion"]
    assert together.output.isfinite().all()
    for row, length in enumerate(LENGTHS):
        alone = model(waveforms[row : row + 1, :length], torch.tensor([length]))["emotion"]
        np.testing.assert_allclose(together.output[row], alone.output[0], atol=1e-5)
        np.testing.assert_allclose(together.embedding[row], alone.embedding[0], atol=1e-5)


# -- batching


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_batching_changes_no_answer(encoder: str, pooling: str, projection: str) -> None:
    require_batching_changes_nothing(model_of(ENCODERS[encoder], pooling=pooling, **PROJECTIONS[projection]))


@pytest.mark.parametrize("normalisation", ["corpus", "level", "clip"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_batching_changes_no_answer_under_any_normalisation(encoder: str, normalisation: str) -> None:
    require_batching_changes_nothing(model_of(ENCODERS[encoder], normalisation=(normalisation,)))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_batching_changes_no_answer_of_several_members(encoder: str) -> None:
    require_batching_changes_nothing(model_of(ENCODERS[encoder], ensemble_size=3))


def test_the_encoders_here_are_all_there_are() -> None:
    assert {type(encoder) for encoder in ENCODERS.values() if encoder} == {each.Options for each in KINDS.values()}


# -- members


@torch.inference_mode()
def test_members_answer_with_the_mean_of_their_probabilities() -> None:
    model = model_of(ENCODERS["cnn2d"], ensemble_size=3).eval()
    head_output = model(*waves(12_000, 640))["emotion"]
    probabilities = head_output.outputs.softmax(dim=-1)
    assert head_output.outputs.shape == (3, 2, 4)
    np.testing.assert_allclose(head_output.output.softmax(dim=-1), probabilities.mean(dim=0), atol=1e-6)
    assert (probabilities[0] - probabilities[1]).abs().max() > 1e-3  # each from its own first weights
    alone = [SpeechModel(model.backbone, [member])(*waves(12_000, 640))["emotion"] for member in model.ensemble]
    assert torch.equal(head_output.outputs, torch.cat([each.outputs for each in alone]))
    assert torch.equal(head_output.embedding, torch.cat([each.embedding for each in alone], dim=1))


@torch.inference_mode()
def test_one_member_answers_with_its_own_scores() -> None:
    head_output = model_of(ENCODERS["cnn2d"]).eval()(*waves(12_000, 640))["emotion"]
    assert torch.equal(head_output.output, head_output.outputs[0])


def test_members_are_in_the_groups_of_their_parts() -> None:
    model = model_of(ENCODERS["cnn2d"], ensemble_size=2)
    groups = model.parameter_groups()
    assert sorted(id(p) for group in groups.values() for p in group) == sorted(id(p) for p in model.parameters())
    encoders = [p for member in model.ensemble for p in member.encoder.parameters()]
    assert sorted(map(id, groups["encoder"])) == sorted(map(id, encoders))


# -- learning


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_gradients_reach_every_weight(encoder: str, pooling: str) -> None:
    model = model_of(ENCODERS[encoder], ensemble_size=2, pooling=pooling, **PROJECTIONS["pooled"]).train()
    model(*waves(12_000, 9_000, 640))["emotion"].output.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        is_first = pooling == "max" and "weight_hh" in name  # the greatest frame may be the first, nothing before it
        if not is_first and not name.endswith("score.2.bias"):  # adding to all scores changes no weight
            assert parameter.grad.abs().sum() > 0, name


# -- parts


class TwoLayers(Backbone):
    """A stand-in for a pretrained backbone: `cnn`, `projection` and three layers, each one linear."""

    sizes, num_layers, frame_rate_hz = (4, 4, 4, 4), 3, 16_000.0

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(1, 4), *(nn.Linear(4, 4) for _ in range(4))])

    def forward(self, waveforms: torch.Tensor, num_samples: torch.Tensor) -> HiddenStates:
        first, *layers = self.parts
        frames = [layers[0](first(waveforms[..., None]))]
        for layer in layers[1:]:
            frames.append(layer(frames[-1]).tanh())
        return HiddenStates(tuple(frames), frame_mask(num_samples, waveforms.shape[1]))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        names = ("cnn", "projection", "layer 1", "layer 2", "layer 3")
        return {name: list(part.parameters()) for name, part in zip(names, self.parts, strict=True)}

    def describe(self) -> dict[str, Any]:
        return {"name": "two-layers"}


@pytest.fixture
def model() -> SpeechModel:
    torch.manual_seed(0)
    encoder = CnnBlstm(layer="weighted", channels=(4,), kernels=(3,), hidden=3, layers=1)
    return assemble(TwoLayers(), encoder, {"emotion": (Category(batch_norm=True), 4)})


def groups_that_learn(model: SpeechModel) -> list[str]:
    return [name for name, parts in model.parameter_groups().items() if all(p.requires_grad for p in parts)]


def test_every_weight_is_in_one_group(model: SpeechModel) -> None:
    grouped = [id(parameter) for parameters in model.parameter_groups().values() for parameter in parameters]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


@pytest.mark.parametrize(
    ("names", "learning"),
    [
        (["all"], ["cnn", "projection", "layer 1", "layer 2", "layer 3", "encoder", "heads"]),
        (["backbone"], ["cnn", "projection", "layer 1", "layer 2", "layer 3"]),
        (["layers 2-3", "heads"], ["layer 2", "layer 3", "heads"]),
        (["layers 1-1", "cnn"], ["cnn", "layer 1"]),
        (["layer 3", "encoder"], ["layer 3", "encoder"]),
        (["heads", "heads"], ["heads"]),
    ],
)
def test_named_parts_learn_and_no_other(model: SpeechModel, names: list[str], learning: list[str]) -> None:
    model.train_only(["cnn"])  # what an earlier stage froze must thaw again
    model.train_only(names)
    assert groups_that_learn(model) == learning
    frozen = [p for name, parts in model.parameter_groups().items() if name not in learning for p in parts]
    assert not any(parameter.requires_grad for parameter in frozen)


@pytest.mark.parametrize("name", ["layer 4", "layers 2-4", "layers 3-2", "layers 0-1", "decoder", "Heads", ""])
def test_an_unknown_part_is_named(model: SpeechModel, name: str) -> None:
    with pytest.raises(RecipeError) as error:
        model.train_only(["heads", name])
    assert f"trainable: '{name}' is not a part of this model; its parts are: cnn, projection," in str(error.value)
    assert groups_that_learn(model)[0] == "cnn"  # nothing was frozen on the way


@pytest.mark.parametrize("names", [[], ["backbone"], ["encoder"]])
def test_a_stage_in_which_nothing_learns_is_refused(names: list[str]) -> None:
    with pytest.raises(
        RecipeError, match=f"trainable: nothing to train: {' '.join(names) or 'no part'} has no weights"
    ):
        model_of(None).train_only(iter(names))


def tensors(model: SpeechModel) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, tensor.clone()) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("trainable", [["heads"], ["encoder"], ["cnn", "layers 2-3"], ["all"]])
def test_what_is_frozen_keeps_every_bit(model: SpeechModel, trainable: list[str]) -> None:
    model.train_only(trainable)
    before = dict(tensors(model))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
    for _ in range(2):
        model.train()
        model(*waves(40, 25))["emotion"].output.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    learning = {id(p) for name in groups_that_learn(model) for p in model.parameter_groups()[name]}
    weights = dict(model.named_parameters())
    for name, tensor in model.state_dict().items():
        owner = weights.get(name, weights.get(name.rpartition(".")[0] + ".weight"))  # running statistics follow
        assert torch.equal(tensor, before[name]) == (id(owner) not in learning), name


def test_frozen_batch_norm_answers_as_in_evaluation() -> None:
    model = model_of(ENCODERS["cnn2d"], pooling="mean")
    model.train_only(["heads"])
    frozen = [m for m in model.ensemble[0].encoder.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert frozen
    assert not any(module.training for module in frozen)
    model.eval()
    model.train()
    assert not any(module.training for module in frozen)
    assert model.ensemble[0].encoder.dropout.training
    model.train_only(["all"])
    assert all(module.training for module in frozen)


# -- descriptions


def test_a_described_backbone_is_the_same_architecture() -> None:
    backbone = new_backbone(LogMel(n_mels=16, normalisation=("clip", "level")))
    again = described_backbone(backbone.describe())
    assert again.describe() == backbone.describe()
    assert again.sizes == backbone.sizes


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(ModelError, match=r"model.json: unknown backbone 'crystal ball', expected .* newer serein"):
        described_backbone({"name": "crystal ball"})

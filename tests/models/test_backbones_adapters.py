"""LoRA: equal to `peft`'s own merged model; learns alone, is saved alone, and merges without a change of output."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from models.test_backbones import CASES, ONE_OF_EACH, backbone_of, batch, clips, deviation, plain_model, save
from serein.errors import MissingExtraError, RecipeError
from serein.models.backbones import LORA_TARGETS, HuggingFaceBackbone
from serein.models.hidden_states import ADAPTER_WEIGHT, Backbone, own_weights
from serein.models.pretrained import weights_hash
from serein.recipe import Lora

peft = pytest.importorskip("peft")

EVERY = Lora(rank=3, alpha=6, targets=tuple(LORA_TARGETS))


def adapted(model: Any, options: Lora = EVERY) -> HuggingFaceBackbone:
    """Return a backbone whose adapter has learned something: B starts as zero."""
    backbone = backbone_of(model, adapter=options)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in backbone.parameter_groups()["adapter"]:
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return backbone.eval()


def last(backbone: Backbone) -> torch.Tensor:
    with torch.no_grad():
        states = backbone(*batch(clips((8_000, 3_000))))
    return states.last[states.is_frame]


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_an_adapter_is_that_of_peft_merged_by_peft(case: str) -> None:
    model = plain_model(*CASES[case])
    backbone = adapted(model)
    names = [name for target in EVERY.targets for name in LORA_TARGETS[target]]
    theirs = peft.get_peft_model(
        copy.deepcopy(model), peft.LoraConfig(r=3, lora_alpha=6, target_modules=names), adapter_name="default"
    )
    found = {name: tensor for name, tensor in backbone.model.state_dict().items() if ADAPTER_WEIGHT.search(name)}
    outcome = theirs.base_model.model.load_state_dict(found, strict=False)
    assert not outcome.unexpected_keys
    assert not [name for name in outcome.missing_keys if ADAPTER_WEIGHT.search(name)]
    reference = last(backbone_of(theirs.merge_and_unload()))

    assert deviation(last(backbone), reference) < 1e-5
    plain = last(backbone_of(model))
    assert deviation(plain, reference) > 1e-3
    backbone.merge_adapter()
    assert deviation(last(backbone), reference) < 1e-5
    assert not [name for name in backbone.state_dict() if "lora" in name or "base_layer" in name]


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_only_the_adapter_learns_and_the_source_is_untouched(case: str, tmp_path: Path) -> None:
    source = str(save(plain_model(*CASES[case]), tmp_path))
    backbone = HuggingFaceBackbone.from_source(source)
    before = own_weights(backbone)
    sha256 = weights_hash(backbone)
    backbone.add_adapter(Lora(rank=2))
    groups = backbone.parameter_groups()
    assert sum(len(group) for group in groups.values()) == len(list(backbone.parameters()))
    assert len(groups["adapter"]) == 2 * 2 * backbone.num_layers  # A and B of query and value
    for name, group in groups.items():
        for parameter in group:
            parameter.requires_grad_(name == "adapter")
    backbone.train()
    assert not any(module.training for module in backbone.architecture.cnn)
    states = backbone(*batch(clips((8_000, 3_000))))
    assert [layer.requires_grad for layer in states.layers] == [False, True, True]  # no graph below the first one
    optimizer = torch.optim.SGD(groups["adapter"], lr=0.1)
    states.last[states.is_frame].square().mean().backward()
    optimizer.step()
    after = own_weights(backbone)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert backbone.untouched_source()["sha256"] == sha256


def test_a_new_adapter_changes_nothing() -> None:
    model = plain_model(*CASES["whisper"])
    assert torch.equal(last(backbone_of(model, adapter=Lora())), last(backbone_of(model)))


@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_an_adapter_of_the_upper_layer_alone_leaves_those_below_as_they_are(case: str) -> None:
    model = plain_model(*CASES[case])
    backbone = adapted(model, Lora(rank=3, targets=("query", "value"), layers=(2,)))
    for name, group in backbone.parameter_groups().items():
        for parameter in group:
            parameter.requires_grad_(name == "adapter")
    assert len(backbone.parameter_groups()["adapter"]) == 2 * 2
    assert backbone.num_fixed_layers() == 2
    plain = backbone_of(model)
    with torch.no_grad():
        ours, theirs = (each(*batch(clips((8_000,)))).layers for each in (backbone.eval(), plain))
    assert torch.equal(ours[1], theirs[1])
    assert not torch.equal(ours[2], theirs[2])


def test_an_adapter_of_a_layer_that_is_not_there() -> None:
    with pytest.raises(RecipeError, match="the model has 2 layers, not 3"):
        backbone_of(plain_model(*CASES["whisper"]), adapter=Lora(layers=(1, 3)))


def test_a_description_builds_the_adapter_again() -> None:
    backbone = adapted(plain_model(*CASES["whisper"]))
    description = json.loads(json.dumps(backbone.describe()))
    again = HuggingFaceBackbone.from_config(description)
    again.load_state_dict(backbone.state_dict(), strict=True)
    assert again.adapter == EVERY
    assert again.describe() == description
    assert torch.equal(last(again), last(backbone))


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"serein\[lora\]"):
        backbone_of(plain_model(*CASES["whisper"]), adapter=Lora())

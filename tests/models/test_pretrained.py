"""Backbones out of model folders of serein: the same weights, fewer layers where asked, and clear refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from serein import checkpoint
from serein.errors import ModelError
from serein.models.backbones import HuggingFaceBackbone

GOLDEN = Path(__file__).parents[1] / "golden" / "models"
KINDS = ("classes-wavlm", "classes-hubert", "classes-wav2vec2")


def written(folder: Path, **changes: object) -> Path:
    """Return a copy of a model folder whose model.json says something else."""
    shutil.copytree(GOLDEN / "classes-wavlm", folder)
    content = json.loads((folder / "model.json").read_text()) | changes
    (folder / "model.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_backbone_of_a_model_is_that_of_its_checkpoint(kind: str) -> None:
    own, theirs = HuggingFaceBackbone.from_source(str(GOLDEN / kind)), checkpoint.load(GOLDEN / kind).model.backbone
    assert own.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in own.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name])
    waveforms, num_samples = torch.randn(2, 8000), torch.tensor([8000, 5000])
    with torch.no_grad():
        torch.testing.assert_close(own(waveforms, num_samples).layers[-1], theirs(waveforms, num_samples).layers[-1])
    again = HuggingFaceBackbone.from_source(str(GOLDEN / kind))
    assert own.untouched_source() == again.untouched_source()
    assert Path(own.untouched_source()["source"]) == GOLDEN / kind


def test_the_lower_layers_of_a_model_are_those_of_the_whole() -> None:
    whole, lower = (HuggingFaceBackbone.from_source(str(GOLDEN / KINDS[0]), layers=layers) for layers in (None, 1))
    assert lower.num_layers == 1 < whole.num_layers
    waveforms, num_samples = torch.randn(1, 8000), torch.tensor([8000])
    with torch.no_grad():
        lowest = lower(waveforms, num_samples).layers[0], whole(waveforms, num_samples).layers[0]
    torch.testing.assert_close(*lowest)


def test_the_default_model_lends_its_encoder_without_network() -> None:
    backbone = HuggingFaceBackbone.from_source("default", layers=1)
    assert (backbone.num_layers, backbone.untouched_source()["source"]) == (1, "default")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": {"name": "logmel"}}, "has no pretrained backbone"),
        ({"backbone_weights": {"source": "org/model"}}, "does not contain its backbone. Name its source: org/model"),
        ({"backbone": {"name": "huggingface", "adapter": {"rank": 2}}}, "has an adapter .* serein merge"),
        ({"backbone": None}, "no readable model.json"),
    ],
)
def test_a_model_that_cannot_lend_its_backbone_says_why(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        HuggingFaceBackbone.from_source(str(written(tmp_path / "model", **changes)))


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = written(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="the backbone's weights cannot be loaded"):
        HuggingFaceBackbone.from_source(str(folder))

"""The default model, adapted to a few recordings: its encoder and head come out of the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cli_fixtures import Call
from serein import checkpoint
from serein.experiment.build import PretrainedBranch
from serein.inference.predictor import model_folder

ADAPT = Path(__file__).parents[2] / "recipes" / "pretrained" / "adapt.yaml"
BRIEFLY = ("--set", "stages.0.epochs=1", "--set", "protocol.dev=none")


def test_the_default_model_is_adapted_without_network(
    tones: Path, tmp_path: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert serein("train", ADAPT, "--data", tones, "--out", tmp_path / "run", *BRIEFLY).status == 0
    model = tmp_path / "run" / "model"
    assert json.loads((model / "model.json").read_text())["backbone_weights"]["source"] == "default"
    assert (model / "model.safetensors").stat().st_size < 3_000_000
    assert serein("predict", "--model", model, tones, "--max-files", 1, "--json").status == 0


def test_a_network_starts_as_the_first_of_an_ensemble() -> None:
    loaded = checkpoint.load(model_folder("default"))
    branch = PretrainedBranch("main", model_folder("default"), loaded)
    assert branch.member is loaded.model.ensemble[0]
    before = {name: tensor.clone() for name, tensor in loaded.model.backbone.state_dict().items()}
    backbone = branch.backbone(None)
    assert backbone.untouched_source() == {
        "source": "default",
        "revision": None,
        "layers": None,
        "sha256": backbone.untouched_source()["sha256"],
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())

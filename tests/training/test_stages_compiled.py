"""`compile: true` changes the speed of training alone: same weights under the same names, in the same files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from cli_fixtures import TINY
from serein import recipe as recipes
from serein.errors import RecipeError, RunError
from serein.experiment import data as experiment_data
from serein.experiment import fold as folds
from serein.experiment import run as runs
from serein.models.backbones import HuggingFaceBackbone
from serein.models.model import SpeechModel
from serein.recipe import Recipe
from serein.training import stages
from serein.training.checkpointing import RESUME
from serein.training.module import gradient_cosines
from serein.training.stages import compiled, require_compiler

STAGE = {"epochs": 2, "optimizer": {"name": "sgd", "learning_rate": 0.1}, "checkpoint": "last"}
CONFIG = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": [8] * 7,
    "num_conv_pos_embedding_groups": 2,
    "num_conv_pos_embeddings": 8,
}
FAMILIES = ("wav2vec2", "wavlm", "wav2vec2-conformer")
Train = Callable[..., Path]


def silent(label: str, done: int, total: int, detail: str) -> None:
    """A `Report` that tells nobody."""


class Killed(BaseException):
    """Stands for a kill."""


def recipe_of(source: Path | None, **stage: Any) -> Recipe:
    """Return a recipe of one stage on a pretrained model in a folder, or on log-mel bands."""
    quiet = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0)
    values: dict[str, Any] = {name: value for name, value in TINY.items() if name not in ("encoder", "backbone")}
    if source is not None:
        values["backbone"] = {"name": "huggingface", "source": str(source), "overrides": quiet}
        values["feature_cache"] = {"dtype": "none"}
    values["tasks"] = {"emotion": {"pooling": "mean", "dropout": 0.0}}
    values["stages"] = [STAGE | {"name": "emotion", "batches": {"max_clips": 9}, "precision": "float32"} | stage]
    return recipes.validate(values, where="test")


@pytest.fixture
def train(tones: Path, tmp_path: Path) -> Train:
    """Return `train(name, **stage)`, which trains a stage in a folder of that name and returns its folder."""
    source = tmp_path / "wav2vec2"
    torch.manual_seed(0)
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**CONFIG)).save_pretrained(source)

    def trained(name: str, **stage: Any) -> Path:
        experiment = experiment_data.prepare(recipe_of(source, **stage), tones, silent)
        folder = tmp_path / name
        folds.train_fold(experiment, experiment.folds.folds[0], 0, folder, silent, label="x")
        return folder / "0-emotion"

    return trained


def files_in(folder: Path) -> list[str]:
    """Return the names of all files but TensorBoard's, which hold the time."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if "tensorboard" not in str(path))


def assert_like(plain: Path, other: Path, tolerance: float) -> None:
    """Fail unless two stages wrote the same files, with the same weights under the same names."""
    assert files_in(plain) == files_in(other)
    first, second = load_file(plain / "weights.safetensors"), load_file(other / "weights.safetensors")
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, atol=tolerance, rtol=tolerance)


@pytest.mark.slow
def test_compiled_training_is_training(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs that PyTorch takes, without the compiler behind them; a killed stage goes on to the same weights."""
    monkeypatch.setattr(stages, "COMPILER_BACKEND", "aot_eager")
    plain, whole = train("plain"), train("compiled", compile=True)
    assert_like(plain, whole, 1e-4)
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        real(source, target)
        if Path(target).name == RESUME:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            train("killed", compile=True)
    assert_like(whole, train("killed", compile=True), 0.0)


@pytest.mark.slow
def test_compiled_by_the_compiler(train: Train) -> None:
    try:
        require_compiler(torch.device("cpu"))
    except RunError as error:
        pytest.skip(f"no C++ compiler that torch.compile can use: {error}")
    assert_like(train("plain"), train("compiled", compile=True), 1e-3)


def test_a_model_is_itself_again_after_training() -> None:
    """Names of weights stay; frozen or not, nothing runs compiled when the block has ended."""
    model = tiny_model("wav2vec2")
    names = list(model.state_dict())
    with compiled(model):
        assert all(layer._compiled_call_impl is not None for layer in model.backbone.repeated_blocks)
        assert not torch._dynamo.config.optimize_ddp  # which fails for WavLM's layers
        assert list(model.state_dict()) == names
    assert all(module._compiled_call_impl is None for module in model.modules())
    assert torch._dynamo.config.optimize_ddp
    with compiled(model, enabled=False):
        assert all(module._compiled_call_impl is None for module in model.modules())


def tiny_model(family: str) -> SpeechModel:
    """Return a model with a tiny backbone of random weights and no head."""
    torch.manual_seed(0)
    backbone = HuggingFaceBackbone.from_config(CONFIG | {"model_type": family})
    return SpeechModel(backbone, [])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_layers_give_the_same_frames(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For batches of several sizes and lengths, by graphs that are made for any."""
    monkeypatch.setattr(stages, "COMPILER_BACKEND", "aot_eager")
    model = tiny_model(family).eval()
    rng = np.random.default_rng(0)
    batches = [
        (torch.from_numpy(rng.standard_normal((len(lengths), max(lengths))).astype(np.float32)), torch.tensor(lengths))
        for lengths in ([9000, 8000], [16000, 12000, 7000])
    ]
    with torch.no_grad(), compiled(model, enabled=False):
        plain = [model.backbone(*batch).last for batch in batches]
    with torch.no_grad(), compiled(model):
        for batch, expected in zip(batches, plain, strict=True):
            torch.testing.assert_close(model.backbone(*batch).last, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_gradients_of_two_tasks_are_compared_through_compiled_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "COMPILER_BACKEND", "aot_eager")
    cosines = []
    for enabled in (False, True):
        model = tiny_model("wav2vec2").train()
        with compiled(model, enabled=enabled):
            frames = model.backbone(torch.sin(torch.arange(18_000.0)).view(2, -1), torch.tensor([9000, 8000])).last
            losses = {"emotion": frames.square().mean(), "gender": frames[..., 0].mean()}
            weights = [p for p in model.backbone.repeated_blocks[0].parameters() if p.requires_grad]
            cosines.append(gradient_cosines(losses, weights))
            sum(losses.values()).backward()  # type: ignore[union-attr]
    assert cosines[1] == pytest.approx(cosines[0], abs=1e-3)


def test_a_machine_without_a_compiler_says_so_before_training(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(*_: Any) -> None:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(stages, "COMPILER_BACKEND", backend)
    with pytest.raises(RecipeError, match=r"stages\.0\.compile: this backbone has no transformer layers to compile"):
        runs.run(recipe_of(None, compile=True), tones, tmp_path / "out", resume=False, num_jobs=1, progress=silent)
    source = tmp_path / "wav2vec2"
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**CONFIG)).save_pretrained(source)
    with pytest.raises(
        RunError, match=r"stages\.0\.compile: torch\.compile does not work on this machine for cpu \(.*C\+\+"
    ) as found:
        runs.run(recipe_of(source, compile=True), tones, tmp_path / "out", resume=False, num_jobs=1, progress=silent)
    assert "g++" in (found.value.remedy or "")
    assert not (tmp_path / "out").exists()

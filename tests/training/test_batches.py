"""A batch that memory does not hold is learned in parts: as the whole batch would be, to the accuracy of float32."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cli_fixtures import TINY
from serein import recipe as recipes
from serein.data.dataset import Batch
from serein.errors import RunError
from serein.experiment import data as experiment_data
from serein.experiment import fold as folds
from serein.models.encoders import CnnBlstmEncoder
from serein.models.hidden_states import HiddenStates
from serein.training import module as training_module
from serein.training.batches import split
from serein.training.module import StageModule

# No batch norm and no dropout: the one sees other clips in parts, the other draws otherwise.
CHANGES = {
    "encoder": {"name": "cnn-blstm", "channels": [8, 8], "kernels": [3, 3], "hidden": 4, "dropout": 0.0},
    "tasks": {
        "emotion": {
            "pooling": "mean",
            "dropout": 0.0,
            "class_weights": "balanced",
            "contrastive": {"weight": 0.5, "temperature": 0.5},
        }
    },
}
STAGE = {"epochs": 2, "optimizer": {"name": "sgd", "learning_rate": 0.1}, "checkpoint": "last"}
Train = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture
def train(tones: Path, tmp_path: Path) -> Train:
    """Return `train(name, **stage)`: the weights after a stage of two epochs in a folder of that name."""

    def weights(name: str, **stage: Any) -> dict[str, torch.Tensor]:
        folder = tmp_path / name
        folder.mkdir()
        stage = TINY["stages"][0] | STAGE | stage  # type: ignore[index]
        recipe = recipes.validate(TINY | CHANGES | {"stages": [stage]}, where="test")
        experiment = experiment_data.prepare(recipe, tones, lambda *_: None)
        folds.train_fold(experiment, experiment.folds.folds[0], 0, folder, lambda *_: None, label="x")
        return load_file(folder / "0-emotion/weights.safetensors")

    return weights


def assert_close(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> None:
    """Fail unless two models have the same weights to the accuracy of float32."""
    assert some.keys() == others.keys()
    for name, weight in some.items():
        torch.testing.assert_close(others[name], weight, atol=1e-5, rtol=1e-5)


def scarce(monkeypatch: pytest.MonkeyPatch, most_clips: int) -> list[int]:
    """Let no more clips than these be encoded at once; return a list that gets the number of each try."""
    tried: list[int] = []
    real = training_module.encode_batch

    def encode(model: Any, batch: Batch, *arguments: Any, **options: Any) -> Any:
        if model.training:
            tried.append(len(batch.num_samples))
            if len(batch.num_samples) > most_clips:
                raise torch.OutOfMemoryError("no memory")
        return real(model, batch, *arguments, **options)

    monkeypatch.setattr(training_module, "encode_batch", encode)
    return tried


@pytest.mark.parametrize("most_clips", [2, 1])
def test_parts_learn_what_the_whole_batch_learns(
    train: Train, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, most_clips: int
) -> None:
    whole = train("whole")
    tried = scarce(monkeypatch, most_clips)
    with caplog.at_level("INFO", "serein"):
        assert_close(whole, train("parts"))
    assert [size for size in tried if size > most_clips] == ([4] if most_clips == 2 else [4, 2])
    told = [record.getMessage() for record in caplog.records if "parts" in record.getMessage()]
    assert len(told) == 2 // most_clips
    assert "cannot hold a batch of 4 clips: from now on, the stage 'emotion' splits each batch into 2 parts" in told[0]


class Marker:
    """Something that lives as long as what a forward pass has kept."""


def test_memory_that_ends_on_the_way_back(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that share the step keep their gradients, and what the failed way back has kept is let go."""
    whole = train("whole", batches={"max_clips": 4, "accumulate": 2})
    kept: list[weakref.ref[Marker]] = []

    class Scarce(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, frames: torch.Tensor) -> torch.Tensor:
            ctx.marker, ctx.num_clips = Marker(), len(frames)
            assert len(frames) > 2 or kept[1]() is None  # the second has failed by now
            kept.append(weakref.ref(ctx.marker))
            return frames.view_as(frames)

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            if ctx.num_clips > 2 and len(kept) > 1:  # the first batch of the step has been learned
                raise torch.OutOfMemoryError("no memory")
            return gradients[0]

    real = CnnBlstmEncoder.forward

    def forward(self: CnnBlstmEncoder, hidden: HiddenStates) -> HiddenStates:
        encoded = real(self, hidden)
        frames = encoded.layers[0]
        if self.training and torch.is_grad_enabled():
            frames = Scarce.apply(frames)
        return HiddenStates((frames,), encoded.is_frame)

    monkeypatch.setattr(CnnBlstmEncoder, "forward", forward)
    assert_close(whole, train("parts", batches={"max_clips": 4, "accumulate": 2}))
    assert len(kept) > 2


def test_parts_draw_the_same_when_they_run_again(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout draws from torch's generator, SpecAugment of Transformers from NumPy's."""
    drawn: list[tuple[float, float]] = []
    scarce(monkeypatch, 2)
    real = training_module.encode_batch

    def encode(model: Any, batch: Batch, *arguments: Any, **options: Any) -> Any:
        encoded = real(model, batch, *arguments, **options)  # raises if there is no memory
        if model.training and len(batch.num_samples) > 1:
            drawn.append((float(torch.rand([])), np.random.random()))  # noqa: NPY002
        return encoded

    monkeypatch.setattr(training_module, "encode_batch", encode)
    train("parts", epochs=1, batches={"max_clips": 4})
    assert len(drawn) == 12
    assert [drawn[start : start + 2] for start in range(0, 12, 4)] == [
        drawn[start : start + 2] for start in range(2, 12, 4)
    ]
    assert len(set(drawn)) == 6


def test_gradients_of_tasks_that_do_not_fit_are_not_compared(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train("whole")

    def scarce(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(training_module, "gradient_cosines", scarce)
    assert_close(whole, train("again"))


def test_a_clip_that_does_not_fit_is_an_error(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    scarce(monkeypatch, 0)
    with pytest.raises(RunError, match=r"clips\.crop_s: the memory of cpu cannot hold a clip of 0\.\d s\. Lower it"):
        train("none")


def test_several_processes_do_not_halve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would go back another number of times, and wait for gradients that never come."""
    batch = SimpleNamespace(num_samples=torch.tensor([1, 2]))
    module = SimpleNamespace(_batch=batch, device="cuda:1", trainer=SimpleNamespace(world_size=2))
    with pytest.raises(RunError, match=r"batches\.max_clips: the memory of cuda:1 cannot hold a batch of 2 clips"):
        StageModule.halve(module)  # type: ignore[arg-type]


def test_a_resumed_stage_stays_in_parts(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[dict[str, Any]] = []
    real = StageModule.on_save_checkpoint

    def save(self: StageModule, checkpoint: dict[str, Any]) -> None:
        real(self, checkpoint)
        states.append(checkpoint)

    scarce(monkeypatch, 2)
    monkeypatch.setattr(StageModule, "on_save_checkpoint", save)
    train("parts")
    assert [state["num_parts"] for state in states] == [2, 2]
    module = SimpleNamespace(num_parts=1)
    StageModule.on_load_checkpoint(module, {"num_parts": 2})  # type: ignore[arg-type]
    assert module.num_parts == 2


def test_parts_are_the_batch() -> None:
    of_clip = torch.arange(5)
    batch = Batch(of_clip, of_clip[:, None] * 1.0, of_clip, {"a": of_clip}, {"a": of_clip > 2}, of_clip)
    assert [part.positions.tolist() for part in split(batch, 2)] == [[0, 1, 2], [3, 4]]
    assert [part.targets["a"].tolist() for part in split(batch, 8)] == [[0], [1], [2], [3], [4]]
    assert split(batch, 1)[0].waveforms.shape == (5, 1)

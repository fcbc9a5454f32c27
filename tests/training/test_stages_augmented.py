"""Effects within a stage: loaders' processes make them, dev never hears them, and a run is the same by any number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cli_fixtures import write_recipe
from serein import recipe as recipes
from serein.data.augmentation import WaveformAugmenter
from serein.experiment import data as experiment_data
from serein.experiment import fold as folds
from serein.recipe import Stage, WaveformAugmentation
from serein.training import stages
from serein.training.stages import EpochLoaders, TrainingData

MIXED = {"name": "mixed", "mixed": 4}


@pytest.fixture(autouse=True)
def libraries() -> None:
    pytest.importorskip("pyroomacoustics", reason="pip install 'serein[augment]'")
    pytest.importorskip("python_stretch", reason="pip install 'serein[augment]'")


def silent(label: str, done: int, total: int, detail: str) -> None:
    """A `Report` that tells nobody."""


def data_of(tones: Path, folder: Path) -> TrainingData:
    recipe = recipes.load(write_recipe(folder / "r.yaml"))
    recordings = experiment_data.prepare(recipe, tones, silent).recordings
    return TrainingData(recordings, {}, range(8), range(8, 12), recipe.clips)


def train(folder: Path, tones: Path, options: dict[str, Any]) -> dict[str, Any]:
    folder.mkdir()
    recipe = recipes.load(write_recipe(folder / "r.yaml", stage={"epochs": 2, "waveform_augmentation": options}))
    experiment = experiment_data.prepare(recipe, tones, silent)
    folds.run_fold(experiment, experiment.folds.folds[0], 0, folder, silent)
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.name == "model.safetensors"}


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = []
    for workers in (0, 2):
        monkeypatch.setattr(stages, "most_workers", lambda workers=workers: workers)
        models.append(train(tmp_path / str(workers), tones, MIXED))
    assert models[0]
    assert models[0] == models[1]
    assert models[0] != train(tmp_path / "plain", tones, {})


@pytest.mark.parametrize(
    ("name", "has_processes"), [("none", False), ("noise", False), ("pitch", True), ("mixed", True)]
)
def test_what_takes_time_gets_processes(name: str, has_processes: bool, tones: Path, tmp_path: Path) -> None:
    data = data_of(tones, tmp_path)
    assert data.num_workers == 0  # in memory
    loaders = EpochLoaders(data, Stage(waveform_augmentation=WaveformAugmentation(name=name)), 0)
    assert (loaders.train_dataloader().num_workers > 0) == has_processes


def test_dev_is_heard_as_it_is(tones: Path, tmp_path: Path) -> None:
    data = data_of(tones, tmp_path)
    plain, changed = (
        EpochLoaders(data, Stage(waveform_augmentation=WaveformAugmentation(name=name)), 0)
        for name in ("none", "volume")
    )
    for one, other in zip(plain.val_dataloader(), changed.val_dataloader(), strict=True):
        assert torch.equal(one.waveforms, other.waveforms)
    for one, other in zip(plain.train_dataloader(), changed.train_dataloader(), strict=True):
        assert torch.equal(one.positions, other.positions)
        assert torch.equal(one.num_samples, other.num_samples)
        assert not torch.equal(one.waveforms, other.waveforms)
        clip, seed = one.waveforms[0, : one.num_samples[0]].numpy(), int(one.seeds[0])
        expected = torch.from_numpy(WaveformAugmenter(WaveformAugmentation(name="volume"))(clip, seed))
        assert torch.equal(other.waveforms[0, : one.num_samples[0]], expected)

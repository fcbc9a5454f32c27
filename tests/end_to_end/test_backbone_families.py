"""Families of pretrained models under a recipe: trained, saved, loaded and asked as any other backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cli_fixtures import Call
from models.test_backbones import CASES, batch, clips, plain_model, save
from serein import checkpoint

FAMILIES = ["whisper", "wav2vec2-bert", "wav2vec2-conformer"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return {family: save(plain_model(*CASES[family]), folder / family) for family in FAMILIES}


def recipe_for(path: Path, source: Path, **changes: Any) -> Path:
    stage = {"epochs": 1, "precision": "float32", "batches": {"max_clips": 4}, "trainable": ["heads"]}
    values = {
        "name": "family",
        "protocol": {"name": "speakers-out", "num_folds": 2, "dev": "speakers", "only": ["1"]},
        "backbone": {"name": "huggingface", "source": str(source)},
        "clips": {"window_s": 1.0},
        "tasks": {"emotion": {"layer": "weighted", "pooling": "mean"}},
        "stages": [stage | changes.pop("stage", {})],
        **changes,
    }
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("trainable", [["heads"], ["layers 2-2", "heads"]])
def test_a_family_is_trained_saved_and_loaded(
    family: str, trainable: list[str], sources: Mapping[str, Path], tones: Path, tmp_path: Path, serein: Call
) -> None:
    recipe = recipe_for(tmp_path / "r.yaml", sources[family], stage={"trainable": trainable})
    run = tmp_path / "run"
    assert serein("run", recipe, "--data", tones, "--out", run, "--jobs", 1).status == 0
    folder = run / "fold-1" / "seed-0" / "model"
    loaded = checkpoint.load(folder)
    frozen = plain_model(*CASES[family]).state_dict()
    found = loaded.model.backbone.model.state_dict()
    moved = {name for name in frozen.keys() & found.keys() if not torch.equal(frozen[name], found[name])}
    assert all("layers.1." in name for name in moved)
    assert bool(moved) is (len(trainable) > 1)
    is_outside = (folder / "model.safetensors").stat().st_size < 10_000
    assert is_outside is not bool(moved)
    waveforms, num_samples = batch(clips((16_000, 7_000)))
    with torch.inference_mode():
        together = loaded.model(waveforms, num_samples)["emotion"].output
        alone = loaded.model(waveforms[1:, :7_000], num_samples[1:])["emotion"].output
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ({"window_s": 30.0}, "windows of 30 s, and the backbone takes at most 1.2 s. Set it to 1.2."),
        ({"window_s": 1.0, "min_s": 1.5}, "a clip of 1.5 s, and the backbone takes at most 1.2 s. Set it to 1.2."),
    ],
)
def test_clips_longer_than_whisper_takes_are_refused_before_training(
    clips: dict[str, float], message: str, sources: Mapping[str, Path], tones: Path, tmp_path: Path, serein: Call
) -> None:
    recipe = recipe_for(tmp_path / "r.yaml", sources["whisper"], clips=clips)
    outcome = serein("run", recipe, "--data", tones, "--out", tmp_path / "run")
    assert outcome.status != 0
    assert message in outcome.complaint

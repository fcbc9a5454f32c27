"""Families of pretrained models under a recipe: trained, saved, loaded and asked as any other backbone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from cli_fixtures import Call
from models.test_backbones import CASES, batch, clips, plain_model, save
from serein import checkpoint
from serein import recipe as recipes
from serein.errors import ModelError
from serein.experiment import run as runs
from serein.models.backbones import HuggingFaceBackbone
from serein.models.model import assemble
from serein.recipe import Category, Optimizer
from serein.training.optimizers import build_optimizer
from training.test_checkpointing import RESUME, killed_after

FAMILIES = ["whisper", "wav2vec2-bert", "wav2vec2-conformer"]
LORA = {"name": "lora", "rank": 2, "alpha": 4, "targets": ["query", "value", "feed_forward"]}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return {family: save(plain_model(*CASES[family]), folder / family) for family in FAMILIES}


def shrunken(source: Path) -> dict[str, Any]:
    """Return the options of a backbone that keeps three quarters of its parameters."""
    size = sum(each.numel() for each in HuggingFaceBackbone.from_source(str(source)).parameters())
    return {"name": "huggingface", "source": str(source), "max_parameters": 3 * size // 4}


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


def test_gradual_unfreezing_trains_the_head_then_one_layer_more_in_each_stage(tones: Path, tmp_path: Path) -> None:
    """The recipe itself, on a Whisper of four small layers."""
    family, options = CASES["whisper"]
    whisper = plain_model(family, {**options, "encoder_layers": 4})
    original = {f"backbone.model.{name}": weight for name, weight in whisper.state_dict().items()}
    source = save(whisper, tmp_path / "whisper")
    smaller = ["epochs=1", "epoch_clips=8", "precision=float32"]
    changes = [f"stages.{stage}.{change}" for stage in range(3) for change in smaller]
    recipe = recipes.load(
        Path(__file__).parents[2] / "recipes" / "pretrained" / "gradual.yaml",
        [f"backbone.source={source}", "clips.window_s=1", "protocol.num_folds=2", "protocol.only=['1']", *changes],
    )
    runs.run(recipe, tones, tmp_path / "run", num_jobs=1, progress=lambda label, done, total, detail: None)
    stages = sorted((tmp_path / "run" / "fold-1" / "seed-0").glob("[0-9]-*/weights.safetensors"))
    moved, before = [], original
    for after in map(load_file, stages):
        before = before | {name: weight for name, weight in after.items() if name not in before}
        names = [name for name, weight in after.items() if not torch.equal(before[name], weight)]
        assert moved == [] or any(".heads." in name for name in names)
        layers = [name.split("backbone.model.layers.")[1] for name in names if "backbone.model.layers." in name]
        moved.append({int(name.split(".")[0]) for name in layers})
        before = before | after
    assert [path.parent.name for path in stages] == ["0-head", "1-fourth-layer", "2-third-layer"]
    assert moved == [set(), {3}, {2, 3}]


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ({"window_s": 30.0}, "windows of 30 s, but the backbone accepts at most 1.2 s. Set it to 1.2."),
        ({"window_s": 1.0, "min_s": 1.5}, "a clip of 1.5 s, but the backbone accepts at most 1.2 s. Set it to 1.2."),
    ],
)
def test_clips_longer_than_whisper_takes_are_refused_before_training(
    clips: dict[str, float], message: str, sources: Mapping[str, Path], tones: Path, tmp_path: Path, serein: Call
) -> None:
    recipe = recipe_for(tmp_path / "r.yaml", sources["whisper"], clips=clips)
    outcome = serein("run", recipe, "--data", tones, "--out", tmp_path / "run")
    assert outcome.status != 0
    assert message in outcome.complaint


@pytest.mark.parametrize("family", ["whisper", "wav2vec2-bert"])
@pytest.mark.parametrize("what", ["layers", "adapter", "max_parameters"])
def test_a_killed_run_goes_on_to_the_same_model(
    family: str,
    what: str,
    sources: Mapping[str, Path],
    tones: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = {"epochs": 2, "trainable": ["adapter" if what == "adapter" else "layers 2-2", "heads"]}
    changes: dict[str, Any] = {}
    if what == "adapter":
        pytest.importorskip("peft")
        changes = {"adapter": LORA}
    elif what == "max_parameters":
        changes = {"backbone": shrunken(sources[family])}
    recipe = recipes.load(recipe_for(tmp_path / "r.yaml", sources[family], stage=stage, **changes))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    runs.run(recipe, tones, whole, num_jobs=1)
    killed_after(monkeypatch, RESUME, 1, lambda: runs.run(recipe, tones, killed, num_jobs=1) and None)
    runs.run(recipe, tones, killed, resume=True, num_jobs=1)
    one, other = (load_file(out / "fold-1" / "seed-0" / "model" / "model.safetensors") for out in (whole, killed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


AUGMENTATION = {"time_masks": 2, "max_time_mask": 0.5, "frequency_masks": 1, "mixup": 0.3, "mixup_probability": 1.0}


def test_whispers_bands_are_masked_and_its_clips_mixed_in_training(
    sources: Mapping[str, Path], tones: Path, tmp_path: Path, serein: Call
) -> None:
    scores = []
    for name, augmentation in (
        ("plain", {}),
        ("masked", {"time_masks": 2, "max_time_mask": 0.5}),
        ("all", AUGMENTATION),
    ):
        stage = {"trainable": ["layers 2-2", "heads"], "spectrogram_augmentation": augmentation}
        recipe = recipe_for(tmp_path / "r.yaml", sources["whisper"], stage=stage)
        outcome = serein("run", recipe, "--data", tones, "--out", tmp_path / name, "--jobs", 1)
        assert outcome.status == 0, outcome.err
        (metrics,) = (tmp_path / name).rglob("metrics.jsonl")
        scores.append(json.loads(metrics.read_text())["train_loss"])
    assert len(set(scores)) == 3


def test_a_backbone_without_bands_has_none_masked(
    sources: Mapping[str, Path], tones: Path, tmp_path: Path, serein: Call
) -> None:
    recipe = recipe_for(
        tmp_path / "r.yaml", sources["wav2vec2-bert"], stage={"spectrogram_augmentation": {"time_masks": 1}}
    )
    outcome = serein("run", recipe, "--data", tones, "--out", tmp_path / "run")
    assert "stages.0.spectrogram_augmentation: masks need a backbone with log-mel bands" in outcome.complaint


# -- adapters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_is_trained_saved_alone_and_merged(
    family: str, sources: Mapping[str, Path], tones: Path, tmp_path: Path, serein: Call
) -> None:
    pytest.importorskip("peft")
    first = {"trainable": ["adapter", "heads"], "optimizer": {"learning_rate": 0.03}, "ema_decay": 0.5, "epochs": 2}
    then = {"name": "then", "epochs": 1, "precision": "float32"}
    recipe = recipe_for(tmp_path / "r.yaml", sources[family], adapter=LORA, stage=first)
    values = yaml.safe_load(recipe.read_text())
    values["stages"].append(then | {"trainable": ["heads"]})
    recipe.write_text(yaml.safe_dump(values))
    run = tmp_path / "run"
    assert serein("run", recipe, "--data", tones, "--out", run, "--jobs", 1).status == 0
    fold = run / "fold-1" / "seed-0"
    for stage in ("0-train", "1-then"):  # of the backbone its hash alone, and the adapter
        names = load_file(fold / stage / "weights.safetensors").keys()
        assert {name for name in names if name.startswith("backbone.")} == {n for n in names if ".lora_" in n} != set()

    folder = fold / "model"
    names = load_file(folder / "model.safetensors").keys()
    assert all(".lora_" in name for name in names if name.startswith("backbone."))
    description = json.loads((folder / "model.json").read_text())
    assert description["backbone_weights"]["source"] == str(sources[family])
    assert description["backbone"]["adapter"]["rank"] == 2
    loaded = checkpoint.load(folder)
    moved = [each for name, each in loaded.model.state_dict().items() if ".lora_B." in name]
    assert moved
    assert all(each.abs().max() > 0 for each in moved)

    merged = tmp_path / "merged"
    assert serein("merge", "--model", folder, "--out", merged).status == 0
    assert json.loads((merged / "model.json").read_text())["backbone_weights"] == "inside"
    assert "no adapter" in serein("merge", "--model", merged, "--out", tmp_path / "again").complaint
    whole, waveforms = checkpoint.load(merged), batch(clips((16_000, 7_000)))
    with torch.inference_mode():
        one, other = (each.model(*waveforms)["emotion"].output for each in (loaded, whole))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_another_backbone_under_an_adapter_is_refused(
    sources: Mapping[str, Path], tones: Path, tmp_path: Path, serein: Call
) -> None:
    pytest.importorskip("peft")
    source = shutil.copytree(sources["whisper"], tmp_path / "source")
    recipe = recipe_for(tmp_path / "r.yaml", source, adapter=LORA, stage={"trainable": ["adapter", "heads"]})
    assert serein("run", recipe, "--data", tones, "--out", tmp_path / "run", "--jobs", 1).status == 0
    save(plain_model("whisper", CASES["whisper"][1], spread=0.03), source)
    with pytest.raises(ModelError, match="not those that the model was trained on"):
        checkpoint.load(tmp_path / "run" / "fold-1" / "seed-0" / "model")


def test_an_adapter_needs_a_pretrained_backbone(tones: Path, tmp_path: Path, serein: Call) -> None:
    recipe = recipe_for(tmp_path / "r.yaml", tmp_path, backbone={"name": "logmel"}, adapter=LORA)
    outcome = serein("run", recipe, "--data", tones, "--out", tmp_path / "run")
    assert "adapter: this backbone takes no adapter" in outcome.complaint


def test_rates_decay_from_layer_to_layer(sources: Mapping[str, Path]) -> None:
    backbone = HuggingFaceBackbone.from_source(str(sources["whisper"]))
    model = assemble(backbone, None, {"emotion": (Category(pooling="mean"), 3)})
    options = Optimizer(learning_rate=0.1, backbone_learning_rate=0.01, layer_decay=0.5)
    optimizer = build_optimizer(model, options)
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"cnn": 0.00125, "projection": 0.00125, "layer 1": 0.0025, "layer 2": 0.005, "heads": 0.1}
    for name, parameters in model.parameter_groups().items():
        for parameter in parameters:
            assert rate_of[id(parameter)] == pytest.approx(expected[name])
    assert optimizer.param_groups[-1]["lr"] == 0.1  # which metrics show


def test_a_factorised_backbone_is_made_saved_and_named_as_a_source(
    sources: Mapping[str, Path], tones: Path, tmp_path: Path, serein: Call
) -> None:
    backbone = shrunken(sources["whisper"])
    recipe = recipe_for(tmp_path / "r.yaml", sources["whisper"], backbone=backbone)
    run = tmp_path / "run"
    outcome = serein("run", recipe, "--data", tones, "--out", run, "--jobs", 1)
    assert outcome.status == 0, outcome.err
    folder = run / "fold-1" / "seed-0" / "model"
    loaded = checkpoint.load(folder).model.backbone
    again = HuggingFaceBackbone.from_source(str(folder))
    assert again.ranks == loaded.ranks
    lower = HuggingFaceBackbone.from_source(str(folder), layers=1)  # without the factors of the layers left out
    assert lower.ranks == {name: rank for name, rank in loaded.ranks.items() if not name.startswith("layers.1.")}
    assert again.ranks
    assert sum(each.numel() for each in again.parameters()) <= backbone["max_parameters"]
    waveforms, num_samples = batch(clips((16_000, 7_000)))
    with torch.inference_mode():
        ours, theirs = (each(waveforms, num_samples) for each in (again, loaded))
    torch.testing.assert_close(ours.last[ours.is_frame], theirs.last[theirs.is_frame])
    other = recipe_for(tmp_path / "other.yaml", folder, backbone=backbone | {"source": str(folder)})
    outcome = serein("run", other, "--data", tones, "--out", tmp_path / "other")
    assert outcome.status != 0
    assert "are products of two already" in outcome.complaint
    other = recipe_for(tmp_path / "other.yaml", sources["whisper"], backbone=backbone | {"max_parameters": 10})
    outcome = serein("run", other, "--data", tones, "--out", tmp_path / "other")
    assert outcome.status != 0
    assert "backbone.max_parameters" in outcome.complaint
    assert "10: of the backbone" in outcome.complaint

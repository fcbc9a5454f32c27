"""Epochs on a frozen wav2vec2-base: running the backbone in every epoch compared with computing features once.

Real configuration, random weights. Clips have RAVDESS's lengths and contain noise at the level of speech; four fifths
are train, one fifth is dev. An epoch consists of its steps and its dev score; "with files" covers the whole training,
including its start and the writing of weights.

    python benchmarks/cached_features.py [--clips 240] [--epochs 10] [--json]      # --thin --clips 10 only tries it
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from backbones import WAV2VEC2_BASE, configuration, save_backbone
from finetuning import CLASSES, RATE_HZ, NoiseRecordings, clips_of
from serein import recipe as recipes
from serein.device import own_device
from serein.evaluation.predictions import read_metrics
from serein.models.model import assemble, new_backbone
from serein.recipe import Clips
from serein.tasks.classes import ClassLabels, ClassTask
from serein.training.checkpointing import METRICS_FILE
from serein.training.stages import TrainingData, chosen_precision, train_stage, with_features

MODELS: dict[str, dict[str, Any]] = {
    "mean pooling and a linear head": {"tasks": {"emotion": {"pooling": "mean"}}},
    "stanley2023's cnn-blstm on layer 9": {"encoder": {"name": "cnn-blstm", "layer": 9}},
}


def recipe_of(base: Path, model: dict[str, Any], store: str, folder: Path, epochs: int) -> recipes.Recipe:
    """Return a recipe with a frozen backbone."""
    stage = {"epochs": epochs, "trainable": ["encoder", "heads"], "checkpoint": "last"}
    values = {
        "name": "benchmark",
        "backbone": {"name": "huggingface", "source": str(base)},
        "feature_cache": {"dtype": store, "folder": str(folder)},
        "stages": [stage],
        **model,
    }
    return recipes.validate(values, where="benchmark")


def train(recipe: recipes.Recipe, recordings: NoiseRecordings, folder: Path) -> dict[str, float]:
    """Return the seconds of building features, of the median epoch, and of the whole training divided by its epochs."""
    task = ClassTask(recipe.tasks.emotion, ClassLabels(CLASSES, {}))
    model = assemble(new_backbone(recipe.backbone), recipe.encoder, {"emotion": (task.options, 4)})
    targets = {"emotion": task.targets(recordings.utterances)}
    is_dev = [position % 5 == 4 for position in range(len(recordings))]
    positions = [[p for p in range(len(recordings)) if is_dev[p] == wanted] for wanted in (False, True)]
    data = TrainingData(recordings, targets, positions[0], positions[1], Clips(), features=recipe.feature_cache)
    (stage,) = recipe.stages
    started = time.perf_counter()
    with_features(model, stage, data, silent, "benchmark")
    built = time.perf_counter()
    train_stage(model, {"emotion": task}, stage, data, folder, seed=0, report=silent, label="benchmark")
    seconds = sorted(line["seconds"] for line in read_metrics(folder / METRICS_FILE).values())
    return {
        "build": built - started,
        "epoch": seconds[len(seconds) // 2],
        "with files": (time.perf_counter() - built) / stage.epochs,
    }


def silent(label: str, done: int, total: int, detail: str) -> None:
    """A `Report` that prints nothing."""


def measure(num_clips: int, epochs: int, *, is_thin: bool) -> dict[str, Any]:
    """Train each model in both ways."""
    waveforms = clips_of(num_clips)
    recordings = NoiseRecordings(waveforms)
    with tempfile.TemporaryDirectory() as scratch:
        base, cache = Path(scratch) / "wav2vec2-base", Path(scratch) / "features"
        save_backbone(base, configuration(WAV2VEC2_BASE, is_thin=is_thin))
        warm = NoiseRecordings(waveforms[:10])
        train(recipe_of(base, next(iter(MODELS.values())), "none", cache, 1), warm, Path(scratch) / "warm")
        seconds = {}
        for number, (name, model) in enumerate(MODELS.items()):
            seconds[name] = {
                "frozen": train(recipe_of(base, model, "none", cache, 2), recordings, Path(scratch) / f"f{number}"),
                "cached": train(
                    recipe_of(base, model, "bfloat16", cache, epochs), recordings, Path(scratch) / f"c{number}"
                ),
            }
        stored = sum(path.stat().st_size for path in cache.rglob("*.safetensors"))
    return {
        "clips": num_clips,
        "audio_s": sum(map(len, waveforms)) / RATE_HZ,
        "precision": chosen_precision("auto", own_device()),
        "stored_bytes": stored,
        "seconds": seconds,
    }


def show(result: dict[str, Any]) -> None:
    """Print seconds per epoch and their ratios."""
    print(
        f"wav2vec2-base, frozen; {result['clips']} clips, {result['audio_s']:.0f} s of audio, "
        f"computed in {result['precision']}, {result['stored_bytes'] / 1e6:.0f} MB of features of two layers"
    )
    for name, sides in result["seconds"].items():
        frozen, cached = sides["frozen"], sides["cached"]
        print(f"  {name}; features computed in {cached['build']:.1f} s")
        for what in ("epoch", "with files"):
            print(
                f"    {what:12} backbone every epoch {frozen[what]:8.2f} s   from the cache {cached[what]:8.3f} s   "
                f"{frozen[what] / cached[what]:7.1f} times as fast"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=240)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--thin", action="store_true", help="a thin backbone, to try the benchmark")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    result = measure(options.clips, options.epochs, is_thin=options.thin)
    if options.json:
        json.dump(result, sys.stdout)
    else:
        show(result)


if __name__ == "__main__":
    main()

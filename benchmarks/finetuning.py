"""Fine-tuning and inference of wav2vec2-base, serein beside the Transformers `Trainer` and `pipeline`, in one run.

Real configuration, random weights; clips of RAVDESS's own lengths, filled with noise of speech-like level. Both sides
train the same clips from memory in batches of 8 with the CNN frozen and the same precision; both answer the same clips.

    python benchmarks/finetuning.py [--clips 48] [--json]      # --thin --clips 2 only tries it
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones import WAV2VEC2_BASE, configuration, save_backbone
from serein import recipe as recipes
from serein.checkpoint import Checkpoint, ModelOptions
from serein.data.dataset import Recordings
from serein.data.utterance import Utterance
from serein.inference.batching import model_outputs
from serein.models.model import assemble, new_backbone
from serein.recipe import Clips, Inference
from serein.tasks.classes import ClassLabels, ClassTask
from serein.training.stages import TrainingData, chosen_precision, history, train_stage

RATE_HZ = 16_000
CLASSES = ("a", "b", "c", "d")
# Deciles of the 1440 durations of RAVDESS, in seconds
RAVDESS_DECILES_S = (2.94, 3.30, 3.44, 3.50, 3.57, 3.67, 3.74, 3.84, 3.97, 4.14, 5.27)


class NoiseRecordings(Recordings):
    """Clips that were never on disk."""

    def __init__(self, waveforms: list[np.ndarray]) -> None:
        self.utterances = [
            Utterance(id=str(i), audio=f"{i}.wav", emotion=CLASSES[i % 4], speaker=str(i % 8))
            for i in range(len(waveforms))
        ]
        self.durations_s = np.array([len(w) / RATE_HZ for w in waveforms])
        self.fits_memory, self.trim_db = True, None
        self._waveforms = dict(enumerate(waveforms))


def clips_of(count: int) -> list[np.ndarray]:
    """Draw clips with RAVDESS's durations."""
    rng = np.random.default_rng(0)
    seconds = np.interp(rng.uniform(0, 10, count), np.arange(11), RAVDESS_DECILES_S)
    return [(0.05 * rng.standard_normal(round(s * RATE_HZ))).astype(np.float32) for s in seconds]


def time_of(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def train_transformers(base: Path, waveforms: list[np.ndarray], precision: str, folder: Path) -> float:
    """Return seconds of the steps of one epoch of the Trainer, as its audio-classification example sets it up."""
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, Trainer, TrainingArguments

    extractor = AutoFeatureExtractor.from_pretrained(base)
    model = AutoModelForAudioClassification.from_pretrained(base, num_labels=4)
    model.freeze_feature_encoder()
    rows = [{"audio": w, "labels": i % 4} for i, w in enumerate(waveforms)]

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        inputs = extractor([row["audio"] for row in batch], sampling_rate=RATE_HZ, padding=True, return_tensors="pt")
        return {**inputs, "labels": torch.tensor([row["labels"] for row in batch])}

    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        num_train_epochs=1,
        learning_rate=1e-4,
        bf16=precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)
    return float(trainer.train().metrics["train_runtime"])


def train_serein(base: Path, waveforms: list[np.ndarray], precision: str, folder: Path) -> float:
    """Return seconds of the steps of one epoch of a stage; neither side's writing of weights is counted."""
    recipe = _recipe(base, precision)
    task, model = _task_and_model(recipe)
    recordings = NoiseRecordings(waveforms)
    data = TrainingData(
        recordings, {"emotion": task.targets(recordings.utterances)}, range(len(waveforms)), (), Clips()
    )
    stage = recipe.stages[0]
    train_stage(model, {"emotion": task}, stage, data, folder, seed=0, report=lambda *_: None, label="benchmark")
    return float(history(folder)[0]["seconds"])


def infer_transformers(base: Path, waveforms: list[np.ndarray], batch_size: int) -> float:
    from transformers import pipeline

    classify = pipeline("audio-classification", model=str(base), device="cpu", batch_size=batch_size)
    classify([{"raw": waveforms[0], "sampling_rate": RATE_HZ}])
    inputs = [{"raw": waveform, "sampling_rate": RATE_HZ} for waveform in waveforms]
    return time_of(lambda: list(classify(inputs)))


def infer_serein(base: Path, waveforms: list[np.ndarray], precision: str) -> float:
    recipe = _recipe(base, precision)
    task, model = _task_and_model(recipe)
    options = ModelOptions(tasks=recipe.tasks, inference=Inference(precision=precision, batch_s=30.0))
    checkpoint = Checkpoint(model.eval(), options, {"emotion": task})
    model_outputs(checkpoint, waveforms.__getitem__, [len(waveforms[0])])
    return time_of(lambda: model_outputs(checkpoint, waveforms.__getitem__, [len(w) for w in waveforms]))


def _recipe(base: Path, precision: str) -> recipes.Recipe:
    return recipes.validate(
        {
            "name": "benchmark",
            "backbone": {"name": "huggingface", "source": str(base)},
            "protocol": {"dev": "none"},
            "tasks": {"emotion": {"projection": 256, "pooling": "mean"}},
            "stages": [
                {
                    "epochs": 1,
                    "checkpoint": "last",
                    "precision": precision,
                    "trainable": ["projection", "layers 1-12", "heads"],
                    "batches": {"max_clips": 8},
                    "optimizer": {"learning_rate": 1e-4},
                }
            ],
        },
        where="benchmark",
    )


def _task_and_model(recipe: recipes.Recipe) -> tuple[ClassTask, Any]:
    task = ClassTask(recipe.tasks.emotion, ClassLabels(CLASSES, {}))
    return task, assemble(new_backbone(recipe.backbone), None, {"emotion": (task.options, 4)})


def where_time_goes(base: Path, waveforms: list[np.ndarray], precision: str) -> list[tuple[str, float]]:
    """Return operators and their share of one training batch's time."""
    from torch.profiler import ProfilerActivity, profile

    recipe = _recipe(base, precision)
    _, model = _task_and_model(recipe)
    model.train_only(recipe.stages[0].trainable)
    model.train()
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(w) for w in waveforms[:8]], batch_first=True)
    lengths = torch.tensor([len(w) for w in waveforms[:8]])
    with profile(activities=[ProfilerActivity.CPU]) as profiler, torch.autocast("cpu", enabled=precision == "bfloat16"):
        model(padded, lengths)["emotion"].output.sum().backward()
    rows = sorted(profiler.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    return [(row.key, 100 * row.self_cpu_time_total / total) for row in rows[:8]]


def measure(count: int, *, is_thin: bool) -> dict[str, Any]:
    """Run all sides, alternating, and return seconds of audio per second."""
    waveforms = clips_of(count)
    audio_s = sum(len(w) for w in waveforms) / RATE_HZ
    precision = chosen_precision("auto")
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "wav2vec2-base"
        save_backbone(base, configuration(WAV2VEC2_BASE, is_thin=is_thin))
        warm = waveforms[:8]
        train_serein(base, warm, precision, Path(scratch) / "warm")
        train_transformers(base, warm, precision, Path(scratch) / "warm-t")
        seconds = {
            "training": {
                "serein": train_serein(base, waveforms, precision, Path(scratch) / "s"),
                "Trainer": train_transformers(base, waveforms, precision, Path(scratch) / "t"),
            },
            "inference float32": {
                "serein": infer_serein(base, waveforms, "float32"),
                "pipeline, batch 1": infer_transformers(base, waveforms, 1),
                "pipeline, batch 8": infer_transformers(base, waveforms, 8),
            },
        }
        if precision == "bfloat16":
            seconds["inference bfloat16"] = {"serein": infer_serein(base, waveforms, "bfloat16")}
        profile = where_time_goes(base, waveforms, precision)
    speeds = {kind: {who: audio_s / s for who, s in sides.items()} for kind, sides in seconds.items()}
    return {"clips": count, "audio_s": audio_s, "precision": precision, "speeds": speeds, "profile": profile}


def show(result: dict[str, Any]) -> None:
    print(
        f"wav2vec2-base, {result['clips']} clips, {result['audio_s']:.0f} s of audio, training in {result['precision']}"
    )
    for kind, sides in result["speeds"].items():
        own = sides["serein"]
        for who, speed in sides.items():
            ratio = "" if who == "serein" else f"   serein is {own / speed:.2f} times as fast"
            print(f"  {kind:20} {who:20} {speed:6.1f} s of audio per s{ratio}")
    print(
        "  where a training batch's time goes: "
        + ", ".join(f"{name} {share:.0f} %" for name, share in result["profile"])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--thin", action="store_true", help="a thin backbone, to try the benchmark")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    result = measure(options.clips, is_thin=options.thin)
    if options.json:
        json.dump(result, sys.stdout)
    else:
        show(result)


if __name__ == "__main__":
    main()

"""Fine-tuning and inference of wav2vec2-base: serein compared with the Transformers `Trainer` and `pipeline`.

Real configuration, random weights. Clips have RAVDESS's lengths and contain noise at the level of speech, or with
`--data`, come from a manifest. Both sides train on the same clips from memory in batches of 8, with the CNN frozen and
the same precision, and predict the same clips with the same weights on the current device. Each side's time is the
median of `--repeats` rounds in which all sides take turns: with one thread (`OMP_NUM_THREADS=1`), CPU seconds, which
other work on the machine changes little; with more threads, or on a GPU, wall-clock seconds. The classifier's bias
makes the mean of the pipeline's logits zero, so labels differ between clips. serein's sides keep freed memory, as its
commands do; the others let glibc return it, as Python does.

    python benchmarks/finetuning.py [--clips 48] [--repeats 3] [--data MANIFEST] [--json]   # --thin --clips 2: a trial
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from backbones import WAV2VEC2_BASE, configuration, save_backbone
from serein import audio, read_manifest
from serein import recipe as recipes
from serein.allocator import MMAP_THRESHOLD, TOP_PAD, TRIM_THRESHOLD, keep_freed_memory
from serein.checkpoint import Checkpoint, ModelOptions
from serein.data.dataset import Recordings
from serein.data.manifest import Utterance
from serein.device import own_device
from serein.evaluation.predictions import read_metrics
from serein.inference.batching import model_outputs
from serein.models.model import assemble, new_backbone
from serein.recipe import Clips, Inference
from serein.tasks.classes import ClassLabels, ClassTask
from serein.training.checkpointing import METRICS_FILE
from serein.training.stages import TrainingData, chosen_precision, train_stage

RATE_HZ = 16_000
CLASSES = ("a", "b", "c", "d")
# Deciles of the 1440 durations of RAVDESS, in seconds
RAVDESS_DECILES_S = (2.94, 3.30, 3.44, 3.50, 3.57, 3.67, 3.74, 3.84, 3.97, 4.14, 5.27)


class NoiseRecordings(Recordings):
    """Clips that exist only in memory."""

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


def clock() -> float:
    """Return CPU seconds with one thread, otherwise wall-clock seconds; on a GPU, after its queued work is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def give_back_freed_memory() -> None:
    """Set glibc to its own behaviour after it has freed large arrays (`man mallopt`, M_MMAP_THRESHOLD)."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        for parameter, size in ((MMAP_THRESHOLD, 32 << 20), (TRIM_THRESHOLD, 64 << 20), (TOP_PAD, 128 << 10)):
            library.mallopt(parameter, size)
        library.malloc_trim(0)


def train_transformers(base: Path, waveforms: list[np.ndarray], precision: str, folder: Path) -> float:
    """Return the seconds of one epoch's steps with the Trainer, set up as in its audio-classification example."""
    give_back_freed_memory()
    from transformers import (
        AutoFeatureExtractor,
        AutoModelForAudioClassification,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

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

    class Epoch(TrainerCallback):
        started = took = 0.0

        def on_epoch_begin(self, *state: Any, **also: Any) -> None:
            self.started = clock()

        def on_epoch_end(self, *state: Any, **also: Any) -> None:
            self.took = clock() - self.started

    epoch = Epoch()
    Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[epoch]).train()
    return epoch.took


def train_serein(base: Path, waveforms: list[np.ndarray], precision: str, folder: Path) -> float:
    """Return the seconds of one epoch's steps of a stage; writing weights is not counted on either side."""
    keep_freed_memory()
    recipe = _recipe(base, precision)
    task, model = _task_and_model(recipe)
    recordings = NoiseRecordings(waveforms)
    data = TrainingData(
        recordings, {"emotion": task.targets(recordings.utterances)}, range(len(waveforms)), (), Clips()
    )
    stage = recipe.stages[0]
    with patch("serein.training.checkpointing.time", SimpleNamespace(monotonic=clock)):  # times epochs
        train_stage(model, {"emotion": task}, stage, data, folder, seed=0, report=lambda *_: None, label="benchmark")
    return float(read_metrics(folder / METRICS_FILE)[0]["seconds"])


def matrix_peak(device: torch.device, precision: str, size: int) -> float:
    """Return the operations per second of a matrix product, measured by the same clock as everything else."""
    took = []
    one, other = torch.randn(2, size, size, device=device).to(getattr(torch, precision))
    for _ in range(8):
        started = clock()
        torch.mm(one, other)
        took.append(clock() - started)
    return 2.0 * size**3 / max(min(took), 1e-9)  # the clock's resolution is limited


class Sides:
    """The pipeline and serein with the same weights.

    Attributes:
        waveforms: The clips that both predict.
    """

    def __init__(self, base: Path, waveforms: list[np.ndarray]) -> None:
        from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

        self.waveforms = waveforms
        self.device = own_device()
        model = AutoModelForAudioClassification.from_pretrained(base, num_labels=len(CLASSES)).eval()
        self.pipeline: Any = pipeline(
            "audio-classification",
            model=model,
            feature_extractor=AutoFeatureExtractor.from_pretrained(base),
            device=self.device,
        )
        self.task, self.network = _task_and_model(_recipe(base, "float32"))
        head = self.network.ensemble[0].heads["emotion"]
        (projection,) = head.projection  # after the mean over time, which is equivalent to before it
        projection.load_state_dict(model.projector.state_dict())
        head.output.load_state_dict(model.classifier.state_dict())
        self.network.eval().to(self.device)
        middle = torch.from_numpy(self.serein("float32")[1].mean(axis=0)).to(self.device)
        for output in (head.output, model.classifier):
            output.bias.data -= middle

    def transformers(self, batch_size: int) -> tuple[float, np.ndarray]:
        """Return seconds and (clip, class) logits."""
        give_back_freed_memory()
        inputs = [{"raw": waveform, "sampling_rate": RATE_HZ} for waveform in self.waveforms]
        started = clock()
        said = list(self.pipeline(inputs, batch_size=batch_size, top_k=len(CLASSES), function_to_apply="none"))
        took = clock() - started
        names = [f"LABEL_{number}" for number in range(len(CLASSES))]
        scores = [{each["label"]: each["score"] for each in own} for own in said]
        return took, np.array([[own[name] for name in names] for own in scores])

    def serein(self, precision: str) -> tuple[float, np.ndarray]:
        """Return seconds and (clip, class) logits, up to a constant of each clip."""
        keep_freed_memory()
        options = ModelOptions(
            tasks=_recipe(Path(), precision).tasks, inference=Inference(precision=precision, batch_s=30.0)
        )
        checkpoint = Checkpoint(self.network, options, {"emotion": self.task})
        started = clock()
        found = model_outputs(checkpoint, self.waveforms.__getitem__, [len(w) for w in self.waveforms])
        took = clock() - started
        probabilities = found.decoded["emotion"].values
        assert probabilities is not None
        return took, np.log(np.maximum(probabilities, 1e-30))


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


def where_time_goes(
    base: Path, waveforms: list[np.ndarray], precision: str, device: torch.device
) -> tuple[list[tuple[str, float]], float]:
    """Return the operators' shares of one training batch's time, and the operations per second of audio."""
    from torch.profiler import ProfilerActivity, profile

    recipe = _recipe(base, precision)
    _, model = _task_and_model(recipe)
    model.train_only(recipe.stages[0].trainable)
    model.train().to(device)
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(w) for w in waveforms[:8]], batch_first=True)
    lengths = torch.tensor([len(w) for w in waveforms[:8]])

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            model(padded.to(device), lengths.to(device))["emotion"].output.sum().backward()

    with FlopCounterMode(display=False) as counter:
        step()
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        step()
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = sorted(profiler.key_averages(), key=lambda row: -getattr(row, own))
    total = sum(getattr(row, own) for row in rows)
    shares = [(row.key, 100 * getattr(row, own) / total) for row in rows[:8]]
    return shares, counter.get_total_flops() * RATE_HZ / float(lengths.sum())


def measure(waveforms: list[np.ndarray], num_rounds: int, *, is_thin: bool) -> dict[str, Any]:
    """Run all sides in turn, and return seconds of audio per second, the ratios of each round, and agreement."""
    audio_s = sum(len(w) for w in waveforms) / RATE_HZ
    device = own_device()
    precision = chosen_precision("auto", device)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "wav2vec2-base"
        save_backbone(base, configuration(WAV2VEC2_BASE, is_thin=is_thin))
        sides = Sides(base, waveforms)
        answering: dict[str, Callable[[], tuple[float, np.ndarray]]] = {
            "pipeline, batch 1": lambda: sides.transformers(1),
            "pipeline, batch 8": lambda: sides.transformers(8),
            "serein, float32": lambda: sides.serein("float32"),
            "serein, bfloat16": lambda: sides.serein("bfloat16"),
        }
        training: dict[str, Callable[[Path], float]] = {
            "Trainer": lambda folder: train_transformers(base, waveforms, precision, folder),
            "serein": lambda folder: train_serein(base, waveforms, precision, folder),
        }
        train_serein(base, waveforms[:8], precision, Path(scratch) / "warm")
        train_transformers(base, waveforms[:8], precision, Path(scratch) / "warm-t")
        seconds: dict[str, dict[str, list[float]]] = {"training": {}, "inference": {}}
        logits = {}
        for number in range(num_rounds):
            for name, answer in answering.items():
                answer()  # the memory that serein keeps is available from the first batches on
                took, logits[name] = answer()
                seconds["inference"].setdefault(name, []).append(took)
            for name, learn in training.items():
                took = learn(Path(scratch) / f"{name}-{number}")
                seconds["training"].setdefault(name, []).append(took)
                gc.collect()  # trainers and their models refer to each other
        num_threads = torch.get_num_threads()
        profile, training_flops = where_time_goes(base, waveforms, precision, device)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            for parameter in sides.network.parameters():
                parameter.requires_grad_(False)
            torch.set_num_threads(1)  # operations in other threads are not counted
            sides.serein("float32")
            torch.set_num_threads(num_threads)
    expected = logits["pipeline, batch 1"]
    relative = {name: own - own.mean(axis=1, keepdims=True) for name, own in logits.items()}
    return {
        "clips": len(waveforms),
        "audio_s": audio_s,
        "device": str(device),
        "training_precision": precision,
        "rounds": num_rounds,
        "speeds": {
            kind: {who: audio_s / float(np.median(took)) for who, took in own.items()} for kind, own in seconds.items()
        },
        "ratios": {
            kind: {who: float(np.median(np.array(took) / own[next(reversed(own))])) for who, took in own.items()}
            for kind, own in seconds.items()
        },
        "same_labels": {
            who: float((own.argmax(axis=1) == expected.argmax(axis=1)).mean()) for who, own in logits.items()
        },
        "difference": {who: float(np.abs(own - relative["pipeline, batch 1"]).max()) for who, own in relative.items()},
        "spread": float(expected.std(axis=0).mean()),
        "flops_per_audio_s": {"training": training_flops, "inference": counter.get_total_flops() / audio_s},
        "peak": {kind: matrix_peak(device, kind, 64 if is_thin else 2048) for kind in ("float32", "bfloat16")},
        "profile": profile,
    }


def show(result: dict[str, Any]) -> None:
    print(
        f"wav2vec2-base, {result['clips']} clips, {result['audio_s']:.0f} s of audio, on {result['device']} with "
        f"{torch.get_num_threads()} threads, training in {result['training_precision']}, {result['rounds']} rounds"
    )
    for kind, sides in result["speeds"].items():
        last = next(reversed(sides))
        for who, speed in sides.items():
            precision = result["training_precision"] if kind == "training" else "bfloat16" if "bf" in who else "float32"
            share = 100 * result["flops_per_audio_s"][kind] * speed / result["peak"][precision]
            line = (
                f"  {kind:10} {who:18} {speed:7.1f} s of audio per s, "
                f"{speed * result['clips'] / result['audio_s']:6.1f} clips/s, {share:3.0f} % of the peak   "
                f"{last} is {result['ratios'][kind][who]:5.2f} times as fast"
            )
            if kind == "inference":
                same, difference = 100 * result["same_labels"][who], result["difference"][who]
                line += f"   same label {same:5.1f} %   logits within {difference:.1e}"
            print(line)
    peaks = ", ".join(f"{kind} {peak / 1e9:.0f} GFLOP/s" for kind, peak in result["peak"].items())
    needed = ", ".join(f"{kind} {flops / 1e9:.1f} GFLOP" for kind, flops in result["flops_per_audio_s"].items())
    print(f"  matrix peak: {peaks}; a second of audio needs: {needed}")
    print(f"  standard deviation of a logit between clips: {result['spread']:.1e}")
    print(
        "  time of a training batch by operator: "
        + ", ".join(f"{name} {share:.0f} %" for name, share in result["profile"])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3, help="rounds in which all sides take turns")
    parser.add_argument("--data", type=Path, help="a manifest, instead of noise")
    parser.add_argument("--thin", action="store_true", help="a thin backbone, to try the benchmark")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if options.data is None:
        waveforms = clips_of(options.clips)
    else:
        utterances = read_manifest(options.data)
        utterances = utterances[:: max(1, len(utterances) // options.clips)][: options.clips]
        waveforms = [audio.load(each.audio, each.start_s, each.end_s) for each in utterances]
    result = measure(waveforms, options.repeats, is_thin=options.thin)
    if options.json:
        json.dump(result, sys.stdout)
    else:
        show(result)


if __name__ == "__main__":
    main()

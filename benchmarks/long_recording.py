"""`serein predict` on a recording of hours: wall-clock time, CPU time and peak memory of the whole command.

The recording consists of a corpus's clips joined in random order. Without `--model`, the model is that of
recipes/ravdess.yaml with random weights, which takes the same time.

    python benchmarks/long_recording.py --data FOLDER [--hours 3] [--model FOLDER] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from serein import audio
from serein import checkpoint as checkpoints
from serein import recipe as recipes
from serein.audio import SAMPLE_RATE_HZ
from serein.checkpoint import Checkpoint, ModelOptions
from serein.models.model import assemble, new_backbone
from serein.tasks.classes import ClassLabels, ClassTask

MOST_BYTES = 1.5 * 2**30
LEAST_SPEED = 60.0
RECIPE = Path(__file__).parents[1] / "recipes" / "ravdess.yaml"


def write_recording(path: Path, data: Path, duration_s: float) -> int:
    """Join clips until the recording is long enough, and return the number of clips in it."""
    rng = np.random.default_rng(0)
    clips, num_clips, num_left = audio.find(data), 0, round(duration_s * SAMPLE_RATE_HZ)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE_HZ, 1) as file:
        while num_left > 0:
            part = audio.decode(clips[rng.integers(len(clips))])[:num_left]
            file.write(part)
            num_left -= len(part)
            num_clips += 1
    return num_clips


def save_model(folder: Path) -> None:
    """Write the recipe's model with random weights."""
    torch.manual_seed(0)
    recipe = recipes.load(RECIPE)
    task = ClassTask(recipe.tasks.emotion, ClassLabels(recipe.labels.classes or (), {}))
    heads = {"emotion": (task.options, task.num_outputs)}
    model = assemble(new_backbone(recipe.backbone), recipe.encoder, heads, recipe.ensemble_size)
    kept = {name: getattr(recipe, name) for name in ("encoder", "ensemble_size", "tasks", "clips", "text", "inference")}
    checkpoint = Checkpoint(model.eval(), ModelOptions(**kept), {"emotion": task})
    checkpoints.save(folder, checkpoint, "Random weights.")


def measure(model: Path, recording: Path, duration_s: float, threads: int) -> dict[str, Any]:
    """Run the command in a separate process, and return its figures."""
    command = [sys.executable, "-m", "serein.cli", "predict", "--model", str(model), str(recording), "--json"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
    )
    wall_s = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    segments = json.loads(done.stdout)["segments"]
    return {
        "duration_s": duration_s,
        "speech_s": sum(segment["end_s"] - segment["start_s"] for segment in segments),
        "segments": len(segments),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "times_real_time": duration_s / wall_s,
        "times_real_time_per_core": duration_s / cpu_s,
        "peak_bytes": used.ru_maxrss * 1024,
        "threads": threads,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of clips to join")
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        recording, model = Path(scratch) / "long.flac", options.model or Path(scratch) / "model"
        num_clips = write_recording(recording, options.data, options.hours * 3600)
        if options.model is None:
            save_model(model)
        result = {"clips": num_clips, **measure(model, recording, options.hours * 3600, options.threads)}
    if options.json:
        json.dump(result, sys.stdout)
        return
    print(
        f"{options.hours:g} h of {num_clips} clips, {result['speech_s'] / 3600:.2f} h of speech, "
        f"{result['segments']} segments, {options.threads} threads, load {result['load']:.1f}\n"
        f"  wall clock  {result['wall_s']:7.1f} s   {result['times_real_time']:6.1f} times real time "
        f"(to reach: {LEAST_SPEED:g})\n"
        f"  processor   {result['cpu_s']:7.1f} s   {result['times_real_time_per_core']:6.1f} times real time per core\n"
        f"  peak memory {result['peak_bytes'] / 2**20:7.0f} MiB (to keep: {MOST_BYTES / 2**20:.0f})"
    )


if __name__ == "__main__":
    main()

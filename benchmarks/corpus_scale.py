"""The papers' corpora at full size, as mock releases (mock_releases.py): seconds and peak memory of each step.

Every step runs in a separate process: preparation, reading and dividing with the leak check, planning the batches of an
epoch, targets of the main task, and scores of made-up predictions with intervals. With `--parts`, parts of the
utterances are measured first, to show how time and memory grow with them.

    python benchmarks/corpus_scale.py RELEASES [--only voxceleb1] [--parts 0.5]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from serein.corpora import corpus_named
from serein.corpora.prepare import prepare
from serein.data import manifest
from serein.data.dataset import BucketSampler, Recordings, batch_durations
from serein.data.splits import Folds, check_leaks, make_folds
from serein.evaluation.predictions import EvalPrediction
from serein.evaluation.scores import score_predictions
from serein.recipe import Recipe, load
from serein.tasks import TASKS
from serein.tasks.task import Task, keep_labelled

RECIPES = {
    "iemocap": "gao2023/single.yaml",
    "msp-podcast": "diatlova2024/recipe.yaml",
    "msp-challenge": "diatlova2024/recipe.yaml",
    "voxceleb1": "park2023/speaker.yaml",
}


def divided(path: Path, recipe: Recipe) -> tuple[Task, Folds, Recordings]:
    """Read a manifest, divide it and look for leaks, as a run does."""
    everything = manifest.read(path)
    main = recipe.tasks.main
    task = TASKS[main].fit(main, recipe.tasks.chosen[main], recipe, everything)
    kept, _ = keep_labelled(everything, task, "drop")
    folds = make_folds(kept, recipe.protocol, {})
    check_leaks(kept, folds, {})
    return task, folds, Recordings(kept)


def prepare_release(root: Path, path: Path, recipe: Recipe) -> str:
    """Parse a release, open every file, write its manifest."""
    found = prepare(corpus_named(root.name.replace("challenge", "podcast")), root, counts="partial")
    manifest.write(found.utterances, path)
    return f"{len(found.utterances)} utterances"


def divide(root: Path, path: Path, recipe: Recipe) -> str:
    """Read, divide, check."""
    _, folds, recordings = divided(path, recipe)
    fold = folds.folds[0]
    return f"{len(recordings)} with a label: {len(fold.train)} train, {len(fold.dev)} dev, {len(fold.test)} test"


def plan_batches(root: Path, path: Path, recipe: Recipe) -> str:
    """Plan the batches of an epoch; the first plan reads every header."""
    _, folds, recordings = divided(path, recipe)
    train = set(folds.folds[0].train)
    positions = [number for number, u in enumerate(recordings.utterances) if u.id in train]
    lengths = batch_durations(recordings, recipe.clips, is_training=True)
    started = time.monotonic()
    batches = list(BucketSampler(positions, lengths, recipe.stages[0].batches))
    return f"{len(batches)} batches of an epoch, planned in {time.monotonic() - started:.2f} s"


def make_targets(root: Path, path: Path, recipe: Recipe) -> str:
    """Make the targets of the main task."""
    task, _, recordings = divided(path, recipe)
    values = task.targets(recordings.utterances).values
    return f"targets {'x'.join(map(str, values.shape))}, {values.nbytes / 2**20:.0f} MiB"


def score(root: Path, path: Path, recipe: Recipe) -> str:
    """Score made-up predictions for test, or for dev if there is no test set; three out of four are correct."""
    task, folds, recordings = divided(path, recipe)
    scored, rng = set(folds.folds[0].test or folds.folds[0].dev), np.random.default_rng(0)
    classes = task.spec.classes
    utterances = [u for u in recordings.utterances if u.id in scored]
    predictions = []
    for u, is_right, other in zip(
        utterances, rng.random(len(utterances)) < 0.75, rng.integers(len(classes), size=len(utterances)), strict=True
    ):
        truth = task.truth(u)
        predictions.append(
            EvalPrediction(
                id=u.id,
                truth=truth,
                prediction=truth if is_right else classes[other],
                speaker=u.speaker,
                corpus=u.corpus,
            )
        )
    scores = score_predictions(predictions, classes)
    return f"UA {scores.pooled['ua']:.1f} {scores.intervals['ua']} of {len(predictions)} clips, {len(classes)} classes"


STEPS: dict[str, Callable[[Path, Path, Recipe], str]] = {
    "prepare": prepare_release,
    "divide": divide,
    "plan": plan_batches,
    "targets": make_targets,
    "score": score,
}


def part_of(path: Path, part: float) -> Path:
    """Write a part of a manifest that contains every speaker, to keep all classes."""
    target = path.with_name(f"{path.stem}-{part:g}.jsonl")
    step = round(1 / part)
    manifest.write((u for number, u in enumerate(manifest.read(path)) if number % step == 0), target)
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print one line per step."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("releases", type=Path, help="folder that mock_releases.py wrote")
    parser.add_argument("--only", choices=RECIPES, action="append", help="this release; can be repeated")
    parser.add_argument("--parts", type=float, nargs="*", default=[], help="parts to measure before the whole")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)  # a step and its manifest, in this process
    options = parser.parse_args(arguments)
    recipes = Path(__file__).parents[1] / "recipes"
    if options.step:
        name, path = options.step[0], Path(options.step[1])
        root = options.releases / options.only[0]
        started = time.process_time()
        found = STEPS[name](root, path, load(recipes / RECIPES[root.name]))
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        print(json.dumps({"found": found, "cpu_s": time.process_time() - started, "peak_mib": peak_mib}))
        return
    for release in options.only or [name for name in RECIPES if (options.releases / name).is_dir()]:
        whole = options.releases / f"{release}.jsonl"
        if options.parts and not whole.exists():
            sys.exit(f"{whole} is not there: run without --parts first")
        for part in (*options.parts, 1.0):
            path = whole if part == 1.0 else part_of(whole, part)
            for step in STEPS:
                if step == "prepare" and (part != 1.0 or path.exists()):
                    continue
                own = (str(options.releases), "--only", release, "--step", step, str(path))
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                done = subprocess.run([sys.executable, __file__, *own], capture_output=True, text=True, env=environment)
                if done.returncode:
                    sys.exit(f"{release} {step}: {done.stderr.strip().splitlines()[-1]}")
                said = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"{release:<14} {part:>5g} {step:<8} {said['cpu_s']:>7.1f} s {said['peak_mib']:>6.0f} MiB  "
                    f"{said['found']}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

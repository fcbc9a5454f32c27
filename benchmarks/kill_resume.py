"""`kill -9` at ten random moments of a run, each resumed to its end and compared with an undisturbed run.

The run is recipes/demo.yaml on the embedded corpus, two of its folds for a few epochs. Only the main process is killed;
its children must end by themselves. All results must be equal byte by byte: predictions, embeddings, models, scores.

    python benchmarks/kill_resume.py [--kills 10] [--jobs 2] [--epochs 6] [--data synth/manifest.jsonl]

Exit status 1 if a resumed run differs or an orphan is left.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from forks import start

RECIPE = Path(__file__).parents[1] / "recipes" / "demo.yaml"
FOLDS = ("session1", "session2")
COMPARED = ("predictions.jsonl", "dev_predictions.jsonl", "scores.json", ".safetensors", "labels.json", "model.json")
ORPHANS_END_WITHIN_S = 30.0


@dataclass
class Trial:
    """One kill and its effect on the run."""

    moment_s: float
    state: str
    orphans: int
    is_resumed: bool
    is_equal: bool


def main() -> None:
    """Run, kill, resume, compare, print."""
    options = _options()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        data = options.data or _synth(root)
        arguments = _arguments(data, options)
        started = time.monotonic()
        whole = _start(arguments, root / "whole", is_resumed=False)
        whole.join()
        if whole.exitcode:
            raise SystemExit(f"error: the run ended with status {whole.exitcode}: {(root / 'whole.err').read_text()}")
        whole_s = time.monotonic() - started
        expected = _results(root / "whole")
        print(f"undisturbed: {whole_s:.0f} s, {options.jobs} jobs, {options.epochs} epochs, folds {', '.join(FOLDS)}\n")
        print(f"{'kill':>4}  {'at':>7}  {'orphans':>7}  {'resumed':>7}  {'equal':>5}  state when killed", flush=True)
        trials: list[Trial] = []
        while len(trials) < options.kills:
            share = (len(trials) + rng.random()) / options.kills  # random, but spread over the whole run
            trial = _trial(arguments, root / f"{time.monotonic_ns()}", share * whole_s, expected)
            if trial is None:  # it had already ended: the machine has become faster
                whole_s *= 0.9
                continue
            trials.append(trial)
            print(
                f"{len(trials):>4}  {trial.moment_s:>5.1f} s  {trial.orphans:>7}  {_said(trial.is_resumed):>7}  "
                f"{_said(trial.is_equal):>5}  {trial.state}",
                flush=True,
            )
    resumed, equal = sum(t.is_resumed for t in trials), sum(t.is_equal for t in trials)
    orphans = sum(t.orphans for t in trials)
    print(f"\n{len(trials)} kills: {resumed} resumed, {equal} with equal results, {orphans} orphans")
    sys.exit(equal < len(trials) or orphans > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--data", type=Path, help="manifest of the embedded corpus; created if not given")
    return parser.parse_args()


def _synth(root: Path) -> Path:
    command = [sys.executable, "-m", "serein.cli", "corpus", "synth", "--out", root / "synth"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return root / "synth" / "manifest.jsonl"


def _arguments(data: Path, options: argparse.Namespace) -> list[str]:
    changes = (f"stages.0.epochs={options.epochs}", f"protocol.only=[{', '.join(FOLDS)}]")
    sets = [part for change in changes for part in ("--set", change)]
    return ["run", str(RECIPE), "--data", str(data), "--jobs", str(options.jobs), *sets]


def _start(arguments: list[str], out: Path, *, is_resumed: bool) -> BaseProcess:
    command = [*arguments, "--out", out, *(["--resume"] if is_resumed else [])]
    return start(command, out=Path(os.devnull), err=out.with_name(f"{out.name}.err"))


def _trial(arguments: list[str], out: Path, moment_s: float, expected: dict[str, bytes]) -> Trial | None:
    process = _start(arguments, out, is_resumed=False)
    process.join(moment_s)
    if process.exitcode is not None:
        return None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    orphans = _orphans(process.pid)
    state = _state(out)
    resumed = _start(arguments, out, is_resumed=(out / "recipe.yaml").exists())
    resumed.join()
    return Trial(moment_s, state, orphans, resumed.exitcode == 0, _results(out) == expected)


def _orphans(group: int) -> int:
    """Return how many of the killed process's children still run after a while."""
    end = time.monotonic() + ORPHANS_END_WITHIN_S
    while (left := _living(group)) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def _living(group: int) -> int:
    living = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        living += int(fields[2]) == group and fields[0] not in "ZX"
    return living


def _state(out: Path) -> str:
    """Describe the state of a run folder."""
    if not (out / "recipe.yaml").exists():
        return "starting, nothing to resume" if out.exists() else "starting, no folder yet"
    states = []
    for fold in FOLDS:
        unit = out / f"fold-{fold}" / "seed-0"
        epochs = sum(len(path.read_text().splitlines()) for path in unit.rglob("metrics.jsonl"))
        if (unit / "predictions.jsonl").exists():
            states.append(f"{fold} done")
        elif (unit / "model").exists():
            states.append(f"{fold} predicting")
        elif list(unit.rglob("resume.ckpt")):
            states.append(f"{fold} after epoch {epochs}")
        else:
            states.append(f"{fold} trained" if epochs else f"{fold} before its first epoch's end")
    return "; ".join([*states, "scored"] if (out / "scores.json").exists() else states)


def _results(out: Path) -> dict[str, bytes]:
    """Return every file that must not differ."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name.endswith(COMPARED)
    }


def _said(is_true: bool) -> str:
    return "yes" if is_true else "NO"


if __name__ == "__main__":
    main()

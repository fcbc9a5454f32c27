"""Compare the predictions of every entry point for recordings of more than 30 s.

    python benchmarks/entry_points.py --data FOLDER [--recordings 28] [--model MODEL] [--json]

Clips from the folder are joined, with pauses between them, into recordings of 31 s and more. Each recording is
predicted by `serein predict`, and in Python as a path, in a list of paths, as bytes, and as samples.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import serein
from serein import audio
from serein.audio import SAMPLE_RATE_HZ

LEAST_S = 31.0


def write_recordings(folder: Path, data: Path, num: int) -> list[Path]:
    """Join clips in a seeded random order, with pauses of half a second to two seconds."""
    rng = np.random.default_rng(0)
    clips, paths = audio.find(data), []
    for number in range(num):
        pieces, num_samples = [], 0
        while num_samples < (LEAST_S + number) * SAMPLE_RATE_HZ:
            pause = np.zeros(int(rng.integers(SAMPLE_RATE_HZ // 2, 2 * SAMPLE_RATE_HZ)), np.float32)
            pieces += [audio.load(clips[rng.integers(len(clips))]), pause]
            num_samples += len(pieces[-2]) + len(pause)
        paths.append(folder / f"{number:02d}.flac")
        soundfile.write(paths[-1], np.concatenate(pieces), SAMPLE_RATE_HZ)
    return paths


def by_command(paths: Sequence[Path], model: str | None) -> list[dict[str, Any]]:
    """Predict by `serein predict --json`."""
    named = [] if model is None else ["--model", model]
    command = [sys.executable, "-m", "serein.cli", "predict", "--json", "--device", "cpu", *named, *map(str, paths)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of clips to join")
    parser.add_argument("--recordings", type=int, default=28)
    parser.add_argument("--model", help="model folder or Hub name [the default model]")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    model = serein.load(options.model, "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        paths = write_recordings(Path(scratch), options.data, options.recordings)
        expected = by_command(paths, options.model)
        entries: dict[str, Callable[[Path], serein.Prediction]] = {
            "a path": model.predict,
            "bytes": lambda path: model.predict(path.read_bytes()),
            "samples": lambda path: model.predict(audio.load(path), SAMPLE_RATE_HZ),
        }
        found = {name: [predict(path).to_dict() for path in paths] for name, predict in entries.items()}
        found["a list of paths"] = [each.to_dict() for each in model.predict(paths)]
    result: dict[str, Any] = {"recordings": len(paths), "seconds": sum(row["end_s"] for row in expected), "entries": {}}
    for name, rows in found.items():
        pairs = list(zip(expected, rows, strict=True))
        differences = [
            abs(one["probabilities"].get(label, 0.0) - share)
            for one, other in pairs
            for label, share in other["probabilities"].items()
        ]
        result["entries"][name] = {
            "other_labels": sum(one["label"] != other["label"] for one, other in pairs),
            "other_segments": sum(
                [(s["start_s"], s["end_s"], s["label"]) for s in one["segments"]]
                != [(s["start_s"], s["end_s"], s["label"]) for s in other["segments"]]
                for one, other in pairs
            ),
            "largest_difference": max(differences, default=0.0),
        }
    if options.json:
        print(json.dumps(result))
        return
    print(f"{result['recordings']} recordings, {result['seconds']:.0f} s; compared with serein predict:")
    for name, row in result["entries"].items():
        print(
            f"  {name:<16} different labels {row['other_labels']}, different segments {row['other_segments']}, "
            f"largest difference of probabilities {row['largest_difference']:.1e}"
        )


if __name__ == "__main__":
    main()

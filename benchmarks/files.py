"""From files to predictions: decoding, speech detection and the network, with one thread and with all threads.

    python benchmarks/files.py --data FOLDER [--models tiny,small,default] [--max-files 720] [--device cuda] [--json]

Importing and loading are not counted. Each row runs twice, alternating with the others, and the faster run is reported.
Predictions with all threads are compared with those of one thread: different batches may round differently, which
changes probabilities by about 1e-6 in float32 and 1e-3 in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch

import serein
from serein import audio
from serein.allocator import keep_freed_memory
from serein.inference.prediction import Prediction
from serein.inference.predictor import Predictor
from serein.inference.runtimes import PrecisionName

AIMS = {"default": 60, "small": 600, "tiny": 2000}  # times real time, on two cores


def timed(model: Predictor, files: Sequence[Path], num_threads: int) -> tuple[float, float, list[Prediction]]:
    """Return wall-clock seconds, CPU seconds and the predictions."""
    torch.set_num_threads(num_threads)
    list(model.predict_files(files[:8], segments="always"))
    begin, own = time.perf_counter(), time.process_time()
    found = list(model.predict_files(files, segments="always", on_error="skip"))
    return time.perf_counter() - begin, time.process_time() - own, found


def compared(name: str, precision: Any, device: str, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Return one row for a single thread and one for all threads."""
    model, all_threads = serein.load(name, device, precision=precision), torch.get_num_threads()
    rows: dict[int, dict[str, Any]] = {}
    answers: dict[int, list[Prediction]] = {}
    for _ in range(2):
        for num_threads in sorted({1, all_threads}):
            wall_s, processor_s, answers[num_threads] = timed(model, files, num_threads)
            row = {"model": name, "precision": precision, "device": str(model.device), "threads": num_threads}
            duration_s = sum(each.duration_s for each in answers[num_threads])
            row |= {"seconds": wall_s, "processor_s": processor_s, "times_real_time": duration_s / wall_s}
            if num_threads not in rows or wall_s < rows[num_threads]["seconds"]:
                rows[num_threads] = row
    pairs = list(zip(answers[1], answers[all_threads], strict=True))
    for row in rows.values():
        row["ratio"] = rows[1]["seconds"] / row["seconds"]
        row["same_label"] = sum(one.label == other.label for one, other in pairs) / len(pairs)
    return list(rows.values())


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", default="tiny,small,default")
    parser.add_argument("--precisions", default=",".join(get_args(PrecisionName)))
    parser.add_argument("--max-files", type=int, default=720)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()  # as the commands do
    files = audio.find(options.data)
    files = files[:: max(1, len(files) // options.max_files)][: options.max_files]
    rows = [
        row
        for name in options.models.split(",")
        for precision in options.precisions.split(",")
        for row in compared(name, precision, options.device, files)
    ]
    if options.json:
        print(json.dumps({"files": len(files), "rows": rows}, indent=2))
        return
    print(f"{len(files)} files")
    names = ("model", "precision", "threads", "seconds", "processor", "real time", "ratio", "aim", "same label")
    print("".join(f"{name:>11}" for name in names))
    for row in rows:
        cells = [row["model"], row["precision"], row["threads"], f"{row['seconds']:.2f}", f"{row['processor_s']:.2f}"]
        cells += [f"{row['times_real_time']:.0f}", f"{row['ratio']:.2f}", AIMS.get(row["model"], "")]
        print("".join(f"{cell:>11}" for cell in [*cells, f"{row['same_label']:.2%}"]))


if __name__ == "__main__":
    main()

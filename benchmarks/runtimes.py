"""One model in every runtime and precision: size, speed, agreement of labels, unweighted accuracy.

    python benchmarks/runtimes.py --data ravdess.jsonl [--model FOLDER] [--every 1]
    python benchmarks/runtimes.py --run runs/ravdess [--every 1] [--exports float32 int8]

With a run, each fold's model predicts the fold's test speakers, on whom it was not trained, and all folds are scored
together. Otherwise, a model may have been trained on the utterances, and UA shows only agreement. Utterances are
predicted whole, one thread runs the network, and times are CPU seconds, which other work on the machine changes little.
Int8 is calibrated on 16 utterances, spread over the manifest or, for a run, over the other folds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import serein
from serein import audio
from serein.data.manifest import Utterance
from serein.inference.predictor import Predictor
from serein.metrics import unweighted_accuracy
from serein.recipe import Inference

EXPORTS: dict[str, dict[str, Any]] = {"float32": {}, "int8": {"int8": True}, "int8, calibrated": {"int8": True}}
NUM_CALIBRATION = 16


@dataclass(frozen=True)
class Fold:
    """A model and the clips that it predicts.

    Attributes:
        waveforms: (sample,) at 16 kHz each.
        truth: Label of each utterance; `None` if the model does not have it.
    """

    own: Predictor
    waveforms: list[np.ndarray]
    truth: list[str | None]
    calibration: list[np.ndarray]


def heard(utterances: Sequence[Utterance]) -> list[np.ndarray]:
    """Return the samples of utterances."""
    return [audio.load(each.audio, each.start_s, each.end_s) for each in utterances]


def fold_of(model: str, utterances: Sequence[Utterance], others: Sequence[Utterance], every: int) -> Fold:
    """Load a model and the clips that it predicts; int8 is calibrated on `others`."""
    own = serein.load(model, "cpu")
    task = own.checkpoint.tasks[own.task]
    truth = [task.truth(each) for each in utterances[::every]]
    spread = others[:: -(-len(others) // NUM_CALIBRATION)]
    return Fold(own, heard(utterances[::every]), [None if each is None else str(each) for each in truth], heard(spread))


def folds_of(options: argparse.Namespace) -> list[Fold]:
    """Return what the command names: a model with a manifest, or the folds of a run."""
    if options.run is None:
        utterances = serein.read_manifest(options.data)
        return [fold_of(options.model, utterances, utterances, options.every)]
    folders = sorted(options.run.glob("fold-*"))
    sides = [serein.read_manifest(folder / "test.jsonl") for folder in folders]
    folds = []
    for folder, side in zip(folders, sides, strict=True):
        others = [each for other in sides if other is not side for each in other]
        folds.append(fold_of(str(folder / "seed-0" / "model"), side, others, options.every))
    return folds


def systems_of(fold: Fold, folder: Path, exports: Sequence[str]) -> Iterator[tuple[str, Path, Predictor]]:
    """Yield each runtime and precision of a model with its file."""
    for precision in ("float32", "bfloat16"):
        inference = Inference.model_validate({"precision": precision})
        described = fold.own.checkpoint.options.model_copy(update={"inference": inference})
        path = (fold.own.checkpoint.folder or Path()) / "model.safetensors"
        yield f"torch {precision}", path, serein.Predictor(replace(fold.own.checkpoint, options=described), "cpu")
    for name in exports:
        how, path = EXPORTS[name], folder / f"{name}.onnx"
        serein.export(fold.own, path, **how, **({"clips": fold.calibration} if "calibrated" in name else {}))
        for runtime in ("onnx", "openvino"):
            yield f"{runtime} {name}", path, serein.load(path, runtime=runtime)


def measured(model: Predictor, waveforms: list[np.ndarray]) -> tuple[list[str], float]:
    """Return the label of each clip, predicted by itself, and the CPU seconds for all."""
    model.predict_clips(waveforms[:2])
    started_s = time.process_time()
    labels = [str(model.predict_clips([waveform])[0].main.label) for waveform in waveforms]
    return labels, time.process_time() - started_s


def main() -> None:
    """Print a row for each runtime and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, help="a manifest")
    what.add_argument("--run", type=Path, help="a run folder")
    parser.add_argument("--model", default="default")
    parser.add_argument("--every", type=int, default=1, help="take every n-th utterance")
    parser.add_argument("--exports", nargs="+", choices=EXPORTS, default=list(EXPORTS), help="which files to try")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folds = folds_of(options)
    truth = [label for fold in folds for label in fold.truth]
    seconds = sum(len(waveform) for fold in folds for waveform in fold.waveforms) / audio.SAMPLE_RATE_HZ
    labels: dict[str, list[str]] = {}
    took_s: dict[str, float] = {}
    sizes: dict[str, float] = {}
    for fold in folds:
        with tempfile.TemporaryDirectory() as folder:
            for title, path, model in systems_of(fold, Path(folder), options.exports):
                some, some_s = measured(model, fold.waveforms)
                labels.setdefault(title, []).extend(some)
                took_s[title] = took_s.get(title, 0.0) + some_s
                sizes[title] = path.stat().st_size / 1e6
    print(f"{options.run or options.model}: {len(truth)} utterances, {seconds:.0f} s")
    print(f"{'runtime':<28}{'MB':>7}{'clips/s':>9}{'x real time':>13}{'same label':>12}{'UA':>7}")
    expected = next(iter(labels.values()))
    for title, said in labels.items():
        same = np.mean([one == other for one, other in zip(said, expected, strict=True)])
        known = [(true, label) for true, label in zip(truth, said, strict=True) if true is not None]
        ua = unweighted_accuracy([true for true, _ in known], [label for _, label in known])
        speed, times = len(said) / took_s[title], seconds / took_s[title]
        print(f"{title:<28}{sizes[title]:>7.1f}{speed:>9.1f}{times:>13.0f}{100 * same:>12.2f}{100 * ua:>7.2f}")


if __name__ == "__main__":
    main()

"""One model in every runtime and precision: size, speed, the same labels?, unweighted accuracy.

    python benchmarks/runtimes.py --data ravdess.jsonl [--model FOLDER] [--every 1]

All utterances are taken whole, one thread runs the network, and seconds are those of the processor, so that other work
beside changes them little. Int8 is calibrated on 16 utterances, spread over the manifest.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import serein
from serein import audio
from serein.inference.predictor import Predictor
from serein.metrics import unweighted_accuracy
from serein.recipe import Inference


def measured(model: Predictor, waveforms: list[np.ndarray]) -> tuple[list[str], float]:
    """Return the label of each clip, alone, and the processor's seconds for all."""
    model.predict_clips(waveforms[:2])
    started_s = time.process_time()
    labels = [str(model.predict_clips([waveform])[0].main.label) for waveform in waveforms]
    return labels, time.process_time() - started_s


def main() -> None:
    """Print a row for each runtime and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="default")
    parser.add_argument("--every", type=int, default=1, help="take every n-th utterance")
    options = parser.parse_args()
    torch.set_num_threads(1)
    utterances = serein.read_manifest(options.data)
    spread = utterances[:: -(-len(utterances) // 16)]
    calibration = [audio.load(each.audio, each.start_s, each.end_s) for each in spread]
    utterances = utterances[:: options.every]
    waveforms = [audio.load(each.audio, each.start_s, each.end_s) for each in utterances]
    own = serein.load(options.model, "cpu")
    task = own.checkpoint.tasks[own.task]
    kept = [index for index, each in enumerate(utterances) if task.truth(each) is not None]
    truth = [str(task.truth(utterances[index])) for index in kept]
    seconds = sum(map(len, waveforms)) / audio.SAMPLE_RATE_HZ
    print(f"{own.checkpoint.name}: {len(waveforms)} utterances, {seconds:.0f} s")
    print(f"{'runtime':<28}{'MB':>7}{'clips/s':>9}{'x real time':>13}{'same label':>12}{'UA':>7}")
    expected: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Any] = {"float32": {}, "int8": {"int8": True}, "int8, calibrated": {"int8": True}}
        files["int8, calibrated"]["clips"] = calibration
        for name, how in files.items():
            serein.export(own, Path(folder) / f"{name}.onnx", **how)
        systems = [("torch float32", None, None), ("torch bfloat16", None, None)]
        systems += [(f"{runtime} {name}", name, runtime) for name in files for runtime in ("onnx", "openvino")]
        for title, name, runtime in systems:
            if name is None:
                inference = Inference.model_validate({"precision": title.partition(" ")[2]})
                described = own.checkpoint.options.model_copy(update={"inference": inference})
                model = serein.Predictor(replace(own.checkpoint, options=described), "cpu")
                path = (own.checkpoint.folder or Path()) / "model.safetensors"
            else:
                path = Path(folder) / f"{name}.onnx"
                model = serein.load(path, runtime=runtime)
            labels, took_s = measured(model, waveforms)
            expected = expected or labels
            same = np.mean([one == other for one, other in zip(labels, expected, strict=True)])
            ua = unweighted_accuracy(truth, [labels[index] for index in kept])
            size = path.stat().st_size / 1e6
            speed = len(waveforms) / took_s
            print(f"{title:<28}{size:>7.1f}{speed:>9.1f}{seconds / took_s:>13.0f}{100 * same:>12.2f}{100 * ua:>7.1f}")


if __name__ == "__main__":
    main()

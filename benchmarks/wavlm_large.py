"""Training steps of recipes/diatlova2024 with WavLM-Large's real configuration: seconds and peak memory.

Random weights, saved in the format of the real ones and loaded by the recipe. A step has 32 clips, `--clips` at once.
An epoch of MSP-Podcast's training set is extrapolated from the steps (on a GPU, there can be many).

    python benchmarks/wavlm_large.py [--clips 4] [--crop 5] [--steps 1] [--device auto]     # --thin --crop 1: a trial

Exit status 1 if it takes more than 20 GiB.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch

from backbones import WAVLM_LARGE, configuration, save_backbone
from serein import recipe as recipes
from serein.data import manifest
from serein.data.manifest import Utterance
from serein.device import own_device
from serein.experiment import run as runs

RECIPE = Path(__file__).parents[1] / "recipes" / "diatlova2024" / "recipe.yaml"
RATE_HZ = 16_000
BATCH = 32
MOST_GIB = 20.0
MSP_PODCAST_CLIPS = 53_386  # of a training set


def main() -> None:
    """Save the model, train the steps, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clips", type=int, default=4, help="number of clips at once; a step has 32")
    parser.add_argument("--crop", type=float, default=5.0, help="length of a clip in seconds")
    parser.add_argument("--steps", type=int, default=1, help="number of steps; the first also starts the device")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--thin", action="store_true", help="a thin backbone, to try the benchmark")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        save_backbone(root / "wavlm-large", configuration(WAVLM_LARGE, is_thin=options.thin))
        num_clips = BATCH * options.steps
        data = save_clips(root / "clips", options.crop, recipes.load(RECIPE).labels.classes or (), num_clips)
        before = peak_gib()
        recipe = recipes.load(
            RECIPE,
            [
                f"backbone.source={root / 'wavlm-large'}",
                f"clips.crop_s={options.crop}",
                "protocol.dev=none",
                "stages.0.epochs=1",
                "stages.0.checkpoint=last",
                f"stages.0.batches={{max_clips: {options.clips}, accumulate: {BATCH // options.clips}}}",
                "seeds=[0]",
            ],
        )
        runs.train(recipe, data, root / "run", device=options.device, progress=lambda *_: None)
        line = json.loads((root / "run" / "0-emotion" / "metrics.jsonl").read_text())
    peak, device = peak_gib(), own_device(options.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    size = f"{BATCH} clips of {options.crop:g} s, {options.clips} at once"
    print(f"WavLM-Large on {where}, steps of {size}: {options.steps}")
    print(f"  loss {line['train_loss']:.3f}, {line['seconds']:.0f} s, {line['audio_s_per_s']:.2f} s of audio per s")
    minutes = line["seconds"] / num_clips * MSP_PODCAST_CLIPS / 60
    print(f"  an epoch of {MSP_PODCAST_CLIPS:,} clips, as many as MSP-Podcast trains on: {minutes:.1f} min")
    print(f"  most memory {peak:.1f} GiB ({before:.1f} GiB before the training)")
    if device.type == "cuda":
        print(f"  most memory of the GPU {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")
    sys.exit(peak > MOST_GIB)


def save_clips(folder: Path, seconds: float, classes: tuple[str, ...], count: int) -> Path:
    """Write clips of noise, one second longer than the crop, and their manifest."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    utterances = []
    for number in range(count):
        path = folder / f"{number}.wav"
        soundfile.write(path, 0.05 * rng.standard_normal(round((seconds + 1) * RATE_HZ)), RATE_HZ)
        emotion = classes[number % len(classes)]
        utterances.append(
            Utterance(id=str(number), audio=str(path), emotion=emotion, speaker=str(number), split="train")
        )
    manifest.write(utterances, folder / "manifest.jsonl")
    return folder / "manifest.jsonl"


def peak_gib() -> float:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()

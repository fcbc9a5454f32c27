"""One training step of recipes/diatlova2024 with WavLM-Large's real configuration: seconds, and the most memory taken.

Random weights, saved as the real ones are and loaded by the recipe; 32 clips make the step, `--clips` at once.

    python benchmarks/wavlm_large.py [--clips 4] [--crop 5]      # --thin --crop 1 only tries it

Exit status 1 when it takes more than 20 GiB.
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

from backbones import WAVLM_LARGE, configuration, save_backbone
from serein import recipe as recipes
from serein.data import manifest
from serein.data.utterance import Utterance
from serein.experiment import run as runs

RECIPE = Path(__file__).parents[1] / "recipes" / "diatlova2024" / "recipe.yaml"
RATE_HZ = 16_000
BATCH = 32
MOST_GIB = 20.0


def main() -> None:
    """Save the model, train one step, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clips", type=int, default=4, help="at once; 32 make the step")
    parser.add_argument("--crop", type=float, default=5.0, help="seconds of a clip")
    parser.add_argument("--thin", action="store_true", help="a thin backbone, to try the benchmark")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        save_backbone(root / "wavlm-large", configuration(WAVLM_LARGE, is_thin=options.thin))
        data = save_clips(root / "clips", options.crop, recipes.load(RECIPE).labels.classes or ())
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
        runs.train(recipe, data, root / "run", resume=False, progress=lambda *_: None)
        line = json.loads((root / "run" / "0-emotion" / "metrics.jsonl").read_text())
    peak = peak_gib()
    print(f"WavLM-Large, one step of {BATCH} clips of {options.crop:g} s, {options.clips} at once, on the CPU")
    print(f"  loss {line['train_loss']:.3f}, {line['seconds']:.0f} s, {line['audio_s_per_s']:.2f} s of audio per s")
    print(f"  most memory {peak:.1f} GiB ({before:.1f} GiB before the training)")
    sys.exit(peak > MOST_GIB)


def save_clips(folder: Path, seconds: float, classes: tuple[str, ...]) -> Path:
    """Write clips of noise, a second longer than the crop, and their manifest."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    utterances = []
    for number in range(BATCH):
        path = folder / f"{number}.wav"
        soundfile.write(path, 0.05 * rng.standard_normal(round((seconds + 1) * RATE_HZ)), RATE_HZ)
        emotion = classes[number % len(classes)]
        utterances.append(
            Utterance(id=str(number), audio=str(path), emotion=emotion, speaker=str(number), split="train")
        )
    manifest.write(utterances, folder / "manifest.jsonl")
    return folder / "manifest.jsonl"


def peak_gib() -> float:
    """Return the most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()

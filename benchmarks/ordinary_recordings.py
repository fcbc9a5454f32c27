"""How often predictions change with what listeners would ignore: noise, silence, an offset, a knock, the level.

    python benchmarks/ordinary_recordings.py --data FOLDER [--clips 48] [--model MODEL] [--json]

Prints for each change how many clips get a different label, or none, compared with the unchanged clips.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

import serein
from serein import audio
from serein.audio import SAMPLE_RATE_HZ, Waveform

TWO_S = 2 * SAMPLE_RATE_HZ
Change = Callable[[Waveform, np.random.Generator], Waveform]


def speech_rms(waveform: Waveform) -> float:
    """Return the root mean square of the frames of 10 ms within 10 dB of the loudest."""
    power = (waveform[: len(waveform) // 160 * 160].reshape(-1, 160).astype(np.float64) ** 2).mean(axis=1)
    return float(np.sqrt(power[power > 0.1 * power.max()].mean()))


def noise_around(level_db: float) -> Change:
    """Return a change that adds 2 s of white noise before and after, at a level relative to the speech."""

    def change(waveform: Waveform, rng: np.random.Generator) -> Waveform:
        rms = speech_rms(waveform) * 10 ** (level_db / 20)
        before, after = (rms * rng.standard_normal(TWO_S) for _ in range(2))
        return np.concatenate([before, waveform, after])

    return change


def knock_before(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """Prepend one second that contains a click of 5 ms."""
    knock = np.zeros(SAMPLE_RATE_HZ, np.float32)
    knock[4000:4080] = 0.5 * np.exp(-np.arange(80) / 20)
    return np.concatenate([knock, waveform])


def quieter(level_db: float, then: Change = lambda x, _: x) -> Change:
    """Return a change that lowers the level of a recording, then makes another change."""
    return lambda waveform, rng: then(waveform * np.float32(10 ** (-level_db / 20)), rng)


CHANGES: dict[str, Change] = {
    "noise around, -30 dB": noise_around(-30),
    "noise around, -20 dB": noise_around(-20),
    "silence around": lambda x, _: np.pad(x, TWO_S),
    "pause inside": lambda x, _: np.insert(x, [len(x) // 2] * TWO_S, 0.0),
    "offset 0.005": lambda x, _: x + np.float32(0.005),
    "knock before": knock_before,
    "30 dB quieter": quieter(30),
    "50 dB quieter": quieter(50),
    "50 dB, a knock before": quieter(50, knock_before),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of short recordings")
    parser.add_argument("--clips", type=int, default=48, help="number of recordings to use, evenly spread")
    parser.add_argument("--model", help="model folder or Hub name [the default model]")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    model = serein.load(options.model)
    found = audio.find(options.data)
    clips = [audio.load(found[number * len(found) // options.clips]) for number in range(options.clips)]
    labels = [model.predict(clip, SAMPLE_RATE_HZ).label for clip in clips]
    changed = {}
    for name, change in CHANGES.items():
        rng = np.random.default_rng(0)
        again = [np.clip(change(clip, rng), -1, 1).astype(np.float32) for clip in clips]
        others = [model.predict(clip, SAMPLE_RATE_HZ).label for clip in again]
        changed[name] = sum(one != other for one, other in zip(labels, others, strict=True))
    if options.json:
        print(json.dumps({"clips": len(clips), "rejected": labels.count(None), "changed": changed}))
        return
    print(f"{len(clips)} clips, {labels.count(None)} of them rejected unchanged; different labels under")
    for name, count in changed.items():
        print(f"  {name:<22}{count:3d}")


if __name__ == "__main__":
    main()

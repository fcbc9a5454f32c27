"""Score and compare predictions of very many classes: CPU seconds and peak memory.

By default, two systems predict 153,516 utterances of 1,251 classes, as in VoxCeleb1. The classes are speakers, or words
that all speakers utter (`--classes-of words`), in which case whole speakers are resampled.

    python benchmarks/many_classes.py --utterances 153516 --classes 1251
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence

import numpy as np

from serein.evaluation.intervals import paired_difference
from serein.evaluation.predictions import EvalPrediction
from serein.evaluation.scores import score_predictions

SKILLS = (0.9, 0.85)  # of the two systems: how often each is correct


def systems(num_utterances: int, num_classes: int, classes_of: str) -> list[list[EvalPrediction]]:
    """Make up predictions of two systems for the same utterances."""
    rng = np.random.default_rng(0)
    speaker = np.sort(rng.integers(num_classes, size=num_utterances))
    truth = speaker if classes_of == "speakers" else rng.integers(num_classes, size=num_utterances)
    made = []
    for skill in SKILLS:
        is_right = rng.random(num_utterances) < skill
        predicted = np.where(is_right, truth, rng.integers(num_classes, size=num_utterances))
        rows = zip(truth.tolist(), predicted.tolist(), speaker.tolist(), strict=True)
        made.append(
            [
                EvalPrediction(
                    id=f"u{n}", truth=f"id{1 + t:05d}", prediction=f"id{1 + p:05d}", speaker=f"id{1 + s:05d}"
                )
                for n, (t, p, s) in enumerate(rows)
            ]
        )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--utterances", type=int, default=153_516)
    parser.add_argument("--classes", type=int, default=1251)
    parser.add_argument("--classes-of", choices=("speakers", "words"), default="speakers")
    options = parser.parse_args(arguments)
    classes = [f"id{number:05d}" for number in range(1, options.classes + 1)]
    first, second = systems(options.utterances, options.classes, options.classes_of)
    found: dict[str, object] = {"utterances": options.utterances, "classes": options.classes}
    started = time.process_time()
    scores = score_predictions(first, classes)
    found["score_cpu_s"] = round(time.process_time() - started, 1)
    started = time.process_time()
    difference = paired_difference(first, second, classes, rng=np.random.default_rng(0))["ua"]
    found["compare_cpu_s"] = round(time.process_time() - started, 1)
    found |= {"ua": scores.pooled["ua"], "interval": scores.intervals["ua"], "difference": 100 * difference.difference}
    found |= {"difference_interval": difference.interval, "resampled": difference.resampled}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found["peak_mib"] = round(peak / (1024**2 if sys.platform == "darwin" else 1024))
    print(json.dumps(found))


if __name__ == "__main__":
    main()

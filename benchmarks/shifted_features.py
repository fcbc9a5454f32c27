"""What shifting the features of a new corpus or speaker to the mean of a model's training data gains, without labels.

    python benchmarks/shifted_features.py --model free --data nemo.jsonl --out FOLDER

Predictions for a corpus that the model was not trained on, restricted to its classes: as they are; after `serein adapt
--method bias` with equal priors; after `--method mean` with all recordings of the corpus, with twenty, or with all of
each speaker; and after both. Then the same for a part of the corpus of which most is neutral. The same utterances,
paired differences, intervals over speakers. Nothing is tuned. The model contains the mean of its training data, or
--reference names recordings like these.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from serein.data import manifest
from serein.data.dataset import Recordings
from serein.data.protocols import speaker_key
from serein.evaluation.predictions import EvalPrediction, adapted, among, write_predictions
from serein.evaluation.scores import classes_of_corpus
from serein.experiment.outputs import cached_features
from serein.experiment.predict import predictions_of, scored_utterances
from serein.inference.adaptation import contain_mean
from serein.inference.predictor import load
from serein.progress import Bars
from serein.recipe import FeatureCacheOptions
from serein.training.normalisation import LayerVectors, NormalisedFeatures
from speaker_normalisation import mostly, show

FEW = 20


def main() -> None:
    """Encode once, predict in several ways, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="free", help="model folder, Hub name or name of a shipped model")
    parser.add_argument("--reference", type=Path, help="manifest like the training data, if the model lacks their mean")
    parser.add_argument("--data", type=Path, required=True, help="manifest of a corpus that the model has not learned")
    parser.add_argument("--neutral", default="neutral", help="class that makes up most recordings in the second part")
    parser.add_argument("--share", type=float, default=0.6, help="its share there")
    parser.add_argument("--out", type=Path, required=True, help="folder for the predictions")
    options = parser.parse_args()
    predictor = load(options.model, "cpu")
    checkpoint = predictor.checkpoint
    if options.reference is not None:
        contain_mean(predictor, manifest.read(options.reference))
    norm = checkpoint.model.feature_norm
    if norm is None:
        raise SystemExit("error: the model does not contain the mean of its training data: name a --reference")
    utterances, notes = scored_utterances(checkpoint, options.data, allow_seen_speakers=False)
    print(*notes, sep="\n")
    recordings = Recordings(utterances, trim_db=checkpoint.options.clips.trim_db)
    everything = range(len(utterances))
    with Bars() as bars:
        recordings.prefetch()
        cache = FeatureCacheOptions(dtype="float32")
        how = {"precision": "float32", "is_exact": True, "report": bars, "label": options.data.stem}
        features = cached_features(checkpoint, recordings, everything, cache, **how)
    if features is None:
        raise SystemExit("error: the model's features cannot be cached")

    def predictions(own: Sequence[int], shift_of: Mapping[int, LayerVectors]) -> list[EvalPrediction]:
        given = {"fold": "all", "seed": 0, "condition_source": checkpoint.options.inference.conditions}
        shifted = NormalisedFeatures(features, shift_of)
        return predictions_of(checkpoint, recordings, own, **given, features=shifted).by_task[checkpoint.task]

    def shifts(group_of: Mapping[int, str]) -> Mapping[int, LayerVectors]:
        return NormalisedFeatures.of(features, group_of, norm).shift_of

    whole = predictions(everything, {})
    names = classes_of_corpus(whole, checkpoint.tasks[checkpoint.task].spec.classes, where=options.data)
    speaker_of = {n: speaker_key(utterance) for n, utterance in enumerate(utterances) if utterance.speaker is not None}
    rng = np.random.default_rng(0)
    few = rng.permutation(len(utterances))[:FEW].tolist()
    of_few = next(iter(shifts(dict.fromkeys(few, "few")).values()))
    shifted = among(predictions(everything, shifts(dict.fromkeys(everything, "all"))), names)
    systems = {
        "as they are": among(whole, names),
        "bias": adapted(among(whole, names), names),
        "mean of the corpus": shifted,
        f"mean of {FEW} recordings": among(predictions(everything, dict.fromkeys(everything, of_few)), names),
        "mean of each speaker": among(predictions(everything, shifts(speaker_of)), names),
        "mean of the corpus, then bias": adapted(shifted, names),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"{options.data.stem}: {len(names)} classes: {', '.join(names)}")
    compared(systems, options.out)
    drawn = mostly(np.array([str(each.truth) for each in whole]), options.neutral, options.share, rng).tolist()
    if drawn:
        plain = among([whole[row] for row in drawn], names)
        shifted = among(predictions(drawn, shifts(dict.fromkeys(drawn, "all"))), names)
        priors = {options.neutral: options.share}
        skewed = {
            "as they are": plain,
            "bias, equal priors": adapted(plain, names),
            "bias, true priors": adapted(plain, names, priors=priors),
            "mean of these": shifted,
            "mean of these, then bias, true priors": adapted(shifted, names, priors=priors),
        }
        compared({f"{options.share:g} {options.neutral}, {name}": rows for name, rows in skewed.items()}, options.out)


def compared(systems: Mapping[str, list[EvalPrediction]], out: Path) -> None:
    """Write the predictions of systems, and print the differences to the first one."""
    paths = [out / f"{name}.jsonl" for name in systems]
    for path, rows in zip(paths, systems.values(), strict=True):
        write_predictions(rows, path)
    for score in ("ua", "wa"):
        show(paths, score=score)


if __name__ == "__main__":
    main()

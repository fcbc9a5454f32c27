"""What removing each speaker's mean from the features of a frozen backbone gains, on the folds of a recipe.

    python benchmarks/speaker_normalisation.py recipes/pretrained/ravdess-linear.yaml --data ravdess.jsonl --out FOLDER

A logistic regression on the means over time of all hidden layers, standardised on the training set, with balanced class
weights and otherwise scikit-learn's defaults, all fixed beforehand. Two are trained on each fold: on the features as
they are, and less the mean of their speaker. That of a test speaker is estimated without labels, from all of their
recordings or from a few; for an unknown speaker it is that of the training speakers. Copies of utterances are not used.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from serein import recipe as recipes
from serein.evaluation.compare import compare
from serein.evaluation.predictions import AdaptedTo, EvalPrediction, write_predictions
from serein.experiment.data import Experiment, prepare
from serein.models.backbones import HuggingFaceBackbone
from serein.progress import Bars
from serein.recipe.model import HuggingFace
from serein.training.feature_cache import FeatureCache


def main() -> None:
    """Compute features, train, test, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="recipe whose labels, folds and backbone are used")
    parser.add_argument("--data", type=Path, required=True, help="manifest")
    parser.add_argument("--out", type=Path, required=True, help="folder for the predictions")
    parser.add_argument("--sizes", type=int, nargs="*", default=[5, 10, 20, 40], help="recordings of a speaker's mean")
    parser.add_argument("--neutral", default="neutral", help="class that makes up most recordings in the second part")
    parser.add_argument("--share", type=float, default=0.6, help="its share there")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    with Bars() as bars:
        experiment = prepare(recipes.load(options.recipe, options.overrides), options.data, bars)
        originals = [n for n, utterance in enumerate(experiment.utterances) if utterance.copy_of is None]
        features = layer_means(experiment, originals, bars)
    utterances = [experiment.utterances[n] for n in originals]
    speakers = np.array([f"{utterance.corpus}/{utterance.speaker}" for utterance in utterances])
    truth = np.array([experiment.main.truth(utterance) for utterance in utterances])
    place = {utterance.id: row for row, utterance in enumerate(utterances)}
    rng = np.random.default_rng(0)
    predictions: dict[str, list[EvalPrediction]] = defaultdict(list)
    for fold in experiment.folds.folds:
        train, test = (np.array([place[name] for name in ids if name in place]) for ids in (fold.train, fold.test))
        means = {name: features[train[speakers[train] == name]].mean(axis=0) for name in np.unique(speakers[train])}
        plain = fitted(features[train], truth[train])
        normalised = fitted(features[train] - np.stack([means[name] for name in speakers[train]]), truth[train])

        def add(
            system: str,
            model: Pipeline,
            rows: NDArray[np.int64],
            less: NDArray[np.float32] | float,
            fold: str = fold.name,
        ) -> None:
            for row, values in zip(rows, model.predict_proba(features[rows] - less), strict=True):
                probabilities = dict(zip(model.classes_.tolist(), values.tolist(), strict=True))
                label = str(model.classes_[values.argmax()])
                own = EvalPrediction.of(utterances[row], truth[row], label, probabilities, fold=fold)
                predictions[system].append(own)

        add("plain", plain, test, 0.0)
        add("normalised, speaker unknown", normalised, test, np.mean(list(means.values()), axis=0))
        for name in np.unique(speakers[test]):
            own = test[speakers[test] == name]
            for size in options.sizes:
                few = rng.permutation(own)[:size]
                add(f"normalised, {size} recordings", normalised, own, features[few].mean(axis=0))
            add("normalised", normalised, own, features[own].mean(axis=0))
            chosen = mostly(truth[own], options.neutral, options.share, rng)
            if len(chosen):
                skewed = own[chosen]
                add(f"plain, {options.share:g} {options.neutral}", plain, skewed, 0.0)
                less = features[skewed].mean(axis=0)
                add(f"normalised, {options.share:g} {options.neutral}", normalised, skewed, less)
    options.out.mkdir(parents=True, exist_ok=True)
    paths = {system: options.out / f"{system}.jsonl" for system in predictions}
    for system, rows in predictions.items():
        write_predictions(rows, paths[system])
    of_all = [path for system, path in paths.items() if options.neutral not in system]
    show(of_all)
    show(of_all[:1], adapt="speaker")
    if of_most := [path for system, path in paths.items() if options.neutral in system]:
        show(of_most)
        show(of_most, score="wa")
        priors = {options.neutral: options.share}
        for score in ("ua", "wa"):
            show(of_most[:1], score=score, adapt="speaker")
            show(of_most[:1], score=score, adapt="speaker", priors=priors)


def layer_means(experiment: Experiment, positions: list[int], bars: Bars) -> NDArray[np.float32]:
    """Return the mean over time of every hidden layer, (utterance, layer x feature)."""
    recipe = experiment.recipe
    if not isinstance(recipe.backbone, HuggingFace):
        raise SystemExit("error: the recipe has no pretrained backbone")
    backbone = HuggingFaceBackbone.from_options(recipe.backbone)
    layers = tuple(str(number) for number in range(len(backbone.sizes)))
    cache = FeatureCache(backbone.eval(), layers, recipe.feature_cache, "float32", means=True)
    stored = cache.of(experiment.recordings, recipe.clips, positions, bars, "features")
    return np.stack([np.concatenate([stored[p][layer][0].numpy() for layer in layers]) for p in positions])


def fitted(features: NDArray[np.float32], truth: NDArray[np.str_]) -> Pipeline:
    """Return a trained logistic regression."""
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    return model.fit(features, truth)


def mostly(truth: NDArray[np.str_], name: str, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw positions of which a share belongs to one class, and the rest to the others in equal numbers."""
    others = [other for other in np.unique(truth) if other != name]
    own = np.flatnonzero(truth == name)
    size = round(len(own) * (1 - share) / share / max(len(others), 1))
    if not size:
        return np.zeros(0, np.int64)
    drawn = [rng.permutation(np.flatnonzero(truth == other))[:size] for other in others]
    return np.concatenate([own, *drawn])


def show(
    paths: list[Path], score: str = "ua", adapt: AdaptedTo | None = None, priors: dict[str, float] | None = None
) -> None:
    """Print the score of the first system, and the differences of the others to it."""
    found = compare(paths, score=score, adapt=adapt, priors=priors)
    assumed = f", assuming {priors}" if priors else ""
    print(f"{found.runs[0].run}: {score} {found.runs[0].score:.1f}, {found.num_utterances} utterances")
    scores = {run.run: run.score for run in found.runs}
    for pair in found.pairs:
        bounds = "" if pair.interval is None else "[{:+.1f}, {:+.1f}]".format(*pair.interval)
        print(f"  {pair.run}{assumed}: {scores[pair.run]:.1f}, {pair.difference:+.1f} {bounds}, p {pair.p_value:.4f}")


if __name__ == "__main__":
    main()

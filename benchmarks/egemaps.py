"""The classical baseline: eGeMAPS functionals and a support vector machine, on the folds of a recipe.

    pip install opensmile      # for research only; not a dependency of serein
    python benchmarks/egemaps.py recipes/pretrained/emodb.yaml --data emodb.jsonl [--features ComParE_2016]

Each feature is standardised on the training set; the SVM has a radial kernel, C = 1 and balanced class weights, all
fixed beforehand. Copies of utterances are not used.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from serein import recipe as recipes
from serein.audio import SAMPLE_RATE_HZ
from serein.evaluation.intervals import interval_text
from serein.evaluation.predictions import EvalPrediction
from serein.evaluation.scores import score_predictions
from serein.experiment.data import prepare
from serein.progress import Bars


def main() -> None:
    """Extract, train, test, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="recipe whose labels, protocol and folds are used")
    parser.add_argument("--data", type=Path, required=True, help="manifest")
    parser.add_argument("--features", default="eGeMAPSv02", help="feature set of openSMILE")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    import opensmile

    extract = opensmile.Smile(getattr(opensmile.FeatureSet, options.features), opensmile.FeatureLevel.Functionals)
    with Bars() as bars:
        experiment = prepare(recipes.load(options.recipe, options.overrides), options.data, bars)
        originals = [n for n, utterance in enumerate(experiment.utterances) if utterance.copy_of is None]
        rows = []
        for done, number in enumerate(originals, start=1):
            rows.append(extract.process_signal(experiment.recordings[number], SAMPLE_RATE_HZ).to_numpy()[0])
            bars("features", done, len(originals), f"{len(originals)} clips")
    features = np.nan_to_num(np.stack(rows))
    truth = [experiment.main.truth(experiment.utterances[number]) for number in originals]
    place = {experiment.utterances[number].id: row for row, number in enumerate(originals)}
    predictions = []
    for fold in experiment.folds.folds:
        train, test = ([place[name] for name in ids if name in place] for ids in (fold.train, fold.test))
        classifier = make_pipeline(StandardScaler(), SVC(C=1.0, class_weight="balanced"))
        classifier.fit(features[train], [truth[row] for row in train])
        for row, predicted in zip(test, classifier.predict(features[test]), strict=True):
            utterance = experiment.utterances[originals[row]]
            own = {"speaker": utterance.speaker, "corpus": utterance.corpus, "fold": fold.name}
            predictions.append(EvalPrediction(utterance.id, truth[row], str(predicted), **own))
    scores = score_predictions(predictions, experiment.classes)
    ua, deviation = scores.mean["ua"], scores.standard_deviation["ua"] or 0.0
    print(f"{options.features}, {features.shape[1]} features, {len(predictions)} utterances, {len(scores.folds)} folds")
    print(f"UA {ua:.1f} +- {deviation:.1f}, pooled {scores.pooled['ua']:.1f} {interval_text(scores.intervals['ua'])}")


if __name__ == "__main__":
    main()

"""Evaluate a finished run with the nearest clips in each fold's train and dev (wang2023, section 2.3; stage S3)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from serein import recipe as recipes
from serein.checkpoint import Checkpoint, parts_digest
from serein.data import manifest
from serein.data.files import write_text
from serein.data.splits import Fold
from serein.device import device_of
from serein.errors import RunError
from serein.evaluation.intervals import Difference, paired_difference
from serein.evaluation.predictions import (
    EvalPrediction,
    has_test_set,
    missing_predictions,
    read_json,
    read_predictions,
    read_run_predictions,
    write_predictions,
)
from serein.evaluation.scores import Scores, score_predictions
from serein.experiment.data import Experiment, prepare
from serein.experiment.predict import fold_run_folder
from serein.inference.predictor import load as load_model
from serein.knn.building import Metric, Votes, concatenated, new_header, tuning_record
from serein.knn.datastore import (
    Datastore,
    Embeddings,
    is_datastore,
    key,
    open_datastore,
    write_datastore,
    write_header,
)
from serein.knn.predictor import (
    KNN_WEIGHTS,
    MAX_NEIGHBOURS,
    TunedKnn,
    embed_labelled,
    interpolate,
    keys_of,
    knn_probabilities_by_k,
    model_reference,
    tune_k_and_weight,
)
from serein.metrics import FloatArray
from serein.models.conditioning import ConditionSource
from serein.progress import Report

Selection = Literal["dev", "oracle"]


@dataclass(frozen=True)
class KnnOptions:
    """Options for evaluating a run with kNN.

    Attributes:
        selection: The split of each fold on which k and the weight are tuned.
        k, knn_weight: Given values; `None` to tune.
    """

    selection: Selection = "dev"
    votes: Votes = "uniform"
    metric: Metric = "ua"
    k: int | None = None
    knn_weight: float | None = None

    @property
    def given(self) -> dict[str, float]:
        """Those of k and the weight that were given, by name."""
        values = {"k": self.k, "knn_weight": self.knn_weight}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def is_given(self) -> bool:
        """Whether nothing is left to tune."""
        return len(self.given) == 2

    @property
    def is_oracle(self) -> bool:
        """Whether anything is tuned on the test sets."""
        return self.selection == "oracle" and not self.is_given


@dataclass(frozen=True)
class KnnSelection:
    """The k and the weight of one fold and seed.

    Attributes:
        num_clips: Number of clips in its datastore: train and dev.
        tuned: The tuned values and their scores on the tuning set, as fractions; `None` if both were given.
    """

    fold: str
    seed: int
    k: int
    knn_weight: float
    num_clips: int
    tuned: TunedKnn | None


@dataclass(frozen=True)
class KnnEvaluation:
    """Scores of a run's model, its neighbours, and both interpolated (kNN), on the same test clips.

    Attributes:
        selection: `dev`, `oracle`, or `given`.
        given: Those of k and the weight that were not tuned, by name.
        systems: `model`, `neighbours` (alone, with the same k), `knn` -> scores.
        differences: kNN minus model, by score name; fractions.
        notes: Caveats for readers of the numbers.
    """

    selection: Literal["dev", "oracle", "given"]
    votes: Votes
    metric: Metric
    given: dict[str, float]
    trials: tuple[KnnSelection, ...]
    systems: dict[str, Scores]
    differences: dict[str, Difference]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers; scores and differences in per cent."""
        return {
            "selection": self.selection,
            "votes": self.votes,
            "metric": self.metric,
            "given": self.given,
            "systems": {name: scores.to_json() for name, scores in self.systems.items()},
            "knn_minus_model": {name: found.to_per_cent() for name, found in self.differences.items()},
            "trials": [asdict(trial) for trial in self.trials],
            "notes": list(self.notes),
        }


def evaluate_run_with_knn(
    run: Path, knn_options: KnnOptions, report: Report, data: Path | None = None, device: str = "auto"
) -> KnnEvaluation:
    """Evaluate a finished run with and without its neighbours (stage S3 of wang2023).

    For every fold and seed, k and the weight are tuned on dev with a datastore of train only; the datastore that is
    evaluated, and kept in the run, contains train and dev. Writes `fold-*/seed-*/neighbours/` (the datastore),
    predictions next to those of the model, and `knn.json`.

    Args:
        data: The manifest of the run, if it has moved.
        device: The device of its models, see `serein.load`.

    Raises:
        RunError: The run is unfinished or used other data, or there is no dev set to tune on, or its features are
            normalised by speaker or corpus.
    """
    device_of(device)  # before any work
    recorded = read_json(run / "data.json")
    if not (run / "recipe.yaml").is_file() or "manifest" not in recorded:
        raise RunError("is not a run folder", where=run, remedy="Specify a folder that serein run has written.")
    experiment = prepare(recipes.load(run / "recipe.yaml"), data or Path(recorded["manifest"]), report)
    experiment.device = device
    normalisation = experiment.recipe.feature_normalisation
    if normalisation is not None and {normalisation.mean, normalisation.test_mean} != {"training"}:
        raise RunError(
            "its features are normalised by speaker or corpus, which neighbours are not",
            where=run,
            remedy="Run it with the mean and test_mean 'training' of feature_normalisation.",
        )
    if recorded.get("sha256") != manifest.digest(experiment.utterances):
        raise RunError("was run on other data", where=run, remedy="Specify the manifest that it was run on: --data.")
    if not has_test_set(run):
        raise RunError(
            "has no test set with labels: k and the weight would be tuned on the evaluated set",
            where=run,
            remedy="Build a datastore with serein knn build, and predict with it.",
        )
    if read_json(run / "folds.json").get("sha256") != experiment.folds.sha256:
        raise RunError("its folds are divided differently now", where=run, remedy="Run the recipe again.")
    classes = experiment.classes
    everything = read_run_predictions(run, classes)
    predicted = [row for row in everything if row.truth is not None]
    lacking = missing_predictions(run, everything)
    if lacking:
        raise RunError(lacking[0], where=run, remedy="Finish the run with --resume.")
    without = [fold.name for fold in experiment.folds.folds if not fold.dev]
    if without and knn_options.selection == "dev" and not knn_options.is_given:
        raise RunError(
            f"fold {without[0]} has no dev set to tune k and the weight on",
            where=run,
            remedy="Specify both (--k 8 --knn-weight 0.3), or tune on test as the paper did, which is marked as such "
            "(--selection oracle).",
        )
    done: list[_TrialResult] = []
    trials = experiment.fold_runs()
    for number, (fold, seed) in enumerate(trials, start=1):
        done.append(_evaluate(experiment, fold, seed, run, knn_options, report))
        report("with neighbours", number, len(trials), f"{len(trials)} folds and seeds")
    notes = _notes(done, knn_options)
    alone = [row for result in done for row in result.alone]
    interpolated = [row for result in done for row in result.interpolated]
    differences = paired_difference(interpolated, predicted, classes, rng=np.random.default_rng(0))
    found = KnnEvaluation(
        selection="given" if knn_options.is_given else knn_options.selection,
        votes=knn_options.votes,
        metric=knn_options.metric,
        given=knn_options.given,
        trials=tuple(result.trial for result in done),
        systems={
            "model": score_predictions(predicted, classes),
            "neighbours": score_predictions(alone, classes, notes=notes),
            "knn": score_predictions(interpolated, classes, notes=notes),
        },
        differences=differences,
        notes=(*notes, *differences[knn_options.metric].notes),
    )
    name = "knn_oracle.json" if knn_options.is_oracle else "knn.json"
    write_text(run / name, json.dumps(found.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return found


@dataclass(frozen=True)
class _TrialResult:
    trial: KnnSelection
    alone: list[EvalPrediction]
    interpolated: list[EvalPrediction]


def _evaluate(
    experiment: Experiment, fold: Fold, seed: int, run: Path, knn_options: KnnOptions, report: Report
) -> _TrialResult:
    """Evaluate one fold and seed, with k and the weight given or tuned."""
    folder, classes = fold_run_folder(run, fold, seed), experiment.classes
    datastore = _datastore(experiment, fold, seed, run, report)
    everything, probabilities = _predicted(folder / "predictions.jsonl", classes, fold.name, seed)
    path = folder / "embeddings.safetensors"
    try:
        vectors = load_file(path)["embeddings"]
    except (SafetensorError, OSError, KeyError) as error:
        raise RunError(f"cannot be read ({error})", where=path, remedy="Run the recipe again.") from None
    if len(vectors) != len(everything):
        raise RunError(
            f"contains {len(vectors)} embeddings for {len(everything)} predictions", where=path, remedy="Run it again."
        )
    rows, vectors, probabilities = _labelled_rows(everything, vectors, probabilities)
    position_of = {utterance.id: position for position, utterance in enumerate(experiment.utterances)}
    keys = keys_of(experiment.recordings, [position_of[row.id] for row in rows])
    test = Embeddings(vectors, np.array([classes.index(row.truth or "") for row in rows], np.int64), keys)
    k, knn_weight, tuned = knn_options.k, knn_options.knn_weight, None
    if k is None or knn_weight is None:
        embeddings, queries, tuned_on = datastore.embeddings, test, probabilities
        if knn_options.selection == "dev":
            dev_rows, tuned_on = _labelled_rows(*_predicted(folder / "dev_predictions.jsonl", classes, fold.name, seed))
            num_train = len(_labelled(experiment, fold.train))
            is_dev = np.arange(len(embeddings)) >= num_train  # whose predictions are in the same order
            if embeddings.keys[is_dev, 0].tolist() != [key(row.id) for row in dev_rows]:
                what = "does not contain the dev set of this run"
                raise RunError(what, where=datastore.folder, remedy="Delete it.")
            embeddings, queries = embeddings.only(np.flatnonzero(~is_dev)), embeddings.only(np.flatnonzero(is_dev))
        most = k or min(MAX_NEIGHBOURS, len(embeddings) - 1)
        tuned = tune_k_and_weight(
            embeddings.nearest(queries.vectors, most, queries.keys),
            tuned_on,
            queries.labels,
            votes=knn_options.votes,
            metric=knn_options.metric,
            ks=None if k is None else (k,),
            knn_weights=KNN_WEIGHTS if knn_weight is None else (knn_weight,),
        )
        k, knn_weight = tuned.k, tuned.knn_weight
        if knn_options.selection == "dev":
            where = f"dev of fold {fold.name}"
            tuning = tuning_record(tuned, knn_options.votes, knn_options.metric, where, num_train)
            write_header(datastore.folder, datastore.header.model_copy(update={"tuning": tuning}))
    nearest = datastore.embeddings.nearest(test.vectors, k, test.keys)
    votes = knn_probabilities_by_k(nearest, len(classes), knn_options.votes)[-1]
    interpolated = _as_predictions(rows, interpolate(votes, probabilities, knn_weight), classes)
    name = "knn_oracle" if knn_options.is_oracle else "knn"
    write_predictions(interpolated, folder / f"{name}_predictions.jsonl")
    trial = KnnSelection(fold.name, seed, k, knn_weight, len(datastore.embeddings), tuned)
    return _TrialResult(trial, _as_predictions(rows, votes, classes), interpolated)


def _labelled(experiment: Experiment, ids: Sequence[str]) -> list[int]:
    """Return the positions of the utterances that have a class; a fold may also train on others."""
    return [p for p in experiment.positions(ids) if experiment.main.truth(experiment.utterances[p]) is not None]


def _labelled_rows(rows: Sequence[EvalPrediction], *arrays: Any) -> tuple[Any, ...]:
    """Return the predictions of clips that have a class, and the same rows of arrays."""
    kept = [number for number, row in enumerate(rows) if row.truth is not None]
    return [rows[number] for number in kept], *(array[kept] for array in arrays)


def _datastore(experiment: Experiment, fold: Fold, seed: int, run: Path, report: Report) -> Datastore:
    """Return the datastore of a fold's train and dev, in this order; build it unless it exists for this model."""
    fold_with_same_training = fold_run_folder(run, experiment.fold_with_same_training(fold), seed)
    folder, digest = fold_with_same_training / "neighbours", parts_digest(fold_with_same_training / "model")
    train, dev = _labelled(experiment, fold.train), _labelled(experiment, fold.dev)
    if is_datastore(folder):
        datastore = open_datastore(folder)
        if datastore.header.model_sha256 == digest and len(datastore.embeddings) == len(train) + len(dev):
            return datastore
    checkpoint = load_model(fold_with_same_training / "model", experiment.device).checkpoint
    label, condition_source = f"fold {fold.name}  seed {seed}  datastore", experiment.recipe.inference.conditions
    embeddings = _embed(experiment, checkpoint, train, "known", label, report)
    if dev:
        embeddings = concatenated(
            embeddings, _embed(experiment, checkpoint, dev, condition_source, f"{label}  dev", report)
        )
    clips = [experiment.utterances[position] for position in (*train, *dev)]
    write_datastore(
        folder,
        new_header(model_reference(str(fold_with_same_training / "model")), digest, checkpoint),
        embeddings,
        clips,
    )
    return open_datastore(folder)


def _embed(
    experiment: Experiment,
    checkpoint: Checkpoint,
    positions: Sequence[int],
    condition_source: ConditionSource,
    label: str,
    report: Report,
) -> Embeddings:
    detail = f"{len(positions)} clips"
    return embed_labelled(
        checkpoint,
        experiment.recordings,
        positions,
        condition_source,
        lambda done, total: report(label, done, total, detail),
    )[0]


def _predicted(path: Path, classes: Sequence[str], fold: str, seed: int) -> tuple[list[EvalPrediction], FloatArray]:
    """Return a model's predictions for one fold and seed, and its probabilities, (clip, class)."""
    rows = read_predictions(path, classes, fold=fold, seed=seed)
    without = [row.id for row in rows if row.probabilities is None]
    if without:
        raise RunError(f"'{without[0]}' has no probabilities", where=path, remedy="Run the recipe again.")
    return rows, np.array([[(row.probabilities or {})[name] for name in classes] for row in rows])


def _as_predictions(
    rows: Sequence[EvalPrediction], probabilities: FloatArray, classes: Sequence[str]
) -> list[EvalPrediction]:
    return [
        replace(
            row, prediction=classes[int(own.argmax())], probabilities=dict(zip(classes, map(float, own), strict=True))
        )
        for row, own in zip(rows, probabilities, strict=True)
    ]


def _notes(done: Sequence[_TrialResult], knn_options: KnnOptions) -> tuple[str, ...]:
    num_clips = sorted({result.trial.num_clips for result in done})
    sizes = str(num_clips[0]) if len(num_clips) == 1 else f"{num_clips[0]} to {num_clips[-1]}"
    contents = f"Each datastore contains train and dev of its fold: {sizes} clips."
    if knn_options.is_given:
        return (f"k {knn_options.k} and weight {knn_options.knn_weight:g} were given; nothing was tuned.", contents)
    tuned = "k and the weight were tuned"
    if knn_options.k is not None:
        tuned = f"k {knn_options.k} was given; the weight was tuned"
    elif knn_options.knn_weight is not None:
        tuned = f"k was tuned, for the given weight {knn_options.knn_weight:g},"
    if knn_options.is_oracle:
        return f"ORACLE, optimistic: {tuned} on the test sets that are evaluated here, as in wang2023.", contents
    return f"{tuned} on each fold's dev, with a datastore of only its train.", contents

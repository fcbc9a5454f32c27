"""Rows of a table with kNN: finished runs, evaluated again with their nearest training clips (wang2023, S3)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np

from serein.ensemble.evaluation import divide
from serein.ensemble.weights import ensemble_probabilities, fit_weights
from serein.errors import RunError
from serein.evaluation.predictions import Prediction, read_json, write_predictions
from serein.evaluation.systems import AlignedPredictions, Split, align_predictions, read_systems
from serein.knn.evaluation import KnnOptions, evaluate_run_with_knn
from serein.progress import Report
from serein.reproduce.table import Row
from serein.reproduce.trials import Data, Trial, is_finished

Selection = Literal["dev", "oracle"]

PREDICTIONS: dict[Selection, str] = {
    "dev": "knn_predictions.jsonl",
    "oracle": "knn_oracle_predictions.jsonl",
}
_SUMMARIES: dict[Selection, str] = {"dev": "knn.json", "oracle": "knn_oracle.json"}  # written last


def evaluate_with_knn(trials: Sequence[Trial], selection: Selection, data: Data, report: Report) -> None:
    """Evaluate the finished trials of a row with kNN, each once.

    Raises:
        RunError: A trial has no dev set to choose on, or was run on other data.
    """
    for trial in trials:
        if is_finished(trial) and not is_evaluated_with_knn(trial, selection):
            evaluate_run_with_knn(trial.folder, KnnOptions(selection), report, data.manifest)


def is_evaluated_with_knn(trial: Trial, selection: Selection) -> bool:
    """Return whether a trial was evaluated with kNN."""
    return (trial.folder / _SUMMARIES[selection]).exists()


def chosen_note(row: Row, trials: Sequence[Trial]) -> str:
    """Return a note that says which k and kNN weights were chosen, and where."""
    selection = row.knn or "dev"
    chosen = [
        choice for trial in trials for choice in read_json(trial.folder / _SUMMARIES[selection]).get("trials", ())
    ]
    where = "the evaluated test sets themselves (oracle, optimistic)" if selection == "oracle" else "dev"
    ks, knn_weights = ([choice[name] for choice in chosen] for name in ("k", "knn_weight"))
    return (
        f"'{row.title}': k and kNN weight of each fold and seed chosen on {where}: k {min(ks)} to {max(ks)}, median "
        f"{median(ks):g}; kNN weight {min(knn_weights):g} to {max(knn_weights):g}, median {median(knn_weights):g}."
    )


def ensemble_rows(trials: Mapping[str, Sequence[Trial]], out: Path, split: Split, report: Report) -> dict[int, Path]:
    """Combine the models of all rows, for each seed that all have finished.

    Rows of the same configuration are one model. Existing prediction files are not made again.

    Args:
        trials: Row name -> its units, one per seed.
        out: Where the predictions go: `fusion-<rows' configurations>/seed-<seed>-<split>.jsonl`.

    Returns:
        Seed -> prediction file of the ensemble.

    Raises:
        RunError: The rows are fewer than two models, or did not predict the same.
    """
    finished: dict[int, Path] = {}
    for of_seed in zip(*trials.values(), strict=True):
        if not all(is_finished(trial) for trial in of_seed):
            continue
        seed = of_seed[0].seed
        folders = list(dict.fromkeys(trial.folder for trial in of_seed))
        if len(folders) < 2:
            raise RunError("its rows are one and the same model")
        path = out / _name(folders) / f"seed-{seed}-{split}.jsonl"
        if not path.exists():
            write_predictions(_fused(folders, seed, split, report), path)
        finished[seed] = path
    return finished


def _name(folders: Sequence[Path]) -> str:
    configurations = " ".join(folder.parent.name for folder in folders)
    return f"fusion-{hashlib.sha256(configurations.encode()).hexdigest()[:12]}"


def _fused(folders: Sequence[Path], seed: int, split: Split, report: Report) -> list[Prediction]:
    systems = read_systems(folders, split)
    evaluated = align_predictions(systems, split)
    has_dev = split == "test" and all(system.predictions.get("dev") for system in systems)
    _, parts = divide(evaluated, align_predictions(systems, "dev") if has_dev else None, seed)
    probabilities = np.empty(evaluated.probabilities.shape[1:])
    for number, part in enumerate(parts):
        report(f"fusing, seed {seed}", number, len(parts), part.name)
        weights = fit_weights(part.fit.probabilities, part.fit.truth, rng=np.random.default_rng(seed)).weights
        probabilities[part.evaluated] = ensemble_probabilities(evaluated.probabilities[:, part.evaluated], weights)
    report(f"fusing, seed {seed}", len(parts), len(parts), f"{len(systems)} models")
    return _predictions(evaluated, probabilities, seed)


def _predictions(evaluated: AlignedPredictions, probabilities: np.ndarray, seed: int) -> list[Prediction]:
    predictions = []
    for row, own in zip(evaluated.rows, probabilities, strict=True):
        by_class = dict(zip(evaluated.classes, map(float, own), strict=True))
        predictions.append(
            replace(row, prediction=evaluated.classes[int(own.argmax())], probabilities=by_class, seed=seed)
        )
    return predictions

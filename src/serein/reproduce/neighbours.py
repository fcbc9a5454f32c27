"""Rows of a table with kNN: finished runs, evaluated again with their nearest training clips (wang2023, S3)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal

from serein.evaluation.run_folder import read_json
from serein.progress import Report
from serein.reproduce.table import Row
from serein.reproduce.units import Data, Trial, is_finished

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
    from serein.neighbouring import KnnOptions, evaluate_run_with_knn

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

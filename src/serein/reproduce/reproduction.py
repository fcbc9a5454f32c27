"""From a table, data and seeds to every row trained once and compared with the published scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serein.distributed import distributed_info
from serein.errors import RecipeError, RunError, SereinError
from serein.evaluation.predictions import read_json
from serein.evaluation.scores import SCORE_TITLES
from serein.evaluation.systems import Split
from serein.progress import Report
from serein.recipe import Recipe
from serein.reproduce.comparison import Comparison, compare
from serein.reproduce.engines import ENGINES
from serein.reproduce.figures import with_picture
from serein.reproduce.rows import ensemble_rows, evaluate_with_knn
from serein.reproduce.table import Row, Table
from serein.reproduce.trials import Data, Trial, is_finished, row_recipe, take_data, trial_of
from serein.reproduce.writers import write_comparison, write_page


@dataclass(frozen=True)
class Request:
    """What to reproduce, and how.

    Attributes:
        rows: Names of the rows to train; `None` trains all. Other rows are shown if they are finished.
        num_seeds: Seeds 0, 1, ... of every row.
        limit: Most utterances of each speaker and emotion; `None` takes all.
        overrides: `KEY=VALUE`, set in every row after its own changes.
        out: Folder of all run folders and tables.
        engine: Name in `ENGINES`.
        num_jobs: Folds at once of a run (cores of a task, with Ray); `None` chooses.
        split: Whose predictions are scored.
    """

    rows: tuple[str, ...] | None = None
    num_seeds: int = 3
    limit: int | None = None
    overrides: tuple[str, ...] = ()
    out: Path = Path("runs/reproduce")
    engine: str = "local"
    num_jobs: int | None = None
    split: Split = "test"


@dataclass(frozen=True)
class Failure:
    """A row that could not be trained, and why."""

    row: Row
    error: SereinError


def reproduce(table: Table, manifest: Path, request: Request, report: Report) -> tuple[Comparison, list[Failure]]:
    """Train what a table still lacks, compare, and write `<out>/<paper>-<table>.md`, `.json` and `report.html`.

    A row that fails does not stop the others; its failure is returned.

    Raises:
        RecipeError: A row or its recipe is wrong; before any training.
        ManifestError: The data cannot be read; before any training.
    """
    if distributed_info().size > 1:
        raise RunError(
            "cannot run under torchrun", where="reproduce", remedy="Start it alone; --engine ray uses a cluster."
        )
    picked = table.picked(request.rows)
    recipes = {row.name: row_recipe(table, row, request.overrides) for row in table.rows if not row.ensemble}
    _require_split(table, recipes, request.split)
    data = take_data(manifest, request.limit, request.out)
    trials = {
        name: [trial_of(name, recipe, seed, data, request.out) for seed in range(request.num_seeds)]
        for name, recipe in recipes.items()
    }
    trained = [row for row in picked if not row.ensemble]
    wanted = [trials[row.name][seed] for seed in range(request.num_seeds) for row in trained]  # a whole table early
    errors = _train(table, trained, wanted, data, request, report)
    first = {
        row.name: [errors[trial.folder] for trial in trials[row.name] if trial.folder in errors] for row in trained
    }
    failures = [Failure(row, first[row.name][0]) for row in trained if first[row.name]]
    ensemble: dict[int, Path] = {}
    for row in picked:
        try:
            if row.knn is not None:
                evaluate_with_knn(trials[row.name], row.knn, data, report)
            if row.ensemble:
                ensemble = ensemble_rows(trials, request.out, request.split, report)
        except SereinError as error:
            failures.append(Failure(row, error))
    comparison = compare(table, trials, ensemble, data, split=request.split, overrides=request.overrides)
    if any(row.scores for row in comparison.rows):
        comparison = with_picture(comparison, request.out, report)
        write_comparison(comparison, request.out)
        write_page(request.out)
    return comparison, failures


def _require_split(table: Table, recipes: Mapping[str, Recipe], split: Split) -> None:
    with_knn = [row.name for row in table.rows if row.knn]
    if split == "dev" and with_knn:
        raise RecipeError(
            f"the rows {', '.join(with_knn)} use kNN, whose k and weight are chosen on dev",
            where="--split dev",
            remedy="Choose --split test.",
        )
    without = [name for name, recipe in recipes.items() if recipe.protocol.dev == "none"]
    if split == "dev" and without:
        raise RecipeError(
            f"the rows {', '.join(without)} have no dev set: their protocol.dev is 'none'",
            where="--split dev",
            remedy="Choose --split test, or --set protocol.dev=speakers.",
        )


def _train(
    table: Table, rows: Sequence[Row], wanted: Sequence[Trial], data: Data, request: Request, report: Report
) -> dict[Path, SereinError]:
    """Train what is not finished, each folder once, and return the errors by run folder."""
    trials = list({trial.folder: trial for trial in wanted}.values())
    waiting = [trial for trial in trials if not is_finished(trial)]
    done = len(trials) - len(waiting)
    label, total = table.name, len(trials)
    report(label, done, total, f"{done} of {total} runs finished before")
    errors: dict[Path, SereinError] = {}
    for trial, error in ENGINES[request.engine](waiting, data.manifest, request.num_jobs, report):
        done += 1
        place = f"row {rows.index(_row_of(trial, rows)) + 1} of {len(rows)}, seed {trial.seed}: {trial.row}"
        if error is not None:
            errors[trial.folder] = error
        reached = _score_of(trial, table) if error is None else "failed"
        report(place, 1, 1, reached)  # a line that stays
        report(label, done, total, f"{done} of {total} runs, {place}, {reached}")
    return errors


def _row_of(trial: Trial, rows: Sequence[Row]) -> Row:
    return next(row for row in rows if row.name == trial.row)


def _score_of(trial: Trial, table: Table) -> str:
    score = read_json(trial.folder / "scores.json")["pooled"][table.metric]
    return f"{SCORE_TITLES[table.metric]} {score:.1f}"

"""Reproduce a table: train every row once for each seed, and compare its scores with the published ones."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from serein.data.files import write_text
from serein.device import distributed_info, ray_cluster
from serein.errors import RecipeError, RunError, SereinError
from serein.evaluation.predictions import read_json
from serein.evaluation.scores import SCORE_TITLES
from serein.evaluation.systems import Split
from serein.knn.evaluation import KnnOptions, evaluate_run_with_knn
from serein.progress import Report
from serein.reproduce.comparison import Comparison, as_json, as_markdown, compare, paths, write_page
from serein.reproduce.figures import with_picture
from serein.reproduce.table import Row, Table
from serein.reproduce.trials import (
    BusyError,
    Data,
    Trial,
    ensemble_rows,
    is_evaluated_with_knn,
    is_finished,
    require_pretrained,
    row_recipe,
    take_data,
    train,
    trial_of,
)

Outcome = tuple[Trial, SereinError | None]

WAIT_S = 1.0


@dataclass(frozen=True)
class Request:
    """The options of a reproduction.

    Attributes:
        rows: Names of the rows to train; `None` trains all. Other rows are shown if they are finished.
        num_seeds: Number of seeds (0, 1, ...) for every row.
        limit: Maximum number of utterances of each speaker and emotion; `None` uses all.
        overrides: `KEY=VALUE`, set in every row after its own changes; other rows that they do not suit are not shown.
        out: Folder for all run folders and tables.
        engine: Name in `ENGINES`.
        num_jobs: Number of a run's folds to train at once (with Ray, cores per task); `None` chooses automatically.
        split: Split whose predictions are scored.
        device: Device for training and prediction; see `serein.run`.
    """

    rows: tuple[str, ...] | None = None
    num_seeds: int = 3
    limit: int | None = None
    overrides: tuple[str, ...] = ()
    out: Path = Path("runs/reproduce")
    engine: str = "local"
    num_jobs: int | None = None
    split: Split = "test"
    device: str = "auto"


@dataclass(frozen=True)
class Failure:
    """A row that could not be trained, and why."""

    row: Row
    error: SereinError


def reproduce(table: Table, manifest: Path, request: Request, report: Report) -> tuple[Comparison, list[Failure]]:
    """Train a table's unfinished rows, compare, and write `<out>/<paper>-<table>.md`, `.json` and `report.html`.

    A row that fails does not stop the others; its failure is returned.

    Raises:
        RecipeError: A row or its recipe is invalid, or starts from a model that is missing; raised before any training.
        ManifestError: The data cannot be read; raised before any training.
    """
    if distributed_info().size > 1:
        raise RunError(
            "cannot run under torchrun", where="reproduce", remedy="Start it without; --engine ray uses a cluster."
        )
    picked = table.picked(request.rows)
    recipes = {}
    for row in table.rows:
        if row.is_trained:
            try:
                recipes[row.name] = row_recipe(table, row, request.overrides)
            except RecipeError:  # an override need not suit rows that nobody asked for
                if row in picked or any(each.ensemble for each in picked):
                    raise
    with_knn = [row.name for row in table.rows if row.knn]
    if request.split == "dev" and with_knn:
        raise RecipeError(
            f"the rows {', '.join(with_knn)} use kNN, whose k and weight are chosen on dev",
            where="--split dev",
            remedy="Choose --split test.",
        )
    without = [name for name, recipe in recipes.items() if recipe.protocol.dev == "none"]
    if request.split == "dev" and without:
        raise RecipeError(
            f"the rows {', '.join(without)} have no dev set: their protocol.dev is 'none'",
            where="--split dev",
            remedy="Choose --split test, or --set protocol.dev=speakers.",
        )
    data = take_data(manifest, request.limit, request.out)
    official = [recipe.tasks.main for recipe in recipes.values() if recipe.protocol.name == "official"]
    is_of_emotions = any(name in ("emotion", "words") for name in official)  # VoxCeleb1's speakers have none
    if request.split == "test" and is_of_emotions and not data.has_test_set:
        raise RecipeError(
            "no utterance of the official test set has an emotion", where=manifest, remedy="Choose --split dev."
        )
    trials = {
        name: [trial_of(name, recipe, seed, data, request.out) for seed in range(request.num_seeds)]
        for name, recipe in recipes.items()
    }
    trained = [row for row in picked if row.is_trained]
    wanted = [trials[row.name][seed] for seed in range(request.num_seeds) for row in trained]  # a full table early
    require_pretrained(table, [trial for trial in wanted if not is_finished(trial)])
    errors = _train(table, trained, wanted, data, request, report)
    first = {
        row.name: [errors[trial.folder] for trial in trials[row.name] if trial.folder in errors] for row in trained
    }
    failures = [Failure(row, first[row.name][0]) for row in trained if first[row.name]]
    ensemble: dict[int, Path] = {}
    for row in picked:
        try:
            if row.knn is not None:
                for trial in trials[row.name]:
                    if is_finished(trial) and not is_evaluated_with_knn(trial, row.knn):
                        evaluate_run_with_knn(trial.folder, KnnOptions(row.knn), report, data.manifest, request.device)
            if row.ensemble:
                ensemble = ensemble_rows(trials, request.out, request.split, report)
        except SereinError as error:
            failures.append(Failure(row, error))
    comparison = compare(table, trials, ensemble, data, split=request.split, overrides=request.overrides)
    if comparison.is_measured:
        comparison = with_picture(comparison, request.out, report)
        markdown, data_file = paths(comparison, request.out)
        write_text(markdown, as_markdown(comparison))
        content = as_json(comparison, request.out)
        write_text(data_file, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        write_page(request.out)
    return comparison, failures


def _train(
    table: Table, rows: Sequence[Row], wanted: Sequence[Trial], data: Data, request: Request, report: Report
) -> dict[Path, SereinError]:
    """Train the trials that are not finished, each folder once, and return the errors by run folder."""
    trials = list({trial.folder: trial for trial in wanted}.values())
    waiting = [trial for trial in trials if not is_finished(trial)]
    done = len(trials) - len(waiting)
    label, total = table.name, len(trials)
    report(label, done, total, f"{done} of {total} runs already finished")
    errors: dict[Path, SereinError] = {}
    names = [row.name for row in rows]
    for trial, error in ENGINES[request.engine](waiting, data.manifest, request, report):
        done += 1
        place = f"row {names.index(trial.row) + 1} of {len(rows)}, seed {trial.seed}: {trial.row}"
        if error is None:
            score = read_json(trial.folder / "scores.json")["pooled"][table.metric]
            reached = f"{SCORE_TITLES[table.metric]} {score:.1f}"
        else:
            errors[trial.folder], reached = error, "failed"
        report(place, 1, 1, reached)  # a permanent line
        report(label, done, total, f"{done} of {total} runs, {place}, {reached}")
    return errors


# -- engines: where trials are trained -------------------------------------------------------------------------------


def locally(trials: Sequence[Trial], data: Path, request: Request, report: Report) -> Iterator[Outcome]:
    """Train trials one after another, each with its folds in parallel; yield each with its error or `None`.

    A trial that another process is training is moved to the end of the queue, and waited for.
    """
    waiting, num_busy = deque(trials), 0
    while waiting:
        trial = waiting.popleft()
        say: Report = lambda label, *progress, row=trial.row: report(f"{row}  {label}", *progress)  # noqa: E731
        try:
            train(trial, data, request.num_jobs, say, request.device)
        except BusyError:
            waiting.append(trial)
            num_busy += 1
            if num_busy >= len(waiting):
                time.sleep(WAIT_S)
            continue
        except SereinError as error:
            yield trial, error
        else:
            yield trial, None
        num_busy = 0


def over_ray(trials: Sequence[Trial], data: Path, request: Request, report: Report) -> Iterator[Outcome]:
    """Train every trial as a task of a Ray cluster, or on this machine if there is none.

    Tasks share only the run folders and the audio, under the same paths on every machine. A task whose machine is
    lost is started again and resumes from its run folder.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    with ray_cluster() as ray:
        has = ray.cluster_resources()
        num_jobs, uses_gpus = request.num_jobs or 1, has.get("GPU") and request.device != "cpu"
        num_cpus = max(1, min(num_jobs, int(has.get("CPU", 1))))  # a task that requests more would wait forever
        task = ray.remote(_train_alone).options(num_cpus=num_cpus, num_gpus=1 if uses_gpus else 0)
        waiting = {task.remote(trial, data, num_jobs, request.device): trial for trial in trials}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            try:
                outcome: SereinError | None = ray.get(done)
            except ray.exceptions.RayError as error:
                first = str(error).strip().splitlines()[0]
                outcome = RunError(f"a Ray task died ({first})", remedy="Run it again: finished folds are kept.")
            yield waiting.pop(done), outcome


def _train_alone(trial: Trial, data: Path, num_jobs: int, device: str) -> SereinError | None:
    """Train a trial within a task; errors are returned, because Ray would wrap them in a traceback."""
    while True:
        try:
            train(trial, data, num_jobs, lambda *progress: None, device)  # the waiting process reports the result
        except BusyError:
            time.sleep(WAIT_S)
        except SereinError as error:
            return error
        else:
            return None


Engine = Callable[[Sequence[Trial], Path, Request, Report], Iterator[Outcome]]
ENGINES: dict[str, Engine] = {"local": locally, "ray": over_ray}

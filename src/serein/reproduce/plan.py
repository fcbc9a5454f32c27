"""What a reproduction would train, before anything starts: runs, what they share, hours on this device, and disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serein.data import manifest
from serein.errors import SereinError
from serein.reproduce.cost import EFFICIENCY, Estimator, device_speed, stage_keys
from serein.reproduce.reproduction import Request
from serein.reproduce.table import Table
from serein.reproduce.trials import is_finished, row_recipe, take_data, trial_of


@dataclass(frozen=True)
class PlannedTable:
    """What one table asks for.

    Attributes:
        num_rows: Rows that train something.
        num_runs: Different runs of these rows, all seeds; rows of one configuration are one.
        num_finished: Those that are finished.
        num_shared: Those that an earlier table of the plan has, too.
        num_stages: Stages of the runs that are new here.
        num_shared_stages: Those of them that begin a run as another run begins, and are trained once.
        hours: Of training and predicting on this device, if no stage stops early; `None` where `problem` says why.
        gigabytes: Of disk, when all is done.
        problem: Why the data does not fit.
    """

    name: str
    num_rows: int
    num_runs: int
    num_finished: int
    num_shared: int
    num_stages: int
    num_shared_stages: int
    hours: float | None
    gigabytes: float | None
    problem: str | None = None

    @property
    def num_to_train(self) -> int:
        """Runs that are left to train."""
        return self.num_runs - self.num_finished - self.num_shared


def plan(tables: Sequence[tuple[Table, Path]], request: Request) -> list[PlannedTable]:
    """Return what each table would train, in order; nothing is trained or written.

    Args:
        tables: Each with its manifest.

    Raises:
        RecipeError: A row or its recipe is wrong.
        ManifestError: The data cannot be read.
    """
    speed = EFFICIENCY * device_speed()
    data = {path: take_data(path, request.limit, request.out) for path in dict.fromkeys(path for _, path in tables)}
    estimators = {path: Estimator(manifest.read(own.manifest)) for path, own in data.items()}
    known: set[tuple[str, int]] = set()
    known_stages: set[str] = set()
    planned = []
    for table, path in tables:
        rows = [row for row in table.picked(request.rows) if row.is_trained]
        recipes = [row_recipe(table, row, request.overrides) for row in rows]
        wanted = [
            trial_of(row.name, recipe, seed, data[path], request.out)
            for row, recipe in zip(rows, recipes, strict=True)
            for seed in range(request.num_seeds)
        ]
        trials = {(trial.recipe.name, trial.seed): trial for trial in wanted}
        shared = trials.keys() & known
        finished = {key for key, trial in trials.items() if key not in shared and is_finished(trial)}
        new = [trial for key, trial in trials.items() if key not in shared | finished]
        stages = [key for trial in new for key in stage_keys(trial.recipe)]
        num_new_stages = len(set(stages) - known_stages)
        problem: str | None = None
        hours = gigabytes = None
        try:
            costs = [estimators[path].cost(trial.recipe) for trial in new]
        except SereinError as error:
            problem = str(error)
        else:
            hours = sum(cost.multiply_adds for cost in costs) / speed / 3600
            gigabytes = sum(cost.num_bytes for cost in costs) / 1e9
        counts = (len(trials), len(finished), len(shared), len(stages), len(stages) - num_new_stages)
        planned.append(PlannedTable(table.name, len(rows), *counts, hours, gigabytes, problem))
        known |= trials.keys()
        known_stages |= set(stages)
    return planned

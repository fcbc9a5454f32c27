"""What a reproduction would train, before anything starts: runs, those that tables share, and shared first stages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serein.recipe import Recipe
from serein.reproduce.reproduction import Request
from serein.reproduce.table import Table
from serein.reproduce.trials import Data, is_finished, row_recipe, take_data, trial_of


@dataclass(frozen=True)
class PlannedTable:
    """What one table asks for.

    Attributes:
        num_rows: Rows that train something.
        num_runs: Different runs of these rows, all seeds; rows of one configuration are one.
        num_finished: Those that are finished.
        num_shared: Those that an earlier table of the plan has, too.
        num_first_stages: Different first stages of the runs of several stages that are new here.
        num_staged: Those runs.
    """

    name: str
    num_rows: int
    num_runs: int
    num_finished: int
    num_shared: int
    num_first_stages: int
    num_staged: int

    @property
    def num_to_train(self) -> int:
        """Runs that are left to train."""
        return self.num_runs - self.num_finished - self.num_shared


def plan(tables: Sequence[Table], manifest: Path, request: Request) -> list[PlannedTable]:
    """Return what each table would train, in order; nothing is trained or written.

    Raises:
        RecipeError: A row or its recipe is wrong.
        ManifestError: The data cannot be read.
    """
    data: Data = take_data(manifest, request.limit, request.out)
    known: set[Path] = set()
    planned = []
    for table in tables:
        rows = [row for row in table.picked(request.rows) if row.is_trained]
        recipes = [row_recipe(table, row, request.overrides) for row in rows]
        trials = {
            trial.folder: trial
            for row, recipe in zip(rows, recipes, strict=True)
            for trial in (trial_of(row.name, recipe, seed, data, request.out) for seed in range(request.num_seeds))
        }
        shared = trials.keys() & known
        finished = {folder for folder, trial in trials.items() if folder not in shared and is_finished(trial)}
        new = [trial for folder, trial in trials.items() if folder not in shared | finished]
        staged = [trial for trial in new if len(trial.recipe.stages) > 1]
        stages = {first_stage(trial.recipe) for trial in staged}
        counts = (len(trials), len(finished), len(shared), len(stages), len(staged))
        planned.append(PlannedTable(table.name, len(rows), *counts))
        known |= trials.keys()
    return planned


def first_stage(recipe: Recipe) -> str:
    """Return what tells the first stage of a recipe from those of others: data, tasks and parts that it runs."""
    stage = recipe.stages[0]
    names = list(recipe.tasks_of(stage))
    parts = recipe.model_dump(mode="json", include={"labels", "protocol", "clips", "backbone", "encoder", "adapter"})
    tasks = {name: recipe.tasks.chosen[name].model_dump(mode="json") for name in names}
    own = stage.model_dump(mode="json", exclude={"tasks"})
    return json.dumps([parts, tasks, own, names, list(recipe.seeds), recipe.ensemble_size], sort_keys=True)

"""Results printed on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serein.evaluation.scores import Scores


def finish(run: Path, as_json: bool) -> None:
    """Score a run folder, write its report, and print the scores."""
    from serein.evaluation.report import write_report
    from serein.evaluation.run_folder import read_recipe
    from serein.evaluation.scores import score_run, write_scores
    from serein.evaluation.tables import tasks_table
    from serein.evaluation.task_scores import TRANSCRIPTS, main_task, task_scores, write_task_scores
    from serein.world import distributed_info

    if not distributed_info().is_first:
        return
    tasks = task_scores(run)
    if main_task(read_recipe(run)) == TRANSCRIPTS:  # no classes to score or to draw
        content = write_task_scores(tasks, run)
        print(json.dumps(content, ensure_ascii=False)) if as_json else print_tables([tasks_table(tasks)])
        return
    scores = score_run(run)
    others = {score.task: score.to_json() for score in tasks}
    write_scores(scores, run, others)
    path = write_report(run)
    print_scores(scores, as_json, others)
    if tasks and not as_json:
        print_tables([tasks_table(tasks)])
    print(f"report: {path}", file=sys.stderr if as_json else sys.stdout)


def print_scores(scores: Scores, as_json: bool, tasks: Mapping[str, Any] | None = None) -> None:
    """Print scores as a table, or as one JSON object with the scores of other tasks."""
    from serein.evaluation.tables import scores_table

    if as_json:
        content = scores.to_json() | ({"tasks": dict(tasks)} if tasks else {})
        print(json.dumps(content, ensure_ascii=False, allow_nan=False))
    else:
        print_tables([scores_table(scores)])


def print_tables(tables: Iterable[Any]) -> None:
    """Print tables of rich."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 140)
    for table in tables:
        console.print(table)

"""Results as people read them, on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serein.evaluation.scores import Scores


def finish(run: Path, as_json: bool) -> None:
    """Score a run folder, write its report, and print what it says."""
    from serein.evaluation.report import write_report
    from serein.evaluation.scores import score_run, write_scores
    from serein.world import world

    if not world().is_first:
        return
    scores = score_run(run)
    write_scores(scores, run)
    path = write_report(run)
    print_scores(scores, as_json)
    print(f"report: {path}", file=sys.stderr if as_json else sys.stdout)


def print_scores(scores: Scores, as_json: bool) -> None:
    """Print scores as a table or as one JSON object."""
    from serein.evaluation.tables import scores_table

    if as_json:
        print(json.dumps(scores.to_json(), ensure_ascii=False, allow_nan=False))
    else:
        print_tables([scores_table(scores)])


def print_tables(tables: Iterable[Any]) -> None:
    """Print tables of rich."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 140)
    for table in tables:
        console.print(table)

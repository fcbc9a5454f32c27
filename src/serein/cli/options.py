"""Options that several commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from serein.evaluation.scores import Scores


Metric = Literal["ua", "wa", "macro_f1"]
Split = Literal["test", "dev"]

AllowSeenSpeakers = Annotated[
    bool, typer.Option("--allow-seen-speakers", help="Allow speakers that the model was trained on.")
]
Data = Annotated[Path, typer.Option("--data", help="Manifest (.jsonl).")]
DefaultModel = Annotated[
    str | None, typer.Option("--model", "-m", help="Model folder or Hub name.", show_default="the default model")
]
Device = Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1 or mps.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Model folder or Hub name.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; may be repeated.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Output path.")]
Recordings = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE|FOLDER|PATTERN|LIST|MANIFEST|-...",
        help="Recordings; - reads a recording, or a list of them, from stdin.",
    ),
]
Task = Annotated[
    str | None,
    typer.Option("--task", help="Train this task alone, for instance 'gender'.", show_default="the recipe's tasks"),
]
Segments = Annotated[
    Literal["auto", "always", "never"],
    typer.Option(
        "--segments",
        help="Which recordings to cut into segments of speech; auto: all but the utterances of a manifest.",
    ),
]

Window = Annotated[
    float | None,
    typer.Option(
        "--window", metavar="SECONDS", help="Length of the windows that speech is cut into.", show_default="3"
    ),
]
Step = Annotated[
    float | None,
    typer.Option(
        "--step",
        metavar="SECONDS",
        help="Time from the start of one window to the start of the next.",
        show_default="half a window",
    ),
]
MinConfidence = Annotated[
    float,
    typer.Option(
        "--min-confidence", metavar="PROBABILITY", help="Reject predictions with a lower confidence.", min=0, max=1
    ),
]
MinDuration = Annotated[
    float, typer.Option("--min-duration", metavar="SECONDS", help="Reject predictions from less speech.", min=0)
]


def finish(run: Path, as_json: bool) -> None:
    """Score a run folder, write its report, and print the scores."""
    from serein.distributed import distributed_info
    from serein.evaluation.predictions import read_specs
    from serein.evaluation.report import write_report
    from serein.evaluation.scores import score_run, write_scores
    from serein.evaluation.tables import tasks_table
    from serein.evaluation.task_scores import task_scores, write_task_scores

    if not distributed_info().is_first:
        return
    tasks = task_scores(run)
    if not read_specs(run)[0].has_classes:
        content = write_task_scores(tasks, run)
        path = write_report(run)
        print(json.dumps(content, ensure_ascii=False)) if as_json else print_tables([tasks_table(tasks)])
        print(f"report: {path}", file=sys.stderr if as_json else sys.stdout)
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

    console = Console(width=None if sys.stdout.isatty() else 10_000)  # tables in files do not wrap
    for table in tables:
        console.print(table)

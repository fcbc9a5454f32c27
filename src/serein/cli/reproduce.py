"""The command that reproduces a paper's table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from serein.cli.app import Data, Json, Metric, Overrides, Split, app, print_tables


@app.command()
def reproduce(
    table: Annotated[
        str,
        typer.Argument(metavar="TABLE", help="PAPER/TABLE, for instance diatlova2024/table3; or a table file (.yaml)."),
    ],
    data: Data,
    seeds: Annotated[int, typer.Option(help="Seeds of each row: 0, 1, ...; a later call can add more.", min=1)] = 3,
    rows: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Train these rows only.", show_default="all")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="Use at most this many utterances of each speaker and emotion.", show_default="all", min=1),
    ] = None,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the run folders and tables.")] = Path(
        "runs/reproduce"
    ),
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Train one run after another, or as tasks of a Ray cluster.")
    ] = "local",
    jobs: Annotated[
        int | None, typer.Option(help="Folds to train in parallel.", show_default="by the size of the model", min=1)
    ] = None,
    split: Annotated[Split, typer.Option(help="The predictions to score.")] = "test",
    metric: Annotated[Metric | None, typer.Option(help="The score to compare.", show_default="the table's")] = None,
    as_json: Json = False,
) -> None:
    """Train every row of a paper's table, and compare the published scores with ours.

    Repeat the command to continue, or to add seeds.
    """
    from serein.reproduce import table as tables

    chosen = tables.load(table)
    if metric is not None:
        chosen = chosen.by(metric)
    from serein.progress import Bars
    from serein.reproduce.reproduction import Request, reproduce
    from serein.reproduce.writers import PAGE, as_tables, paths
    from serein.reproduce.writers import as_json as to_json

    request = Request(
        rows=None if rows is None else tuple(name.strip() for name in rows.split(",") if name.strip()),
        num_seeds=seeds,
        limit=limit,
        overrides=tuple(overrides or ()),
        out=out,
        engine=engine,
        num_jobs=jobs,
        split=split,
    )
    with Bars() as bars:
        comparison, failures = reproduce(chosen, data, request, bars)
    is_measured = any(row.scores for row in comparison.rows)
    if as_json:
        print(json.dumps(to_json(comparison, out), ensure_ascii=False, allow_nan=False))
    elif is_measured:
        print_tables(as_tables(comparison))
        print("\n".join(comparison.notes))
    if is_measured:
        pictures = [comparison.picture] if comparison.picture else []
        print(
            f"written: {', '.join(map(str, (*paths(comparison, out), *pictures, out / PAGE)))}",
            file=sys.stderr if as_json else sys.stdout,
        )
    for failure in failures:
        print(f"error: row '{failure.row.name}': {failure.error}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)

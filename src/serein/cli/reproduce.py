"""The command that reproduces a paper's table."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from serein.cli.app import Json, Metric, Overrides, Split, app, print_tables

if TYPE_CHECKING:
    from serein.reproduce.reproduction import Request
    from serein.reproduce.table import Table


@app.command()
def reproduce(
    table: Annotated[
        str | None,
        typer.Argument(
            metavar="TABLE|PAPER|all",
            help="PAPER/TABLE, for instance diatlova2024/table3; a table file (.yaml); all of a paper; or all of them. "
            "Without it, the tables are listed.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Manifest (.jsonl).", show_default=False)] = None,
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
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be trained and shared, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Train every row of a paper's table, and compare the published scores with ours.

    Repeat the command to continue, or to add seeds.
    """
    from serein.reproduce import table as tables

    if table is None:
        for name, path in tables.known_tables().items():
            print(f"{name}\t{tables.read(path).caption}")
        return
    if data is None:
        raise typer.BadParameter("name the manifest", param_hint="'--data'")
    names = [name for name in tables.known_tables() if table == "all" or name.startswith(f"{table}/")]
    chosen = [tables.load(name) for name in names or [table]]
    chosen = [each if metric is None else each.by(metric) for each in chosen]
    from serein.reproduce.reproduction import Request

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
    if plan:
        _print_plan(chosen, data, request, as_json)
        return
    has_failed = [_reproduce(each, data, request, as_json) for each in chosen]
    if any(has_failed):
        raise typer.Exit(1)


def _reproduce(table: Table, data: Path, request: Request, as_json: bool) -> bool:
    """Reproduce one table, print it, and tell whether a row failed."""
    from serein.progress import Bars
    from serein.reproduce.reproduction import reproduce
    from serein.reproduce.writers import PAGE, as_tables, paths
    from serein.reproduce.writers import as_json as to_json

    out = request.out
    with Bars() as bars:
        comparison, failures = reproduce(table, data, request, bars)
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
    return bool(failures)


def _print_plan(tables: Sequence[Table], data: Path, request: Request, as_json: bool) -> None:
    from serein.reproduce.plan import plan

    planned = plan(tables, data, request)
    if as_json:
        print(json.dumps([asdict(each) | {"num_to_train": each.num_to_train} for each in planned]))
        return
    for each in planned:
        stages = f", {each.num_first_stages} first stages for {each.num_staged} runs" if each.num_staged else ""
        print(
            f"{each.name}: {each.num_rows} rows, {each.num_runs} runs: {each.num_finished} finished, {each.num_shared} "
            f"of earlier tables, {each.num_to_train} to train{stages}"
        )
    print(f"{sum(each.num_to_train for each in planned)} runs to train, each of all folds of its protocol")

"""The command that reproduces a paper's table."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from serein.cli.app import Device, Json, Metric, Overrides, Split, app, print_json, print_tables
from serein.errors import SereinError

if TYPE_CHECKING:
    from serein.reproduce.reproduction import Request
    from serein.reproduce.table import Table


@app.command()
def reproduce(
    table: Annotated[
        str | None,
        typer.Argument(
            metavar="TABLE|PAPER|all",
            help="PAPER/TABLE, for example diatlova2024/table3; a table file (.yaml); PAPER for all of its tables; or "
            "all. Without it, the tables are listed.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="MANIFEST|CORPUS=MANIFEST",
            help="Manifest (.jsonl). Of several tables, those of its corpora are reproduced, or all if it has none of "
            "these. For several manifests, repeat the option with the name of each corpus; tables of other corpora are "
            "left out.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Number of seeds per row (0, 1, ...); a later call can add more.", min=1)
    ] = 3,
    rows: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Train only these rows.", show_default="all")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="Use at most this many utterances per speaker and emotion.", show_default="all", min=1),
    ] = None,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the run folders and tables.")] = Path(
        "runs/reproduce"
    ),
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Train the runs one after another, or as tasks of a Ray cluster.")
    ] = "local",
    jobs: Annotated[
        int | None, typer.Option(help="Folds to train in parallel.", show_default="by the size of the model", min=1)
    ] = None,
    split: Annotated[Split, typer.Option(help="Which predictions to score.")] = "test",
    metric: Annotated[Metric | None, typer.Option(help="Score to compare.", show_default="the table's")] = None,
    device: Device = "auto",
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be trained and shared, and exit.")] = False,
    as_json: Json = False,
) -> None:
    """Train every row of a paper's table, and compare the published scores with ours.

    Repeat the command to continue, or to add seeds. The JSON of a PAPER, or of all, is a list of tables.
    """
    from serein.reproduce import table as tables

    if table is None:
        for name, path in tables.known_tables().items():
            print(f"{name}\t{tables.read(path).caption}")
        return
    names = [name for name in tables.known_tables() if table == "all" or name.startswith(f"{table}/")]
    loaded = [tables.load(name) for name in names or [table]]
    if not data:
        raise typer.BadParameter("name the manifest", param_hint="'--data'")
    chosen = with_manifests([each if metric is None else each.by(metric) for each in loaded], data)
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
        device=device,
    )
    if plan:
        from serein.device import device_of
        from serein.reproduce.cost import plan as planned_tables

        planned = planned_tables(chosen, request)
        possible = [each for each in planned if each.problem is None]
        status = 0 if len(possible) == len(planned) else 1
        sys.stderr.writelines(f"error: {each.name}: {each.problem}\n" for each in planned if each.problem is not None)
        if as_json:
            print_json([asdict(each) | {"num_to_train": each.num_to_train} for each in planned])
            raise typer.Exit(status)
        for each in planned:
            takes = "cannot be trained" if each.problem is not None else _takes(each.hours, each.gigabytes)
            print(
                f"{each.name}: {each.num_rows} rows, {each.num_runs} runs: {each.num_finished} finished, "
                f"{each.num_shared} of earlier tables, {each.num_to_train} to train; {each.num_shared_stages} of their "
                f"{each.num_stages} stages are shared; {takes}"
            )
        all_of_it = _takes(sum(each.hours or 0.0 for each in possible), sum(each.gigabytes or 0.0 for each in possible))
        folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
        print(
            f"{sum(each.num_to_train for each in possible)} runs to train, each of all folds of its protocol: at most "
            f"{all_of_it} (device: {device_of(device)}; free: {shutil.disk_usage(folder).free / 1e9:.0f} GB). "
            "Stages that stop early take less."
        )
        raise typer.Exit(status)
    has_failed, documents = False, list[dict[str, Any]]()
    for own, path in chosen:
        try:
            has_failed |= _reproduce(own, path, request, documents if as_json else None)
        except SereinError as error:
            if len(chosen) == 1:
                raise
            print(f"error: {own.name}: {error}", file=sys.stderr)
            has_failed = True
    if as_json:
        print_json(documents if names else documents[0])
    if has_failed:
        raise typer.Exit(1)


def with_manifests(tables: Sequence[Table], data: Sequence[str]) -> list[tuple[Table, Path]]:
    """Return each table with the manifest of its corpus.

    An only manifest, given without a corpus, is that of the tables of its corpora; of all tables, if there are none.
    """
    from serein.data import manifest
    from serein.reproduce.comparison import plain_name

    pairs = [each.partition("=") for each in data]
    named = {plain_name(corpus): Path(path) for corpus, separator, path in pairs if separator}
    corpora_of = {table.name: table.measured_on or table.corpus for table in tables}
    if len(data) == 1 and not named:
        path = Path(data[0])
        present = {plain_name(u.corpus or "") for u in manifest.read(path)} if len(tables) > 1 else set()
        own = [table for table in tables if plain_name(corpora_of[table.name]) in present] or list(tables)
        others = [f"{table.name} ({corpora_of[table.name]})" for table in tables if table not in own]
        if others:
            print(f"note: left out, as {path} has no utterance of their corpus: {', '.join(others)}", file=sys.stderr)
        return [(table, path) for table in own]
    if len(named) < len(data):
        raise typer.BadParameter("give each manifest with its corpus: IEMOCAP=iemocap.jsonl", param_hint="'--data'")
    found = [(table, named[name]) for table in tables if (name := plain_name(corpora_of[table.name])) in named]
    if not found:
        corpora = ", ".join(sorted({*corpora_of.values()}))
        raise typer.BadParameter(f"no manifest for the tables' corpora: {corpora}", param_hint="'--data'")
    return found


def _reproduce(table: Table, data: Path, request: Request, documents: list[dict[str, Any]] | None) -> bool:
    """Reproduce one table, print it or append it to JSON documents, and return whether a row failed."""
    from serein.progress import Bars
    from serein.reproduce.comparison import PAGE, as_json, as_tables, paths
    from serein.reproduce.reproduction import reproduce

    out = request.out
    with Bars() as bars:
        comparison, failures = reproduce(table, data, request, bars)
    if documents is not None:
        documents.append(as_json(comparison, out))
    elif comparison.is_measured:
        print_tables(as_tables(comparison))
        print("\n".join(comparison.notes))
    if comparison.is_measured:
        pictures = [comparison.picture] if comparison.picture else []
        print(
            f"written: {', '.join(map(str, (*paths(comparison, out), *pictures, out / PAGE)))}",
            file=sys.stdout if documents is None else sys.stderr,
        )
    for failure in failures:
        print(f"error: row '{failure.row.name}': {failure.error}", file=sys.stderr)
    return bool(failures)


def _takes(hours: float | None, gigabytes: float | None) -> str:
    return f"about {hours or 0:.3g} h, {gigabytes or 0:.3g} GB"

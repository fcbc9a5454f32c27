"""Commands for what is kept on disk so that it is not computed again."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from serein.cli.app import Json, app, print_tables
from serein.errors import expected_one_of

cache = typer.Typer(help="List and clear what is kept so that it is not computed again.")
app.add_typer(cache, name="cache")

Stages = Annotated[
    list[Path] | None,
    typer.Option("--stages", metavar="FOLDER", help="Shared stages lie here.", show_default="runs/reproduce/stages"),
]
Features = Annotated[
    list[Path] | None,
    typer.Option(
        "--features", metavar="FOLDER", help="Features lie here, too, as a recipe's feature_cache.folder says."
    ),
]
DEFAULT_STAGES = (Path("runs/reproduce/stages"),)


@cache.callback(invoke_without_command=True)
def cache_list(context: typer.Context, stages: Stages = None, features: Features = None, as_json: Json = False) -> None:
    """List what is kept: features of frozen backbones, vectors of texts, vocabularies of encoders, shared stages.

    At most a tenth of the disk, from 10 to 100 GB, or what $SEREIN_CACHE_SIZE says (20GB, none): what was used longest
    ago goes first, and nothing that a process uses. Shared stages count where that is set.
    """
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from serein.cache import cache_folder, entries, size_limit

    found = entries(stages or DEFAULT_STAGES, features or ())
    if as_json:
        listed = [
            {"kind": e.kind, "path": str(e.path), "num_bytes": e.num_bytes, "age_s": round(e.age_s, 1)} for e in found
        ]
        print(json.dumps(listed))
        return
    table = Table(title=f"Kept in {cache_folder()} and in folders of shared stages")
    for heading in ("kind", "folder", "MB", "used"):
        table.add_column(heading, overflow="fold", justify="right" if heading in ("MB", "used") else "left")
    for entry in reversed(found):
        table.add_row(
            entry.kind, str(entry.path), f"{entry.num_bytes / 1e6:.1f}", f"{entry.age_s / 86_400:.1f} days ago"
        )
    print_tables([table])
    limit = "no limit" if math.isinf(size_limit()) else f"at most {size_limit() / 1e9:.1f} GB"
    counted = "" if os.environ.get("SEREIN_CACHE_SIZE") else ", shared stages beside that"
    print(f"{len(found)} entries, {sum(entry.num_bytes for entry in found) / 1e9:.2f} GB")
    print(f"kept: {limit}{counted}; set $SEREIN_CACHE_SIZE to a size, or to none")


@cache.command("clear")
def cache_clear(
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND", help="Only features, sentences, transcripts, vocabularies or stages; can be repeated."
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Stop when the rest is as small as this, such as 20GB; the oldest goes first."
        ),
    ] = None,
    unused_days: Annotated[float | None, typer.Option(help="Only what was not used for so many days.", min=0)] = None,
    stages: Stages = None,
    features: Features = None,
    as_json: Json = False,
) -> None:
    """Remove what is kept; what a process uses stays. Everything can be computed again."""
    from serein.cache import KINDS, STAGES, entries, parse_size, remove, trim

    for name in kind or ():
        if name not in (*KINDS, STAGES):
            raise typer.BadParameter(expected_one_of(name, (*KINDS, STAGES), kind="kind"), param_hint="'--kind'")
    found = [entry for entry in entries(stages or DEFAULT_STAGES, features or ()) if kind is None or entry.kind in kind]
    old = [entry for entry in found if unused_days is None or entry.age_s >= 86_400 * unused_days]
    if max_size is None:
        removed = [entry for entry in old if remove(entry)]
    else:
        others = sum(entry.num_bytes for entry in found) - sum(entry.num_bytes for entry in old)
        removed = trim(old, parse_size(max_size, where="--max-size") - others)
    in_use = len(old) - len(removed) if max_size is None else 0
    num_bytes = sum(entry.num_bytes for entry in removed)
    if as_json:
        print(json.dumps({"removed": [str(e.path) for e in removed], "num_bytes": num_bytes, "in_use": in_use}))
    else:
        print(f"removed {len(removed)} entries, {num_bytes / 1e9:.2f} GB")
    if in_use:
        print(f"note: {in_use} entries stay, because a process uses them", file=sys.stderr)

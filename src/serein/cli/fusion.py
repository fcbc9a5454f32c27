"""The command that fuses systems."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serein.cli.app import app
from serein.cli.options import Json
from serein.cli.printing import print_tables

if TYPE_CHECKING:
    from rich.table import Table

    from serein.evaluation.intervals import Difference
    from serein.fusing import EnsembleEvaluation, Row

_SPLITS = {"test": "test predictions", "dev": "dev predictions"}
_FITTED_BY = {
    "dev": "a fold's weights were fitted to its dev predictions, and are evaluated on its test set",
    "nested folds": "a fold's weights were fitted to the predictions of the other folds (nested folds)",
    "nested speakers": "the weights of some speakers were fitted to the predictions of the others (nested folds)",
    "nested utterances": "the weights of some utterances were fitted to the predictions of the others (nested folds)",
    "nothing": "nothing is fitted",
    "file": "the weights are those of the file; nothing is fitted",
}


class SplitName(StrEnum):
    """Sides of a fold that `fit_ensemble` evaluates on."""

    test = "test"
    dev = "dev"


@app.command()
def fit_ensemble(
    systems: Annotated[list[Path], typer.Argument(metavar="RUN|PREDICTIONS...", help="Run folders, or .jsonl.")],
    method: Annotated[str, typer.Option(metavar="cobyla|mean|FILE", help="Fit weights, or take them.")] = "cobyla",
    on: Annotated[SplitName, typer.Option("--on", help="The predictions to evaluate on.")] = SplitName.test,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the fusion (.json), for predict.")] = None,
    seed: Annotated[int, typer.Option(help="Draws starts, and folds over speakers.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Weigh several systems against each other, class by class, and evaluate their fusion beside each of them."""
    from serein import fusing
    from serein.inference.fused import write_ensemble
    from serein.progress import Bars

    with Bars() as bars:
        fused = fusing.fit_ensemble(systems, method=method, split=on.value, seed=seed, report=bars)
    if out is not None:
        write_ensemble(fused.fusion, out)
    if as_json:
        print(json.dumps(fused.to_json(), ensure_ascii=False, allow_nan=False))
    else:
        _print_fused(fused)
    if out is not None:
        print(f"fusion: {out}", file=sys.stderr if as_json else sys.stdout)


def _print_fused(fused: EnsembleEvaluation) -> None:
    print_tables([_scores(fused), _weights(fused)])
    how = f"{fused.num_utterances} {_SPLITS[fused.split]}; {_FITTED_BY[fused.fitted_by]}."
    print(f"Evaluated on {how}")
    print(f"The best system, {fused.best}, was the best on these very predictions, which favours it.")
    print(_difference(f"Fusion minus {fused.best}", fused.to_best["macro_f1"]))
    if fused.to_mean is not None:
        print(_difference("Fusion minus mean of all", fused.to_mean["macro_f1"]))
    for note in fused.notes:
        print(note)


def _scores(fused: EnsembleEvaluation) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Scores in per cent; each class: F1")
    table.add_column("system", overflow="fold")
    for name in ("macro-F1", "UA", "WA", *fused.fusion.classes):
        table.add_column(Text(name), justify="right")
    rivals = [row for row in fused.rows if row.kind != "in sample"]
    best = [max(_known(column)) for column in zip(*map(_numbers, rivals), strict=True)]
    num_systems = sum(row.kind == "system" for row in fused.rows)
    for number, row in enumerate(fused.rows, start=1):
        is_rival = row.kind != "in sample"
        cells = [
            _cell(value, is_bold=is_rival and value == most) for value, most in zip(_numbers(row), best, strict=True)
        ]
        table.add_row(Text(row.label), *cells, end_section=number == num_systems, style=None if is_rival else "dim")
    return table


def _weights(fused: EnsembleEvaluation) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Weights")
    table.add_column("system", overflow="fold")
    for name in fused.fusion.classes:
        table.add_column(Text(name), justify="right")
    for model, row in zip(fused.fusion.models, fused.fusion.weights, strict=True):
        table.add_row(Text(model.label), *(f"{weight:.2f}" for weight in row))
    return table


def _numbers(row: Row) -> list[float | None]:
    return [row.macro_f1, row.ua, row.wa, *row.f1.values()]


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None] or [0.0]


def _cell(value: float | None, *, is_bold: bool) -> str:
    from serein.evaluation.tables import number

    return f"[bold]{number(value)}[/bold]" if is_bold else number(value)


def _difference(what: str, found: Difference) -> str:
    points = f"{what}: {100 * found.difference:+.1f} points of macro-F1"
    if found.interval is None:
        return f"{points} (no interval: {found.resampled})"
    low, high = (100 * bound for bound in found.interval)
    return f"{points}, 95 % interval [{low:+.1f}, {high:+.1f}] over {found.resampled}"

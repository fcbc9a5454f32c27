"""The command that evaluates ensembles."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serein.cli.app import app
from serein.cli.options import Json, Split, print_tables

if TYPE_CHECKING:
    from rich.table import Table

    from serein.ensemble.evaluation import EnsembleEvaluation, Row
    from serein.evaluation.intervals import Difference


_SPLITS = {"test": "test predictions", "dev": "dev predictions"}
_FITTED_BY = {
    "dev": "a fold's weights were fitted to its dev predictions, and are evaluated on its test set",
    "nested folds": "a fold's weights were fitted to the predictions of the other folds (nested folds)",
    "nested speakers": "the weights of some speakers were fitted to the predictions of the others (nested folds)",
    "nested utterances": "the weights of some utterances were fitted to the predictions of the others (nested folds)",
    "none": "nothing is fitted",
    "file": "the weights are those of the file; nothing is fitted",
}


@app.command()
def ensemble(
    systems: Annotated[
        list[Path], typer.Argument(metavar="RUN|PREDICTIONS...", help="Run folders, or prediction files (.jsonl).")
    ],
    method: Annotated[
        str, typer.Option(metavar="cobyla|mean|FILE", help="Fit the weights, use equal ones, or read them from a file.")
    ] = "cobyla",
    split: Annotated[Split, typer.Option(help="The predictions to evaluate.")] = "test",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write an ensemble file (.json) for serein predict --ensemble.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random starts and of the folds over speakers.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Combine several systems with a weight for each class, and evaluate the ensemble beside each system."""
    from serein.ensemble import evaluation as fusing
    from serein.ensemble.predictor import write_ensemble
    from serein.progress import Bars

    with Bars() as bars:
        found = fusing.fit_ensemble(systems, method=method, split=split, seed=seed, report=bars)
    if out is not None:
        write_ensemble(found.ensemble, out)
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False))
    else:
        _print_evaluation(found)
    if out is not None:
        print(f"ensemble: {out}", file=sys.stderr if as_json else sys.stdout)


def _print_evaluation(found: EnsembleEvaluation) -> None:
    print_tables([_scores(found), _weights(found)])
    how = f"{found.num_utterances} {_SPLITS[found.split]}; {_FITTED_BY[found.fitted_by]}."
    print(f"Evaluated on {how}")
    print(f"The best system, {found.best}, was chosen on the same predictions, which favours it.")
    print(_difference(f"Ensemble minus {found.best}", found.to_best["macro_f1"]))
    if found.to_mean is not None:
        print(_difference("Ensemble minus mean of all", found.to_mean["macro_f1"]))
    for note in found.notes:
        print(note)


def _scores(found: EnsembleEvaluation) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Scores in per cent; each class: F1")
    table.add_column("system", overflow="fold")
    for name in ("macro-F1", "UA", "WA", *found.ensemble.classes):
        table.add_column(Text(name), justify="right")
    rivals = [row for row in found.rows if row.kind != "in sample"]
    best = [max(_known(column)) for column in zip(*map(_numbers, rivals), strict=True)]
    num_systems = sum(row.kind == "system" for row in found.rows)
    for number, row in enumerate(found.rows, start=1):
        is_rival = row.kind != "in sample"
        cells = [
            _cell(value, is_bold=is_rival and value == most) for value, most in zip(_numbers(row), best, strict=True)
        ]
        table.add_row(Text(row.label), *cells, end_section=number == num_systems, style=None if is_rival else "dim")
    return table


def _weights(found: EnsembleEvaluation) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Weights")
    table.add_column("system", overflow="fold")
    for name in found.ensemble.classes:
        table.add_column(Text(name), justify="right")
    for model, row in zip(found.ensemble.models, found.ensemble.weights, strict=True):
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

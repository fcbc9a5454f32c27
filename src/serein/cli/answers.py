"""Commands that answer for recordings."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serein.cli.app import app
from serein.cli.neighbours import Alpha, K, print_explanations
from serein.cli.printing import print_tables

if TYPE_CHECKING:
    from serein.data.utterance import Utterance
    from serein.errors import AudioError
    from serein.inference.predictor import Answer


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="Model folder or Hub name.")],
    sources: Annotated[list[Path] | None, typer.Argument(metavar="FILE|FOLDER|MANIFEST...", help="Recordings.")] = None,
    fuse: Annotated[
        Path | None, typer.Option("--fuse", metavar="FUSION", help="Ask all its models; no MODEL is named then.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="WORD,WORD...", help="Answer with these words; of a model of words.")
    ] = None,
    neighbours: Annotated[
        Path | None, typer.Option("--neighbours", metavar="STORE", help="Ask the nearest clips of a store, too.")
    ] = None,
    k: K = None,
    alpha: Alpha = None,
    explain: Annotated[bool, typer.Option("--explain", help="Name the nearest clips of the store.")] = False,
    limit: Annotated[int | None, typer.Option(help="Hear so many of them, evenly spread.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per recording.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values.")] = False,
) -> None:
    """Say which emotions are heard in recordings; exit status 1 when any could not be heard."""
    from serein.inference.predictor import Answer
    from serein.inference.sources import evenly_spread, utterances_in

    named = [*([] if fuse is None else [Path(model)]), *(sources or [])]
    if not named:
        raise typer.BadParameter("name recordings after the model", param_hint="'FILE|FOLDER|MANIFEST...'")
    utterances = utterances_in(named)
    utterances = utterances if limit is None else evenly_spread(utterances, limit)
    if fuse is not None and labels is not None:
        raise typer.BadParameter("a fusion answers the classes that it was fitted to", param_hint="'--labels'")
    if neighbours is not None:
        if fuse is not None or labels is not None:
            raise typer.BadParameter("a store answers with its model's classes", param_hint="'--neighbours'")
        if explain and as_csv:
            raise typer.BadParameter("neighbours do not fit into a line; take --json", param_hint="'--explain'")
        classes, outcomes = _neighbour_outcomes(model, utterances, neighbours, k, alpha, explain)
    elif k is not None or alpha is not None or explain:
        raise typer.BadParameter("name a store by --neighbours", param_hint="'--k', '--alpha', '--explain'")
    else:
        classes, outcomes = _outcomes(model, utterances, labels) if fuse is None else _fused_outcomes(fuse, utterances)
    answers: list[tuple[Answer, str | None]] = []
    num_failed = 0
    for utterance, outcome in zip(utterances, outcomes, strict=True):
        if isinstance(outcome, Answer):
            answers.append((outcome, getattr(utterance, outcome.task)))
            if as_json:
                print(json.dumps(outcome.to_json(), ensure_ascii=False), flush=True)
        else:
            num_failed += 1
            print(f"error: {outcome}", file=sys.stderr)
    if as_csv:
        _print_csv([answer for answer, _ in answers], classes)
    elif not as_json and answers:
        _print_answers(answers, classes)
        if explain:
            print_explanations([answer for answer, _ in answers])
    if num_failed:
        print(f"{num_failed} of {len(utterances)} recordings could not be heard.", file=sys.stderr)
        raise typer.Exit(1)


def _outcomes(
    model: str, utterances: Sequence[Utterance], labels: str | None
) -> tuple[tuple[str, ...], Iterable[Answer | AudioError]]:
    """Return the classes of a model, and what it says of each utterance as soon as it is heard."""
    from serein.inference.predictor import load

    predictor = load(model)
    if labels is not None:
        predictor = predictor.with_labels(labels.split(","))
    return predictor.classes, predictor.predict_each(utterances)


def _fused_outcomes(
    fusion: Path, utterances: Sequence[Utterance]
) -> tuple[tuple[str, ...], Iterable[Answer | AudioError]]:
    """Return the classes of a fusion, and what it says of each utterance once all its models have heard all."""
    from serein.inference.fused import FusedPredictor
    from serein.progress import Bars

    with Bars() as bars:
        predictor = FusedPredictor(fusion, bars)
        return predictor.classes, list(predictor.predict_each(utterances))


def _neighbour_outcomes(
    model: str, utterances: Sequence[Utterance], store: Path, k: int | None, alpha: float | None, explain: bool
) -> tuple[tuple[str, ...], Iterable[Answer | AudioError]]:
    """Return the classes of a model, and what it and the nearest clips of a store say of each utterance."""
    from serein.inference.neighbour_predictor import NeighbourPredictor

    predictor = NeighbourPredictor(model, store, k=k, alpha=alpha, explain=explain)
    mixing = predictor.mixing
    if not mixing.is_chosen:
        numbers = f"k {mixing.k} and alpha {mixing.alpha:g}"
        print(f"{numbers} were not chosen for this store: serein neighbours choose --help.", file=sys.stderr)
    return predictor.classes, predictor.predict_each(utterances)


def _print_csv(answers: Iterable[Answer], classes: tuple[str, ...]) -> None:
    import csv

    writer = csv.writer(sys.stdout)
    writer.writerow(["audio", "emotion", *classes])
    for answer in answers:
        writer.writerow([answer.audio, answer.label, *(f"{answer.shares[name]:.4f}" for name in classes)])


def _print_answers(answers: Sequence[tuple[Answer, str | None]], classes: tuple[str, ...]) -> None:
    from rich.table import Table

    has_label = any(label is not None for _, label in answers)

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("recording", overflow="fold")
    for name in ("labelled", "heard") if has_label else ("heard",):
        table.add_column(name, style="bold" if name == "heard" else None)
    for name in classes:
        table.add_column(name, justify="right")
    for answer, label in answers:
        shares = [f"{100 * answer.shares[name]:.0f} %" for name in classes]
        table.add_row(answer.audio, *([label or ""] if has_label else []), answer.label, *shares)
    print_tables([table])

"""Answers as people and programs read them."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from serein.cli.ears import Ear
from serein.cli.neighbours import print_explanations
from serein.cli.printing import print_tables

if TYPE_CHECKING:
    from serein.data.utterance import Utterance
    from serein.inference.hearing import Outcome
    from serein.inference.predictor import Prediction
    from serein.inference.timeline import Segment, Timeline
    from serein.progress import Bars

    Said = Prediction | Timeline
    Pair = tuple[Utterance, Said]


class Form(StrEnum):
    """How answers are given."""

    table = "table"
    json = "json"
    csv = "csv"
    textgrid = "textgrid"
    audacity = "audacity"


OVER_TIME = (Form.textgrid, Form.audacity)


def deliver(
    ear: Ear, utterances: Sequence[Utterance], form: Form, out: Path | None, plot: Path | None, bars: Bars, *, per: str
) -> list[Exception]:
    """Hear, give the answers as they were asked for, and return what could not be heard."""
    failed: list[Exception] = []

    def heard(wanted: Sequence[Utterance]) -> Iterator[Pair]:
        for utterance, outcome in zip(wanted, ear.hear(wanted), strict=True):
            if isinstance(outcome, Exception):
                failed.append(outcome)
                continue
            if plot is not None:
                _draw(outcome, plot)
            yield utterance, outcome

    if form in OVER_TIME:
        _give_labels(heard(utterances), utterances, form, out)
    elif out is not None:
        _append(heard, utterances, out, ear.told_by(), bars)
    elif form == Form.json:
        for _, said in heard(utterances):
            print_json(said)
    elif form == Form.csv:
        print_csv(heard(utterances), ear.classes, per)
    elif pairs := list(heard(utterances)):
        print_table(pairs, ear.classes)
        print_explanations([said for _, said in pairs if not hasattr(said, "passages")])
    return failed


def _append(
    heard: Callable[[Sequence[Utterance]], Iterator[Pair]],
    utterances: Sequence[Utterance],
    out: Path,
    told_by: str,
    bars: Bars,
) -> None:
    """Append the answers that a file of answers lacks."""
    from serein.inference.answer_file import PredictionFile

    with PredictionFile(out, told_by) as file:
        wanting = [utterance for utterance in utterances if utterance.id not in file.answered]
        there = f", {len(utterances) - len(wanting)} were there" if len(wanting) < len(utterances) else ""
        for done, (utterance, said) in enumerate(heard(wanting), start=1):
            file.write(utterance, said)
            bars("answering", done, len(wanting) + 1, f"{done} of {len(wanting)} recordings{there}")
    bars("answering", 1, 1, f"{len(wanting)} recordings{there}")


def _give_labels(heard: Iterator[Pair], utterances: Sequence[Utterance], form: Form, out: Path | None) -> None:
    """Print the labels of one recording, or write those of many below a folder, as the recordings lie in theirs."""
    from serein.data.files import write_text
    from serein.inference.formats import SUFFIXES, WRITERS

    if out is None and len(utterances) > 1:
        raise typer.BadParameter(f"name a folder for the labels of {len(utterances)} recordings", param_hint="'--out'")
    places = {utterance.id: place for utterance, place in zip(utterances, _places(utterances), strict=True)}
    for utterance, said in heard:
        text = WRITERS[form](_timeline(said))
        if out is None:
            print(text, end="")
        else:
            place = places[utterance.id]
            write_text(out / place.with_name(place.name + SUFFIXES[form]), text)


def _places(utterances: Sequence[Utterance]) -> list[Path]:
    """Return where the labels of each utterance lie below a folder: as their recordings below theirs."""
    paths = [Path(os.path.abspath(utterance.audio)) for utterance in utterances]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    parts = [
        "" if utterance.end_s is None else f"-{utterance.start_s:g}-{utterance.end_s:g}" for utterance in utterances
    ]
    return [path.relative_to(common).with_name(path.stem + part) for path, part in zip(paths, parts, strict=True)]


def _draw(outcome: Outcome, picture: Path) -> None:
    from serein.evaluation.over_time import save_picture

    save_picture(_timeline(outcome), picture)


def _timeline(outcome: Outcome) -> Timeline:
    from serein.inference.timeline import Timeline

    assert isinstance(outcome, Timeline)  # such forms are heard over time only
    return outcome


def print_json(said: Said) -> None:
    """Print an answer as one line."""
    print(json.dumps(said.to_json(), ensure_ascii=False), flush=True)


def print_csv(pairs: Iterable[Pair], classes: Sequence[str], per: str) -> None:
    """Print a row for each recording, or `per` passage of each."""
    writer = csv.writer(sys.stdout)
    writer.writerow(["audio", *(["start_s", "end_s"] if per == "passage" else []), "emotion", *classes])
    for _, said in pairs:
        for times, row in _rows(said, per):
            writer.writerow([said.audio, *times, row.said, *(f"{row.probabilities[name]:.4f}" for name in classes)])


def _rows(said: Said, per: str) -> list[tuple[list[str], Said | Segment]]:
    if per == "recording":
        return [([], said)]
    return [([f"{heard.start_s:.3f}", f"{heard.end_s:.3f}"], heard) for heard in _timeline(said).segments]


def print_table(pairs: Sequence[Pair], classes: Sequence[str]) -> None:
    """Print a row for each recording; a lone one that was heard over time has its passages below."""
    from rich.table import Table
    from rich.text import Text

    from serein.inference.timeline import Timeline

    labels = [getattr(utterance, said.task) for utterance, said in pairs]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("recording", overflow="fold")
    for name in ("labelled", "heard") if any(labels) else ("heard",):
        table.add_column(name, style="bold" if name == "heard" else None)
    for name in classes:
        table.add_column(name, justify="right")
    beside = list(dict.fromkeys(name for _, said in pairs for name in _others(said)))
    for name in beside:
        table.add_column(name, overflow="fold")
    for (_, said), label in zip(pairs, labels, strict=True):
        probabilities = [f"{100 * said.probabilities[name]:.0f} %" for name in classes]
        own = [Text(_others(said).get(name, "")) for name in beside]
        table.add_row(Text(said.audio), *([label or ""] if any(labels) else []), said.said, *probabilities, *own)
    print_tables([table])
    (first, *others) = [said for _, said in pairs]
    if isinstance(first, Timeline) and not others:
        print_passages(first, classes)


def _others(said: Said) -> dict[str, str]:
    """Return what a model's other tasks say; over time they say nothing."""
    return {name: other.label for name, other in getattr(said, "others", {}).items()}


def print_passages(timeline: Timeline, classes: Sequence[str]) -> None:
    """Print what was heard from when to when."""
    from rich.table import Table

    from serein.inference.formats import clock

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("from", "to"):
        table.add_column(name, justify="right")
    table.add_column("heard", style="bold")
    for name in classes:
        table.add_column(name, justify="right")
    for heard in timeline.segments:
        probabilities = [f"{100 * heard.probabilities[name]:.0f} %" for name in classes]
        table.add_row(clock(heard.start_s), clock(heard.end_s), heard.said, *probabilities)
    print()
    print_tables([table])


def complain(failed: Sequence[Exception], num_asked: int) -> None:
    """List at the end what could not be heard."""
    for error in failed:
        print(f"error: {error}", file=sys.stderr)
    print(f"{len(failed)} of {num_asked} recordings could not be heard.", file=sys.stderr)

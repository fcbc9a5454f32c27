"""Output formats of predictions: table, JSON, CSV, label files."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from serein.cli.ears import RecordingPredictor
from serein.cli.neighbours import print_neighbours
from serein.cli.printing import print_tables

if TYPE_CHECKING:
    from serein.data.utterance import Utterance
    from serein.inference.hearing import RecordingResult
    from serein.inference.predictor import Prediction
    from serein.inference.timeline import Segment, Timeline
    from serein.progress import Bars

    AnyPrediction = Prediction | Timeline
    Pair = tuple[Utterance, AnyPrediction]

Format = Literal["table", "json", "csv", "textgrid", "audacity"]

SEGMENT_FORMATS = ("textgrid", "audacity")


def deliver(
    predictor: RecordingPredictor,
    utterances: Sequence[Utterance],
    output_format: Format,
    out: Path | None,
    plot: Path | None,
    bars: Bars,
    *,
    per: str,
) -> list[Exception]:
    """Predict, write the predictions in a format, and return the errors."""
    failed: list[Exception] = []

    def predicted(wanted: Sequence[Utterance]) -> Iterator[Pair]:
        for utterance, result in zip(wanted, predictor.predict(wanted), strict=True):
            if isinstance(result, Exception):
                failed.append(result)
                continue
            if plot is not None:
                _draw(result, plot)
            yield utterance, result

    if output_format in SEGMENT_FORMATS:
        _write_labels(predicted(utterances), utterances, output_format, out)
    elif out is not None:
        _append(predicted, utterances, out, predictor.fingerprint(), bars)
    elif output_format == "json":
        for _, prediction in predicted(utterances):
            print_json(prediction)
    elif output_format == "csv":
        print_csv(predicted(utterances), predictor.classes, per)
    elif pairs := list(predicted(utterances)):
        print_table(pairs, predictor.classes)
        print_neighbours([prediction for _, prediction in pairs])
    return failed


def _append(
    predicted: Callable[[Sequence[Utterance]], Iterator[Pair]],
    utterances: Sequence[Utterance],
    out: Path,
    fingerprint: str,
    bars: Bars,
) -> None:
    """Append the predictions that a prediction file lacks."""
    from serein.inference.answer_file import PredictionFile

    with PredictionFile(out, fingerprint) as file:
        missing = [utterance for utterance in utterances if utterance.id not in file.ids]
        there = f", {len(utterances) - len(missing)} were done before" if len(missing) < len(utterances) else ""
        for done, (utterance, prediction) in enumerate(predicted(missing), start=1):
            file.write(utterance, prediction)
            bars("predicting", done, len(missing) + 1, f"{done} of {len(missing)} recordings{there}")
    bars("predicting", 1, 1, f"{len(missing)} recordings{there}")


def _write_labels(
    predicted: Iterator[Pair], utterances: Sequence[Utterance], output_format: Format, out: Path | None
) -> None:
    """Print the label file of one recording, or write those of many below a folder, with the recordings' tree."""
    from serein.data.files import write_text
    from serein.inference.formats import SUFFIXES, WRITERS

    if out is None and len(utterances) > 1:
        raise typer.BadParameter(
            f"name a folder for the label files of {len(utterances)} recordings", param_hint="'--out'"
        )
    places = {utterance.id: place for utterance, place in zip(utterances, _places(utterances), strict=True)}
    for utterance, prediction in predicted:
        text = WRITERS[output_format](_timeline(prediction))
        if out is None:
            print(text, end="")
        else:
            place = places[utterance.id]
            write_text(out / place.with_name(place.name + SUFFIXES[output_format]), text)


def _places(utterances: Sequence[Utterance]) -> list[Path]:
    """Return the path of each utterance's label file below a folder, as that of the recording below its own."""
    paths = [Path(os.path.abspath(utterance.audio)) for utterance in utterances]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    parts = [
        "" if utterance.end_s is None else f"-{utterance.start_s:g}-{utterance.end_s:g}" for utterance in utterances
    ]
    return [path.relative_to(common).with_name(path.stem + part) for path, part in zip(paths, parts, strict=True)]


def _draw(result: RecordingResult, picture: Path) -> None:
    from serein.evaluation.over_time import save_picture

    save_picture(_timeline(result), picture)


def _timeline(result: RecordingResult) -> Timeline:
    from serein.inference.timeline import Timeline

    assert isinstance(result, Timeline)  # these formats are of segments only
    return result


def print_json(prediction: AnyPrediction) -> None:
    """Print a prediction as one line."""
    print(json.dumps(prediction.to_json(), ensure_ascii=False), flush=True)


def print_csv(pairs: Iterable[Pair], classes: Sequence[str], per: str) -> None:
    """Print a row for each recording, or for each segment (`per`)."""
    writer = csv.writer(sys.stdout)
    writer.writerow(["file", *(["start_s", "end_s"] if per == "segment" else []), "label", *classes])
    for _, prediction in pairs:
        for times, row in _rows(prediction, per):
            writer.writerow(
                [
                    prediction.audio,
                    *times,
                    row.label_or_rejection,
                    *(f"{row.probabilities[name]:.4f}" for name in classes),
                ]
            )


def _rows(prediction: AnyPrediction, per: str) -> list[tuple[list[str], AnyPrediction | Segment]]:
    if per == "recording":
        return [([], prediction)]
    return [([f"{segment.start_s:.3f}", f"{segment.end_s:.3f}"], segment) for segment in _timeline(prediction).segments]


def print_table(pairs: Sequence[Pair], classes: Sequence[str]) -> None:
    """Print a row for each recording; a single one that was cut into segments is followed by these."""
    from rich.table import Table
    from rich.text import Text

    from serein.inference.timeline import Timeline

    labels = [getattr(utterance, prediction.task) for utterance, prediction in pairs]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("recording", overflow="fold")
    for name in ("truth", "prediction") if any(labels) else ("prediction",):
        table.add_column(name, style="bold" if name == "prediction" else None)
    for name in classes:
        table.add_column(name, justify="right")
    tasks = list(dict.fromkeys(name for _, prediction in pairs for name in _task_labels(prediction)))
    for name in tasks:
        table.add_column(name, overflow="fold")
    for (_, prediction), label in zip(pairs, labels, strict=True):
        probabilities = [f"{100 * prediction.probabilities[name]:.0f} %" for name in classes]
        own = [Text(_task_labels(prediction).get(name, "")) for name in tasks]
        truth = [label or ""] if any(labels) else []
        table.add_row(Text(prediction.audio), *truth, prediction.label_or_rejection, *probabilities, *own)
    print_tables([table])
    (first, *others) = [prediction for _, prediction in pairs]
    if isinstance(first, Timeline) and not others:
        print_segments(first, classes)


def _task_labels(prediction: AnyPrediction) -> dict[str, str]:
    """Return the labels of a model's other tasks; a recording in segments has none."""
    return {name: other.label for name, other in getattr(prediction, "tasks", {}).items()}


def print_segments(timeline: Timeline, classes: Sequence[str]) -> None:
    """Print a row for each segment."""
    from rich.table import Table

    from serein.inference.formats import clock

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("from", "to"):
        table.add_column(name, justify="right")
    table.add_column("prediction", style="bold")
    for name in classes:
        table.add_column(name, justify="right")
    for segment in timeline.segments:
        probabilities = [f"{100 * segment.probabilities[name]:.0f} %" for name in classes]
        table.add_row(clock(segment.start_s), clock(segment.end_s), segment.label_or_rejection, *probabilities)
    print()
    print_tables([table])


def report_errors(failed: Sequence[Exception], num_recordings: int) -> None:
    """Print the recordings that could not be read, at the end."""
    for error in failed:
        print(f"error: {error}", file=sys.stderr)
    print(f"{len(failed)} of {num_recordings} recordings could not be read.", file=sys.stderr)

"""What predicts recordings: a model, an ensemble, or a model with a datastore of labelled clips (kNN)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from serein.data.utterance import Utterance
    from serein.inference.parallel import PredictOptions, RecordingResult
    from serein.progress import Bars


import csv
import json
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from serein.cli.knn import print_neighbours
from serein.cli.options import print_tables

if TYPE_CHECKING:
    from serein.data.utterance import Utterance
    from serein.inference.parallel import RecordingResult
    from serein.inference.predictor import Prediction
    from serein.inference.segments import Segment, Timeline
    from serein.progress import Bars

    AnyPrediction = Prediction | Timeline
    Pair = tuple[Utterance, AnyPrediction]


from typing import TYPE_CHECKING, Annotated

from serein.cli.app import app
from serein.cli.knn import K, KnnWeight
from serein.cli.options import DefaultModel, MinConfidence, MinDuration, Recordings, Step, Window

if TYPE_CHECKING:
    from serein.data.utterance import Utterance
    from serein.inference.parallel import PredictOptions
    from serein.inference.segments import SlidingWindow


_SHOWN_FROM_S = 60.0  # a bar for less would be gone before it is read


@dataclass
class RecordingPredictor:
    """Predicts recordings for the command line.

    Attributes:
        classes: The classes of the predictions.
        predict: Yields the prediction of each utterance, or its error, as soon as it is known.
        fingerprint: Identifies the model and the options.
    """

    classes: tuple[str, ...]
    predict: Callable[[Sequence[Utterance]], Iterator[RecordingResult]]
    fingerprint: Callable[[], str]


def model_predictor(
    model: str | None, labels: list[str] | None, options: PredictOptions, workers: int, bars: Bars
) -> RecordingPredictor:
    from serein.inference.parallel import predict_in_processes, predict_recordings
    from serein.inference.predictor import load

    predictor = load(model)
    if labels is not None:
        predictor = predictor.with_labels(labels)

    def predict(utterances: Sequence[Utterance]) -> Iterator[RecordingResult]:
        if workers > 1 and len(utterances) > 1:
            return predict_in_processes(model, labels, utterances, options, workers)
        return predict_recordings(predictor, utterances, options, on_progress=_seconds_shown(bars))

    return RecordingPredictor(predictor.classes, predict, lambda: _hashed(_digest_of(model), labels, options))


def ensemble_predictor(
    file: Path, model: str | None, labels: str | None, options: PredictOptions, bars: Bars
) -> RecordingPredictor:
    from serein.data.files import sha256
    from serein.ensemble.predictor import EnsemblePredictor

    if model is not None:
        raise typer.BadParameter("an ensemble file names its models", param_hint="'--model'")
    if labels is not None:
        raise typer.BadParameter("an ensemble has the classes that it was fitted to", param_hint="'--labels'")
    predictor = EnsemblePredictor(file, bars)
    return RecordingPredictor(
        predictor.classes,
        lambda utterances: _with_reject_option(list(predictor.predict_each(utterances)), options),
        lambda: _hashed(sha256(file), options),
    )


def knn_predictor(
    model: str | None,
    labels: str | None,
    datastore: Path,
    k: int | None,
    knn_weight: float | None,
    options: PredictOptions,
    *,
    show_neighbours: bool,
) -> RecordingPredictor:
    from serein.inference.predictor import default_model_folder
    from serein.knn.predictor import KnnPredictor

    if labels is not None:
        raise typer.BadParameter("a datastore has the classes of its model", param_hint="'--knn'")
    name = str(default_model_folder()) if model is None else model
    predictor = KnnPredictor(name, datastore, k=k, knn_weight=knn_weight, show_neighbours=show_neighbours)
    interpolation = predictor.interpolation
    if not interpolation.is_tuned:
        numbers = f"k {interpolation.k} and weight {interpolation.knn_weight:g}"
        typer.echo(f"{numbers} were not tuned for this datastore: serein knn tune --help.", err=True)
    return RecordingPredictor(
        predictor.classes,
        lambda utterances: _with_reject_option(predictor.predict_each(utterances), options),
        lambda: _hashed(_digest_of(name), datastore.resolve(), interpolation, show_neighbours, options),
    )


def _with_reject_option(results: Any, options: PredictOptions) -> Iterator[RecordingResult]:
    from serein.inference.predictor import Prediction

    return (options.reject_option.applied_to(each) if isinstance(each, Prediction) else each for each in results)


def _digest_of(model: str | None) -> str:
    from serein import hub
    from serein.inference.predictor import default_model_folder
    from serein.knn.datastore import model_digest

    return model_digest(default_model_folder() if model is None else hub.folder_of(model, expected="a model folder"))


def _hashed(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def _seconds_shown(bars: Bars) -> Callable[[float, float], None]:
    from serein.inference.writers import clock

    def show(done_s: float, total_s: float) -> None:
        if total_s >= _SHOWN_FROM_S:
            bars("predicting", round(done_s), max(1, round(total_s)), f"{clock(done_s)} of {clock(total_s)}")

    return show


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
    from serein.inference.writers import PredictionFile

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
    from serein.inference.writers import SUFFIXES, WRITERS

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
    from serein.inference.plot import save_picture

    save_picture(_timeline(result), picture)


def _timeline(result: RecordingResult) -> Timeline:
    from serein.inference.segments import Timeline

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

    from serein.inference.segments import Timeline

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

    from serein.inference.writers import clock

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


Segments = Literal["auto", "always", "never"]


@app.command()
def predict(
    sources: Recordings,
    model: DefaultModel = None,
    ensemble: Annotated[
        Path | None, typer.Option("--ensemble", metavar="FILE", help="Predict with all models of an ensemble file.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="WORD,WORD...", help="Use these words as classes, for a model of words.")
    ] = None,
    knn: Annotated[
        Path | None, typer.Option("--knn", metavar="DATASTORE", help="Interpolate with the nearest labelled clips.")
    ] = None,
    k: K = None,
    knn_weight: KnnWeight = None,
    show_neighbours: Annotated[
        bool, typer.Option("--show-neighbours", help="Show the nearest clips of the datastore.")
    ] = False,
    segments: Annotated[
        Segments | None,
        typer.Option(help="Cut recordings into segments of speech [auto: those longer than the model's window]."),
    ] = None,
    window: Window = None,
    step: Step = None,
    min_confidence: MinConfidence = 0.0,
    min_duration: MinDuration = 0.0,
    max_files: Annotated[
        int | None, typer.Option("--max-files", help="Predict at most so many recordings, evenly spread.", min=1)
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that predict in parallel.", min=1)] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Append JSON lines to this file, or continue it; a folder for label files."),
    ] = None,
    output_format: Annotated[Format | None, typer.Option("--format", help="Output format [table].")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Draw the waveform with its emotions (.png, .svg, .pdf).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Same as --format csv.")] = False,
) -> None:
    """Predict the emotions in recordings; the exit status is 1 when any could not be read.

    Without --model the default model is used. Recordings longer than the model's window are cut into segments of
    speech; with --window, --step, label files or a plot, all recordings are.
    """
    from serein.progress import Bars

    if output_format is None:
        output_format = "json" if as_json or (out is not None and not as_csv) else "csv" if as_csv else "table"
    is_windowed = window is not None or step is not None
    _require_fitting(output_format, plot, out, ensemble, knn, needs_segments=is_windowed or segments == "always")
    if show_neighbours and output_format == "csv":
        raise typer.BadParameter(
            "a CSV row has no room for neighbours; choose --json", param_hint="'--show-neighbours'"
        )
    needs_segments = is_windowed or output_format in SEGMENT_FORMATS or plot is not None
    if segments is not None and segments != "always" and needs_segments:
        raise typer.BadParameter("windows, label files and plots need segments", param_hint="'--segments'")
    options = _predict_options(
        "always" if needs_segments else segments or "auto", window, step, min_confidence, min_duration
    )
    utterances = _utterances(sources, max_files)
    if plot is not None and len(utterances) > 1:
        raise typer.BadParameter(f"{len(utterances)} recordings do not fit into one picture", param_hint="'--plot'")
    with Bars() as bars:
        if ensemble is not None:
            predictor = ensemble_predictor(ensemble, model, labels, options, bars)
        elif knn is not None:
            predictor = knn_predictor(model, labels, knn, k, knn_weight, options, show_neighbours=show_neighbours)
        elif k is not None or knn_weight is not None or show_neighbours:
            raise typer.BadParameter(
                "name a datastore by --knn", param_hint="'--k', '--knn-weight', '--show-neighbours'"
            )
        else:
            words = None if labels is None else labels.split(",")
            predictor = model_predictor(model, words, options, workers, bars)
        per = "segment" if is_windowed or segments == "always" else "recording"
        failed = deliver(predictor, utterances, output_format, out, plot, bars, per=per)
    if failed:
        report_errors(failed, len(utterances))
        raise typer.Exit(1)


def _require_fitting(
    output_format: Format,
    plot: Path | None,
    out: Path | None,
    ensemble: Path | None,
    knn: Path | None,
    *,
    needs_segments: bool,
) -> None:
    if (ensemble or knn) and (needs_segments or plot or output_format in SEGMENT_FORMATS):
        raise typer.BadParameter(
            "ensembles and datastores predict whole recordings only",
            param_hint="'--segments', '--window', '--plot', '--format'",
        )
    if out is not None and output_format in ("table", "csv"):
        raise typer.BadParameter(
            f"predictions are appended as JSON lines, not as {output_format}", param_hint="'--out'"
        )


def _predict_options(
    segments: Segments, window_s: float | None, step_s: float | None, min_confidence: float, min_duration_s: float
) -> PredictOptions:
    from serein.inference.parallel import PredictOptions
    from serein.inference.segments import RejectOption

    return PredictOptions(segments, sliding_window_of(window_s, step_s), RejectOption(min_confidence, min_duration_s))


def sliding_window_of(window_s: float | None, step_s: float | None) -> SlidingWindow:
    """Return a sliding window of a length; its step is half its length unless given."""
    from serein.inference.segments import SLIDING_WINDOW, SlidingWindow

    length_s = SLIDING_WINDOW.window_s if window_s is None else window_s
    return SlidingWindow(length_s, length_s / 2 if step_s is None else step_s)


def _utterances(sources: Sequence[Path], max_files: int | None) -> list[Utterance]:
    from serein.inference.sources import evenly_spread, utterances_in

    utterances = utterances_in(sources)
    return utterances if max_files is None else evenly_spread(utterances, max_files)

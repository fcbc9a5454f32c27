"""The command that predicts recordings."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from serein.cli.app import app
from serein.cli.knn import K, KnnWeight
from serein.cli.options import (
    DefaultModel,
    Device,
    MinConfidence,
    MinDuration,
    Recordings,
    Segments,
    Step,
    Window,
    print_tables,
)
from serein.errors import SereinError

if TYPE_CHECKING:
    from serein.inference.prediction import Prediction
    from serein.inference.predictor import Predictor, Source
    from serein.inference.recording import PredictOptions
    from serein.inference.segments import SlidingWindow

    Pair = tuple[Source, Prediction]
    OnError = Callable[[Source, SereinError], None]

Format = Literal["table", "json", "csv", "textgrid", "audacity", "msp-challenge"]
LABEL_FORMATS = ("textgrid", "audacity")
_SHOWN_FROM_S = 60.0  # of a recording: shorter ones need no bar of their own


@app.command()
def predict(
    sources: Recordings,
    model: DefaultModel = None,
    ensemble: Annotated[
        Path | None,
        typer.Option("--ensemble", metavar="FILE", help="Combine the models of this ensemble file (serein ensemble)."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="WORD,WORD...", help="Use these words as classes; for models that predict word vectors."),
    ] = None,
    knn: Annotated[
        Path | None,
        typer.Option(
            "--knn", metavar="DATASTORE", help="Interpolate with the nearest clips of this datastore (serein knn)."
        ),
    ] = None,
    k: K = None,
    knn_weight: KnnWeight = None,
    show_neighbours: Annotated[bool, typer.Option("--show-neighbours", help="Also print the nearest clips.")] = False,
    segments: Segments = "auto",
    window: Window = None,
    step: Step = None,
    min_confidence: MinConfidence = 0.0,
    min_duration: MinDuration = 0.0,
    raw_rate: Annotated[
        int | None,
        typer.Option("--raw-rate", metavar="HZ", help="Sampling rate of headerless PCM: 16-bit, little-endian, mono."),
    ] = None,
    max_files: Annotated[
        int | None,
        typer.Option("--max-files", help="Predict at most this many, evenly spread.", show_default="all", min=1),
    ] = None,
    device: Device = "auto",
    workers: Annotated[int, typer.Option(help="Number of processes that predict on the CPU.", min=1)] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Append JSON lines to this file, or resume it; for label files, a folder; for msp-challenge, a file.",
            show_default="stdout",
        ),
    ] = None,
    output_format: Annotated[
        Format | None, typer.Option("--format", help="Output format.", show_default="table")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Draw the recording with its emotions (.png, .svg, .pdf).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Short for --format csv.")] = False,
) -> None:
    """Predict the emotions in recordings.

    Recordings are cut into segments of speech first; a recording without speech is rejected. The exit status is 1 if
    any recording could not be read.
    """
    from serein.inference.prediction import RejectOption
    from serein.inference.recording import PredictOptions
    from serein.inference.sources import evenly_spread, sources_in
    from serein.progress import Bars

    shown = output_format or ("json" if as_json or (out is not None and not as_csv) else "csv" if as_csv else "table")
    if ensemble is not None and (model is not None or knn is not None):
        raise typer.BadParameter("it names its models; leave out --model and --knn", param_hint="'--ensemble'")
    if labels is not None and (ensemble is not None or knn is not None):
        raise typer.BadParameter("ensembles and datastores have fixed classes", param_hint="'--labels'")
    _require_fitting(shown, out, knn, k, knn_weight, show_neighbours=show_neighbours)
    reject_option = RejectOption(min_confidence, min_duration)
    options = PredictOptions(segments, sliding_window_of(window, step), reject_option, raw_rate)
    files = sources_in(sources)
    if shown == "msp-challenge":  # of a manifest of the corpus, the test set whose labels the challenge keeps
        files = [each for each in files if getattr(each, "split", None) == "test3"] or files
    files = files if max_files is None else evenly_spread(files, max_files)
    if plot is not None and len(files) > 1:
        raise typer.BadParameter(f"{len(files)} recordings do not fit into one picture", param_hint="'--plot'")
    failed: list[SereinError] = []
    with Bars() as bars:
        words = None if labels is None else [word.strip() for word in labels.split(",")]
        if ensemble is not None:
            from serein.ensemble.predictor import EnsemblePredictor

            predictor: Predictor = EnsemblePredictor(ensemble, device, bars)
        elif knn is not None:
            predictor = _with_neighbours(model, knn, k, knn_weight, device, show_neighbours=show_neighbours)
        else:
            from serein.inference.predictor import load

            predictor = load(model, device)
            predictor = predictor if words is None else predictor.with_labels(words)

        def results(some: Sequence[Source]) -> Iterator[object]:
            if workers > 1 and ensemble is None and knn is None:
                from serein.inference.predictor import predict_in_processes

                return predict_in_processes(model, words, some, options, workers)
            return predictor.predict_files(some, options=options, on_error="return", on_progress=_shown_on(bars))

        def predicted(some: Sequence[Source], on_error: OnError | None = None) -> Iterator[Pair]:
            from serein.inference.prediction import Prediction
            from serein.inference.writers import save_picture

            for source, result in zip(some, results(some), strict=True):
                if isinstance(result, SereinError):
                    failed.append(result)
                    if on_error is not None:
                        on_error(source, result)
                    continue
                assert isinstance(result, Prediction)
                if plot is not None:
                    save_picture(result, plot)
                yield source, result

        if shown in LABEL_FORMATS:
            _write_labels(predicted(files), files, shown, out)
        elif shown == "msp-challenge":
            from serein.data.files import write_text
            from serein.inference.writers import msp_challenge

            text = msp_challenge(prediction for _, prediction in predicted(files))
            print(text, end="") if out is None else write_text(out, text)
        elif out is not None:
            fingerprint = _fingerprint(predictor, options, words, knn, show_neighbours)
            _append(predicted, files, out, fingerprint, bars)
        elif shown == "json":
            for _, prediction in predicted(files):
                print(json.dumps(prediction.to_dict(), ensure_ascii=False), flush=True)
        elif shown == "csv":
            print_csv(predicted(files), predictor.classes)
        elif pairs := list(predicted(files)):
            print_table(pairs, predictor.classes)
    if failed:
        for error in failed:
            print(f"error: {error}", file=sys.stderr)
        print(f"{len(failed)} of {len(files)} recordings could not be read.", file=sys.stderr)
        raise typer.Exit(1)


def sliding_window_of(window_s: float | None, step_s: float | None) -> SlidingWindow:
    """Return windows of a length, half of which is between their starts unless said otherwise."""
    from serein.inference.segments import SLIDING_WINDOW, SlidingWindow

    length_s = SLIDING_WINDOW.window_s if window_s is None else window_s
    return SlidingWindow(length_s, length_s / 2 if step_s is None else step_s)


def _require_fitting(
    shown: str,
    out: Path | None,
    knn: Path | None,
    k: int | None,
    knn_weight: float | None,
    *,
    show_neighbours: bool,
) -> None:
    """Refuse options that do not go together."""
    if knn is None and (k is not None or knn_weight is not None or show_neighbours):
        hint = "'--k', '--knn-weight', '--show-neighbours'"
        raise typer.BadParameter("name a datastore by --knn", param_hint=hint)
    if show_neighbours and shown == "csv":
        raise typer.BadParameter("neighbours do not fit into a line; take --json", param_hint="'--show-neighbours'")
    if out is not None and shown in ("table", "csv"):
        raise typer.BadParameter(f"predictions are appended as JSON lines, not as {shown}", param_hint="'--out'")


def _with_neighbours(
    model: str | None,
    datastore: Path,
    k: int | None,
    knn_weight: float | None,
    device: str,
    *,
    show_neighbours: bool,
) -> Predictor:
    from serein.knn.predictor import KnnPredictor

    predictor = KnnPredictor(
        model, datastore, k=k, knn_weight=knn_weight, show_neighbours=show_neighbours, device=device
    )
    interpolation = predictor.interpolation
    if not interpolation.is_tuned:
        numbers = f"k {interpolation.k} and the kNN weight {interpolation.knn_weight:g}"
        typer.echo(f"{numbers} were not tuned for this datastore: serein knn tune --help.", err=True)
    return predictor


def _fingerprint(
    predictor: Predictor,
    options: PredictOptions,
    labels: Sequence[str] | None,
    datastore: Path | None,
    show_neighbours: bool,
) -> str:
    """Return what tells the model and the options of a prediction file from others."""
    parts = [predictor.identity["sha256"], options, labels]
    if datastore is not None:
        parts += [datastore.resolve(), getattr(predictor, "interpolation", None), show_neighbours]
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def _shown_on(bars: object) -> Callable[[float, float], None]:
    from serein.inference.writers import clock

    def show(done_s: float, total_s: float) -> None:
        if total_s >= _SHOWN_FROM_S:
            bars("reading", round(done_s), max(1, round(total_s)), f"{clock(done_s)} of {clock(total_s)}")  # type: ignore[operator]

    return show


def _append(
    predicted: Callable[[Sequence[Source], OnError], Iterator[Pair]],
    files: Sequence[Source],
    out: Path,
    fingerprint: str,
    bars: object,
) -> None:
    """Append the predictions that a prediction file lacks."""
    from serein.inference.predictor import id_of
    from serein.inference.writers import PredictionFile

    with PredictionFile(out, fingerprint) as file:
        missing = [source for source in files if id_of(source) not in file.done]
        there = f", {len(files) - len(missing)} were done before" if len(missing) < len(files) else ""
        for done, (_, prediction) in enumerate(predicted(missing, file.write_error), start=1):
            file.write(prediction)
            bars("predicting", done, len(missing) + 1, f"{done} of {len(missing)} recordings{there}")  # type: ignore[operator]
    bars("predicting", 1, 1, f"{len(missing)} recordings{there}")  # type: ignore[operator]


def _write_labels(predicted: Iterable[Pair], files: Sequence[Source], shown: str, out: Path | None) -> None:
    """Print the label file of one recording, or write those of many below a folder, with the recordings' tree."""
    from serein.data.files import write_text
    from serein.inference.predictor import id_of
    from serein.inference.writers import SUFFIXES, WRITERS

    if out is None and len(files) > 1:
        raise typer.BadParameter(f"name a folder for the label files of {len(files)} recordings", param_hint="'--out'")
    places = {id_of(source): place for source, place in zip(files, _places(files), strict=True)}
    for source, prediction in predicted:
        text = WRITERS[shown](prediction)
        if out is None:
            print(text, end="")
        else:
            place = places[id_of(source)]
            write_text(out / place.with_name(place.name + SUFFIXES[shown]), text)


def _places(files: Sequence[Source]) -> list[Path]:
    """Return the path of each source's label file below a folder: that of the recording below its own, all distinct."""
    paths = [Path(os.path.abspath(getattr(source, "audio", str(source)))) for source in files]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    places = []
    for source, path in zip(files, paths, strict=True):
        end_s = getattr(source, "end_s", None)
        part = "" if end_s is None else f"-{getattr(source, 'start_s', 0.0):g}-{end_s:g}"
        stem = (
            path.stem if sum(other.with_suffix("") == path.with_suffix("") for other in set(paths)) == 1 else path.name
        )
        places.append(path.relative_to(common).with_name(stem + part))
    return places


def print_csv(pairs: Iterable[Pair], classes: Sequence[str]) -> None:
    """Print a row for each segment; one for a recording without segments."""
    writer = csv.writer(sys.stdout)
    writer.writerow(["file", "id", "start_s", "end_s", "label", "confidence", "rejected", *classes])
    for _, prediction in pairs:
        for said in prediction.segments or (prediction,):
            confidence = "" if said.confidence is None else f"{said.confidence:.6f}"
            values = [f"{said.probabilities[name]:.6f}" if said.probabilities else "" for name in classes]
            label = said.label if said.value is None else f"{said.value:.6f}"
            times = [f"{said.start_s:.3f}", f"{said.end_s:.3f}"]
            writer.writerow(
                [prediction.file, prediction.id or "", *times, label or "", confidence, said.rejected or "", *values]
            )


def print_table(pairs: Sequence[Pair], classes: Sequence[str]) -> None:
    """Print a row for each recording; a single one has its segments below, and neighbours where they are shown."""
    from rich.table import Table
    from rich.text import Text

    labels = [getattr(source, prediction.task, None) for source, prediction in pairs]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("recording", overflow="fold")
    for name in (*(["labelled"] if any(labels) else []), "prediction"):
        table.add_column(name, style="bold" if name == "prediction" else None)
    tasks = list(dict.fromkeys(name for _, prediction in pairs for name in prediction.tasks))
    for name in classes:
        table.add_column(name, justify="right")
    for name in tasks:
        table.add_column(name, overflow="fold")
    for (_, said), label in zip(pairs, labels, strict=True):
        cells = [f"{100 * said.probabilities[name]:.0f} %" if said.probabilities else "–" for name in classes]
        own = [Text((said.tasks[name].label or "") if name in said.tasks else "") for name in tasks]
        table.add_row(Text(said.id or said.file), *([label or ""] if any(labels) else []), said.text, *cells, *own)
    print_tables([table])
    if len(pairs) == 1 and len(pairs[0][1].segments) > 1:
        print()
        print_tables([_segment_table(pairs[0][1], classes)])
    for _, prediction in pairs:
        if prediction.neighbours:
            print()
            print_tables([_neighbour_table(prediction)])


def _segment_table(prediction: Prediction, classes: Sequence[str]) -> object:
    from rich.table import Table

    from serein.inference.writers import clock

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("from", "to"):
        table.add_column(name, justify="right")
    table.add_column("prediction", style="bold")
    for name in classes:
        table.add_column(name, justify="right")
    for segment in prediction.segments:
        cells = [f"{100 * segment.probabilities[name]:.0f} %" for name in classes]
        table.add_row(clock(segment.start_s), clock(segment.end_s), segment.text, *cells)
    return table


def _neighbour_table(prediction: Prediction) -> object:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.title = Text(f"Nearest to {prediction.id or prediction.file}")
    for name in ("label", "speaker", "distance", "recording"):
        table.add_column(name, justify="right" if name == "distance" else "left", overflow="fold")
    for each in prediction.neighbours:
        end = "" if each.end_s is None else f"{each.end_s:g}"
        part = f" [{each.start_s:g} s to {end}{' s' if end else 'the end'}]" if each.start_s or end else ""
        cells = (each.label, each.speaker or "–", f"{each.distance:.3f}", f"{each.audio}{part}")
        table.add_row(*map(Text, cells))
    return table

"""The command that predicts recordings."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from serein.cli.app import (
    DefaultModel,
    Device,
    MinConfidence,
    MinDuration,
    MovedBackbone,
    Precision,
    Recordings,
    Runtime,
    Segments,
    Step,
    Window,
    app,
    exit_if_unread,
    not_a_table,
    print_tables,
    recordings_in,
    require_confidence,
    sliding_window_of,
)
from serein.cli.knn import K, KnnWeight
from serein.errors import SereinError, counted
from serein.progress import Bars

if TYPE_CHECKING:
    from serein.inference.prediction import Prediction
    from serein.inference.predictor import Predictor
    from serein.inference.sources import Source

    Pair = tuple[Source, Prediction]
    OnError = Callable[[Source, SereinError], None]
    Result = tuple[Source, Prediction | SereinError]
    Transcribed = Callable[[Iterable[Result]], Iterator[Result]]

Format = Literal["table", "json", "csv", "textgrid", "audacity", "srt", "audformat", "msp-challenge"]
FILE_FORMATS = ("textgrid", "audacity", "srt", "audformat", "msp-challenge")
NO_TEXT = ("audacity", "srt", "msp-challenge")  # formats without a place for the transcript of a recording
_SHOWN_FROM_S = 60.0  # shorter recordings have no progress bar of their own


@app.command()
def predict(
    sources: Recordings,
    model: DefaultModel = None,
    ensemble: Annotated[
        Path | None,
        typer.Option("--ensemble", metavar="FILE", help="Combine the models of this ensemble file (serein ensemble)."),
    ] = None,
    backbone: MovedBackbone = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Predict only this task of the model.", show_default="all of its tasks"),
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
    transcribe: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Also transcribe the recordings with this Whisper or CTC model of Transformers."
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="Spoken language, for a Whisper of --transcribe.", show_default="each utterance's own"),
    ] = None,
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
        typer.Option(
            "--max-files", help="Predict at most this many recordings, evenly spread.", show_default="all", min=1
        ),
    ] = None,
    device: Device = "auto",
    runtime: Runtime = None,
    precision: Precision = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Predict on this machine, or on all machines of a Ray cluster.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Number of processes that predict on the CPU.",
            show_default="half the number of cores, at most 8, and at most one per 256 files; "
            "with --engine ray, one per GPU of the cluster, or per core without GPUs",
            min=1,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Append JSON lines to this file, or resume it; a folder for label files and audformat.",
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
    shown = output_format or ("json" if as_json or (out is not None and not as_csv) else "csv" if as_csv else "table")
    wants_neighbours = k is not None or knn_weight is not None or show_neighbours
    is_heard_once = any(str(each) == "-" or each.is_fifo() for each in sources)
    is_joined = ensemble is not None or knn is not None
    _refuse(
        (ensemble and (model is not None or knn), ("ensemble",), "it names its models; leave out --model and --knn"),
        (task is not None and is_joined, ("task",), "ensembles and datastores have one task"),
        (labels is not None and is_joined, ("labels",), "ensembles and datastores have fixed classes"),
        (runtime not in (None, "torch") and is_joined, ("runtime",), "ensembles and datastores run in PyTorch"),
        (precision is not None and is_joined, ("precision",), "ensembles and datastores use their models' precision"),
        (wants_neighbours and not knn, ("k", "knn-weight", "show-neighbours"), "name a datastore with --knn"),
        (show_neighbours and shown == "csv", ("show-neighbours",), "neighbours do not fit into a CSV line; use --json"),
        (len({*(["json"] * as_json), *(["csv"] * as_csv), shown}) > 1, ("format", "json", "csv"), "choose one format"),
        (plot and plot.suffix.lower() not in (".png", ".svg", ".pdf"), ("plot",), "name a .png, .svg or .pdf file"),
        (language is not None and transcribe is None, ("language",), "it is for transcripts; add --transcribe"),
        (transcribe is not None and is_heard_once, ("transcribe",), "a pipe can be read only once; name files"),
        (transcribe is not None and shown in NO_TEXT, ("transcribe",), f"a transcript does not fit into {shown}"),
        (out and shown in ("table", "csv"), ("out",), f"predictions are appended as JSON lines, not as {shown}"),
        (out and shown == "json" and out.exists() and not out.is_file(), ("out",), "name a file, or use --json"),
        (out is None and getattr(sys.stdout, "name", "") == os.devnull, ("out",), "stdout is closed; name a file"),
        (engine == "ray" and is_joined, ("engine",), "ensembles and datastores run only on this machine"),
        (workers is not None and is_joined, ("workers",), "ensembles and datastores predict in one process"),
        (engine == "ray" and (out is None or shown != "json"), ("engine",), "name a file for JSON lines with --out"),
    )
    if shown == "json":
        not_a_table(out)
    from serein.inference.prediction import RejectOption
    from serein.inference.processes import load_for, predict_in_processes, predict_over_ray, suitable_processes
    from serein.inference.recording import PredictOptions

    reject = RejectOption(min_confidence, min_duration)
    options = PredictOptions(segments, sliding_window_of(window, step), reject, raw_rate)
    files, num_absent = _recordings(sources, shown, max_files, plot)
    words = None if labels is None else [word.strip() for word in labels.split(",")]
    failed: list[SereinError] = []
    untranscribed: list[SereinError] = []
    transcribed = None
    if transcribe is not None:
        from serein.inference.transcription import load_transcriber, with_transcripts  # slow to import

        transcribed = partial(
            with_transcripts,
            transcriber=load_transcriber(transcribe, device, language),
            errors=untranscribed,
            language=language,
            raw_rate_hz=raw_rate,
        )
    load_model = partial(load_for, model, runtime, precision=precision, backbone=backbone, task=task, labels=words)
    with Bars() as bars:
        show = partial(_show_reading, bars)
        if ensemble is not None:
            from serein.ensemble.predictor import EnsemblePredictor

            predictor: Predictor = EnsemblePredictor(ensemble, device, bars, backbone=backbone)
        elif knn is not None:
            predictor = _with_neighbours(model, knn, k, knn_weight, device, show=show_neighbours, backbone=backbone)
        else:
            predictor = load_model(device="cpu" if engine == "ray" else device)
        require_confidence(min_confidence, predictor.classes)
        on_gpu = predictor.device.type != "cpu"
        _refuse((workers is not None and on_gpu, ("workers",), "processes predict on the CPU; add --device cpu"))

        def predicted(some: Sequence[Source], on_error: OnError | None = None) -> Iterator[Pair]:
            suitable = suitable_processes(len(some)) if predictor.device.type == "cpu" else 1
            num_processes = 1 if is_joined else workers or suitable
            if engine == "ray":
                results = predict_over_ray(load_model, some, options, workers, device)
            elif num_processes > 1:
                results = predict_in_processes(load_model, some, options, num_processes)
            else:
                results = predictor.predict_files(some, options=options, on_error="return", on_progress=show)
            return _readable(zip(some, results, strict=True), failed, plot, on_error, transcribed)

        tasks = list(dict.fromkeys([*predictor.other_tasks, *(["asr"] if transcribe is not None else [])]))
        if shown in FILE_FORMATS:
            write_files(predicted(files), files, shown, out, predictor, tasks)
        elif out is not None:
            datastore, interpolation = (getattr(predictor, name, None) for name in ("datastore", "interpolation"))
            more = [] if datastore is None else [datastore.digest, interpolation, show_neighbours]
            more += [each for each in (task, transcribe, precision, language) if each is not None]
            required = frozenset(["asr"] if transcribe is not None else [])
            append_json(predicted, files, out, [predictor.identity["sha256"], options, words, *more], bars, required)
        else:
            PRINTERS[shown](predicted(files), predictor.classes, predictor.dimensions, tasks)
    sys.stderr.writelines(f"error: {error}\n" for error in (*failed, *untranscribed))
    exit_if_unread(len(failed) + num_absent, len(files) + num_absent)
    if untranscribed:
        raise typer.Exit(1)


def _refuse(*combinations: tuple[object, Sequence[str], str]) -> None:
    """Raise an error for the first wrong combination; each states whether it is wrong, its options, and the reason."""
    for is_wrong, options, why in combinations:
        if is_wrong:
            raise typer.BadParameter(why, param_hint=", ".join(f"'--{name}'" for name in options))


def _recordings(
    names: Sequence[Path], shown: str, max_files: int | None, plot: Path | None
) -> tuple[list[Source], int]:
    """Return the recordings to predict, and the number of names without any."""
    from serein.inference.sources import evenly_spread

    files, num_absent = recordings_in(names)
    if shown == "msp-challenge":  # of the corpus's manifest, only the test set with secret labels
        files = [each for each in files if getattr(each, "split", None) == "test3"] or files
    files = files if max_files is None else evenly_spread(files, max_files)
    if plot is not None and len(files) > 1:
        raise typer.BadParameter(f"{len(files)} recordings do not fit into one picture", param_hint="'--plot'")
    return files, num_absent


def _readable(
    results: Iterable[Result],
    failed: list[SereinError],
    plot: Path | None,
    on_error: OnError | None,
    transcribed: Transcribed | None,
) -> Iterator[Pair]:
    """Yield recordings with their predictions, drawn and transcribed on request; collect the errors in `failed`."""
    from serein.inference.prediction import Prediction

    for source, result in results if transcribed is None else transcribed(results):
        if isinstance(result, SereinError):
            failed.append(result)
            if on_error is not None:
                on_error(source, result)
            continue
        assert isinstance(result, Prediction)
        if plot is not None:
            from serein.inference.picture import save_picture

            save_picture(result, plot)
        yield source, result


def _with_neighbours(
    model: str | None,
    datastore: Path,
    k: int | None,
    knn_weight: float | None,
    device: str,
    *,
    show: bool,
    backbone: Path | None,
) -> Predictor:
    from serein.knn.predictor import KnnPredictor

    predictor = KnnPredictor(
        model, datastore, k=k, knn_weight=knn_weight, show_neighbours=show, device=device, backbone=backbone
    )
    interpolation = predictor.interpolation
    if not interpolation.is_tuned:
        numbers = f"k {interpolation.k} and the kNN weight {interpolation.knn_weight:g}"
        typer.echo(f"{numbers} were not tuned for this datastore: serein knn tune --help.", err=True)
    return predictor


def _show_reading(bars: Bars, done_s: float, total_s: float) -> None:
    from serein.inference.writers import clock

    if total_s >= _SHOWN_FROM_S:
        bars("reading", round(done_s), max(1, round(total_s)), f"{clock(done_s)} of {clock(total_s)}")


def append_json(
    predicted: Callable[[Sequence[Source], OnError], Iterator[Pair]],
    files: Sequence[Source],
    out: Path,
    identity: Sequence[object],
    bars: Bars,
    required: frozenset[str] = frozenset(),
) -> None:
    """Predict the recordings that a prediction file lacks, and append the predictions.

    Args:
        identity: Values that identify the model and the options of a prediction file.
        required: Tasks without which a prediction is not appended.
    """
    from serein.inference.writers import PredictionFile

    fingerprint = hashlib.sha256("\n".join(map(str, identity)).encode()).hexdigest()[:16]
    with PredictionFile(out, fingerprint) as file:
        missing = [source for source in files if not file.has(source)]
        there = f", {len(files) - len(missing)} were done before" if len(missing) < len(files) else ""
        for done, (source, prediction) in enumerate(predicted(missing, file.write), start=1):
            if not required <= prediction.tasks.keys():
                continue  # its transcript failed; both are tried again
            file.write(source, prediction)
            bars("predicting", done, len(missing) + 1, f"{done} of {counted(len(missing), 'recording')}{there}")
    bars("predicting", 1, 1, f"{counted(len(missing), 'recording')}{there}")


def write_files(
    pairs: Iterable[Pair],
    files: Sequence[Source],
    shown: str,
    out: Path | None,
    predictor: Predictor,
    tasks: Sequence[str] = (),
) -> None:
    """Print the label file of one recording, or write those of several below a folder, in the recordings' tree.

    A submission to the MSP-Podcast challenge is one file for all recordings, an audformat database is one folder.

    Args:
        tasks: The other tasks, which have columns of an audformat database.
    """
    from serein.data.files import write_text
    from serein.inference.sources import utterance_of
    from serein.inference.writers import SUFFIXES, WRITERS, audformat, msp_challenge

    if shown == "audformat":
        if out is None:
            raise typer.BadParameter("name a folder for the database", param_hint="'--out'")
        audformat((prediction for _, prediction in pairs), out, predictor.classes, predictor.dimensions, tasks)
        return
    if shown == "msp-challenge":
        text = msp_challenge(prediction for _, prediction in pairs)
        print(text, end="") if out is None else write_text(out, text)
        return
    if out is None and len(files) > 1:
        raise typer.BadParameter(f"name a folder for the label files of {len(files)} recordings", param_hint="'--out'")
    # the tree of label files mirrors that of the recordings; all paths are distinct
    paths = [Path(os.path.abspath(getattr(source, "audio", str(source)))) for source in files]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    alike = Counter(path.with_suffix("") for path in set(paths))
    places: dict[str, Path] = {}
    taken: set[Path] = set()
    for source, path in zip(files, paths, strict=True):
        start_s, end_s = getattr(source, "start_s", 0.0), getattr(source, "end_s", None)
        part = "" if not start_s and end_s is None else f"-{start_s:g}-{'end' if end_s is None else f'{end_s:g}'}"
        stem = (path.stem if alike[path.with_suffix("")] == 1 else path.name) + part
        place, number = path.relative_to(common).with_name(stem + SUFFIXES[shown]), 1
        while utterance_of(source).id not in places and place in taken:  # parts of one file with the same times
            number += 1
            place = place.with_name(f"{stem}-{number}{SUFFIXES[shown]}")
        taken.add(places.setdefault(utterance_of(source).id, place))
    for source, prediction in pairs:
        text = WRITERS[shown](prediction)
        if out is None:
            print(text, end="")
        else:
            write_text(out / places[utterance_of(source).id], text)


def print_json(
    pairs: Iterable[Pair], classes: Sequence[str], dimensions: Sequence[str] = (), tasks: Sequence[str] = ()
) -> None:
    """Print a line of JSON for each recording."""
    for _, prediction in pairs:
        print(json.dumps(prediction.to_dict(), ensure_ascii=False), flush=True)


def print_csv(
    pairs: Iterable[Pair], classes: Sequence[str], dimensions: Sequence[str] = (), tasks: Sequence[str] = ()
) -> None:
    """Print a row for each segment, or one row for a recording without segments."""
    writer = csv.writer(sys.stdout)
    writer.writerow(
        ["file", "id", "start_s", "end_s", "label", "confidence", "rejected", *classes, *dimensions, *tasks]
    )
    for _, prediction in pairs:
        for said in prediction.segments or (prediction,):
            confidence = "" if said.confidence is None else f"{said.confidence:.6f}"
            values = [f"{said.probabilities[name]:.6f}" if said.probabilities else "" for name in classes]
            values += [f"{said.dimensions[name]:.6f}" if said.dimensions else "" for name in dimensions]
            values += [prediction.tasks[name].label or "" if name in prediction.tasks else "" for name in tasks]
            label = said.label if said.value is None else f"{said.value:.6f}"
            times = [f"{said.start_s:.3f}", f"{said.end_s:.3f}"]
            writer.writerow(
                [prediction.file, prediction.id or "", *times, label or "", confidence, said.rejected or "", *values]
            )


def print_table(
    predicted: Iterable[Pair], classes: Sequence[str], dimensions: Sequence[str] = (), tasks: Sequence[str] = ()
) -> None:
    """Print a row for each recording; below, the segments of a single recording, and neighbours if requested."""
    from rich.table import Table
    from rich.text import Text

    from serein.inference.writers import clock

    if not (pairs := list(predicted)):
        return
    labels = [getattr(source, prediction.task, None) for source, prediction in pairs]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("recording", overflow="fold")
    for name in (*(["labelled"] if any(labels) else []), "prediction"):
        table.add_column(name, style="bold" if name == "prediction" else None)
    others = list(dict.fromkeys(name for _, prediction in pairs for name in prediction.tasks))  # also of numbers
    for name in classes:
        table.add_column(name, justify="right")
    for name in others:
        table.add_column(name, overflow="fold")
    for (_, said), label in zip(pairs, labels, strict=True):
        cells = [f"{100 * said.probabilities[name]:.0f} %" if said.probabilities else "–" for name in classes]
        own = [Text(said.tasks[name].text if name in said.tasks else "") for name in others]
        table.add_row(Text(said.id or said.file), *([label or ""] if any(labels) else []), said.text, *cells, *own)
    tables = [table]
    if len(pairs) == 1 and len(pairs[0][1].segments) > 1:
        tables.append(table := Table(box=None, pad_edge=False, header_style="bold"))
        for name in ("from", "to"):
            table.add_column(name, justify="right")
        table.add_column("prediction", style="bold")
        for name in (*classes, *dimensions):
            table.add_column(name, justify="right")
        for segment in pairs[0][1].segments:
            cells = [f"{100 * segment.probabilities[name]:.0f} %" for name in classes]
            cells += [f"{segment.dimensions[name]:.2f}" for name in dimensions]
            table.add_row(clock(segment.start_s), clock(segment.end_s), segment.text, *cells)
    for _, prediction in pairs:
        if prediction.neighbours:
            tables.append(table := Table(box=None, pad_edge=False, header_style="bold", title_justify="left"))
            table.title = Text(f"Nearest to {prediction.id or prediction.file}")
            for name in ("label", "speaker", "distance", "recording"):
                table.add_column(name, justify="right" if name == "distance" else "left", overflow="fold")
            for each in prediction.neighbours:
                end = "" if each.end_s is None else f"{each.end_s:g}"
                part = f" [{each.start_s:g} s to {end}{' s' if end else 'the end'}]" if each.start_s or end else ""
                row = (each.label, each.speaker or "–", f"{each.distance:.3f}", f"{each.audio}{part}")
                table.add_row(*map(Text, row))
    for number, table in enumerate(tables):
        if number:
            print()
        print_tables([table])


PRINTERS = {"table": print_table, "json": print_json, "csv": print_csv}

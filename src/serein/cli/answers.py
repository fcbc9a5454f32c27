"""The command that predicts recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from serein.cli import ears
from serein.cli.answer_forms import SEGMENT_FORMATS, Format, deliver, report_errors
from serein.cli.app import app
from serein.cli.neighbours import K, KnnWeight
from serein.cli.options import DefaultModel, MinConfidence, MinDuration, Recordings, Step, Window

if TYPE_CHECKING:
    from serein.data.utterance import Utterance
    from serein.inference.hearing import PredictOptions
    from serein.inference.windows import SlidingWindow

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
            predictor = ears.ensemble_predictor(ensemble, model, labels, options, bars)
        elif knn is not None:
            predictor = ears.knn_predictor(model, labels, knn, k, knn_weight, options, show_neighbours=show_neighbours)
        elif k is not None or knn_weight is not None or show_neighbours:
            raise typer.BadParameter(
                "name a datastore by --knn", param_hint="'--k', '--knn-weight', '--show-neighbours'"
            )
        else:
            words = None if labels is None else labels.split(",")
            predictor = ears.model_predictor(model, words, options, workers, bars)
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
    from serein.inference.caution import RejectOption
    from serein.inference.hearing import PredictOptions

    return PredictOptions(segments, sliding_window_of(window_s, step_s), RejectOption(min_confidence, min_duration_s))


def sliding_window_of(window_s: float | None, step_s: float | None) -> SlidingWindow:
    """Return a sliding window of a length; its step is half its length unless given."""
    from serein.inference.windows import SLIDING_WINDOW, SlidingWindow

    length_s = SLIDING_WINDOW.window_s if window_s is None else window_s
    return SlidingWindow(length_s, length_s / 2 if step_s is None else step_s)


def _utterances(sources: Sequence[Path], max_files: int | None) -> list[Utterance]:
    from serein.inference.sources import evenly_spread, utterances_in

    utterances = utterances_in(sources)
    return utterances if max_files is None else evenly_spread(utterances, max_files)

"""The command that answers for recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serein.cli import ears
from serein.cli.answer_forms import OVER_TIME, Form, complain, deliver
from serein.cli.app import app
from serein.cli.neighbours import Alpha, K

if TYPE_CHECKING:
    from serein.data.utterance import Utterance
    from serein.inference.hearing import PredictOptions
    from serein.inference.windows import SlidingWindow
    from serein.progress import Bars


Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Model folder or Hub name [the one inside the package].")
]
Window = Annotated[
    float | None, typer.Option("--windows", metavar="SECONDS", help="Hear windows of speech of this length [3].")
]
Hop = Annotated[
    float | None, typer.Option("--hop", metavar="SECONDS", help="From one window's start to the next [half a window].")
]
Abstain = Annotated[
    float, typer.Option("--abstain", metavar="SHARE", help="Say 'don't know' below this share.", min=0, max=1)
]
Shortest = Annotated[
    float, typer.Option("--shortest", metavar="SECONDS", help="Say 'too short' of less than this.", min=0)
]


@app.command()
def predict(
    names: Annotated[
        list[str],
        typer.Argument(metavar="[MODEL] FILE|FOLDER|PATTERN|LIST|MANIFEST|-...", help="Recordings; - is a list."),
    ],
    model: Model = None,
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
    knn_weight: Alpha = None,
    show_neighbours: Annotated[bool, typer.Option("--explain", help="Name the nearest clips of the store.")] = False,
    windows: Window = None,
    hop: Hop = None,
    whole: Annotated[bool, typer.Option("--whole", help="Hear long recordings whole, too, silence and all.")] = False,
    min_confidence: Abstain = 0.0,
    shortest: Shortest = 0.0,
    limit: Annotated[int | None, typer.Option(help="Hear so many of them, evenly spread.", min=1)] = None,
    workers: Annotated[int, typer.Option(help="Processes that hear side by side.", min=1)] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Append JSON lines here, going on where a run stopped; a folder for labels."),
    ] = None,
    form: Annotated[Form | None, typer.Option("--format", help="How to answer [table].")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Draw the sound with its emotions (.png, .svg, .pdf).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As --format json.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="As --format csv.")] = False,
) -> None:
    """Say which emotions are heard in recordings; exit status 1 when any could not be heard.

    Without a model the one inside the package answers. Recordings longer than it hears at once are heard in windows of
    speech, and so are all with --windows.
    """
    form = form or (Form.json if as_json or (out is not None and not as_csv) else Form.csv if as_csv else Form.table)
    model, sources = _divided(names, model, is_fused=fuse is not None)
    _require_fitting(form, plot, out, fuse, neighbours, is_over_time=windows is not None or hop is not None)
    if show_neighbours and form == Form.csv:
        raise typer.BadParameter("neighbours do not fit into a line; take --json", param_hint="'--explain'")
    options = _predict_options(
        windows, hop, whole, min_confidence, shortest, is_forced=form in OVER_TIME or plot is not None
    )
    utterances = _utterances(sources, limit)
    if plot is not None and len(utterances) > 1:
        raise typer.BadParameter(f"{len(utterances)} recordings do not fit into one picture", param_hint="'--plot'")
    with _bars() as bars:
        if fuse is not None:
            ear = ears.fused(fuse, labels, options, bars)
        elif neighbours is not None:
            ear = ears.with_neighbours(
                model, labels, neighbours, k, knn_weight, options, show_neighbours=show_neighbours
            )
        elif k is not None or knn_weight is not None or show_neighbours:
            raise typer.BadParameter("name a store by --neighbours", param_hint="'--k', '--alpha', '--explain'")
        else:
            ear = ears.plain(model, None if labels is None else labels.split(","), options, workers, bars)
        failed = deliver(ear, utterances, form, out, plot, bars, per="passage" if windows or hop else "recording")
    if failed:
        complain(failed, len(utterances))
        raise typer.Exit(1)


def _bars() -> Bars:
    from serein.progress import Bars

    return Bars()


def _divided(names: Sequence[str], model: str | None, *, is_fused: bool) -> tuple[str | None, list[Path]]:
    """Return the model and the recordings: the first name is a model unless it can only mean recordings."""
    from serein.inference.sources import is_recordings
    from serein.models.folder import PARTS

    if model is None and not is_fused and names:
        is_model = any((Path(names[0]) / part).exists() for part in PARTS)
        if is_model or not is_recordings(names[0]):
            model, names = names[0], names[1:]
    if not names:
        raise typer.BadParameter("name recordings after the model", param_hint="'FILE|FOLDER|MANIFEST...'")
    return model, [Path(name) for name in names]


def _require_fitting(
    form: Form,
    plot: Path | None,
    out: Path | None,
    fuse: Path | None,
    neighbours: Path | None,
    *,
    is_over_time: bool,
) -> None:
    if (fuse or neighbours) and (is_over_time or plot or form in OVER_TIME):
        raise typer.BadParameter(
            "fusions and stores answer for whole recordings only", param_hint="'--windows', '--plot', '--format'"
        )
    if out is not None and form in (Form.table, Form.csv):
        raise typer.BadParameter(f"answers are appended as JSON lines, not as {form}", param_hint="'--out'")


def _predict_options(
    window_s: float | None,
    step_s: float | None,
    whole: bool,
    min_confidence: float,
    min_duration_s: float,
    *,
    is_forced: bool,
) -> PredictOptions:
    from serein.inference.caution import RejectOption
    from serein.inference.hearing import PredictOptions

    is_asked = window_s is not None or step_s is not None
    if whole and (is_asked or is_forced):
        raise typer.BadParameter("windows, labels and pictures are over time", param_hint="'--whole'")
    segments = "always" if is_asked or is_forced else "never" if whole else "auto"
    return PredictOptions(segments, sliding_window_of(window_s, step_s), RejectOption(min_confidence, min_duration_s))  # type: ignore[arg-type]


def sliding_window_of(window_s: float | None, step_s: float | None) -> SlidingWindow:
    """Return windows of a length, half of which is between their starts unless said otherwise."""
    from serein.inference.windows import SLIDING_WINDOW, SlidingWindow

    length_s = SLIDING_WINDOW.window_s if window_s is None else window_s
    return SlidingWindow(length_s, length_s / 2 if step_s is None else step_s)


def _utterances(sources: Sequence[Path], limit: int | None) -> list[Utterance]:
    from serein.inference.sources import evenly_spread, utterances_in

    utterances = utterances_in(sources)
    return utterances if limit is None else evenly_spread(utterances, limit)

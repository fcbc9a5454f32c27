"""Commands for kNN: datastores of labelled clips, whose nearest neighbours refine a model's predictions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from serein.cli.app import (
    CommandGroup,
    Data,
    Device,
    Json,
    Metric,
    Model,
    MovedBackbone,
    Out,
    app,
    points_of,
    print_json,
    print_tables,
)

if TYPE_CHECKING:
    from serein.knn.datastore import Header


knn = typer.Typer(
    cls=CommandGroup,
    help="k nearest neighbours: refine a model's predictions with a datastore of labelled clips.",
    no_args_is_help=True,
)
app.add_typer(knn, name="knn")

_SYSTEMS = {"model": "model", "neighbours": "neighbours only", "knn": "model and neighbours"}


Votes = Literal["uniform", "softmax"]
Index = Literal["auto", "exact", "faiss"]

K = Annotated[int | None, typer.Option("--k", help="Number of neighbours.", show_default="tuned, else 8", min=1)]
KnnWeight = Annotated[
    float | None,
    typer.Option("--knn-weight", help="Weight of the neighbours.", show_default="tuned, else 0.3", min=0, max=1),
]
DatastoreFolder = Annotated[Path, typer.Argument(metavar="DATASTORE", help="Folder of the datastore.")]
MovedModel = Annotated[
    str | None, typer.Option("--model", "-m", help="Current location of its model.", show_default="original location")
]
VotesOption = Annotated[
    Votes, typer.Option("--votes", help="Equal votes, or votes weighted by the softmax of negative distances.")
]
MetricOption = Annotated[Metric, typer.Option("--metric", help="Score to maximise.")]
SearchIndex = Annotated[
    Index, typer.Option("--index", help="faiss: approximate, with measured recall; auto: faiss from 200,000 clips on.")
]


@knn.command("build")
def knn_build(
    model: Model,
    data: Data,
    out: Out,
    index: SearchIndex = "auto",
    device: Device = "auto",
    backbone: MovedBackbone = None,
    as_json: Json = False,
) -> None:
    """Build a datastore from the clips of a manifest, except those whose label is not a class of the model."""
    from serein.knn import building as neighbour_building
    from serein.progress import Bars

    with Bars() as bars:
        header, left_out = neighbour_building.build(
            model, data, out, bars, indexed_from=_indexed_from(index), device=device, backbone=backbone
        )
    _print_datastore(out, header, as_json, left_out=dict(left_out))
    if left_out:
        counts = ", ".join(f"{count} {name}" for name, count in left_out.most_common())
        print(f"Left out, not a class of the model: {counts}.", file=sys.stderr)


@knn.command("add")
def knn_add(
    datastore: DatastoreFolder,
    data: Data,
    model: MovedModel = None,
    device: Device = "auto",
    backbone: MovedBackbone = None,
    index: SearchIndex = "auto",
    as_json: Json = False,
) -> None:
    """Add labelled clips to a datastore; nothing is trained."""
    from serein.knn import building as neighbour_building
    from serein.progress import Bars

    with Bars() as bars:
        header, num_known = neighbour_building.add(
            datastore, data, bars, model=model, device=device, backbone=backbone, indexed_from=_indexed_from(index)
        )
    _print_datastore(datastore, header, as_json, num_known=num_known)
    if num_known:
        print(f"{num_known} clips were already in the datastore.", file=sys.stderr)


@knn.command("tune")
def knn_tune(
    datastore: DatastoreFolder,
    data: Data,
    model: MovedModel = None,
    device: Device = "auto",
    backbone: MovedBackbone = None,
    votes: VotesOption = "uniform",
    metric: MetricOption = "ua",
    as_json: Json = False,
) -> None:
    """Tune k and the weight on labelled clips that are not a test set, and store them in the datastore."""
    from serein.evaluation.scores import SCORE_TITLES
    from serein.knn import building as neighbour_building
    from serein.progress import Bars

    with Bars() as bars:
        tuned = neighbour_building.tune(
            datastore, data, bars, model=model, device=device, backbone=backbone, votes=votes, metric=metric
        )
    if as_json:
        content = tuned.tuning.model_dump(mode="json")
        print_json({**content, "num_tuned_on": tuned.num_clips, "notes": tuned.notes})
        return
    found, title = tuned.tuning, SCORE_TITLES[metric]
    how = f"k {found.k}, weight {found.knn_weight:g} ({found.votes})"
    tuned_on = f"tuned on {tuned.num_clips} clips of {found.tuned_on}"
    print(f"{how}, {tuned_on}: {title} {found.score:.1f}, the model alone {found.model_score:.1f}.")
    for note in tuned.notes:
        print(note)


@knn.command("evaluate")
def knn_evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Manifest of the run.", show_default="original location")
    ] = None,
    selection: Annotated[
        Literal["dev", "oracle"],
        typer.Option(help="Tune on dev; or on test, like wang2023, and mark the scores as oracle."),
    ] = "dev",
    votes: VotesOption = "uniform",
    metric: MetricOption = "ua",
    k: Annotated[int | None, typer.Option("--k", help="Number of neighbours.", show_default="tuned", min=1)] = None,
    knn_weight: Annotated[
        float | None, typer.Option("--knn-weight", help="Weight of the neighbours.", show_default="tuned", min=0, max=1)
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Evaluate a finished run with kNN on each fold's train and dev sets, in comparison with the model alone."""
    from rich.table import Table

    from serein.evaluation.intervals import interval_text
    from serein.evaluation.scores import SCORE_TITLES
    from serein.evaluation.tables import deviation, number
    from serein.knn.evaluation import KnnOptions, evaluate_run_with_knn
    from serein.progress import Bars

    knn_options = KnnOptions(selection, votes, metric, k, knn_weight)
    with Bars() as bars:
        found = evaluate_run_with_knn(run, knn_options, bars, data, device)
    if as_json:
        print_json(found.to_json())
        return
    is_oracle = found.selection == "oracle"
    systems = Table(title="Scores in per cent" + (" – ORACLE" if is_oracle else ""))
    systems.add_column("system")
    for reading in ("pooled", "mean over folds"):
        for title in SCORE_TITLES.values():
            systems.add_column(f"{title}\n{reading}", justify="right")
    for name, scores in found.systems.items():
        label = _SYSTEMS[name] + (" (oracle)" if is_oracle and name != "model" else "")
        bounds = {score: interval_text(scores.intervals[score]) for score in SCORE_TITLES}
        pooled = [f"{number(scores.pooled[score])}\n{bounds[score]}".strip() for score in SCORE_TITLES]
        means = [f"{number(scores.mean[score])}\n{deviation(scores, score)}".strip() for score in SCORE_TITLES]
        systems.add_row(label, *pooled, *means)
    sources = {"dev": "tuned on dev", "oracle": "tuned on TEST (oracle)", "given": "given"}
    trials = Table(title=f"k and weight, {sources[found.selection]}")
    title = f"{SCORE_TITLES[found.metric]} there"
    for name in ("fold", "seed", "clips in the datastore", "k", "weight", title, "model alone"):
        trials.add_column(name, justify="left" if name == "fold" else "right")
    for trial in found.trials:
        tuned = ("–", "–")
        if trial.tuned is not None:
            tuned = (f"{100 * trial.tuned.score:.1f}", f"{100 * trial.tuned.model_score:.1f}")
        numbers = (str(trial.seed), str(trial.num_clips), str(trial.k), f"{trial.knn_weight:g}")
        trials.add_row(trial.fold, *numbers, *tuned)
    print_tables([systems, trials])
    oracle = " (ORACLE)" if is_oracle else ""
    for name in ("ua", "wa", "macro_f1"):
        difference = points_of(found.differences[name], SCORE_TITLES[name])
        print(f"With neighbours{oracle} minus model: {difference}")
    for note in dict.fromkeys((*found.notes, *found.systems["model"].notes)):
        print(note)


def _indexed_from(index: Index) -> int:
    from serein.knn.datastore import INDEXED_FROM

    return {"auto": INDEXED_FROM, "faiss": 0, "exact": sys.maxsize}[index]


def _print_datastore(folder: Path, header: Header, as_json: bool, **more: Any) -> None:
    if as_json:
        print_json({"datastore": str(folder), **header.model_dump(mode="json"), **more})
        return
    print(f"{folder}: {header.num_clips} clips of {header.size} numbers; {', '.join(header.classes)}")
    if header.index is not None:
        found = f"{100 * header.index.recall:.1f} % of the {header.index.recall_at} nearest"
        print(f"Approximate search: {found} are found.")

"""Commands about stores of labelled clips, whose nearest have a say in what a model answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serein.cli.app import app
from serein.cli.options import Data, Json, Out, ScoreName
from serein.cli.printing import print_tables

if TYPE_CHECKING:
    from rich.table import Table

    from serein.adapting import Adaptation
    from serein.evaluation.intervals import Difference
    from serein.inference.neighbour_store import Header, TuningRecord
    from serein.inference.predictor import Prediction
    from serein.neighbouring import KnnEvaluation, KnnSelection

neighbours = typer.Typer(help="Stores of labelled clips, whose nearest have a say.", no_args_is_help=True)
app.add_typer(neighbours, name="neighbours")

_SYSTEMS = {"model": "model", "neighbours": "neighbours alone", "mixed": "model and neighbours"}


class VotesName(StrEnum):
    """How neighbours vote."""

    share = "share"
    softmax = "softmax"


class SelectionName(StrEnum):
    """Sides of a fold that choose k and alpha."""

    dev = "dev"
    oracle = "oracle"


class IndexName(StrEnum):
    """Ways to search a store."""

    auto = "auto"
    exact = "exact"
    faiss = "faiss"


K = Annotated[int | None, typer.Option("--k", help="Neighbours to ask [as chosen, else 8].", min=1)]
Alpha = Annotated[
    float | None, typer.Option("--alpha", help="Weight of the neighbours, 0 to 1 [as chosen, else 0.3].", min=0, max=1)
]
StoreFolder = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the store.")]
ModelNow = Annotated[str | None, typer.Option("--model", help="Where its model lies now [where it was].")]
Votes = Annotated[VotesName, typer.Option(help="A vote each, or the softmax of the negative distances.")]
Metric = Annotated[ScoreName, typer.Option(help="The score that is to be greatest.")]
SearchIndex = Annotated[
    IndexName, typer.Option("--index", help="faiss: approximate, its recall measured [auto: from 200,000 clips on].")
]


@neighbours.command("build")
def neighbours_build(
    model: Annotated[str, typer.Argument(help="Model folder or Hub name.")],
    data: Data,
    out: Out,
    index: SearchIndex = IndexName.auto,
    as_json: Json = False,
) -> None:
    """Store the clips of a manifest as a model embeds them; clips of no class of the model are left out."""
    from serein.inference import neighbour_building
    from serein.progress import Bars

    with Bars() as bars:
        header, left_out = neighbour_building.build(model, data, out, bars, indexed_from=_indexed_from(index))
    _print_store(out, header, as_json, left_out=dict(left_out))
    if left_out:
        counts = ", ".join(f"{count} {name}" for name, count in left_out.most_common())
        print(f"Left out, of no class of the model: {counts}.", file=sys.stderr)


@neighbours.command("add")
def neighbours_add(
    datastore: StoreFolder,
    data: Data,
    model: ModelNow = None,
    index: SearchIndex = IndexName.auto,
    as_json: Json = False,
) -> None:
    """Add labelled clips to a store; nothing is trained."""
    from serein.inference import neighbour_building
    from serein.progress import Bars

    with Bars() as bars:
        header, num_known = neighbour_building.add(
            datastore, data, bars, model=model, indexed_from=_indexed_from(index)
        )
    _print_store(datastore, header, as_json, num_known=num_known)
    if num_known:
        print(f"{num_known} clips were in the store already.", file=sys.stderr)


@neighbours.command("choose")
def neighbours_choose(
    datastore: StoreFolder,
    data: Data,
    model: ModelNow = None,
    votes: Votes = VotesName.share,
    by: Metric = ScoreName.ua,
    as_json: Json = False,
) -> None:
    """Choose k and alpha on labelled clips that are no test set, and keep them in the store."""
    from serein.inference import neighbour_building
    from serein.progress import Bars

    with Bars() as bars:
        weighed = neighbour_building.tune(datastore, data, bars, model=model, votes=votes.value, by=by.value)
    if as_json:
        said = weighed.chosen.model_dump(mode="json")
        print(json.dumps({**said, "num_chosen_on": weighed.num_clips, "notes": weighed.notes}, ensure_ascii=False))
        return
    print(_chosen_sentence(weighed.chosen, weighed.num_clips))
    for note in weighed.notes:
        print(note)


@neighbours.command("score")
def neighbours_score(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[Path | None, typer.Option("--data", help="Its manifest [where it was].")] = None,
    selection: Annotated[
        SelectionName, typer.Option(help="Choose on dev; or, as wang2023 and marked, on test (oracle).")
    ] = SelectionName.dev,
    votes: Votes = VotesName.share,
    by: Metric = ScoreName.ua,
    k: Annotated[int | None, typer.Option("--k", help="Take this k [chosen].", min=1)] = None,
    knn_weight: Annotated[float | None, typer.Option("--alpha", help="Take this alpha [chosen].", min=0, max=1)] = None,
    as_json: Json = False,
) -> None:
    """Judge a finished run with the neighbours of each fold's train and dev, beside the model alone."""
    from serein.neighbouring import KnnOptions, evaluate_run_with_knn
    from serein.progress import Bars

    knn_options = KnnOptions(selection.value, votes.value, by.value, k, knn_weight)
    with Bars() as bars:
        found = evaluate_run_with_knn(run, knn_options, bars, data)
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False))
    else:
        _print_neighboured(found)


@neighbours.command("adapt")
def neighbours_adapt(
    model: Annotated[str, typer.Argument(help="Model folder or Hub name.")],
    data: Data,
    out: Out,
    sizes: Annotated[str, typer.Option(metavar="N,N,...", help="Clips in a store.")] = "8,16,32,64,128,256",
    draws: Annotated[int, typer.Option(help="Stores of each size and speaker, drawn at random.", min=1)] = 10,
    as_json: Json = False,
) -> None:
    """Show what stores of a corpus' own clips would bring a model, by their size; one speaker left out at a time."""
    from serein.adapting import adapt
    from serein.progress import Bars

    with Bars() as bars:
        found = adapt(model, data, out, bars, sizes=_sizes(sizes), num_draws=draws)
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False))
        return
    print_tables([_adaptation_table(found)])
    print("\n".join(dict.fromkeys(found.notes)))
    print(f"written: {out / 'adaptation.json'}, {out / 'adaptation.png'}")


def print_explanations(answers: Sequence[Prediction]) -> None:
    """Print the neighbours of each answer that has some."""
    from rich.table import Table
    from rich.text import Text

    from serein.inference.neighbour_predictor import KnnPrediction

    for answer in answers:
        if not isinstance(answer, KnnPrediction):
            continue
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
        table.title = Text(f"Nearest to {answer.audio}")
        for name in ("label", "speaker", "distance", "recording"):
            table.add_column(name, justify="right" if name == "distance" else "left", overflow="fold")
        for each in answer.neighbours:
            end = "" if each.end_s is None else f"{each.end_s:g}"
            part = f" [{each.start_s:g} s to {end}{' s' if end else 'the end'}]" if each.start_s or end else ""
            cells = (each.label, each.speaker or "–", f"{each.distance:.3f}", f"{each.audio}{part}")
            table.add_row(*map(Text, cells))
        print()
        print_tables([table])


def _sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(size) for size in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise typer.BadParameter(f"'{text}' is no list of numbers such as 8,32,128", param_hint="--sizes")
    return sizes


def _adaptation_table(found: Adaptation) -> Table:
    from rich.table import Table

    from serein.adapting import WAYS
    from serein.evaluation.tables import interval, number

    table = Table(title=f"UA in per cent, pooled over speakers and {found.num_draws} draws")
    for name in ("clips in the store", "k and alpha", "UA", "above the model alone", "95 % interval"):
        table.add_column(name, justify="left" if name == "k and alpha" else "right")
    alone = f"{number(found.model.pooled['ua'])} {interval(found.model, 'ua')}"
    table.add_row("none", "", alone, "", "")
    for each in found.reached:
        bounds = "–" if each.interval is None else f"[{each.interval[0]:+.1f}, {each.interval[1]:+.1f}]"
        ua = f"{number(each.scores.pooled['ua'])} {interval(each.scores, 'ua')}"
        table.add_row(str(each.size), WAYS[each.way], ua, f"{each.difference:+.1f}", bounds)
    return table


def _indexed_from(index: IndexName) -> int:
    from serein.inference.neighbour_store import INDEXED_FROM

    return {IndexName.auto: INDEXED_FROM, IndexName.faiss: 0, IndexName.exact: sys.maxsize}[index]


def _print_store(folder: Path, header: Header, as_json: bool, **more: Any) -> None:
    if as_json:
        print(json.dumps({"store": str(folder), **header.model_dump(mode="json"), **more}, ensure_ascii=False))
        return
    print(f"{folder}: {header.num_clips} clips of {header.size} numbers; {', '.join(header.classes)}")
    if header.index is not None:
        found = f"{100 * header.index.recall:.1f} % of the {header.index.recall_at} nearest"
        print(f"Searched approximately: {found} are found.")


def _chosen_sentence(chosen: TuningRecord, num_clips: int) -> str:
    from serein.evaluation.scores import SCORE_TITLES

    how = f"k {chosen.k}, alpha {chosen.knn_weight:g} ({chosen.votes}), chosen on {num_clips} clips of {chosen.on}"
    return f"{how}: {SCORE_TITLES[chosen.by]} {chosen.score:.1f}, the model alone {chosen.model_score:.1f}."


def _print_neighboured(found: KnnEvaluation) -> None:
    print_tables([_systems_table(found), _units_table(found)])
    for name in ("ua", "wa", "macro_f1"):
        print(_difference(name, found.differences[name], is_oracle=found.selection == "oracle"))
    for note in dict.fromkeys((*found.notes, *found.systems["model"].notes)):
        print(note)


def _systems_table(found: KnnEvaluation) -> Table:
    from rich.table import Table

    from serein.evaluation.scores import SCORE_TITLES
    from serein.evaluation.tables import deviation, interval, number

    oracle = " – ORACLE" if found.selection == "oracle" else ""
    table = Table(title=f"Scores in per cent{oracle}")
    table.add_column("system")
    for reading in ("pooled", "mean over folds"):
        for title in SCORE_TITLES.values():
            table.add_column(f"{title}\n{reading}", justify="right")
    for name, scores in found.systems.items():
        label = _SYSTEMS[name] + (" (oracle)" if oracle and name != "model" else "")
        pooled = [f"{number(scores.pooled[score])}\n{interval(scores, score)}".strip() for score in SCORE_TITLES]
        means = [f"{number(scores.mean[score])}\n{deviation(scores, score)}".strip() for score in SCORE_TITLES]
        table.add_row(label, *pooled, *means)
    return table


def _units_table(found: KnnEvaluation) -> Table:
    from rich.table import Table

    from serein.evaluation.scores import SCORE_TITLES

    sides = {"dev": "chosen on dev", "oracle": "chosen on TEST (oracle)", "given": "given"}
    table = Table(title=f"k and alpha, {sides[found.selection]}")
    title = f"{SCORE_TITLES[found.by]} there"
    for name in ("fold", "seed", "clips in the store", "k", "alpha", title, "model alone"):
        table.add_column(name, justify="left" if name == "fold" else "right")
    for unit in found.units:
        table.add_row(*_unit_cells(unit))
    return table


def _unit_cells(unit: KnnSelection) -> list[str]:
    scores = ("–", "–")
    if unit.choice is not None:
        scores = (f"{100 * unit.choice.score:.1f}", f"{100 * unit.choice.model_score:.1f}")
    return [unit.fold, str(unit.seed), str(unit.num_clips), str(unit.k), f"{unit.knn_weight:g}", *scores]


def _difference(name: str, found: Difference, *, is_oracle: bool) -> str:
    from serein.evaluation.scores import SCORE_TITLES

    oracle = " (ORACLE)" if is_oracle else ""
    points = f"With neighbours{oracle} minus model: {100 * found.difference:+.1f} points of {SCORE_TITLES[name]}"
    if found.interval is None:
        return f"{points} (no interval: {found.resampled})"
    low, high = (100 * bound for bound in found.interval)
    return f"{points}, 95 % interval [{low:+.1f}, {high:+.1f}] over {found.resampled}"

"""Figures of a table's rows side by side: confusion matrices, coloured embeddings, scores over a setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from serein import checkpoint as checkpoints
from serein.data import manifest
from serein.data.dataset import Recordings
from serein.evaluation.intervals import Bounds
from serein.evaluation.plots import (
    FEWEST_EMBEDDINGS,
    PAGE_WIDTH_IN,
    RIGHT,
    draw_confusion,
    draw_map,
    emotion_colours,
    new_figure,
    save_figure,
    speaker_colours,
    thinned,
    tsne,
)
from serein.evaluation.predictions import fold_run_paths, read_json, read_predictions
from serein.evaluation.scores import SCORE_TITLES
from serein.inference.batching import recording_outputs
from serein.metrics import mean_of_known
from serein.progress import Report
from serein.reproduce.comparison import Comparison, MeasuredRow
from serein.reproduce.table import Picture, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_ACROSS = 3
ASIDE = 0.04  # fraction of a line's x value, or of the axis


@dataclass(frozen=True)
class Map:
    """Embeddings of one model and the names that determine their colours.

    Attributes:
        title: Title above the panel.
        embeddings: ``(utterances, features)``, finite, at least `FEWEST_EMBEDDINGS` of them distinct.
        names: The emotion or speaker that each embedding is coloured by.
    """

    title: str
    embeddings: NDArray[Any]
    names: Sequence[str]


def confusion_panels(panels: Sequence[tuple[str, NDArray[Any]]], classes: Sequence[str]) -> Figure:
    """Draw titled confusion matrices of the same classes, each (true class, predicted class)."""
    across = min(MOST_ACROSS, len(panels))
    size = 1.3 + 0.6 * len(classes)
    down = -(-len(panels) // across)
    with new_figure((size * across, size * down)) as figure:
        for number, (title, confusion) in enumerate(panels, start=1):
            axes = figure.add_subplot(down, across, number)
            draw_confusion(axes, confusion, classes)
            axes.set_title(title)
    return figure


def map_panels(panels: Sequence[Map], colours: Mapping[str, str], across: int = MOST_ACROSS) -> Figure:
    """Draw embeddings in two dimensions (t-SNE), separately for each panel: positions do not compare between panels.

    Args:
        colours: Name -> colour, for all panels.
        across: Maximum number of panels side by side.
    """
    across = min(across, len(panels))
    down = -(-len(panels) // max(across, 1))
    width = PAGE_WIDTH_IN / 2 if across < MOST_ACROSS else PAGE_WIDTH_IN / across
    with new_figure((width * across, (width + 0.4) * down)) as figure:
        for number, panel in enumerate(panels, start=1):
            chosen = thinned(len(panel.embeddings))
            places = tsne(np.asarray(panel.embeddings, np.float64)[chosen])
            names = [panel.names[i] for i in chosen]
            draw_map(figure.add_subplot(down, across, number), places, names, dict(colours), panel.title)
    return figure


@dataclass(frozen=True)
class Line:
    """A score over a setting.

    Attributes:
        name: Name in the legend.
        x: The setting's values.
        y: The score at each.
        bounds: Interval of each score, in its unit, or `None`.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    bounds: Sequence[Bounds | None]
    colour: str = RIGHT


def lines_picture(
    lines: Sequence[Line],
    titles: tuple[str, str],
    *,
    level: tuple[str, float, str] | None = None,
    is_logarithmic: bool = False,
) -> Figure:
    """Draw scores, with their intervals, over a setting.

    Args:
        titles: Titles of both axes.
        level: Name, height and colour of a horizontal line to compare with.
        is_logarithmic: Whether the setting's axis is logarithmic; its ticks are then the setting's values.
    """
    with new_figure((5.6, 3.6)) as figure:
        axes = figure.add_subplot()
        if is_logarithmic:
            axes.set_xscale("log")
        for number, line in enumerate(lines):
            order = np.argsort(line.x)
            places, values = np.asarray(line.x, float)[order], np.asarray(line.y, float)[order]
            # Each line is shifted slightly, to keep the intervals of several lines distinguishable.
            aside = number - (len(lines) - 1) / 2
            places = places * (1 + ASIDE) ** aside if is_logarithmic else places + ASIDE * np.ptp(places) * aside
            axes.plot(places, values, color=line.colour, marker="o", linewidth=1.4, label=line.name)
            for place, index in zip(places, order, strict=True):
                if (own := line.bounds[index]) is not None:
                    axes.vlines(place, *own, color=line.colour, linewidth=1.2, alpha=0.6)
        if level is not None:
            axes.axhline(level[1], color=level[2], linewidth=1.0, linestyle=(0, (4, 3)), label=level[0])
        axes.set(xlabel=titles[0], ylabel=titles[1])
        if is_logarithmic:
            axes.set_xticks(sorted({x for line in lines for x in line.x}), minor=False)
            axes.set_xticks([], minor=True)
            axes.xaxis.set_major_formatter("{x:g}")
        axes.tick_params(length=0)
        if len(lines) > 1 or level is not None:
            figure.legend(loc="outside upper center", ncols=2)  # above the lines and their intervals
    return figure


_COLOURS = {"emotion": "coloured by emotion", "prediction": "by predicted emotion", "speaker": "by speaker"}


def embedding_maps(row: Row, places: Sequence[Path], picture: Picture, manifest_path: Path) -> list[Map]:
    """Return a map for each colouring and split, for the first fold of a row's first run.

    Splits with too few clips for t-SNE are left out.

    Raises:
        ModelError: The model has no such embedding.
        AudioError: A recording cannot be read.
    """
    models = [each for place in places[:1] for each in fold_run_paths(place, "model")]
    if not models:
        return []
    checkpoint = checkpoints.load(models[0].path)
    fold = next(each for each in read_json(places[0] / "folds.json")["folds"] if each["name"] == models[0].fold)
    known = {u.id: u for u in manifest.read(manifest_path)}
    task, class_labels = checkpoint.tasks[checkpoint.task], checkpoint.class_labels
    splits = {}
    for split in picture.splits:
        utterances = [known[fold[split][index]] for index in thinned(len(fold[split]))]  # as many as a map shows
        recordings = Recordings(utterances, trim_db=checkpoint.options.clips.trim_db)
        outputs = recording_outputs(checkpoint, recordings, range(len(utterances)), "known", embedding=picture.task)
        predictions = task.predictions(outputs.decoded[checkpoint.task])
        colours = {
            "emotion": [class_labels.label(u) or "" for u in utterances],
            "prediction": [each.label or "" for each in predictions],
            "speaker": [u.speaker or "" for u in utterances],
        }
        splits[split] = (outputs.embeddings, colours)
    return [
        Map(f"{row.title}\n{split} set, {_COLOURS[colour_by]}", vectors, names[colour_by])
        for colour_by in picture.colour_by
        for split, (vectors, names) in splits.items()
        if len(np.unique(vectors, axis=0)) >= FEWEST_EMBEDDINGS
    ]


def with_picture(comparison: Comparison, out: Path, report: Report) -> Comparison:
    """Draw the table file's figure, `<out>/<table>.png`, and return the comparison with its path."""
    picture = comparison.table.picture
    rows = [row for row in comparison.rows if row.scores is not None]
    if picture is None or not rows:
        return comparison
    path = out / f"{comparison.table.name}.png"
    report("drawing", 0, 1, path.name)
    figure = PICTURES[picture.name](comparison, rows)
    if not figure.axes:
        return comparison
    save_figure(figure, path)
    report("drawing", 1, 1, path.name)
    return replace(comparison, picture=path)


def confusions(comparison: Comparison, rows: Sequence[MeasuredRow]) -> Figure:
    """Draw confusion matrices over all folds and seeds."""
    metric = comparison.table.metric
    panels = [
        (f"{row.row.title}: {SCORE_TITLES[metric]} {row.scores.pooled[metric]:.1f}", row.scores.confusion)
        for row in rows
        if row.scores
    ]
    return confusion_panels(panels, comparison.classes)


def embeddings(comparison: Comparison, rows: Sequence[MeasuredRow]) -> Figure:
    """Draw the test embeddings of each row's first model, coloured by emotion."""
    trained, picture = [row for row in rows if not row.row.ensemble], comparison.table.picture
    colours = emotion_colours(comparison.classes)
    if picture is None or picture.is_stored:
        return map_panels([each for each in map(stored_map, trained) if each is not None], colours)
    panels = [
        each for row in trained for each in embedding_maps(row.row, row.places, picture, comparison.data.manifest)
    ]
    speakers = {name for panel in panels for name in panel.names} - colours.keys()
    return map_panels(panels, colours | speaker_colours(sorted(speakers)), across=len(picture.splits))


def sweep(comparison: Comparison, rows: Sequence[MeasuredRow]) -> Figure:
    """Draw the table's score over a column of its configuration."""
    table = comparison.table
    assert table.picture is not None
    assert table.picture.x is not None
    x, column, lines = table.picture.x, table.picture.lines, []
    for name, own in groupby(
        rows, lambda row: table.rows_are if column is None else str(row.row.configuration[column])
    ):
        scored = [(float(row.row.configuration[x]), row.scores) for row in own if row.scores]
        lines.append(
            Line(
                name,
                [place for place, _ in scored],
                [scores.pooled[table.metric] for _, scores in scored],
                [scores.intervals[table.metric] for _, scores in scored],
            )
        )
    return lines_picture(lines, (x, f"{SCORE_TITLES[table.metric]}, per cent"))


def stored_map(row: MeasuredRow) -> Map | None:
    """Return the embeddings of the first fold of a row's first run, and the mean silhouette over all folds.

    Return `None` if there are too few embeddings for t-SNE.
    """
    paths = [each for place in row.places for each in fold_run_paths(place, "predictions.jsonl")]
    vectors = [load_file(each.path.with_name("embeddings.safetensors"))["embeddings"] for each in paths]
    emotions = [[p.truth or "" for p in read_predictions(each.path)] for each in paths]
    if len(np.unique(vectors[0], axis=0)) < FEWEST_EMBEDDINGS:
        return None
    from sklearn.metrics import silhouette_score

    silhouettes = [  # Rousseeuw 1987, -1 to 1; NaN where it is not defined
        float(silhouette_score(own, names)) if 2 <= len(set(names)) < len(names) else float("nan")
        for own, names in zip(vectors, emotions, strict=True)
    ]
    title = f"{row.row.title}\nfold {paths[0].fold}; mean silhouette of all {mean_of_known(np.array(silhouettes)):.3f}"
    return Map(title, vectors[0], emotions[0])


PICTURES: dict[str, Callable[[Comparison, Sequence[MeasuredRow]], Figure]] = {
    "confusion": confusions,
    "embeddings": embeddings,
    "sweep": sweep,
}

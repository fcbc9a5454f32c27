"""Embeddings of a row's model on the train or test clips of a fold, for any task, coloured as the table asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file

from serein import checkpoint as model_folder
from serein.checkpoint import Checkpoint
from serein.data import manifest
from serein.data.dataset import Recordings
from serein.data.files import replacing
from serein.data.utterance import Utterance
from serein.evaluation.figures import Line, Map, confusion_panels, lines_picture, map_panels
from serein.evaluation.plots import FEWEST_EMBEDDINGS, emotion_colours, speaker_colours, thinned
from serein.evaluation.predictions import natural_key, read_json, read_predictions
from serein.evaluation.scores import SCORE_TITLES
from serein.inference.batching import recording_outputs
from serein.metrics import mean_of_known
from serein.progress import Report
from serein.reproduce.comparison import Comparison, MeasuredRow
from serein.reproduce.table import Metric, Picture, Row, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_COLOURS = {"emotion": "coloured by emotion", "prediction": "by predicted emotion", "speaker": "by speaker"}


def embedding_maps(row: Row, places: Sequence[Path], picture: Picture, manifest_path: Path) -> list[Map]:
    """Return a map for each colouring and split, of the first fold of a row's first run.

    Splits with too few clips for t-SNE are left out.

    Raises:
        ModelError: The model has no such embedding.
        AudioError: A recording cannot be read.
    """
    units = [path for place in places[:1] for path in sorted(place.glob("fold-*/seed-*"), key=natural_key)]
    if not units:
        return []
    checkpoint = model_folder.load(units[0] / "model")
    name = units[0].parent.name.removeprefix("fold-")
    fold = next(each for each in read_json(places[0] / "folds.json")["folds"] if each["name"] == name)
    known = {u.id: u for u in manifest.read(manifest_path)}
    splits = {split: _vectors(checkpoint, [known[i] for i in fold[split]], picture.task) for split in picture.splits}
    return [
        Map(f"{row.title}\n{split} set, {_COLOURS[colour_by]}", vectors, names[colour_by])
        for colour_by in picture.colour_by
        for split, (vectors, names) in splits.items()
        if len(np.unique(vectors, axis=0)) >= FEWEST_EMBEDDINGS
    ]


def _vectors(
    checkpoint: Checkpoint, utterances: Sequence[Utterance], task: str | None
) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Return embeddings of as many clips as a map shows, and the names that may colour them."""
    some = [utterances[index] for index in thinned(len(utterances))]
    recordings = Recordings(some, trim_db=checkpoint.options.clips.trim_db)
    outputs = recording_outputs(checkpoint, recordings, range(len(some)), "known", embedding=task)
    class_labels = checkpoint.class_labels
    names = {
        "emotion": [class_labels.label(u) or "" for u in some],
        "prediction": [
            each.label or "" for each in checkpoint.tasks[checkpoint.task].predictions(outputs.decoded[checkpoint.task])
        ],
        "speaker": [u.speaker or "" for u in some],
    }
    return outputs.embeddings, names


DOTS_PER_INCH = 160


def with_picture(comparison: Comparison, out: Path, report: Report) -> Comparison:
    """Draw the table file's figure, `<out>/<table>.png`, and return the comparison that names it."""
    picture = comparison.table.picture
    rows = [row for row in comparison.rows if row.scores is not None]
    if picture is None or not rows:
        return comparison
    path = out / f"{comparison.table.name}.png"
    report("drawing", 0, 1, path.name)
    figure = PICTURES[picture.name](comparison, rows)
    if not figure.axes:
        return comparison
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=DOTS_PER_INCH, facecolor="white")
    report("drawing", 1, 1, path.name)
    return replace(comparison, picture=path)


def confusions(comparison: Comparison, rows: Sequence[MeasuredRow]) -> Figure:
    """Draw confusion matrices over all folds and seeds."""
    panels = [(_titled(row, comparison), row.scores.confusion) for row in rows if row.scores]
    return confusion_panels(panels, comparison.classes)


def embeddings(comparison: Comparison, rows: Sequence[MeasuredRow]) -> Figure:
    """Draw the test embeddings of each row's first model, coloured by emotion."""
    trained, picture = [row for row in rows if not row.row.ensemble], comparison.table.picture
    colours = emotion_colours(comparison.classes)
    if picture is None or picture.is_stored:
        return map_panels([each for each in map(_map, trained) if each is not None], colours)
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
    lines = [
        _line(name, list(own), table.picture.x, table.metric)
        for name, own in groupby(rows, lambda row: _line_name(row, table))
    ]
    return lines_picture(lines, (table.picture.x, f"{SCORE_TITLES[table.metric]}, per cent"))


def _line_name(row: MeasuredRow, table: Table) -> str:
    """Return the name of the line that a row belongs to in a sweep."""
    column = table.picture.lines if table.picture else None
    return table.rows_are if column is None else str(row.row.configuration[column])


def _line(name: str, rows: Sequence[MeasuredRow], x: str, metric: Metric) -> Line:
    scored = [(float(row.row.configuration[x]), row.scores) for row in rows if row.scores]
    return Line(
        name,
        [place for place, _ in scored],
        [scores.pooled[metric] for _, scores in scored],
        [scores.intervals[metric] for _, scores in scored],
    )


PICTURES: dict[str, Callable[[Comparison, Sequence[MeasuredRow]], Figure]] = {
    "confusion": confusions,
    "embeddings": embeddings,
    "sweep": sweep,
}


def _titled(row: MeasuredRow, comparison: Comparison) -> str:
    metric = comparison.table.metric
    return f"{row.row.title}: {SCORE_TITLES[metric]} {row.scores.pooled[metric]:.1f}" if row.scores else row.row.title


def _map(row: MeasuredRow) -> Map | None:
    """Return the embeddings of the first fold of a row's first run, and the mean silhouette over all folds.

    `None` if there are too few of them for t-SNE.
    """
    folders = [path for place in row.places for path in sorted(place.glob("fold-*/seed-*"), key=natural_key)]
    vectors, emotions = zip(*(_embeddings(folder) for folder in folders), strict=True)
    if len(np.unique(vectors[0], axis=0)) < FEWEST_EMBEDDINGS:
        return None
    silhouettes = [_silhouette(own, names) for own, names in zip(vectors, emotions, strict=True)]
    fold = folders[0].parent.name.removeprefix("fold-")
    title = f"{row.row.title}\nfold {fold}; mean silhouette of all {mean_of_known(np.array(silhouettes)):.3f}"
    return Map(title, vectors[0], emotions[0])


def _silhouette(vectors: np.ndarray, names: Sequence[str]) -> float:
    """Return the silhouette coefficient (Rousseeuw 1987), -1 to 1; NaN where it is not defined."""
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(vectors, names)) if 2 <= len(set(names)) < len(names) else float("nan")


def _embeddings(folder: Path) -> tuple[np.ndarray, list[str]]:
    emotions = [prediction.truth or "" for prediction in read_predictions(folder / "predictions.jsonl")]
    return load_file(folder / "embeddings.safetensors")["embeddings"], emotions

"""Embeddings of a row's model on the train or test clips of a fold, for any task, coloured as the table asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serein.data import manifest
from serein.data.recordings import Recordings
from serein.data.utterance import Utterance
from serein.evaluation.panels import Map
from serein.evaluation.plots import FEWEST_EMBEDDINGS, thinned
from serein.evaluation.predictions import natural_key
from serein.evaluation.run_folder import read_json
from serein.inference.answering import recording_outputs
from serein.models import folder as model_folder
from serein.models.folder import Checkpoint
from serein.reproduce.table import Picture, Row

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
        "prediction": [class_labels.classes[int(row.argmax())] for row in outputs.probabilities[checkpoint.task]],
        "speaker": [u.speaker or "" for u in some],
    }
    return outputs.embeddings, names

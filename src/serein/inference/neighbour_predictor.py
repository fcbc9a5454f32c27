"""Answers of a model and of the nearest labelled clips, mixed; and the clips that spoke for them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from serein import hub
from serein.data.recordings import Recordings
from serein.data.utterance import Utterance
from serein.errors import AudioError
from serein.inference.answering import Progress, recording_outputs
from serein.inference.neighbour_store import Datastore, model_digest, open_datastore
from serein.inference.neighbours import Embeddings, Nearest, Numbers, Vectors, interpolate, key, knn_probabilities
from serein.inference.predictor import CLIPS_AT_ONCE, Prediction, Predictor, load
from serein.labels.attributes import Told
from serein.metrics import FloatArray
from serein.models.folder import ModelFolder

DEFAULT_K, DEFAULT_KNN_WEIGHT = 8, 0.3


@dataclass(frozen=True)
class Interpolation:
    """How neighbours are asked, and how much they weigh.

    Attributes:
        votes: `share` or `softmax`.
        is_tuned: The numbers were chosen on clips, or given; else they are what serein starts from.
    """

    k: int
    knn_weight: float
    votes: str = "share"
    is_tuned: bool = True


@dataclass(frozen=True)
class Neighbour:
    """One of the nearest clips.

    Attributes:
        label: Its class.
        distance: Euclidean, between the embeddings.
        start_s: Start of the clip in its file, in seconds.
        end_s: Its end; `None` is the end of the file.
    """

    id: str
    label: str
    speaker: str | None
    corpus: str | None
    distance: float
    audio: str
    start_s: float = 0.0
    end_s: float | None = None

    def to_json(self) -> dict[str, object]:
        """Return what is known."""
        fields = {**self.__dict__, "distance": round(self.distance, 6)}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class KnnPrediction(Prediction):
    """An answer in which the nearest clips had a say.

    Attributes:
        neighbours: The clips, nearest first; empty where nobody asked for them.
    """

    neighbours: tuple[Neighbour, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return what an answer returns, and the neighbours."""
        heard = super().to_json()
        return heard | {"neighbours": [each.to_json() for each in self.neighbours]} if self.neighbours else heard


class KnnPredictor:
    """A model with a store of labelled clips.

    Args:
        model: Model folder or Hub name.
        datastore: Folder of the store.
        k, alpha, votes: `None` is what was chosen for the store, or else `DEFAULT_K`, `DEFAULT_KNN_WEIGHT` and `share`.
        show_neighbours: Whether answers name their neighbours.

    Raises:
        ModelError: There is no such model or store, the store is of another model, or k or alpha do not fit.
    """

    def __init__(
        self,
        model: str,
        datastore: str | Path,
        *,
        k: int | None = None,
        knn_weight: float | None = None,
        votes: str | None = None,
        show_neighbours: bool = False,
    ) -> None:
        self.datastore = open_datastore(datastore)
        self.predictor, digest = load_with_digest(model)
        self.datastore.require_model(digest, model)
        self.classes = self.predictor.classes
        self.interpolation = interpolation_of(self.datastore, k, knn_weight, votes)
        self.show_neighbours = show_neighbours

    def predict_each(self, utterances: Sequence[Utterance]) -> Iterator[Prediction | AudioError]:
        """Answer for many utterances in their order, or say what is wrong with each."""
        for start in range(0, len(utterances), CLIPS_AT_ONCE):
            some = utterances[start : start + CLIPS_AT_ONCE]
            outcomes = list(self.predictor.predict_each(some))
            heard = [(u, o) for u, o in zip(some, outcomes, strict=True) if isinstance(o, Prediction)]
            answers = iter(self._mixed([u for u, _ in heard], [answer for _, answer in heard]))
            for outcome in outcomes:
                yield next(answers) if isinstance(outcome, Prediction) else outcome

    def _mixed(self, utterances: Sequence[Utterance], answers: Sequence[Prediction]) -> list[KnnPrediction]:
        if not answers:
            return []
        trim_db = self.predictor.content.options.clips.trim_db
        keys = keys_of(Recordings(utterances, trim_db=trim_db), range(len(utterances)))
        vectors = np.stack([answer.embedding for answer in answers])
        nearest = self.datastore.embeddings.nearest(vectors, self.interpolation.k, keys)
        model = np.array([[answer.probabilities[name] for name in self.classes] for answer in answers])
        votes = knn_probabilities(nearest, len(self.classes), self.interpolation.votes)
        probabilities = interpolate(votes, model, self.interpolation.knn_weight)
        named = self._named(nearest) if self.show_neighbours else [()] * len(answers)
        return [self._answer(*row) for row in zip(answers, probabilities, named, strict=True)]

    def _answer(
        self, answer: Prediction, probabilities: FloatArray, neighbours: tuple[Neighbour, ...]
    ) -> KnnPrediction:
        by_class = dict(zip(self.classes, map(float, probabilities), strict=True))
        label = self.classes[int(probabilities.argmax())]
        fields = {**answer.__dict__, "label": label, "probabilities": by_class, "neighbours": neighbours}
        return KnnPrediction(**fields)

    def _named(self, nearest: Nearest) -> list[tuple[Neighbour, ...]]:
        rows = sorted(set(nearest.rows.ravel().tolist()))
        clips = dict(zip(rows, self.datastore.clips_at(rows), strict=True))
        triples = zip(nearest.rows.tolist(), nearest.labels.tolist(), nearest.distances.tolist(), strict=True)
        return [
            tuple(
                neighbour_of(clips[row], self.classes[label], distance)
                for row, label, distance in zip(*each, strict=True)
            )
            for each in triples
        ]


def neighbour_of(clip: Utterance, label: str, distance: float) -> Neighbour:
    """Return a clip as a neighbour."""
    told: dict[str, Any] = {name: getattr(clip, name) for name in ("id", "speaker", "corpus", "audio", "start_s")}
    return Neighbour(label=label, distance=distance, end_s=clip.end_s, **told)


def interpolation_of(datastore: Datastore, k: int | None, knn_weight: float | None, votes: str | None) -> Interpolation:
    """Return what is given, else what was chosen for a store, else the numbers to start from."""
    chosen = datastore.header.chosen
    start = Interpolation(DEFAULT_K, DEFAULT_KNN_WEIGHT, is_tuned=k is not None and knn_weight is not None)
    if chosen is not None:
        start = Interpolation(chosen.k, chosen.knn_weight, chosen.votes)
    given = {
        name: value for name, value in (("k", k), ("knn_weight", knn_weight), ("votes", votes)) if value is not None
    }
    return replace(start, **given)  # type: ignore[arg-type]


def load_with_digest(model: str) -> tuple[Predictor, str]:
    """Load a model, its probabilities as k and alpha were chosen on them, and return what tells it from others.

    Raises:
        ModelError: There is none, or it is damaged.
    """
    folder = hub.folder_of(model, expected="a model folder")
    return load(folder).uncalibrated(), model_digest(folder)


def keys_of(recordings: Recordings, positions: Sequence[int]) -> Numbers:
    """Return what tells utterances, (utterance, 2), as `Embeddings.keys` has it."""
    utterances = [recordings.utterances[position] for position in positions]
    told = [(key(u.id), key(recordings[p])) for u, p in zip(utterances, positions, strict=True)]
    return np.array(told, np.int64).reshape(-1, 2)


def hear(
    content: ModelFolder,
    recordings: Recordings,
    positions: Sequence[int],
    told: Told,
    on_progress: Progress | None = None,
) -> tuple[Embeddings, Vectors]:
    """Return utterances that have a class as examples, and the model's probabilities of them, (utterance, class).

    Raises:
        AudioError: A file cannot be read or is silent.
    """
    classes = content.categories.classes
    positions = [p for p in positions if content.categories.label(recordings.utterances[p]) is not None]
    said = recording_outputs(content, recordings, positions, told, on_progress)
    labels = [content.categories.label(recordings.utterances[position]) for position in positions]
    numbers = np.array([classes.index(label) for label in labels if label is not None], np.int64)
    return Embeddings(said.embeddings, numbers, keys_of(recordings, positions)), said.probabilities[content.task]


def model_reference(model: str) -> str:
    """Return how a store names its model: a folder by its absolute path, else as on the Hub."""
    return os.path.abspath(model) if Path(model).is_dir() else model

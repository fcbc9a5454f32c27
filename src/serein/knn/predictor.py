"""kNN: the predictions of a model interpolated with those of the nearest labelled clips of a datastore."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from serein import hub
from serein.checkpoint import Checkpoint
from serein.data.dataset import Recordings
from serein.data.utterance import Utterance
from serein.errors import AudioError
from serein.inference.batching import Progress, recording_outputs
from serein.inference.predictor import CLIPS_AT_ONCE, Prediction, Predictor, load
from serein.knn.datastore import Datastore, model_digest, open_datastore
from serein.knn.interpolation import Embeddings, Nearest, Numbers, Vectors, interpolate, key, knn_probabilities
from serein.metrics import FloatArray
from serein.models.conditioning import ConditionSource

DEFAULT_K, DEFAULT_KNN_WEIGHT = 8, 0.3


@dataclass(frozen=True)
class Interpolation:
    """How neighbours vote, and their weight.

    Attributes:
        votes: `uniform` or `softmax`.
        is_tuned: The numbers were tuned on clips, or given; otherwise they are the defaults.
    """

    k: int
    knn_weight: float
    votes: str = "uniform"
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
        """Return the known fields."""
        fields = {**self.__dict__, "distance": round(self.distance, 6)}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class KnnPrediction(Prediction):
    """A prediction interpolated with the nearest clips.

    Attributes:
        neighbours: The clips, nearest first; empty where they are not shown.
    """

    neighbours: tuple[Neighbour, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return what a prediction returns, and the neighbours."""
        content = super().to_json()
        return content | {"neighbours": [each.to_json() for each in self.neighbours]} if self.neighbours else content


class KnnPredictor:
    """A model with a datastore of labelled clips.

    Args:
        model: Model folder or Hub name.
        datastore: Folder of the datastore.
        k, knn_weight, votes: `None` is the tuned value of the datastore, or else the default: `DEFAULT_K`,
            `DEFAULT_KNN_WEIGHT`, `uniform`.
        show_neighbours: Whether predictions name their neighbours.

    Raises:
        ModelError: The model or datastore does not exist, they do not belong together, or k or the weight is invalid.
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
        """Yield a prediction, or the error, for each utterance in order."""
        for start in range(0, len(utterances), CLIPS_AT_ONCE):
            some = utterances[start : start + CLIPS_AT_ONCE]
            outcomes = list(self.predictor.predict_each(some))
            predicted = [(u, o) for u, o in zip(some, outcomes, strict=True) if isinstance(o, Prediction)]
            interpolated = iter(self._interpolated([u for u, _ in predicted], [own for _, own in predicted]))
            for outcome in outcomes:
                yield next(interpolated) if isinstance(outcome, Prediction) else outcome

    def _interpolated(self, utterances: Sequence[Utterance], predictions: Sequence[Prediction]) -> list[KnnPrediction]:
        if not predictions:
            return []
        trim_db = self.predictor.checkpoint.options.clips.trim_db
        keys = keys_of(Recordings(utterances, trim_db=trim_db), range(len(utterances)))
        vectors = np.stack([prediction.embedding for prediction in predictions])
        nearest = self.datastore.embeddings.nearest(vectors, self.interpolation.k, keys)
        model = np.array([[each.probabilities[name] for name in self.classes] for each in predictions])
        votes = knn_probabilities(nearest, len(self.classes), self.interpolation.votes)
        probabilities = interpolate(votes, model, self.interpolation.knn_weight)
        named = self._named(nearest) if self.show_neighbours else [()] * len(predictions)
        return [self._prediction(*row) for row in zip(predictions, probabilities, named, strict=True)]

    def _prediction(
        self, prediction: Prediction, probabilities: FloatArray, neighbours: tuple[Neighbour, ...]
    ) -> KnnPrediction:
        by_class = dict(zip(self.classes, map(float, probabilities), strict=True))
        fields = {**prediction.__dict__, "probabilities": by_class, "neighbours": neighbours}
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
    fields: dict[str, Any] = {name: getattr(clip, name) for name in ("id", "speaker", "corpus", "audio", "start_s")}
    return Neighbour(label=label, distance=distance, end_s=clip.end_s, **fields)


def interpolation_of(datastore: Datastore, k: int | None, knn_weight: float | None, votes: str | None) -> Interpolation:
    """Return the given values, else the tuned ones of the datastore, else the defaults."""
    tuning = datastore.header.tuning
    start = Interpolation(DEFAULT_K, DEFAULT_KNN_WEIGHT, is_tuned=k is not None and knn_weight is not None)
    if tuning is not None:
        start = Interpolation(tuning.k, tuning.knn_weight, tuning.votes)
    given = {
        name: value for name, value in (("k", k), ("knn_weight", knn_weight), ("votes", votes)) if value is not None
    }
    return replace(start, **given)  # type: ignore[arg-type]


def load_with_digest(model: str) -> tuple[Predictor, str]:
    """Load a model without calibration, as k and the weight were tuned, and return its digest.

    Raises:
        ModelError: It does not exist, or is damaged.
    """
    folder = hub.folder_of(model, expected="a model folder")
    return load(folder).uncalibrated(), model_digest(folder)


def keys_of(recordings: Recordings, positions: Sequence[int]) -> Numbers:
    """Return the keys of utterances, (utterance, 2), as in `Embeddings.keys`."""
    utterances = [recordings.utterances[position] for position in positions]
    keys = [(key(u.id), key(recordings[p])) for u, p in zip(utterances, positions, strict=True)]
    return np.array(keys, np.int64).reshape(-1, 2)


def embed_labelled(
    checkpoint: Checkpoint,
    recordings: Recordings,
    positions: Sequence[int],
    condition_source: ConditionSource,
    on_progress: Progress | None = None,
) -> tuple[Embeddings, Vectors]:
    """Return the embeddings of labelled utterances, and the model's probabilities, (utterance, class).

    Raises:
        AudioError: A file cannot be read or is silent.
    """
    classes = checkpoint.class_labels.classes
    positions = [p for p in positions if checkpoint.class_labels.label(recordings.utterances[p]) is not None]
    outputs = recording_outputs(checkpoint, recordings, positions, condition_source, on_progress)
    labels = [checkpoint.class_labels.label(recordings.utterances[position]) for position in positions]
    numbers = np.array([classes.index(label) for label in labels if label is not None], np.int64)
    return Embeddings(outputs.embeddings, numbers, keys_of(recordings, positions)), outputs.probabilities[
        checkpoint.task
    ]


def model_reference(model: str) -> str:
    """Return how a datastore names its model: a folder by its absolute path, else its Hub name."""
    return os.path.abspath(model) if Path(model).is_dir() else model

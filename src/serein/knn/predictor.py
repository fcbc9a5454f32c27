"""kNN: the predictions of a model interpolated with those of the nearest labelled clips of a datastore."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from serein import audio
from serein.audio import Waveform
from serein.checkpoint import Checkpoint
from serein.data.dataset import Recordings
from serein.data.utterance import Utterance
from serein.errors import ModelError
from serein.inference.batching import Progress, recording_outputs
from serein.inference.prediction import ClipPrediction
from serein.inference.predictor import Predictor, load
from serein.knn.datastore import Datastore, open_datastore
from serein.knn.interpolation import Embeddings, Numbers, Vectors, interpolate, key, knn_probabilities
from serein.models.conditioning import ConditionSource
from serein.tasks.task import most_probable

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

    def to_dict(self) -> dict[str, object]:
        """Return the known fields."""
        fields = {**self.__dict__, "distance": round(self.distance, 6)}
        return {name: value for name, value in fields.items() if value is not None}


class KnnPredictor(Predictor):
    """A model with a datastore of labelled clips; each window of a recording has neighbours of its own.

    Args:
        model: Model folder or Hub name; `None` is the default model.
        datastore: Folder of the datastore.
        k, knn_weight, votes: `None` is the tuned value of the datastore, or else the default: `DEFAULT_K`,
            `DEFAULT_KNN_WEIGHT`, `uniform`.
        show_neighbours: Whether predictions name their neighbours.
        backbone: Where the model's pretrained backbone is now, if it has moved.

    Raises:
        ModelError: The model or datastore does not exist, they do not belong together, or k or the weight is invalid.
    """

    def __init__(
        self,
        model: str | Path | None,
        datastore: str | Path,
        *,
        k: int | None = None,
        knn_weight: float | None = None,
        votes: str | None = None,
        show_neighbours: bool = False,
        device: str = "auto",
        backbone: Path | None = None,
    ) -> None:
        self.datastore = open_datastore(datastore)
        own = load(model, device, backbone=backbone).uncalibrated()  # k and the weight were tuned on such probabilities
        super().__init__(own.checkpoint, str(own.device))
        self.datastore.require_model(self.checkpoint.digest, str(model or "the default model"))
        self.interpolation = interpolation_of(self.datastore, k, knn_weight, votes)
        self.show_neighbours = show_neighbours

    def with_labels(self, labels: Sequence[str]) -> Predictor:
        """Refuse: the clips are labelled with the classes."""
        raise ModelError("the classes of a datastore are fixed", where="labels", remedy="Use the model alone.")

    def predict_clips(
        self,
        waveforms: Sequence[Waveform],
        utterances: Sequence[Utterance] | None = None,
        embedding: str | None = None,
    ) -> list[ClipPrediction]:
        """Run the model on clips, and interpolate its probabilities with the votes of the nearest labelled ones."""
        own = super().predict_clips(waveforms, utterances, embedding)
        if not own:
            return []
        trim_db = self.checkpoint.options.clips.trim_db
        known, files = utterances or [], self.datastore.id_of_file  # a clip that is cut is known by its file
        ids = [files.get(os.path.abspath(u.audio), u.id) if u.id == u.audio else u.id for u in known] or ["-"] * len(
            own
        )
        told = [(key(id), key(audio.trimmed(each, trim_db))) for id, each in zip(ids, waveforms, strict=True)]
        vectors = np.stack([predicted.embedding for predicted in own])
        nearest = self.datastore.embeddings.nearest(vectors, self.interpolation.k, np.array(told, np.int64))
        model = np.array([list(predicted.main.probabilities.values()) for predicted in own])
        votes = knn_probabilities(nearest, len(self.classes), self.interpolation.votes)
        probabilities = interpolate(votes, model, self.interpolation.knn_weight)
        named: list[tuple[Neighbour, ...]] = [()] * len(own)
        if self.show_neighbours:
            rows = sorted(set(nearest.rows.ravel().tolist()))
            clip_of = dict(zip(rows, self.datastore.clips_at(rows), strict=True))
            named = []
            for each in zip(nearest.rows.tolist(), nearest.labels.tolist(), nearest.distances.tolist(), strict=True):
                triples = [(clip_of[row], self.classes[label], near) for row, label, near in zip(*each, strict=True)]
                named.append(
                    tuple(
                        Neighbour(c.id, label, c.speaker, c.corpus, near, c.audio, c.start_s, c.end_s)
                        for c, label, near in triples
                    )
                )
        mixed = [most_probable(dict(zip(self.classes, map(float, row), strict=True))) for row in probabilities]
        return [replace(each, main=main, neighbours=near) for each, main, near in zip(own, mixed, named, strict=True)]


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
    probabilities = outputs.decoded[checkpoint.task].values
    assert probabilities is not None  # of a task with classes
    return Embeddings(outputs.embeddings, numbers, keys_of(recordings, positions)), probabilities


def model_reference(model: str) -> str:
    """Return how a datastore names its model: a folder by its absolute path, else its Hub name."""
    return os.path.abspath(model) if Path(model).exists() else model

"""kNN: a model's predictions interpolated with the votes of the nearest labelled clips (wang2023, section 2.3)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serein import audio
from serein.audio import Waveform
from serein.checkpoint import Checkpoint
from serein.data.dataset import Recordings
from serein.data.manifest import Utterance
from serein.errors import ModelError, expected_one_of
from serein.inference.batching import recording_outputs
from serein.inference.prediction import ClipPrediction
from serein.inference.predictor import Predictor, load
from serein.knn.datastore import Embeddings, Nearest, Numbers, Vectors, key, open_datastore
from serein.metrics import SCORES, FloatArray, confusion_matrix
from serein.models.conditioning import ConditionSource
from serein.progress import Progress
from serein.tasks.task import most_probable

DEFAULT_K, DEFAULT_KNN_WEIGHT = 8, 0.3
MAX_NEIGHBOURS = 32  # wang2023, section 3.1: k in 1..32
KNN_WEIGHTS = tuple(number / 20 for number in range(21))  # 0: the model alone, 1: the neighbours alone


def knn_probabilities_by_k(nearest: Nearest, num_classes: int, votes: str = "uniform") -> FloatArray:
    """Return the probabilities from the votes of the nearest 1, 2, ... neighbours: (k, clip, class), rows sum to 1.

    Args:
        votes: A key of `VOTES`.

    Raises:
        ModelError: `votes` is unknown.

    Example:
        >>> nearest = Nearest(np.array([[7, 9]]), np.array([[1, 0]]), np.array([[0.5, 0.8]]))
        >>> knn_probabilities_by_k(nearest, num_classes=2).tolist()
        [[[0.0, 1.0]], [[0.5, 0.5]]]
    """
    if votes not in VOTES:
        raise ModelError(expected_one_of(votes, VOTES, kind="vote"), where="--votes", remedy="Choose one of these.")
    weights = VOTES[votes](nearest.distances).T[:, :, None]
    is_of_class = nearest.labels.T[:, :, None] == np.arange(num_classes)
    probabilities: FloatArray = (weights * is_of_class).cumsum(axis=0) / weights.cumsum(axis=0)
    return probabilities


def interpolate(neighbours: NDArray[Any], model: NDArray[Any], knn_weight: float) -> FloatArray:
    """Return ``knn_weight * neighbours + (1 - knn_weight) * model`` (wang2023, equation 4).

    Args:
        neighbours: (..., class) probabilities.
        model: (..., class) probabilities.
        knn_weight: 0 gives exactly the model, 1 the neighbours.

    Raises:
        ModelError: The weight is not from 0 to 1.

    Example:
        >>> interpolate(np.array([1.0, 0.0]), np.array([0.25, 0.75]), knn_weight=0.5).tolist()
        [0.625, 0.375]
    """
    if not 0.0 <= knn_weight <= 1.0:
        raise ModelError(f"the weight is {knn_weight:g}", where="--knn-weight", remedy="Choose a number from 0 to 1.")
    return knn_weight * neighbours.astype(np.float64) + (1.0 - knn_weight) * model.astype(np.float64)


VOTES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "uniform": np.ones_like,  # wang2023: each neighbour has one vote
    "softmax": lambda distances: np.exp(distances[:, :1] - distances),  # of -distances, up to a factor per clip
}


@dataclass(frozen=True)
class TunedKnn:
    """The k and the weight with the best score on some clips.

    Attributes:
        score: The score with these values, as a fraction.
        model_score: The score of the model alone, as a fraction.
    """

    k: int
    knn_weight: float
    score: float
    model_score: float


def tune_k_and_weight(
    nearest: Nearest,
    model: NDArray[Any],
    truth: NDArray[Any],
    *,
    votes: str = "uniform",
    metric: str = "ua",
    ks: Sequence[int] | None = None,
    knn_weights: Sequence[float] = KNN_WEIGHTS,
) -> TunedKnn:
    """Tune k and the weight of the neighbours.

    Ties are broken by the smallest squared error of the probabilities, then by the smaller k and weight.

    Args:
        nearest: As many neighbours as the largest k.
        model: (clip, class) probabilities.
        truth: (clip,) class numbers.
        metric: `ua`, `wa` or `macro_f1`.
        ks: Candidates for k; by default, every number up to that of the neighbours.
    """
    num_classes = model.shape[1]
    probabilities = knn_probabilities_by_k(nearest, num_classes, votes)
    is_true = truth[:, None] == np.arange(num_classes)
    best: tuple[float, float, int, float] | None = None
    for k in ks or range(1, len(probabilities) + 1):
        for knn_weight in knn_weights:
            interpolated = interpolate(probabilities[k - 1], model, knn_weight)
            error = float(np.square(interpolated - is_true).sum(axis=1).mean())
            ranked = (-round(_score(interpolated, truth, metric), 12), round(error, 12), k, knn_weight)
            best = ranked if best is None else min(best, ranked)
    if best is None:
        raise ModelError("there is no k or weight to choose from", remedy="Specify candidates.")
    return TunedKnn(best[2], best[3], -best[0], _score(model, truth, metric))


def _score(probabilities: NDArray[Any], truth: NDArray[Any], metric: str) -> float:
    return float(SCORES[metric](confusion_matrix(truth, probabilities.argmax(axis=1), probabilities.shape[1])))


@dataclass(frozen=True)
class Interpolation:
    """The votes of the neighbours, and their weight.

    Attributes:
        votes: `uniform` or `softmax`.
        is_tuned: Whether the numbers were tuned on clips, or given; otherwise they are the defaults.
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
        distance: Euclidean distance between the embeddings.
        start_s: Start of the clip in its file, in seconds.
        end_s: End of the clip; `None` for the end of the file.
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
    """A model with a datastore of labelled clips; each window of a recording has its own neighbours.

    Args:
        model: Model folder or Hub name; `None` for the default model.
        datastore: Folder of the datastore.
        k, knn_weight, votes: `None` for the tuned value of the datastore, or else the default: `DEFAULT_K`,
            `DEFAULT_KNN_WEIGHT`, `uniform`.
        show_neighbours: Whether predictions list their neighbours.
        backbone: The current location of the model's pretrained backbone, if it has moved.

    Raises:
        ModelError: The model or datastore does not exist, they do not match, or k or the weight is invalid.
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
        # the given values, else the tuned ones of the datastore, else the defaults
        tuning = self.datastore.header.tuning
        start = Interpolation(DEFAULT_K, DEFAULT_KNN_WEIGHT, is_tuned=k is not None and knn_weight is not None)
        if tuning is not None:
            start = Interpolation(tuning.k, tuning.knn_weight, tuning.votes)
        given = {"k": k, "knn_weight": knn_weight, "votes": votes}
        self.interpolation = replace(start, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        self.show_neighbours = show_neighbours

    def with_labels(self, labels: Sequence[str]) -> Predictor:
        """Raise ModelError: the clips are labelled with fixed classes."""
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
        known, files = utterances or [], self.datastore.id_of_file  # a clip without an id is identified by its file
        ids = [files.get(os.path.realpath(u.audio), u.id) if u.id == u.audio else u.id for u in known] or ["-"] * len(
            own
        )
        keys = [(key(id), key(audio.trimmed(each, trim_db))) for id, each in zip(ids, waveforms, strict=True)]
        vectors = np.stack([predicted.embedding for predicted in own])
        nearest = self.datastore.embeddings.nearest(vectors, self.interpolation.k, np.array(keys, np.int64))
        model = np.array([list(predicted.main.probabilities.values()) for predicted in own])
        votes = knn_probabilities_by_k(nearest, len(self.classes), self.interpolation.votes)[-1]
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
    assert probabilities is not None  # since the task has classes
    return Embeddings(outputs.embeddings, numbers, keys_of(recordings, positions)), probabilities


def model_reference(model: str) -> str:
    """Return the reference to a model in a datastore: the absolute path of a folder, or else the Hub name."""
    return os.path.abspath(model) if Path(model).exists() else model

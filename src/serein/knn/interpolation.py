"""Nearest neighbours: labelled embeddings, their votes, and votes interpolated with a model (wang2023, section 2.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serein.audio import Waveform
from serein.errors import ModelError, expected_one_of
from serein.metrics import SCORES, FloatArray
from serein.nearest import ExactIndex, FaissIndex

Vectors = NDArray[np.float32]
Numbers = NDArray[np.int64]

MAX_NEIGHBOURS = 32  # wang2023, section 3.1: k in 1..32
KNN_WEIGHTS = tuple(number / 20 for number in range(21))  # 0 is the model alone, 1 the neighbours alone

_SPARE = 8  # neighbours searched beyond k, because some may be the clip itself


@dataclass(frozen=True)
class Nearest:
    """The nearest embeddings of some clips, nearest first.

    Attributes:
        rows: (clip, k) positions among the embeddings.
        labels: (clip, k) class numbers.
        distances: (clip, k) float64, Euclidean.
    """

    rows: Numbers
    labels: Numbers
    distances: FloatArray


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of labelled clips.

    Attributes:
        vectors: (clip, feature) float32, the input of the output layer.
        labels: (clip,) class numbers.
        keys: (clip, 2) identifies a clip: `key` of its id and of its samples.
        index: Searched instead of all vectors.
    """

    vectors: Vectors
    labels: Numbers
    keys: Numbers
    index: FaissIndex | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def nearest(self, queries: Vectors, k: int, keys: Numbers | None = None) -> Nearest:
        """Return the k nearest embeddings of each query; of equally near ones the first.

        Args:
            queries: (query, feature).
            keys: (query, 2); embeddings with the id or the samples of a query are not its neighbours.

        Raises:
            ModelError: There are fewer than k.
        """
        if k < 1:
            raise ModelError(f"k is {k}", where="--k", remedy="Choose at least one neighbour.")
        remedy = "Choose a smaller k, or add clips."
        if k > len(self):
            raise ModelError(f"k is {k}, and the datastore holds {len(self)} clips", where="--k", remedy=remedy)
        num = k if keys is None else min(k + _SPARE, len(self))
        while True:
            rows, distances = (self.index or self.exact).search(queries, num)
            is_self = np.zeros(rows.shape, bool)
            if keys is not None:
                is_self = (self.keys[rows] == keys[:, None, :]).any(axis=2)
            num_others = int((~is_self).sum(axis=1).min()) if len(queries) else k
            if num_others >= k or num == len(self):
                break
            num = min(2 * num, len(self))
        if k > num_others:
            what = f"k is {k}, and the datastore holds {num_others} clips besides the clip itself"
            raise ModelError(what, where="--k", remedy=remedy)
        order = np.argsort(is_self, axis=1, kind="stable")[:, :k]
        rows = np.take_along_axis(rows, order, axis=1)
        return Nearest(rows, self.labels[rows], np.take_along_axis(distances, order, axis=1))

    @cached_property
    def exact(self) -> ExactIndex:
        """The search of all vectors."""
        return ExactIndex(self.vectors)

    def only(self, rows: Numbers) -> Embeddings:
        """Return some of the embeddings."""
        return Embeddings(self.vectors[rows], self.labels[rows], self.keys[rows])


def key(content: str | Waveform) -> int:
    """Return a 64-bit hash of an id, or of the samples of a recording."""
    data = content.encode() if isinstance(content, str) else content.tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


# -- votes -----------------------------------------------------------------------------------------------------------


def knn_probabilities_by_k(nearest: Nearest, num_classes: int, votes: str = "uniform") -> FloatArray:
    """Return the probabilities of the nearest 1, 2, ... neighbours: (k, clip, class), each row sums to 1.

    Args:
        votes: A name of `VOTES`.

    Raises:
        ModelError: There is no such way to vote.

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


def knn_probabilities(nearest: Nearest, num_classes: int, votes: str = "uniform") -> FloatArray:
    """Return the probabilities of all k neighbours: (clip, class)."""
    probabilities: FloatArray = knn_probabilities_by_k(nearest, num_classes, votes)[-1]
    return probabilities


def interpolate(neighbours: NDArray[Any], model: NDArray[Any], knn_weight: float) -> FloatArray:
    """Return ``knn_weight * neighbours + (1 - knn_weight) * model`` (wang2023, equation 4).

    Args:
        neighbours: (..., class) probabilities.
        model: (..., class) probabilities.
        knn_weight: 0 is the model exactly, 1 the neighbours.

    Raises:
        ModelError: The weight is not from 0 to 1.

    Example:
        >>> interpolate(np.array([1.0, 0.0]), np.array([0.25, 0.75]), knn_weight=0.5).tolist()
        [0.625, 0.375]
    """
    if not 0.0 <= knn_weight <= 1.0:
        raise ModelError(f"the weight is {knn_weight:g}", where="--knn-weight", remedy="Give a number from 0 to 1.")
    return knn_weight * neighbours.astype(np.float64) + (1.0 - knn_weight) * model.astype(np.float64)


def _by_distance(distances: FloatArray) -> FloatArray:
    return np.exp(distances[:, :1] - distances)


VOTES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "uniform": np.ones_like,  # wang2023: each neighbour has one vote
    "softmax": _by_distance,  # weights are the softmax of the negative distances
}


# -- tuned -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TunedKnn:
    """The k and the weight with the best score on some clips.

    Attributes:
        score: Fraction, with these.
        model_score: Fraction, by the model alone.
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

    Among equal scores, the least squared error of the probabilities decides, then the smaller k and weight.

    Args:
        nearest: As many neighbours as the largest k.
        model: (clip, class) probabilities.
        truth: (clip,) class numbers.
        metric: `ua`, `wa` or `macro_f1`.
        ks: Candidates; by default all that there are neighbours for.
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
        raise ModelError("there is no k or weight to choose from", remedy="Name some.")
    return TunedKnn(best[2], best[3], -best[0], _score(model, truth, metric))


def _score(probabilities: NDArray[Any], truth: NDArray[Any], metric: str) -> float:
    num_classes = probabilities.shape[1]
    cells = np.bincount(truth * num_classes + probabilities.argmax(axis=1), minlength=num_classes**2)
    return float(SCORES[metric](cells.reshape(num_classes, num_classes)))

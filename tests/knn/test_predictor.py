"""Neighbours: votes by hand, exact search beside scikit-learn, a clip that is no neighbour of itself, choosing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from serein.errors import ModelError
from serein.knn.datastore import Embeddings, Nearest, key
from serein.knn.predictor import (
    KNN_WEIGHTS,
    VOTES,
    interpolate,
    knn_probabilities_by_k,
    tune_k_and_weight,
)

NEAREST = Nearest(np.array([[4, 2, 7, 0]]), np.array([[0, 1, 1, 2]]), np.array([[0.0, math.log(2), math.log(4), 50.0]]))
DRAWN = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)


def embeddings(vectors: list[list[float]], labels: list[int], names: list[str] | None = None) -> Embeddings:
    """Return examples whose samples are told apart by their names, too."""
    named = names or [str(number) for number in range(len(vectors))]
    keys = np.array([[key(name), key(f"samples of {name}")] for name in named])
    return Embeddings(np.array(vectors, np.float32), np.array(labels), keys)


# -- votes --------------------


def test_each_neighbour_has_one_vote() -> None:
    probabilities = knn_probabilities_by_k(NEAREST, num_classes=3)
    assert probabilities[:, 0].tolist() == [[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 2 / 3, 0], [1 / 4, 2 / 4, 1 / 4]]
    assert knn_probabilities_by_k(NEAREST, 3)[-1].tolist() == [[1 / 4, 2 / 4, 1 / 4]]


def test_softmax_of_negative_distances() -> None:
    """Distances 0, log 2, log 4 weigh 1, 1/2, 1/4."""
    probabilities = knn_probabilities_by_k(NEAREST, num_classes=3, votes="softmax")[:, 0]
    assert probabilities[1] == pytest.approx([2 / 3, 1 / 3, 0])
    assert probabilities[2] == pytest.approx([4 / 7, 3 / 7, 0])
    assert probabilities[3] == pytest.approx([4 / 7, 3 / 7, 0])


def test_far_neighbours_do_not_underflow() -> None:
    far = Nearest(np.array([[0, 1]]), np.array([[0, 1]]), np.array([[5000.0, 5000.0]]))
    assert knn_probabilities_by_k(far, 2, "softmax")[-1].tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("votes", VOTES)
def test_probabilities_sum_to_one(votes: str) -> None:
    found = embeddings(DRAWN.tolist(), [n % 3 for n in range(300)]).nearest(DRAWN[:20], 9)
    probabilities = knn_probabilities_by_k(found, 3, votes)
    assert probabilities.shape == (9, 20, 3)
    assert probabilities.sum(axis=2) == pytest.approx(np.ones((9, 20)))


def test_probabilities_are_those_of_scikit_learn() -> None:
    labels = np.arange(300) % 4
    theirs = KNeighborsClassifier(7).fit(DRAWN[:200], labels[:200]).predict_proba(DRAWN[200:])
    nearest = embeddings(DRAWN[:200].tolist(), labels[:200].tolist()).nearest(DRAWN[200:], 7)
    ours = knn_probabilities_by_k(nearest, 4)[-1]
    assert ours == pytest.approx(theirs)


def test_unknown_vote() -> None:
    with pytest.raises(ModelError, match="unknown vote 'loud', expected one of: uniform, softmax"):
        knn_probabilities_by_k(NEAREST, 3, "loud")


# -- interpolated --------------------


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_weight_0_is_the_model_and_weight_1_the_neighbours_exactly(neighbours: list[float], model: list[float]) -> None:
    assert interpolate(np.array(neighbours), np.array(model), 0.0).tolist() == model
    assert interpolate(np.array(neighbours), np.array(model), 1.0).tolist() == neighbours


def test_interpolated_by_hand() -> None:
    assert interpolate(np.array([0.0, 1.0]), np.array([0.6, 0.4]), 0.3) == pytest.approx([0.42, 0.58])


@pytest.mark.parametrize("knn_weight", [-0.1, 1.1, math.nan])
def test_the_weight_is_a_probability(knn_weight: float) -> None:
    with pytest.raises(ModelError, match="from 0 to 1"):
        interpolate(np.ones(2), np.ones(2), knn_weight)


# -- search --------------------


def test_of_equally_near_ones_the_first() -> None:
    found = embeddings([[1.0], [-1.0], [1.0], [5.0]], [2, 1, 0, 0]).nearest(np.zeros((1, 1), np.float32), 3)
    assert found.rows.tolist() == [[0, 1, 2]]
    assert found.labels.tolist() == [[2, 1, 0]]


def test_more_neighbours_than_clips() -> None:
    with pytest.raises(ModelError, match=r"k is 3, but the datastore has 2 clips\. Choose a smaller k"):
        embeddings([[0.0], [1.0]], [0, 1]).nearest(np.zeros((1, 1), np.float32), 3)


# -- a clip itself --------------------


def test_a_clip_is_no_neighbour_of_itself() -> None:
    datastore = embeddings([[0.0], [1.0], [2.0]], [0, 1, 2], ["a", "b", "c"])
    assert datastore.nearest(datastore.vectors, 1).rows.tolist() == [[0], [1], [2]]
    assert datastore.nearest(datastore.vectors, 1, datastore.keys).rows.tolist() == [[1], [0], [1]]
    with pytest.raises(ModelError, match="k is 3, but the datastore has 2 clips other than the clip itself"):
        datastore.nearest(datastore.vectors, 3, datastore.keys)


@pytest.mark.parametrize("shared", [0, 1], ids=["id", "samples"])
def test_told_by_its_id_or_by_its_samples(shared: int) -> None:
    datastore = embeddings([[0.0], [1.0]], [0, 1], ["a", "b"])
    asked = np.array([[key("?"), key("??")]])
    asked[0, shared] = datastore.keys[0, shared]
    assert datastore.nearest(np.zeros((1, 1), np.float32), 1, asked).rows.tolist() == [[1]]


def test_many_copies_of_a_clip() -> None:
    """More copies than are looked at beyond k."""
    datastore = embeddings([[0.0]] * 40 + [[1.0], [2.0]], [0] * 40 + [1, 2], ["a"] * 40 + ["b", "c"])
    asked = np.array([[key("a"), key("samples of a")]])
    assert datastore.nearest(np.zeros((1, 1), np.float32), 2, asked).rows.tolist() == [[40, 41]]


def test_keys_tell_ids_and_samples() -> None:
    wave = np.array([0.1, 0.2], np.float32)
    assert key(wave) == key(wave.copy())
    assert len({key("a"), key("b"), key(wave), key(wave[::-1].copy())}) == 4


# -- chosen --------------------


def test_what_helps_is_chosen() -> None:
    """The model is wrong throughout; the first two neighbours are right, the third is not."""
    labels, truth = np.array([[0, 0, 1], [1, 1, 0]]), np.array([0, 1])
    found = Nearest(np.zeros((2, 3), np.int64), labels, np.ones((2, 3)))
    model = np.array([[0.1, 0.9], [0.9, 0.1]])
    choice = tune_k_and_weight(found, model, truth)
    assert (choice.k, choice.knn_weight, choice.score, choice.model_score) == (1, 1.0, 1.0, 0.0)
    assert tune_k_and_weight(found, model, truth, ks=(3,), knn_weights=(0.2, 0.9)).k == 3


def test_neighbours_that_do_not_help_have_no_say() -> None:
    found = Nearest(np.zeros((2, 2), np.int64), np.array([[1, 1], [0, 0]]), np.ones((2, 2)))
    choice = tune_k_and_weight(found, np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1]))
    assert (choice.knn_weight, choice.score, choice.model_score) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize("metric", ["ua", "wa", "macro_f1"])
def test_the_choice_is_the_best_of_all(metric: str) -> None:
    """Beside a plain search with scikit-learn's scores."""
    from sklearn import metrics

    theirs = {
        "ua": metrics.balanced_accuracy_score,
        "wa": metrics.accuracy_score,
        "macro_f1": lambda t, p: metrics.f1_score(t, p, average="macro"),
    }[metric]
    rng = np.random.default_rng(1)
    truth = np.arange(40) % 3
    found = Nearest(np.zeros((40, 6), np.int64), rng.integers(0, 3, (40, 6)), np.ones((40, 6)))
    model = rng.dirichlet(np.ones(3), 40)
    choice = tune_k_and_weight(found, model, truth, metric=metric)
    probabilities = knn_probabilities_by_k(found, 3)
    scores = {
        (k, a): theirs(truth, interpolate(probabilities[k - 1], model, a).argmax(1))
        for k in range(1, 7)
        for a in KNN_WEIGHTS
    }
    assert choice.score == pytest.approx(max(scores.values()))
    assert scores[choice.k, choice.knn_weight] == pytest.approx(choice.score)

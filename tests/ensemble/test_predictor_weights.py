"""Weights of a fusion: allowed, deterministic, as good as any that can be found by trying all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from serein.ensemble.predictor import (
    _Search,
    allowed,
    ensemble_macro_f1,
    ensemble_probabilities,
    fit_weights,
    uniform_weights,
)


def made_up(seed: int, *, models: int = 2, utterances: int = 40, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities of models that are each better at some classes than at others, and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, utterances)
    logits = rng.normal(0, 1, (models, utterances, classes))
    skill = rng.normal(0.8, 0.8, (models, classes))
    logits[:, np.arange(utterances), truth] += skill[:, truth]
    odds = np.exp(logits)
    return odds / odds.sum(axis=2, keepdims=True), truth


def fit(probabilities: np.ndarray, truth: np.ndarray, seed: int = 0) -> tuple[np.ndarray, float]:
    found = fit_weights(probabilities, truth, rng=np.random.default_rng(seed))
    return found.weights, found.macro_f1


# -- fused -----------------------------------------------------------------------------------------------------------


def test_fused_probabilities_by_hand() -> None:
    """Class 0 is the first model's to say, class 1 the second's, class 2 is halved: 0.5, 0.1, 0.3 of 0.9."""
    probabilities = np.array([[[0.5, 0.3, 0.2]], [[0.5, 0.1, 0.4]]])
    weights = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]])
    assert ensemble_probabilities(probabilities, weights)[0].tolist() == pytest.approx([5 / 9, 1 / 9, 3 / 9])
    assert ensemble_probabilities(probabilities, weights).argmax(axis=1).tolist() == [0]


def test_uniform_weights_are_the_mean() -> None:
    probabilities, _ = made_up(3, models=3, classes=4)
    np.testing.assert_allclose(
        ensemble_probabilities(probabilities, uniform_weights(3, 4)), probabilities.mean(axis=0), atol=1e-12
    )


def test_nothing_said_of_any_class_is_said_evenly() -> None:
    probabilities = np.array([[[0.0, 1.0]], [[1.0, 0.0]]])
    assert ensemble_probabilities(probabilities, np.array([[1.0, 0.0], [0.0, 1.0]])).tolist() == [[0.5, 0.5]]


# -- allowed weights -------------------------------------------------------------------------------------------------

columns = arrays(float, array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.floats(-3, 3))


@given(columns)
def test_allowed_weights_are_allowed(point: np.ndarray) -> None:
    weights = allowed(point)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-9)
    np.testing.assert_allclose(allowed(weights), weights, atol=1e-9)


@given(columns, st.integers(0, 1000))
def test_no_other_allowed_weights_are_nearer(point: np.ndarray, seed: int) -> None:
    other = np.random.default_rng(seed).dirichlet(np.ones(len(point)), size=point.shape[1]).T
    nearest = ((point - allowed(point)) ** 2).sum(axis=0)
    assert (nearest <= ((point - other) ** 2).sum(axis=0) + 1e-9).all()


# -- fitted ----------------------------------------------------------------------------------------------------------


def test_fusion_beats_both_models_and_their_mean() -> None:
    """The first knows calm from the rest, the second angry from sad; each is loud where it knows nothing.

    Alone: the first takes angry and sad for each other, macro-F1 1/3; the second takes everything for angry or sad,
    and calm for angry: F1 0, 2/3 and 1. The mean follows the first. Calm by the first and the others by the second
    is right three times.
    """
    first = [[0.90, 0.05, 0.05], [0.2, 0.1, 0.7], [0.2, 0.7, 0.1]]
    second = [[0.0, 0.6, 0.4], [0.1, 0.6, 0.3], [0.1, 0.3, 0.6]]
    probabilities, truth = np.array([first, second]), np.arange(3)
    alone = [np.repeat(row[:, None], 3, axis=1) for row in np.eye(2)]
    assert ensemble_macro_f1(probabilities, truth, alone[0]) == pytest.approx(1 / 3)
    assert ensemble_macro_f1(probabilities, truth, alone[1]) == pytest.approx(5 / 9)
    assert ensemble_macro_f1(probabilities, truth, uniform_weights(2, 3)) == pytest.approx(1 / 3)
    weights, score = fit(probabilities, truth)
    assert score == 1.0
    assert ensemble_probabilities(probabilities, weights).argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("decimals", [1, 3, 17])
@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_a_search_predicts_the_same_classes_also_where_two_are_almost_equal(decimals: int, scale: float) -> None:
    random = np.random.default_rng(decimals)
    truth, weights = random.integers(5, size=400), random.dirichlet(np.ones(3), size=5).T
    probabilities = (0.2 + scale * random.dirichlet(np.ones(5), size=(3, 400)) / 5).round(decimals)
    for each in (weights, uniform_weights(3, 5), np.eye(3)[:, [0] * 5]):
        assert _Search(probabilities, truth).macro_f1_of(each) == ensemble_macro_f1(probabilities, truth, each)


@pytest.mark.parametrize("seed", range(12))
def test_as_good_as_trying_all_weights(seed: int) -> None:
    probabilities, truth = made_up(seed)
    grid = np.linspace(0, 1, 51)
    tried = (np.array([[a, b], [1 - a, 1 - b]]) for a, b in itertools.product(grid, grid))
    best = max(ensemble_macro_f1(probabilities, truth, weights) for weights in tried)
    assert fit(probabilities, truth)[1] >= best - 1e-12


@pytest.mark.slow
@settings(max_examples=12)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 8), st.integers(2, 4))
def test_whatever_is_fitted(seed: int, models: int, utterances: int, classes: int) -> None:
    probabilities, truth = made_up(seed, models=models, utterances=utterances, classes=classes)
    weights, score = fit(probabilities, truth)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-9)
    assert score == ensemble_macro_f1(probabilities, truth, weights)
    alone = [np.repeat(row[:, None], classes, axis=1) for row in np.eye(models)]
    assert score >= max(
        ensemble_macro_f1(probabilities, truth, each) for each in (uniform_weights(models, classes), *alone)
    )


def test_models_that_agree_are_weighed_alike() -> None:
    probabilities, truth = made_up(5, models=1)
    weights, _ = fit(np.repeat(probabilities, 3, axis=0), truth)
    np.testing.assert_allclose(weights, 1 / 3)


def test_the_same_seed_gives_the_same_weights() -> None:
    probabilities, truth = made_up(7, classes=3)
    assert fit(probabilities, truth, seed=1)[0].tolist() == fit(probabilities, truth, seed=1)[0].tolist()


def test_progress_is_told() -> None:
    probabilities, truth = made_up(0)
    told: list[tuple[int, int]] = []
    fit_weights(probabilities, truth, rng=np.random.default_rng(0), on_progress=lambda *progress: told.append(progress))
    assert told == [(number, 7) for number in range(1, 8)]


@pytest.mark.parametrize(
    ("probabilities", "truth"),
    [
        (np.ones((2, 3)), np.zeros(3, int)),
        (np.ones((2, 3, 2)), np.zeros(2, int)),
        (np.ones((2, 0, 2)), np.zeros(0, int)),
    ],
)
def test_what_does_not_fit_is_refused(probabilities: np.ndarray, truth: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected \\(models, utterances, classes\\)"):
        fit(probabilities, truth)

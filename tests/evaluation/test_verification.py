"""Pairs of voices: which there are, how alike they are, how often they are mistaken."""

from __future__ import annotations

import tracemalloc
from itertools import combinations

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine

from serein.evaluation.verification import cosines, score_verification, trials


def drawn_by(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_all_pairs_by_hand() -> None:
    found = trials(["anna", "ben", "anna"], drawn_by(0))
    assert (found.first.tolist(), found.second.tolist(), found.is_same.tolist()) == (
        [0, 0, 1],
        [1, 2, 2],
        [False, True, False],
    )
    assert found.num_possible == 3


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30), st.integers(4, 200), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_pairs_are_of_two_clips_once_each_and_told_rightly(speakers: list[int], most: int, seed: int) -> None:
    found = trials(speakers, drawn_by(seed), most)
    pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    num_possible = len(list(combinations(speakers, 2)))
    assert len(set(pairs)) == len(pairs) == min(most, num_possible)
    assert found.num_possible == num_possible
    assert all(first < second for first, second in pairs)
    assert found.is_same.tolist() == [speakers[first] == speakers[second] for first, second in pairs]


@pytest.mark.parametrize("num_others", [200, 3000])
def test_memory_grows_with_the_clips_not_with_their_pairs(num_others: int) -> None:
    """Nine million pairs or 18 would take 144 or 288 MB as two columns of numbers."""
    speakers = [0] * 6000 + [1] * num_others
    tracemalloc.start()
    found = trials(speakers, drawn_by(0), most=100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.first) == 100_000
    assert peak < 50e6


def test_few_same_pairs_are_all_there_when_others_are_drawn() -> None:
    speakers = [number // 2 for number in range(2000)]  # 1,000 pairs of one person among two million
    found = trials(speakers, drawn_by(0), most=10_000)
    assert found.is_same.sum() == 1000
    assert (~found.is_same).sum() == 9000
    assert np.bincount(np.concatenate([found.first, found.second])).mean() == pytest.approx(10, abs=0.1)


def test_many_same_pairs_are_half() -> None:
    found = trials([number % 2 for number in range(200)], drawn_by(0), most=1000)
    assert found.is_same.sum() == 500


def test_a_seed_draws_the_same_pairs_again() -> None:
    speakers = [number % 7 for number in range(100)]
    one, again, other = (trials(speakers, drawn_by(seed), most=500) for seed in (1, 1, 2))
    assert (one.first == again.first).all()
    assert (one.second == again.second).all()
    assert (one.first != other.first).any()


def test_cosines_beside_scipy() -> None:
    vectors = drawn_by(0).normal(size=(8, 5)).astype(np.float32)
    first, second = np.triu_indices(8, k=1)
    expected = [1 - cosine(vectors[i], vectors[j]) for i, j in zip(first, second, strict=True)]
    np.testing.assert_allclose(cosines(vectors, first, second), expected, atol=1e-6)


def test_a_vector_of_zeros_is_like_none() -> None:
    vectors = np.array([[0, 0], [1, 2]], np.float32)
    assert cosines(vectors, np.array([0, 1]), np.array([1, 1])).tolist() == [0.0, pytest.approx(1.0)]


def test_voices_that_lie_apart_are_told_apart() -> None:
    vectors = np.array([[1, 0], [2, 0.1], [0, 1], [0.1, 3]], np.float32)
    found = score_verification(vectors, ["anna", "anna", "ben", "ben"], drawn_by(0))
    assert found is not None
    assert (found.equal_error_rate, found.num_same, found.num_different, found.num_speakers) == (0.0, 2, 4, 2)
    assert 0.1 < found.threshold < 0.99


def test_the_rate_is_that_of_an_independent_curve() -> None:
    rng = drawn_by(3)
    speakers = rng.integers(5, size=60)
    vectors = (rng.normal(size=(5, 8))[speakers] + rng.normal(scale=1.5, size=(60, 8))).astype(np.float32)
    found = score_verification(vectors, speakers.tolist(), rng)
    assert found is not None
    is_same = [a == b for a, b in combinations(speakers.tolist(), 2)]
    similarity = [1 - cosine(a, b) for a, b in combinations(vectors, 2)]
    alarms, hits, _ = sklearn.metrics.roc_curve(is_same, similarity)
    nearest = np.argmin(np.abs(alarms - (1 - hits)))
    assert found.equal_error_rate == pytest.approx((alarms[nearest] + 1 - hits[nearest]) / 2, abs=5e-3)
    assert 0.1 < found.equal_error_rate < 0.4


@pytest.mark.slow
def test_drawn_pairs_estimate_what_all_pairs_say() -> None:
    rng = drawn_by(4)
    speakers = rng.integers(40, size=1500)
    vectors = (rng.normal(size=(40, 6))[speakers] + rng.normal(size=(1500, 6))).astype(np.float32)
    everything, some = (
        score_verification(vectors, speakers.tolist(), drawn_by(0), most) for most in (2_000_000, 50_000)
    )
    assert everything is not None
    assert some is not None
    assert everything.num_same + everything.num_different == everything.num_possible == 1500 * 1499 // 2
    assert some.num_same + some.num_different == 50_000
    assert some.equal_error_rate == pytest.approx(everything.equal_error_rate, abs=0.01)


def test_without_both_kinds_of_pairs_there_is_no_score() -> None:
    vectors = np.eye(3, dtype=np.float32)
    assert score_verification(vectors, ["anna"] * 3, drawn_by(0)) is None
    assert score_verification(vectors, ["anna", "ben", "carl"], drawn_by(0)) is None
    assert score_verification(vectors[:1], ["anna"], drawn_by(0)) is None

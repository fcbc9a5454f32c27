"""Nearest vectors: exact beside scikit-learn and plain float64, ties by row; how much the approximate search finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from serein import nearest
from serein.errors import MissingExtraError, ModelError
from serein.nearest import ExactIndex, FaissIndex, recall, write_faiss

DRAWN = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
PRECISIONS = pytest.mark.parametrize("in_bfloat16", [False, True], ids=["float32", "bfloat16"])


def by_float64(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and cosines by the formula, equal ones in their order."""
    unit = vectors / np.maximum(np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True), 1e-300)
    cosines = (queries / np.linalg.norm(queries, axis=1, keepdims=True) @ unit.T).round(12)
    rows = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(cosines, rows, 1)


# -- Euclidean -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1000.0], ids=["centred", "far from zero"])
def test_distances_are_those_of_scikit_learn(offset: float) -> None:
    """Far from zero, products in float32 alone would confuse the neighbours."""
    vectors = DRAWN + np.float32(offset)
    theirs = NearestNeighbors(n_neighbors=9, algorithm="brute").fit(vectors.astype(np.float64))
    distances, rows = theirs.kneighbors(vectors[:50].astype(np.float64))
    rows_found, found = ExactIndex(vectors).search(vectors[:50], 9)
    assert found == pytest.approx(np.linalg.norm(vectors[rows].astype(np.float64) - vectors[:50, None], axis=2))
    assert (found[:, 0] == 0).all()
    assert offset or rows_found.tolist() == rows.tolist()
    assert offset or found == pytest.approx(distances, abs=1e-6)


def test_of_equally_near_vectors_the_first() -> None:
    vectors = np.repeat(DRAWN[:3], 5, axis=0)
    assert ExactIndex(vectors).search(DRAWN[1:2], 4)[0].tolist() == [[5, 6, 7, 8]]
    assert ExactIndex(vectors, "cosine").search(7 * DRAWN[1:2], 4)[0].tolist() == [[5, 6, 7, 8]]
    assert ExactIndex(np.float32([[1], [-1], [1], [5]])).search(np.zeros((1, 1)), 3)[0].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_blocks_change_nothing(metric: nearest.Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, values = ExactIndex(DRAWN, metric).search(DRAWN, 5)
    for name, size in {"FIRST_ROWS": 8, "SCORES_AT_ONCE": 500, "QUERIES_AT_ONCE": 7, "PAIRS_AT_ONCE": 3}.items():
        monkeypatch.setattr(nearest, name, size)
    in_blocks = ExactIndex(DRAWN, metric).search(DRAWN, 5)
    np.testing.assert_array_equal(in_blocks[0], rows)
    np.testing.assert_array_equal(in_blocks[1], values)


def test_as_many_as_there_are_and_none_asked() -> None:
    rows, _ = ExactIndex(DRAWN).search(DRAWN[:2], 300)
    assert [sorted(row) for row in rows.tolist()] == [list(range(300))] * 2
    assert [part.shape for part in ExactIndex(DRAWN).search(DRAWN[:0], 3)] == [(0, 3), (0, 3)]


# -- cosine ----------------------------------------------------------------------------------------------------------


@PRECISIONS
@pytest.mark.parametrize("num_vectors", [7, 1500, 9000])
@pytest.mark.parametrize("k", [1, 7])
def test_cosines_are_exact(num_vectors: int, k: int, in_bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "multiplies_bfloat16", lambda: in_bfloat16)
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((num_vectors, 20)) * rng.lognormal(size=(num_vectors, 1))).astype(np.float32)
    queries = np.concatenate([rng.standard_normal((30, 20)), vectors[:5] * 1e-9, vectors[:5] * 1e9])
    rows, cosines = ExactIndex(vectors, "cosine").search(queries, k)
    expected_rows, expected = by_float64(vectors, queries, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(cosines, expected, atol=1e-11)


@PRECISIONS
def test_vectors_alike_to_the_last_digits_are_told_apart(in_bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "multiplies_bfloat16", lambda: in_bfloat16)
    rng = np.random.default_rng(0)
    vectors = (1 + 1e-4 * rng.standard_normal((4000, 8))).astype(np.float32)
    queries = 1 + 1e-4 * rng.standard_normal((40, 8))
    np.testing.assert_array_equal(
        ExactIndex(vectors, "cosine").search(queries, 5)[0], by_float64(vectors, queries, 5)[0]
    )


@PRECISIONS
def test_extreme_vectors_keep_their_place(in_bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of float32 would overflow, or vanish."""
    monkeypatch.setattr(nearest, "multiplies_bfloat16", lambda: in_bfloat16)
    vectors = np.random.default_rng(0).standard_normal((3000, 4)).astype(np.float32)
    vectors[5], vectors[2500] = [3e38, 3e38, 0, 0], [0, 1e-42, 0, 0]
    queries = np.repeat([[1e300, 1e300, 0, 0], [0, 1, 0, 0]], 20, axis=0)
    rows, cosines = ExactIndex(vectors, "cosine").search(queries, 1)
    assert (rows[:20] == 5).all()
    assert (rows[20:] == 2500).all()
    np.testing.assert_allclose(cosines, 1)


def test_zeros_are_near_to_nothing() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), 1000, axis=0)
    vectors[0] = 0
    rows, cosines = ExactIndex(vectors, "cosine").search(np.array([[0, 0, 1.0], [0, 0, 0], [-1, -1, -1]]), 3)
    assert rows.tolist() == [[2000, 2001, 2002], [0, 1, 2], [0, 1, 2]]
    assert cosines[:2].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert cosines[2] == pytest.approx([0, -(3**-0.5), -(3**-0.5)])


def test_float16_and_known_norms() -> None:
    halves = DRAWN.astype(np.float16)
    expected = by_float64(halves.astype(np.float64), DRAWN, 3)[0]
    np.testing.assert_array_equal(ExactIndex(halves, "cosine").search(DRAWN, 3)[0], expected)
    norms = np.linalg.norm(halves.astype(np.float64), axis=1)
    np.testing.assert_array_equal(ExactIndex(halves, "cosine", norms).search(DRAWN, 3)[0], expected)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_rounding_is_bounded(precision: torch.dtype) -> None:
    """Scores differ from cosines by no more than is said."""
    vectors = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
    queries = nearest.normalise(vectors[:100] + 0.1)
    exact = queries @ nearest.normalise(vectors).T
    scores = ExactIndex(vectors, "cosine")._scores(torch.from_numpy(queries).to(precision), slice(0, 500))
    assert np.abs(scores.float().numpy() - exact).max() <= nearest.relative_rounding(64, precision == torch.bfloat16)


# -- faiss -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clustered() -> np.ndarray:
    """4,000 vectors around 8 centres, as classes are."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(8, 16))
    vectors: np.ndarray = (centres[rng.integers(0, 8, 4000)] + 0.5 * rng.normal(size=(4000, 16))).astype(np.float32)
    return vectors


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_it_finds_as_much_as_it_says(metric: nearest.Metric, clustered: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    exact = ExactIndex(clustered, metric)
    assert write_faiss(exact, tmp_path / "index.faiss", np.random.default_rng(0)) >= nearest.WANTED_RECALL
    queries = clustered[:100] + np.float32(0.05)
    rows, values = FaissIndex(tmp_path / "index.faiss", exact).search(queries, 8)
    truth, expected = exact.search(queries, 8)
    assert recall(truth, rows) >= 0.95
    is_same = rows == truth
    np.testing.assert_array_equal(values[is_same], expected[is_same])
    assert (np.diff(values, axis=1) * (1 if metric == "euclidean" else -1) >= 0).all()


def test_asked_for_more_than_the_lists_hold(clustered: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    exact = ExactIndex(clustered)
    write_faiss(exact, tmp_path / "index.faiss", np.random.default_rng(0))
    index = FaissIndex(tmp_path / "index.faiss", exact)
    index.lists.nprobe = 1
    rows, _ = index.search(clustered[:2], 3000)
    assert [len(set(row)) for row in rows.tolist()] == [3000, 3000]


def test_few_vectors(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    exact = ExactIndex(np.eye(3, dtype=np.float32))
    assert write_faiss(exact, tmp_path / "index.faiss", np.random.default_rng(0)) == 1.0
    assert FaissIndex(tmp_path / "index.faiss", exact).search(exact.vectors, 1)[0].tolist() == [[0], [1], [2]]


def test_damaged_or_of_other_vectors(clustered: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    path = tmp_path / "index.faiss"
    path.write_bytes(b"no index")
    with pytest.raises(ModelError, match="is damaged"):
        FaissIndex(path, ExactIndex(clustered))
    write_faiss(ExactIndex(clustered), path, np.random.default_rng(0))
    with pytest.raises(ModelError, match="contains other vectors"):
        FaissIndex(path, ExactIndex(clustered[:-1]))


def test_without_faiss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serein\[search\]'"):
        write_faiss(ExactIndex(DRAWN), tmp_path / "index.faiss", np.random.default_rng(0))

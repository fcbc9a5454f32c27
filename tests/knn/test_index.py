"""The approximate search: how much it finds, and that what it finds has exact distances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serein.errors import MissingExtraError, ModelError
from serein.knn import index as neighbour_index
from serein.knn.index import FaissIndex, recall_of, write_index
from serein.knn.interpolation import exact

pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def clustered() -> np.ndarray:
    """4,000 vectors around 8 centres, as classes are."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(8, 16))
    vectors: np.ndarray = (centres[rng.integers(0, 8, 4000)] + 0.5 * rng.normal(size=(4000, 16))).astype(np.float32)
    return vectors


def test_recall_by_hand() -> None:
    assert recall_of(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [3, 5]])) == 0.75


def test_it_finds_as_much_as_it_says(clustered: np.ndarray, tmp_path: Path) -> None:
    num_probed, recall = write_index(clustered, tmp_path / "index.faiss", np.random.default_rng(0))
    assert recall >= neighbour_index.WANTED_RECALL
    index = FaissIndex(tmp_path / "index.faiss", clustered, num_probed)
    queries = clustered[:100] + np.float32(0.05)
    rows, distances = index(queries, 8)
    assert recall_of(rows, exact(clustered, queries, 8)[0]) >= 0.95
    assert distances == pytest.approx(np.linalg.norm(clustered[rows].astype(float) - queries[:, None], axis=2))
    assert (np.diff(distances, axis=1) >= 0).all()


def test_asked_for_more_than_the_lists_hold(clustered: np.ndarray, tmp_path: Path) -> None:
    write_index(clustered, tmp_path / "index.faiss", np.random.default_rng(0))
    rows, _ = FaissIndex(tmp_path / "index.faiss", clustered, 1)(clustered[:2], 3000)
    assert [len(set(row)) for row in rows.tolist()] == [3000, 3000]


def test_few_vectors(tmp_path: Path) -> None:
    vectors = np.eye(3, dtype=np.float32)
    num_probed, recall = write_index(vectors, tmp_path / "index.faiss", np.random.default_rng(0))
    assert (num_probed, recall) == (1, 1.0)
    assert FaissIndex(tmp_path / "index.faiss", vectors, num_probed)(vectors, 1)[0].tolist() == [[0], [1], [2]]


def test_damaged_or_of_others(clustered: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    path.write_bytes(b"no index")
    with pytest.raises(ModelError, match="damaged"):
        FaissIndex(path, clustered, 1)
    write_index(clustered, path, np.random.default_rng(0))
    with pytest.raises(ModelError, match="is of other vectors"):
        FaissIndex(path, clustered[:-1], 1)


def test_without_faiss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serein\[search\]'"):
        write_index(np.eye(3, dtype=np.float32), tmp_path / "index.faiss", np.random.default_rng(0))

"""Approximate search among many vectors: an inverted file of faiss, its nearest measured again in full."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from serein.errors import MissingExtraError, ModelError
from serein.knn.interpolation import Numbers, Vectors, exact, sorted_nearest
from serein.metrics import FloatArray

RECALL_AT = 8
WANTED_RECALL = 0.98

_POINTS_PER_LIST = 39  # what faiss asks for
_MOST_LISTS = 2048
_CANDIDATES = 4  # times k, because 8-bit vectors are a little off
_NUM_QUERIES = 200
_ROWS_AT_ONCE = 1 << 15


class FaissIndex:
    """A search of an index file.

    Args:
        path: What `write_index` wrote; it is mapped into memory.
        vectors: (vector, feature), in full.
        num_probed: Lists to look through.

    Raises:
        MissingExtraError: faiss is not installed.
        ModelError: The file is damaged, or of other vectors.
    """

    def __init__(self, path: Path, vectors: Vectors, num_probed: int) -> None:
        faiss = require_faiss()
        try:
            self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        except RuntimeError:
            raise ModelError("damaged", where=path, remedy="Build the store again.") from None
        if (self._index.ntotal, self._index.d) != vectors.shape:
            raise ModelError("is of other vectors", where=path, remedy="Build the store again.")
        self._index.nprobe = num_probed
        self._vectors = vectors

    def __call__(self, queries: Vectors, k: int) -> tuple[Numbers, FloatArray]:
        """Return about the k nearest rows, and their exact distances, both (query, k), nearest first."""
        return _searched(self._index, self._vectors, np.ascontiguousarray(queries, np.float32), k)


def require_faiss() -> Any:
    """Return the package faiss, or raise MissingExtraError."""
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        raise MissingExtraError("faiss-cpu", "search") from error


def write_index(vectors: Vectors, path: Path, rng: np.random.Generator) -> tuple[int, float]:
    """Write an inverted file of 8-bit vectors, and find how many of its lists must be looked through.

    Args:
        rng: Draws the vectors that the lists are made from, and those that are asked for.

    Returns:
        The number of lists, the least power of two that reaches `WANTED_RECALL`, and the share that it finds of the 8
        nearest other vectors of some 200.

    Raises:
        MissingExtraError: faiss is not installed.
        ModelError: The file cannot be written.
    """
    faiss = require_faiss()
    num, size = vectors.shape
    num_lists = max(1, min(int(4 * num**0.5), num // _POINTS_PER_LIST, _MOST_LISTS))
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatL2(size), size, num_lists, faiss.ScalarQuantizer.QT_8bit)
    chosen = np.sort(rng.choice(num, min(num, num_lists * _POINTS_PER_LIST), replace=False))
    index.train(vectors[chosen])
    for start in range(0, num, _ROWS_AT_ONCE):
        index.add(np.ascontiguousarray(vectors[start : start + _ROWS_AT_ONCE]))
    asked = np.sort(rng.choice(num, min(num, _NUM_QUERIES), replace=False))
    num_probed, recall = _probed(index, vectors, vectors[asked], num_lists)
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # faiss's word for a full disk
        raise ModelError("the index cannot be written", where=path, remedy="Make room on the disk.") from error
    return num_probed, recall


def _probed(index: Any, vectors: Vectors, queries: Vectors, num_lists: int) -> tuple[int, float]:
    k = min(RECALL_AT + 1, len(vectors))
    truth = exact(vectors, queries, k)[0][:, 1:]  # the first is the query itself
    num_probed = 1
    while (recall := _recall(index, vectors, queries, truth, num_probed)) < WANTED_RECALL and num_probed < num_lists:
        num_probed = min(2 * num_probed, num_lists)
    return num_probed, recall


def _recall(index: Any, vectors: Vectors, queries: Vectors, truth: Numbers, num_probed: int) -> float:
    index.nprobe = num_probed
    return recall_of(_searched(index, vectors, queries, truth.shape[1] + 1)[0][:, 1:], truth)


def recall_of(found: Numbers, truth: Numbers) -> float:
    """Return the share of the true neighbours that were found; both (query, k)."""
    return float((truth[:, :, None] == found[:, None, :]).any(axis=2).mean())


def _searched(index: Any, vectors: Vectors, queries: Vectors, k: int) -> tuple[Numbers, FloatArray]:
    candidates = index.search(queries, min(_CANDIDATES * k, len(vectors)))[1]
    rows, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
    for number, (query, some) in enumerate(zip(queries, candidates, strict=True)):
        known = some[some >= 0]  # lists looked through may hold fewer
        if len(known) < k:
            (rows[number],), (distances[number],) = exact(vectors, query[None], k)
        else:
            rows[number], distances[number] = sorted_nearest(vectors, query, known, k)
    return rows, distances

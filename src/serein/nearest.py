"""Nearest-neighbour search: exact, block by block of an array that may be memory-mapped; or approximate, with faiss.

Both indexes select candidates with fast products and compare those in float64, so the distances are exact, and equally
near vectors keep their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serein.data.files import replacing
from serein.errors import ModelError, imported

Metric = Literal["euclidean", "cosine"]
Rows = NDArray[np.int64]
Values = NDArray[np.float64]

QUERIES_AT_ONCE = 1024
ROWS_AT_ONCE = 1 << 15
FIRST_ROWS, GROWTH = 1 << 11, 8  # of blocks: small ones first, for an early threshold and few candidates
SCORES_AT_ONCE = 1 << 21
PAIRS_AT_ONCE = 1 << 14
BFLOAT16_FROM = 32  # queries; for fewer, memory is the bottleneck, not the products
MAX_NORM = 1e15  # above it, or below its inverse, float32 may overflow: such vectors are always candidates

RECALL_AT, WANTED_RECALL = 8, 0.98
FAISS_POINTS_PER_LIST = 39  # that faiss requires to train a list
FAISS_MAX_LISTS = 2048
FAISS_CANDIDATES = 4  # times k, because 8-bit vectors are slightly inaccurate
FAISS_NUM_QUERIES = 200


@dataclass(eq=False)
class ExactIndex:
    """Exact search through all vectors.

    Attributes:
        vectors: (vector, feature) float32 or float16.
        metric: `euclidean`: the smallest distance is nearest; `cosine`: the greatest; a zero vector has cosine 0.
        known_norms: (vector,) float64, Euclidean norms, if they are known.

    Example:
        >>> rows, distances = ExactIndex(np.float32([[0, 0], [3, 4], [0, 1]])).search(np.zeros((1, 2)), k=2)
        >>> rows.tolist(), distances.tolist()
        ([[0, 2]], [[0.0, 1.0]])
    """

    vectors: NDArray[Any]
    metric: Metric = "euclidean"
    known_norms: Values | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    @cached_property
    def norms(self) -> Values:
        """(vector,) Euclidean norms."""
        if self.known_norms is not None:
            return self.known_norms
        blocks = [self.vectors[start : start + ROWS_AT_ONCE] for start in range(0, len(self), ROWS_AT_ONCE)]
        squares = [np.einsum("ij,ij->i", block, block, dtype=np.float64) for block in blocks]
        return np.asarray(np.sqrt(np.concatenate(squares)))

    @cached_property
    def _terms(self) -> NDArray[np.float32]:
        """(vector,) terms that turn products into scores, see `_search`; NaN where float32 may overflow."""
        is_extreme = (self.norms > MAX_NORM) | ((self.norms < 1 / MAX_NORM) & (self.norms > 0))
        norms = np.where(is_extreme, np.nan, self.norms)
        terms = norms**2 / 2 if self.metric == "euclidean" else 1 / np.where(norms == 0, 1.0, norms)
        return terms.astype(np.float32)

    def search(self, queries: NDArray[Any], k: int) -> tuple[Rows, Values]:
        """Return the k nearest rows of each query and their distances or cosines, both (query, k), nearest first.

        Args:
            queries: (query, feature), finite.
            k: 1 to the number of vectors.
        """
        queries = normalise(queries) if self.metric == "cosine" else np.ascontiguousarray(queries, np.float32)
        rows, similarities = np.zeros((len(queries), k), np.int64), np.full((len(queries), k), -np.inf)
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            some = slice(start, start + QUERIES_AT_ONCE)
            self._search(queries[some], rows[some], similarities[some])
        return rows, similarities if self.metric == "cosine" else -similarities

    def _search(self, queries: NDArray[Any], best_rows: Rows, best: Values) -> None:
        """Fill in the k nearest rows and their similarities, both (query, k): cosines, or negative distances.

        A vector's score is its cosine, or its product with the query minus half its squared norm, in float32. It is a
        candidate unless its score is below that of the k-th nearest so far by more than rounding can explain.
        """
        k, is_cosine = best.shape[1], self.metric == "cosine"
        in_bfloat16 = is_cosine and len(queries) >= BFLOAT16_FROM and multiplies_bfloat16()
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
        longest = 1.0 if is_cosine else float(self.norms.max())
        reach = lengths if is_cosine else lengths * longest + longest**2
        rounding = reach * relative_rounding(queries.shape[1], in_bfloat16)
        most = SCORES_AT_ONCE // len(queries)
        if self.vectors.dtype != np.float32:  # converted block by block
            most = min(most, ROWS_AT_ONCE)
        quick = torch.from_numpy(queries.astype(np.float32))
        quick = quick.bfloat16() if in_bfloat16 else quick
        start = 0
        while start < len(self):
            block = slice(start, start + max(FIRST_ROWS, k, min(GROWTH * start, most)))
            scores = self._scores(quick, block)
            kth = best[:, -1] if is_cosine else (lengths**2 - best[:, -1] ** 2) / 2
            threshold = (kth - rounding).astype(np.float32)
            if start == 0:
                kth = np.partition(scores.float().numpy(), -k, axis=1)[:, -k]
                threshold = np.nextafter((kth - 2 * rounding).astype(np.float32), -np.inf, dtype=np.float32)
            query, row = above(scores, threshold)
            if in_bfloat16 and len(row) * 8 > scores.numel():  # the vectors are too similar for 8 bits
                in_bfloat16, quick = False, torch.from_numpy(queries.astype(np.float32))
                rounding = reach * relative_rounding(queries.shape[1], in_bfloat16)
                continue
            row += start
            for i in range(0, len(row), PAIRS_AT_ONCE):
                pairs = query[i : i + PAIRS_AT_ONCE], row[i : i + PAIRS_AT_ONCE]
                keep_best(best_rows, best, *pairs, self.similarities(queries[pairs[0]], pairs[1]))
            start = block.stop

    def _scores(self, queries: Tensor, block: slice) -> Tensor:
        """Return the scores that `_search` compares, (query, vector), in the precision of the queries."""
        vectors, terms = self.vectors[block].astype(np.float32, copy=False), self._terms[block]
        if queries.dtype == torch.bfloat16:
            directions = torch.from_numpy(np.require(vectors, requirements="W")) * torch.from_numpy(terms)[:, None]
            return queries @ directions.bfloat16().T
        with np.errstate(over="ignore", invalid="ignore"):  # extreme vectors are candidates in any case
            scores = queries.numpy() @ vectors.T  # not with torch, which may be set to multiply in bfloat16
        apply = np.multiply if self.metric == "cosine" else np.subtract
        return torch.from_numpy(apply(scores, terms, out=scores))

    def similarities(self, queries: NDArray[Any], rows: Rows) -> Values:
        """Return (pair,) cosines, or negative distances, of queries, (pair, feature), and rows, (pair,), in float64.

        Cosines, for queries of length 1, are rounded so that they do not depend on the order of summation, and equal
        vectors are equally near.
        """
        if self.metric == "euclidean":
            distances: Values = np.sqrt(np.square(self.vectors[rows].astype(np.float64) - queries).sum(axis=1))
            return -distances
        norms = self.norms[rows]
        cosines = np.einsum("ij,ij->i", self.vectors[rows], queries, dtype=np.float64) / np.where(norms > 0, norms, 1.0)
        return np.asarray(np.clip(cosines.round(12), -1.0, 1.0))


def normalise(vectors: NDArray[Any]) -> Values:
    """Return (row, feature) vectors with length 1, in float64; zero vectors are kept, large numbers do not overflow."""
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    scaled = vectors / np.where(largest > 0, largest, 1.0).astype(np.float64)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    directions: Values = scaled / np.where(lengths > 0, lengths, 1.0)
    return directions


def above(scores: Tensor, threshold: NDArray[np.float32]) -> tuple[Rows, Rows]:
    """Return queries and vectors of the scores, (query, vector), that exceed the query's threshold or are NaN."""
    if scores.dtype == torch.float32:
        query, vector = np.divmod(np.flatnonzero(~(scores.numpy() <= threshold[:, None])), scores.shape[1])
        return query, vector
    asked = np.flatnonzero(~(scores.amax(dim=1).float().numpy() <= threshold))  # few; the others are not converted
    place, vector = above(scores[asked].float(), threshold[asked])
    return asked[place], vector


def multiplies_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 matrices in hardware, several times as fast as float32."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def relative_rounding(num_features: int, in_bfloat16: bool) -> float:
    """Return the maximum error of a score, relative to the norms of query and vector (Cauchy-Schwarz).

    float32 rounds each sum and product by 2^-24, bfloat16 both factors and the result by 2^-8.
    """
    return 2.0**-23 * (num_features + 8) + (3.1 * 2.0**-8 if in_bfloat16 else 0.0)


def keep_best(best_rows: Rows, best: Values, query: Rows, rows: Rows, similarities: Values) -> None:
    """Update the k nearest rows so far and their similarities, both (query, k), with pairs, (pair,), in place."""
    k = best.shape[1]
    asked, number = np.unique(query, return_inverse=True)
    numbers = np.concatenate([np.repeat(np.arange(len(asked)), k), number])
    all_rows = np.concatenate([best_rows[asked].ravel(), rows])
    all_similarities = np.concatenate([best[asked].ravel(), similarities])
    order = np.lexsort((all_rows, -all_similarities, numbers))
    rank = np.arange(len(order)) - np.searchsorted(numbers[order], numbers[order])
    kept = order[rank < k]
    best_rows[asked] = all_rows[kept].reshape(-1, k)
    best[asked] = all_similarities[kept].reshape(-1, k)


class FaissIndex:
    """Approximate search in a memory-mapped inverted file of 8-bit vectors.

    Args:
        path: File written by `write_faiss`.
        exact: Exact index of the same vectors.

    Raises:
        MissingExtraError: faiss is not installed.
        ModelError: The file is damaged, or contains other vectors.
    """

    def __init__(self, path: Path, exact: ExactIndex) -> None:
        faiss = imported("faiss", "search")
        try:
            self.lists = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        except RuntimeError:
            raise ModelError("is damaged", where=path, remedy="Delete it and build it again.") from None
        if (self.lists.ntotal, self.lists.d) != exact.vectors.shape:
            raise ModelError("contains other vectors", where=path, remedy="Delete it and build it again.")
        self.exact = exact

    def search(self, queries: NDArray[Any], k: int) -> tuple[Rows, Values]:
        """Return roughly the k nearest rows of each query, with exact distances or cosines; see `ExactIndex.search`.

        Queries whose lists contain fewer than k vectors are searched exactly.
        """
        return searched(self.lists, self.exact, queries, k)


def searched(lists: Any, exact: ExactIndex, queries: NDArray[Any], k: int) -> tuple[Rows, Values]:
    """Return the k nearest of the 4 k rows that faiss finds near each query, compared in float64: both (query, k)."""
    queries = normalise(queries) if exact.metric == "cosine" else np.ascontiguousarray(queries, np.float32)
    candidates = lists.search(queries.astype(np.float32), min(FAISS_CANDIDATES * k, len(exact)))[1].astype(np.int64)
    rows, best = np.zeros((len(queries), k), np.int64), np.full((len(queries), k), -np.inf)
    query, place = np.nonzero(candidates >= 0)
    for start in range(0, len(query), PAIRS_AT_ONCE):
        some = query[start : start + PAIRS_AT_ONCE]
        found = candidates[some, place[start : start + PAIRS_AT_ONCE]]
        keep_best(rows, best, some, found, exact.similarities(queries[some], found))
    values = best if exact.metric == "cosine" else -best
    is_short = np.isinf(best).any(axis=1)
    if is_short.any():
        rows[is_short], values[is_short] = exact.search(queries[is_short], k)
    return rows, values


def write_faiss(exact: ExactIndex, path: Path, rng: np.random.Generator) -> float:
    """Write an inverted file that is searched in the smallest power of two of its lists that reaches `WANTED_RECALL`.

    Args:
        rng: Draws the vectors that the lists are trained on, and the queries.

    Returns:
        Its recall: the fraction that it finds of the 8 nearest other vectors of some 200 queries.

    Raises:
        MissingExtraError: faiss is not installed.
        ModelError: The file cannot be written.
    """
    faiss = imported("faiss", "search")
    num, size = exact.vectors.shape

    def vectors(rows: Any) -> NDArray[np.float32]:
        block = exact.vectors[rows]
        return np.ascontiguousarray(normalise(block) if exact.metric == "cosine" else block, np.float32)

    num_lists = max(1, min(int(4 * num**0.5), num // FAISS_POINTS_PER_LIST, FAISS_MAX_LISTS))
    lists = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatL2(size), size, num_lists, faiss.ScalarQuantizer.QT_8bit)
    lists.train(vectors(np.sort(rng.choice(num, min(num, num_lists * FAISS_POINTS_PER_LIST), replace=False))))
    for start in range(0, num, ROWS_AT_ONCE):
        lists.add(vectors(slice(start, start + ROWS_AT_ONCE)))
    queries = vectors(np.sort(rng.choice(num, min(num, FAISS_NUM_QUERIES), replace=False)))
    k = min(RECALL_AT + 1, num)
    truth = exact.search(queries, k)[0][:, 1:]  # the first is the query itself
    while (found := recall(truth, searched(lists, exact, queries, k)[0][:, 1:])) < WANTED_RECALL:
        if lists.nprobe >= num_lists:
            break
        lists.nprobe = min(2 * lists.nprobe, num_lists)
    try:
        with replacing(path) as partial:
            faiss.write_index(lists, str(partial))
    except (OSError, RuntimeError) as error:  # RuntimeError: the disk is full
        raise ModelError("the index cannot be written", where=path, remedy="Make room on the disk.") from error
    return found


def recall(truth: Rows, found: Rows) -> float:
    """Return the fraction of the true neighbours that were found; both (query, k).

    Example:
        >>> recall(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [3, 5]]))
        0.75
    """
    return float((truth[:, :, None] == found[:, None, :]).any(axis=2).mean())

"""The nearest of millions of vectors: exactly, by a first look at 8-bit codes that can miss nothing; or through faiss.

The exact search multiplies 8-bit codes as whole numbers, which is several times as fast as float32. By Cauchy and
Schwarz a cosine differs from its codes' product by at most |query| |word - code| + |query - code| |code|; whatever may
still be among the k nearest by this bound is computed in float64 from the vectors themselves.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serein.data.files import replacing
from serein.errors import MissingExtraError, VocabularyError, expected_one_of
from serein.labels.stored_words import StoredWords
from serein.labels.vocabulary_files import CODE_MAX, GROUP, ROUNDING

BLOCK_GROUPS = 128
FIRST_ROWS = 16 * GROUP  # compared in full, so that there are k to beat
QUERIES_AT_ONCE = 1024
PAIRS_AT_ONCE = 1 << 14
PAIRS_HELD = 1 << 12  # before they compete; until then the cosine to beat stays where it was
FIRST_NUMBERS = 1 << 23
FAISS_FILE = "ivf.faiss"
FAISS_POINTS_PER_LIST = 64  # to train on
FAISS_CANDIDATES = 4  # times k, compared again in full

Rows = NDArray[np.int64]
Cosines = NDArray[np.float64]
Pairs = list[tuple[Rows, Rows]]
Multiply = Callable[[Tensor], Tensor]


def exact(vocabulary: StoredWords, queries: NDArray[np.float64], k: int) -> tuple[Rows, Cosines]:
    """Return the k rows of the greatest cosine to each query, greatest first, equal ones in their order.

    Args:
        queries: (query, size), of length 1 or zeros.
        k: At most as many as there are words.

    Returns:
        Rows and cosines, both (query, k).
    """
    parts = [
        _exact(vocabulary, queries[start : start + QUERIES_AT_ONCE], k)
        for start in range(0, len(queries), QUERIES_AT_ONCE)
    ]
    rows, cosines = zip(*parts, strict=True)
    return np.concatenate(rows), np.concatenate(cosines)


def _exact(vocabulary: StoredWords, queries: NDArray[np.float64], k: int) -> tuple[Rows, Cosines]:
    code_rows = vocabulary.array("code_rows")
    num_first = min(-(-max(FIRST_ROWS, k + GROUP) // GROUP) * GROUP, len(code_rows))
    best = _Best(*_of_rows(vocabulary, queries, np.sort(code_rows[:num_first].astype(np.int64)), k))
    scanner = _Scanner(vocabulary, queries)
    blocks = _blocks(num_first // GROUP, len(code_rows) // GROUP)
    lock = Lock()

    def work() -> None:
        held: Pairs = []
        multiply = scanner.multiplication()
        while block := _next(blocks, lock):
            held.append(scanner.candidates(*block, best.least, multiply))
            if sum(len(positions) for positions, _ in held) >= PAIRS_HELD:
                _compete(vocabulary, queries, best, held, lock)
                held = []
        if held:
            _compete(vocabulary, queries, best, held, lock)

    _in_threads(work)
    return best.rows, best.cosines


def _in_threads(work: Callable[[], None]) -> None:
    """Run `work` in as many threads as torch has, each computing alone: nobody waits for the slowest of every block."""
    num_threads = torch.get_num_threads()
    if num_threads == 1:
        return work()
    try:
        with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for done in [pool.submit(work) for _ in range(num_threads)]:
                done.result()
    finally:
        torch.set_num_threads(num_threads)


def _next(blocks: Iterator[tuple[int, int]], lock: Lock) -> tuple[int, int] | None:
    with lock:
        return next(blocks, None)


def _blocks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield stretches that at most double what was seen, so that soon there is much to beat."""
    while start < end:
        stop = min(start + min(max(start, 1), BLOCK_GROUPS), end)
        yield start, stop
        start = stop


def _compete(vocabulary: StoredWords, queries: NDArray[np.float64], best: _Best, pairs: Pairs, lock: Lock) -> None:
    """Compute the cosines of pairs of a position among the codes and a query, and keep the nearest."""
    positions, of_query = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    rows = vocabulary.array("code_rows")[positions].astype(np.int64)
    is_word = rows < len(vocabulary)
    rows, of_query = rows[is_word], of_query[is_word]
    if len(rows):
        cosines = _cosines(vocabulary, queries, rows, of_query)
        with lock:
            best.add(of_query, rows, cosines)


def _of_rows(vocabulary: StoredWords, queries: NDArray[np.float64], rows: Rows, k: int) -> tuple[Rows, Cosines]:
    """Compare queries with some rows in full and return the k nearest."""
    rows = rows[rows < len(vocabulary)]
    vectors = vocabulary.array("vectors")[rows].astype(np.float64)
    vectors /= _lengths(vocabulary, rows)[:, None]
    found = []
    num_at_once = max(1, FIRST_NUMBERS // len(rows))
    for start in range(0, len(queries), num_at_once):
        cosines = _multiplied(vectors, queries[start : start + num_at_once])
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        found.append((rows[order], np.take_along_axis(cosines, order, axis=1)))
    return np.concatenate([rows for rows, _ in found]), np.concatenate([cosines for _, cosines in found])


class _Best:
    """The k nearest rows so far of each query.

    Args:
        rows: (query, k).
        cosines: (query, k), greatest first.
    """

    def __init__(self, rows: Rows, cosines: Cosines) -> None:
        self.rows, self.cosines = rows, cosines

    @property
    def least(self) -> Cosines:
        """(query,) the cosine to beat."""
        return self.cosines[:, -1]

    def add(self, of_query: Rows, rows: Rows, cosines: Cosines) -> None:
        """Let pairs of a query and a row compete with the k nearest so far; all three are (pair,)."""
        queries, number = np.unique(of_query, return_inverse=True)
        k = self.rows.shape[1]
        all_numbers = np.concatenate([np.repeat(np.arange(len(queries)), k), number])
        all_rows = np.concatenate([self.rows[queries].ravel(), rows])
        all_cosines = np.concatenate([self.cosines[queries].ravel(), cosines])
        order = np.lexsort((all_rows, -all_cosines, all_numbers))
        ordered = all_numbers[order]
        rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
        kept = order[rank < k]
        self.rows[queries] = all_rows[kept].reshape(-1, k)
        self.cosines[queries] = all_cosines[kept].reshape(-1, k)  # read meanwhile, any mix of old and new is a bound


class _Scanner:
    """Goes through the codes in blocks and says which rows may be nearer to which query than a given cosine."""

    def __init__(self, vocabulary: StoredWords, queries: NDArray[np.float64]) -> None:
        self.codes = vocabulary.array("codes")
        self.scales = torch.from_numpy(np.array(vocabulary.array("code_scales")))
        self.errors = torch.from_numpy(np.array(vocabulary.array("code_errors")))
        largest = np.abs(queries).max(axis=1)
        scales = np.where(largest > 0, largest / CODE_MAX, 1.0)
        codes = np.rint(queries / scales[:, None])
        missed = np.linalg.norm(queries - codes * scales[:, None], axis=1)
        self.query_scales = torch.from_numpy(scales.astype(np.float32))
        self.query_errors = torch.from_numpy((missed + ROUNDING).astype(np.float32))
        self.is_zero = torch.from_numpy(largest == 0)
        self.query_codes = torch.from_numpy(np.ascontiguousarray(codes.T.astype(np.int8)))

    def multiplication(self) -> Multiply:
        """Return a multiplication by the queries' codes, for one thread: it has memory of its own."""
        return _multiplication(self.query_codes)

    def candidates(self, start: int, stop: int, least: Cosines, multiply: Multiply) -> tuple[Rows, Rows]:
        """Return positions among the codes, and the query of each, in the groups from `start` to before `stop`.

        Args:
            start: A group.
            stop: A later group, at most `BLOCK_GROUPS` later.
            least: (query,) the cosine to beat.
            multiply: This thread's.
        """
        groups = slice(start, stop)
        codes = torch.from_numpy(np.array(self.codes[start * GROUP : stop * GROUP]))
        products = multiply(codes).view(-1, GROUP, len(self.query_scales))
        scales, errors = self.scales[groups, None], self.errors[groups, None]
        room = errors + self.query_errors * (1 + errors)
        wanted = (torch.from_numpy(least).float() - ROUNDING - room) / (scales * self.query_scales)
        wanted.masked_fill_(self.is_zero, torch.inf)  # nothing is nearer to nothing
        group, query = (products.amax(1) >= wanted).nonzero(as_tuple=True)
        hit, row = (products[group, :, query] >= wanted[group, query, None]).nonzero(as_tuple=True)
        return ((group[hit] + start) * GROUP + row).numpy(), query[hit].numpy()


def _multiplication(query_codes: Tensor) -> Multiply:
    """Return what multiplies (row, size) codes by (size, query): whole numbers below 2^24, exact in float32 as well.

    The product of 8-bit matrices is fast where the processor has an instruction for it, and a plain loop elsewhere.
    """
    if _multiplies_bytes():
        products = torch.empty(BLOCK_GROUPS * GROUP, query_codes.shape[1], dtype=torch.int32)
        return lambda codes: torch._int_mm(codes, query_codes, out=products[: len(codes)])
    as_float = query_codes.float()
    return lambda codes: codes.float() @ as_float


def _multiplies_bytes() -> bool:
    return hasattr(torch, "_int_mm") and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _cosines(vocabulary: StoredWords, queries: NDArray[np.float64], rows: Rows, of_query: Rows) -> Cosines:
    """Return (pair,) cosines of rows and queries, in full."""
    vectors, parts = vocabulary.array("vectors"), []
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        products = np.einsum("ij,ij->i", vectors[rows[some]], queries[of_query[some]], dtype=np.float64)
        parts.append(products / _lengths(vocabulary, rows[some]))
    return _rounded(np.concatenate(parts))


def _multiplied(directions: NDArray[np.float64], queries: NDArray[np.float64]) -> Cosines:
    return _rounded(queries @ directions.T)


def _rounded(cosines: Cosines) -> Cosines:
    """Drop what the order of summing decides, so that equal vectors are equally near."""
    return np.clip(cosines.round(12), -1.0, 1.0)


def _lengths(vocabulary: StoredWords, rows: Rows) -> NDArray[np.float64]:
    lengths = vocabulary.array("norms")[rows]
    return np.where(lengths > 0, lengths, 1.0)


def through_faiss(vocabulary: StoredWords, queries: NDArray[np.float64], k: int) -> tuple[Rows, Cosines]:
    """Return about the k nearest rows, as `exact` does: which rows are looked at is approximate, their cosines are not.

    An inverted file of 8-bit vectors is written beside the vocabulary at the first search (`ivf.faiss`) and mapped into
    memory afterwards. Of its 4 k nearest rows the k nearest by full cosine are returned.

    Raises:
        MissingExtraError: The extra `search` is not installed.
        VocabularyError: The index cannot be written.
    """
    index = _faiss_index(vocabulary)
    num = min(FAISS_CANDIDATES * k, len(vocabulary))
    rows = index.search(queries.astype(np.float32), num)[1].astype(np.int64)
    cosines = np.full(rows.shape, -np.inf)
    of_query, place = np.nonzero(rows >= 0)  # lists looked through may hold fewer
    if len(of_query):
        cosines[of_query, place] = _cosines(vocabulary, queries, rows[of_query, place], of_query)
    order = np.lexsort((rows, -cosines), axis=1)[:, :k]
    found = np.take_along_axis(cosines, order, axis=1)
    rows = np.take_along_axis(rows, order, axis=1)
    poor = np.flatnonzero(np.isinf(found).any(axis=1))
    if len(poor):
        rows[poor], found[poor] = exact(vocabulary, queries[poor], k)
    return rows, found


def _faiss_index(vocabulary: StoredWords) -> Any:
    try:
        faiss = importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        raise MissingExtraError("faiss-cpu", "search") from error
    path = vocabulary.folder / FAISS_FILE
    if not path.exists():
        _write_faiss_index(faiss, vocabulary, path)
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    index.nprobe = max(16, index.nlist // 16)
    return index


def _write_faiss_index(faiss: Any, vocabulary: StoredWords, path: Path) -> None:
    size, num_words = vocabulary.array("vectors").shape[1], len(vocabulary)
    num_lists = max(1, min(int(4 * num_words**0.5), num_words // FAISS_POINTS_PER_LIST, 2048))
    metric = faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(size), size, num_lists, faiss.ScalarQuantizer.QT_8bit, metric
    )
    chosen = np.random.default_rng(0).choice(num_words, min(num_words, num_lists * FAISS_POINTS_PER_LIST), False)
    index.train(_directions(vocabulary, np.sort(chosen)))
    for start in range(0, num_words, PAIRS_AT_ONCE):
        index.add(_directions(vocabulary, np.arange(start, min(start + PAIRS_AT_ONCE, num_words))))
    try:
        with replacing(path) as partial:
            faiss.write_index(index, str(partial))
    except (OSError, RuntimeError) as error:
        raise VocabularyError(
            "faiss's index cannot be written", where=path, remedy="Let it be written once, or search exactly."
        ) from error


def _directions(vocabulary: StoredWords, rows: Rows) -> NDArray[np.float32]:
    vectors = vocabulary.array("vectors")[rows].astype(np.float64)
    return (vectors / _lengths(vocabulary, rows)[:, None]).astype(np.float32)


Search = Callable[[StoredWords, NDArray[np.float64], int], tuple[Rows, Cosines]]
SEARCHES: dict[str, Search] = {"exact": exact, "faiss": through_faiss}


def search_named(name: str) -> Search:
    """Return a search by name.

    Raises:
        VocabularyError: There is none of that name.
    """
    if name not in SEARCHES:
        raise VocabularyError(expected_one_of(name, SEARCHES, kind="index"), remedy="Name one of them.")
    return SEARCHES[name]

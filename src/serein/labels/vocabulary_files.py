"""The folder of a vocabulary: raw arrays to be mapped into memory, and a header that says what they are.

| file | content |
|---|---|
| `vocabulary.json` | format, name, source and its SHA-256, counts |
| `vectors.bin` | (word, size) float32 or float16, little-endian, as the source has them |
| `norms.bin` | (word,) float64, Euclidean |
| `words.bin`, `starts.bin` | the words' UTF-8, one after the other, and where each starts (word + 1,) |
| `hashes.bin`, `hashed_rows.bin` | sorted 64-bit hashes of the words, and their rows |
| `codes.bin`, `code_rows.bin`, `code_scales.bin`, `code_errors.bin` | directions rounded to 8 bits, see `write_codes` |
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from serein.errors import VocabularyError

FORMAT = 1
HEADER = "vocabulary.json"
GROUP = 64  # rows that share a scale
ROWS_AT_ONCE = 256 * GROUP
CODE_MAX = 127
ROUNDING = 1e-6  # of float32, in what is said to bound an error
PREPARE_AGAIN = "Prepare it again: serein words prepare SOURCE -o FOLDER."

DType = Literal["float32", "float16"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Header:
    """What is known of a vocabulary without its arrays.

    Attributes:
        name: Of the file it was made of, or of the Sentence-Transformers model.
        digest: SHA-256 that follows from the source's content and how it was read.
        num_words: Rows of every array.
        size: Numbers in a vector.
        source_sha256: Of the file, or of the model's files.
        encoder: The Sentence-Transformers model that also encodes words that are not stored; else `None`.
        num_duplicates: Words left out because they came again; the first counts.
        num_skipped: Wrong lines left out.
        num_mended: Words that were no UTF-8.
    """

    name: str
    digest: str
    num_words: int
    size: int
    dtype: DType
    source_sha256: str
    encoder: str | None = None
    num_duplicates: int = 0
    num_skipped: int = 0
    num_mended: int = 0


def read_header(folder: Path) -> Header:
    """Read what a folder says of itself.

    Raises:
        VocabularyError: There is none, or of another format.
    """
    path = folder / HEADER
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        number = content.pop("format")
        if number != FORMAT:
            raise VocabularyError(f"format {number}, this reads {FORMAT}", where=path, remedy=PREPARE_AGAIN)
        return Header(**content)
    except FileNotFoundError as error:
        raise VocabularyError(f"no {HEADER}: no prepared vocabulary", where=folder, remedy=PREPARE_AGAIN) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VocabularyError("is no header of a vocabulary", where=path, remedy=PREPARE_AGAIN) from error


def mapped(folder: Path, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Map one of a vocabulary's arrays; nothing of it is read yet.

    Raises:
        VocabularyError: The file is missing, or of another length than the header says.
    """
    path = folder / name
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        found = path.stat().st_size
        if found != expected:
            raise VocabularyError(f"{found} bytes, expected {expected}", where=path, remedy=PREPARE_AGAIN)
        return (
            np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r", shape=shape) if expected else np.zeros(shape, dtype)
        )
    except FileNotFoundError as error:
        raise VocabularyError("is missing", where=path, remedy=PREPARE_AGAIN) from error


def word_hashes(words: Sequence[bytes]) -> NDArray[np.uint64]:
    """Return (word,) 64 bits of each word's BLAKE2b."""
    digests = b"".join([hashlib.blake2b(word, digest_size=8).digest() for word in words])
    return np.frombuffer(digests, "<u8")


class Writer:
    """Writes a vocabulary's files portion by portion; memory holds the words' hashes and lengths, not their vectors.

    Args:
        folder: Empty.
        dtype: Of the stored vectors.
    """

    def __init__(self, folder: Path, dtype: DType = "float32") -> None:
        self.folder, self.dtype, self.size, self.num_words = folder, dtype, 0, 0
        self._hashes: list[NDArray[np.uint64]] = []
        self._lengths: list[NDArray[np.uint64]] = []

    def add(self, words: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Append words and their vectors, (word, size).

        Raises:
            VocabularyError: A number is too large for float16.
        """
        self.size = vectors.shape[1]
        with np.errstate(over="ignore"):
            stored = vectors.astype(np.dtype(self.dtype).newbyteorder("<"), copy=False)
        if not np.isfinite(stored).all():
            raise VocabularyError(f"a number is too large for {self.dtype}", remedy="Store float32: leave out --half.")
        self._append("vectors.bin", stored)
        self._append("words.bin", b"".join(words))
        self._hashes.append(word_hashes(words))
        self._lengths.append(np.array([len(word) for word in words], np.uint64))
        self.num_words += len(words)

    def finish(self, on_progress: Progress | None = None) -> int:
        """Index what was added, leaving out words that come again, and return how many those are.

        Raises:
            VocabularyError: There is no word.
        """
        if not self.num_words:
            raise VocabularyError("holds no words", remedy="Name a file of word vectors.")
        hashes = np.concatenate(self._hashes)
        starts = np.concatenate([np.zeros(1, np.uint64), *self._lengths]).cumsum(dtype=np.uint64)
        order = np.argsort(hashes, kind="stable")
        is_first = self._is_first(hashes, order, starts)
        num_duplicates = int((~is_first).sum())
        if num_duplicates:
            starts = self._keep(is_first, starts)
            hashes = hashes[is_first]
            order = np.argsort(hashes, kind="stable")
        self._write("starts.bin", starts)
        self._write("hashes.bin", hashes[order])
        self._write("hashed_rows.bin", order.astype("<u4"))
        del hashes, starts, order
        write_codes(self.folder, self.num_words, self.size, self.dtype, on_progress)
        return num_duplicates

    def _is_first(
        self, hashes: NDArray[np.uint64], order: NDArray[np.int64], starts: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        """Return (word,) False where the same word came before; equal hashes alone do not make words equal."""
        is_first = np.ones(len(hashes), bool)
        ordered = hashes[order]
        followers = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
        if len(followers):
            text = np.memmap(self.folder / "words.bin", np.uint8, "r")
            for run in np.split(followers, np.flatnonzero(np.diff(followers) != 1) + 1):
                seen: set[bytes] = set()
                for row in order[run[0] - 1 : run[-1] + 1]:
                    word = text[int(starts[row]) : int(starts[row + 1])].tobytes()
                    is_first[row] = word not in seen
                    seen.add(word)
        return is_first

    def _keep(self, is_kept: NDArray[np.bool_], starts: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Close the gaps in the words' and vectors' files in place, and return the words' new starts."""
        lengths = np.diff(starts)
        num_bytes = np.dtype(self.dtype).itemsize * self.size
        _close_gaps(self.folder / "vectors.bin", is_kept, np.full(len(is_kept), num_bytes, np.uint64))
        _close_gaps(self.folder / "words.bin", is_kept, lengths)
        self.num_words = int(is_kept.sum())
        return np.concatenate([np.zeros(1, np.uint64), lengths[is_kept]]).cumsum(dtype=np.uint64)

    def _append(self, name: str, content: bytes | NDArray[Any]) -> None:
        with open(self.folder / name, "ab") as file:
            _put(file, content)

    def _write(self, name: str, content: NDArray[Any]) -> None:
        with open(self.folder / name, "wb") as file:
            _put(file, content)


def write_codes(folder: Path, num_words: int, size: int, dtype: DType, on_progress: Progress | None = None) -> None:
    """Write the vectors' norms, and their directions in 8 bits, which an exact search looks through first.

    Rows are put in groups of 64 that share a scale, within each portion ordered by their largest number, so that
    those of a group are alike in it. `code_errors.bin` holds for each group the largest distance between a direction
    (of length 1) and its code times the scale; the last group is filled up with zeros, named as row `num_words`.
    """
    little = np.dtype(dtype).newbyteorder("<")
    with ExitStack() as stack:
        source = stack.enter_context(open(folder / "vectors.bin", "rb"))  # mapped, it would count as memory
        names = ("norms", "codes", "code_rows", "code_scales", "code_errors")
        files = {name: stack.enter_context(open(folder / f"{name}.bin", "wb")) for name in names}
        for start in range(0, num_words, ROWS_AT_ONCE):
            vectors = np.fromfile(source, little, ROWS_AT_ONCE * size).reshape(-1, size).astype(np.float32)
            arrays = _coded(vectors, start, num_words)
            for name, array in arrays.items():
                _put(files[name], array)
            if on_progress:
                on_progress(min(start + ROWS_AT_ONCE, num_words), num_words)


def _coded(vectors: NDArray[np.float32], start: int, num_words: int) -> dict[str, NDArray[Any]]:
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    directions = (vectors / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float32)
    order = np.argsort(np.abs(directions).max(axis=1), kind="stable")
    num_more = -len(order) % GROUP
    directions = np.pad(directions[order], ((0, num_more), (0, 0))).reshape(-1, GROUP, vectors.shape[1])
    largest = np.abs(directions).max(axis=(1, 2))
    scales = np.where(largest > 0, largest / CODE_MAX, 1.0).astype(np.float32)
    codes = np.rint(directions / scales[:, None, None])
    codes = np.clip(codes, -CODE_MAX, CODE_MAX)
    missed = np.linalg.norm(directions - codes * scales[:, None, None], axis=2).max(axis=1)
    return {
        "norms": norms,
        "codes": codes.astype(np.int8),
        "code_rows": np.pad(order + start, (0, num_more), constant_values=num_words).astype("<u4"),
        "code_scales": scales,
        "code_errors": (missed + ROUNDING).astype(np.float32),
    }


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`, renamed to it when the block ends well and deleted when it does not.

    Raises:
        VocabularyError: `out` is there already.
    """
    _refuse(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    partial.mkdir()
    try:
        yield partial
        _refuse(out)
        os.rename(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_header(folder: Path, header: Header) -> None:
    """Write what `read_header` reads."""
    text = json.dumps({"format": FORMAT, **asdict(header)}, indent=1, ensure_ascii=False)
    (folder / HEADER).write_text(text + "\n", encoding="utf-8")


def digest_of(source_sha256: str, *how: object) -> str:
    """Return the SHA-256 of a source's hash and of how it was read."""
    return hashlib.sha256(" ".join(map(str, (FORMAT, source_sha256, *how))).encode()).hexdigest()


def _refuse(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise VocabularyError("is there already", where=out, remedy="Delete it, or name another folder with --out.")


def _close_gaps(path: Path, is_kept: NDArray[np.bool_], num_bytes: NDArray[np.uint64]) -> None:
    """Move the kept stretches of a file together, from the front, and cut off the rest."""
    ends = num_bytes.cumsum(dtype=np.uint64)
    written = 0
    with open(path, "r+b") as file:
        for start in range(0, len(is_kept), ROWS_AT_ONCE):
            kept, lengths = is_kept[start : start + ROWS_AT_ONCE], num_bytes[start : start + ROWS_AT_ONCE]
            file.seek(int(ends[start] - num_bytes[start]))
            content = np.frombuffer(file.read(int(lengths.sum())), np.uint8)
            content = content[np.repeat(kept, lengths.astype(np.int64))]
            file.seek(written)
            _put(file, content)
            written += len(content)
        file.truncate(written)


def _put(file: IO[bytes], content: bytes | NDArray[Any]) -> None:
    if len(content):
        file.write(content if isinstance(content, bytes) else np.ascontiguousarray(content).data.cast("B"))

"""Files of word vectors as others publish them: GloVe's text, word2vec's text and binary; read once, in one pass.

Words are kept as the file has them. What is no UTF-8 in a word becomes U+FFFD, as word2vec cuts long words anywhere.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from serein.errors import VocabularyError

Broken = Literal["stop", "skip"]
Vectors = NDArray[np.float32]

PORTION_BYTES = 1 << 23  # of text, parsed at once
BUFFER_BYTES = 1 << 20
SNIFFED_LINES = 100
_HEADER = re.compile(rb"\s*(\d+)[ \t]+(\d+)[ \t]*\r?\n")
_DECIMAL = re.compile(rb"[+-]?\d*\.\d+(e[+-]?\d+)?", re.IGNORECASE)
A_FILE = "Name a text file of GloVe or word2vec, or word2vec's binary (.bin), also compressed (.gz)."


class Portion(NamedTuple):
    """Some words of a file, in its order.

    Attributes:
        words: UTF-8.
        vectors: (word, size) float32, all finite.
    """

    words: list[bytes]
    vectors: Vectors


@dataclass
class WordVectors:
    """A file of word vectors, to be gone through once.

    Attributes:
        path: Text or binary, also compressed (.gz).
        broken: `stop`: a wrong line is an error; `skip`: it is left out and counted.
        num: What was met: `skipped` lines or words, and `mended` words that were no UTF-8.
        sha256: Of the file's bytes, once all portions are read.
    """

    path: Path
    broken: Broken = "stop"
    on_progress: Callable[[int, int], None] | None = None
    num: Counter[str] = field(default_factory=Counter)
    sha256: str = ""

    def portions(self) -> Iterator[Portion]:
        """Yield the words and their vectors.

        Raises:
            VocabularyError: A line is wrong, with its number; or the file is none of word vectors, or cut short.
        """
        with open(self.path, "rb", buffering=0) as file:
            tap = _Tap(file, self.path.stat().st_size, self.on_progress)
            stream = _opened(tap, self.path)
            try:
                for words, vectors in self._read(stream):
                    yield Portion([self._mended(word) for word in words], vectors)
                while stream.read(BUFFER_BYTES):
                    pass
            except (EOFError, gzip.BadGzipFile) as error:
                self._fail(f"cannot be decompressed ({error})", "Copy or download it again.", cause=error)
            self.sha256 = tap.digest.hexdigest()

    def _read(self, stream: io.BufferedReader) -> Iterator[Portion]:
        start = stream.peek(BUFFER_BYTES)
        header = _HEADER.match(start)
        if header is None:
            if b"\0" in start or b"\n" not in start:
                self._fail("no lines of words and numbers, nor the header of word2vec's binary", A_FILE)
            return self._text(stream, _usual_size(start), None, 1)
        count, size = int(header[1]), int(header[2])
        if count < 1 or size < 1:
            self._fail(f"the header promises {count} words of {size} numbers", A_FILE)
        stream.read(header.end())
        second = start[header.end() :].split(b"\n", 1)[0]
        if _parsed(second, size) is not None:
            return self._text(stream, size, count, 2)
        return self._binary(stream, size, count)

    def _text(self, stream: io.BufferedReader, size: int, count: int | None, number: int) -> Iterator[Portion]:
        if size < 1:
            self._fail("the lines are no words followed by numbers", A_FILE)
        num_lines = 0
        while lines := stream.readlines(PORTION_BYTES):
            yield self._parse(lines, size, number + num_lines)
            num_lines += len(lines)
        if count is not None and num_lines != count:
            self._complain(f"has {num_lines} words, and its header promises {count}", "Copy or download it again.")

    def _parse(self, lines: list[bytes], size: int, number: int) -> Portion:
        """Parse lines at once where all are right, else one by one to name the wrong ones."""
        rows = [_split(line, size) for line in lines]
        if all(row is not None for row in rows):
            pairs = cast("list[tuple[bytes, bytes]]", rows)
            vectors = _numbers(b" ".join([values for _, values in pairs]), len(pairs) * size)
            if vectors is not None:
                return Portion([word for word, _ in pairs], vectors.reshape(-1, size))
        words, parsed = [], []
        for offset, line in enumerate(lines):
            row = _parsed(line, size)
            if row is None:
                self._wrong_line(line, size, number + offset)
                continue
            words.append(row[0])
            parsed.append(row[1])
        return Portion(words, np.stack(parsed) if parsed else np.zeros((0, size), np.float32))

    def _binary(self, stream: io.BufferedReader, size: int, count: int) -> Iterator[Portion]:
        held, done, num_bytes = b"", 0, 4 * size
        while done < count and (read := stream.read(PORTION_BYTES)):
            held += read
            words, vectors, used = _binary_rows(held, num_bytes, count - done)
            held = held[used:]
            done += len(words)
            yield self._finite(words, np.frombuffer(b"".join(vectors), "<f4").reshape(-1, size))
        if done < count:
            self._complain(f"ends after {done} of {count} words", "Copy or download it again.")

    def _finite(self, words: list[bytes], vectors: Vectors) -> Portion:
        is_right = np.isfinite(vectors).all(axis=1) & np.array([bool(word) for word in words], bool)
        if is_right.all():
            return Portion(words, vectors)
        for i in np.flatnonzero(~is_right):
            shown = words[i].decode("utf-8", "replace")
            self._complain(f"the word '{shown}' is empty or has numbers that are not finite", A_FILE)
        return Portion([word for word, keep in zip(words, is_right, strict=True) if keep], vectors[is_right])

    def _wrong_line(self, line: bytes, size: int, number: int) -> None:
        shown = line[:40].decode("utf-8", "replace").strip()
        self._complain(
            f"no word followed by {size} finite numbers: '{shown}...'",
            "Mend the line, or leave such lines out with --skip-broken.",
            where=f"{self.path}, line {number}",
        )

    def _complain(self, what: str, remedy: str, where: str | None = None) -> None:
        if self.broken == "stop":
            self._fail(what, remedy, where=where)
        self.num["skipped"] += 1

    def _fail(
        self, what: str, remedy: str, *, where: str | None = None, cause: BaseException | None = None
    ) -> NoReturn:
        raise VocabularyError(what, where=where or self.path, remedy=remedy) from cause

    def _mended(self, word: bytes) -> bytes:
        try:
            word.decode("utf-8")
        except UnicodeDecodeError:
            self.num["mended"] += 1
            return word.decode("utf-8", "replace").encode("utf-8")
        return word


class _Tap(io.RawIOBase):
    """A file whose bytes are counted and hashed as they are read."""

    def __init__(self, file: IO[bytes], total: int, on_progress: Callable[[int, int], None] | None) -> None:
        self.file, self.total, self.on_progress = file, total, on_progress
        self.digest, self.done = hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = int(self.file.readinto(buffer))  # type: ignore[attr-defined]
        self.digest.update(memoryview(buffer)[:count])
        self.done += count
        if self.on_progress and count:
            self.on_progress(self.done, self.total)
        return count


def _opened(tap: _Tap, path: Path) -> io.BufferedReader[Any]:
    stream = io.BufferedReader(tap, BUFFER_BYTES)
    if stream.peek(2)[:2] != b"\x1f\x8b":
        return stream
    return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=stream, filename=str(path))), BUFFER_BYTES)


def _usual_size(start: bytes) -> int:
    """Return how many numbers follow a word in most of the first lines; words may hold spaces, lines be wrong."""
    lines = start.split(b"\n")[: SNIFFED_LINES + 1][:-1]
    sizes = Counter(len(line.split()) - 1 for line in lines if line.strip())
    return sizes.most_common(1)[0][0] if sizes else 0


def _split(line: bytes, size: int) -> tuple[bytes, bytes] | None:
    """Cut a line before its last `size` values; words may hold spaces, as some of GloVe's do."""
    line = line.rstrip()
    if line.count(b" ") == size and b"\t" not in line:
        word, values = line.split(b" ", 1)
        return (word, values) if word else None
    parts = line.rsplit(None, size)
    if len(parts) != size + 1:
        return None
    *others, last = parts[0].split()
    if others and _DECIMAL.fullmatch(last):  # one number too many
        return None
    return parts[0].strip(), b" ".join(parts[1:])


def _numbers(text: bytes, count: int) -> Vectors | None:
    """Return so many numbers, or `None` when the text holds others, fewer, more, or anything else."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            values = np.fromstring(text, np.float32, sep=" ")
        except (ValueError, DeprecationWarning, RuntimeWarning):
            return None
    return values if len(values) == count and np.isfinite(values).all() else None


def _parsed(line: bytes, size: int) -> tuple[bytes, Vectors] | None:
    row = _split(line, size)
    vector = None if row is None else _numbers(row[1], size)
    return None if row is None or vector is None else (row[0], vector)


def _binary_rows(held: bytes, num_bytes: int, most: int) -> tuple[list[bytes], list[bytes], int]:
    """Cut whole rows off the start: word, space, numbers; some writers end a row with a newline."""
    words: list[bytes] = []
    vectors: list[bytes] = []
    used = 0
    while len(words) < most:
        space = held.find(b" ", used)
        if space < 0 or space + 1 + num_bytes > len(held):
            break
        words.append(held[used:space].lstrip(b"\r\n"))
        vectors.append(held[space + 1 : space + 1 + num_bytes])
        used = space + 1 + num_bytes
    return words, vectors, used


def whole_words(tokens: Iterable[str]) -> list[str]:
    """Return the words of two letters or more among a tokenizer's entries, in their order, each once.

    Where entries carry a mark of a word's start (`Ġ`, `▁`), the others are pieces; else `##` marks pieces.

    Example:
        >>> whole_words(["[PAD]", "happy", "##ness", "x", "sad", "o'clock"]), whole_words(["ly", "▁sad", "▁glad"])
        (['happy', 'sad'], ['sad', 'glad'])
    """
    tokens = list(tokens)
    mark = next((mark for mark in "Ġ▁" if any(token.startswith(mark) and len(token) > 1 for token in tokens)), "")
    words = (token[len(mark) :] for token in tokens if token.startswith(mark))
    return list(dict.fromkeys(word for word in words if len(word) > 1 and word.isalpha()))

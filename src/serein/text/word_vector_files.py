"""Published formats of word vectors: GloVe or word2vec text, word2vec binary, optionally compressed."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serein.errors import VocabularyError

OnError = Literal["stop", "skip"]
Progress = Callable[[str, int, int], None]  # activity, done, total
Vectors = NDArray[np.float32]

A_FILE = "Specify a GloVe or word2vec text file, or a word2vec binary (.bin), optionally compressed (.gz)."
BUFFER_BYTES, SNIFFED_LINES = 1 << 20, 100
WORDS_PER_REPORT = 1 << 12

_COUNTS = re.compile(rb"\s*(\d+)[ \t]+(\d+)[ \t]*\r?\n")
_DECIMAL = re.compile(rb"[+-]?\d*\.\d+(e[+-]?\d+)?", re.IGNORECASE)


@dataclass
class WordVectorFile:
    """A file of word vectors: GloVe or word2vec text, or word2vec binary, optionally compressed with gzip.

    Attributes:
        on_error: `stop`: a malformed line is an error; `skip`: it is left out and counted.
        counts: Numbers of `skipped` lines or words, and of `mended` words that were not UTF-8.
    """

    path: Path
    on_error: OnError = "stop"
    on_progress: Progress | None = None
    counts: Counter[str] = field(default_factory=Counter, init=False)

    def __iter__(self) -> Iterator[tuple[bytes, Vectors]]:
        """Yield words, in UTF-8, and their vectors, (feature,); bytes of a word that are not UTF-8 become U+FFFD.

        Raises:
            VocabularyError: A line is malformed (names its number), or the file is truncated or has no word vectors.
        """
        num_bytes = self.path.stat().st_size
        with io.BufferedReader(io.FileIO(self.path), BUFFER_BYTES) as file:
            is_gzip = file.peek(2)[:2] == b"\x1f\x8b"
            stream: Any = io.BufferedReader(gzip.GzipFile(fileobj=file), BUFFER_BYTES) if is_gzip else file
            try:
                for number, (word, vector) in enumerate(self._read(stream)):
                    text = word.decode("utf-8", "replace").encode("utf-8")
                    self.counts["mended"] += text != word
                    yield text, vector
                    if self.on_progress and number % WORDS_PER_REPORT == 0:
                        self.on_progress("reading", min(file.tell(), num_bytes - 1), num_bytes)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                what = f"cannot be decompressed ({error})"
                raise VocabularyError(what, where=self.path, remedy="Copy or download it again.") from None
        if self.on_progress:
            self.on_progress("reading", num_bytes, num_bytes)

    def _read(self, stream: io.BufferedReader) -> Iterator[tuple[bytes, Vectors]]:
        """Detect the format of a file, and return its rows."""
        start = stream.peek(BUFFER_BYTES)
        if start[:1] == b"\x80":
            raise VocabularyError(
                "is a pickle, such as gensim's KeyedVectors; pickles are not opened",
                where=self.path,
                remedy="Convert it to word2vec: "
                "KeyedVectors.load(FILE).save_word2vec_format('vectors.bin', binary=True).",
            )
        what, num_words, size = "", 0, 0
        if header := _COUNTS.match(start):
            num_words, size = int(header[1]), int(header[2])
            if num_words < 1 or size < 1:
                what = f"the header states {num_words} words of {size} numbers"
        elif b"\0" in start or b"\n" not in start:
            what = "contains neither lines of words and numbers nor the header of a word2vec binary"
        else:
            lines = start.split(b"\n")[: SNIFFED_LINES + 1][:-1]
            sizes = Counter(len(line.split()) - 1 for line in lines if line.strip())  # words may contain spaces
            size = max(sizes, key=sizes.__getitem__, default=0)
            if size < 1:
                what = "the lines are not words followed by numbers"
        if what:
            raise VocabularyError(what, where=self.path, remedy=A_FILE)
        if header is None:
            return self._text(stream, size, None)
        stream.read(header.end())
        is_text = parse_line(start[header.end() :].split(b"\n", 1)[0], size) is not None
        return (self._text if is_text else self._binary)(stream, size, num_words)

    def _text(self, stream: io.BufferedReader, size: int, num_words: int | None) -> Iterator[tuple[bytes, Vectors]]:
        num_lines, first_number = 0, 1 if num_words is None else 2
        for num_lines, line in enumerate(stream, start=1):
            parsed = parse_line(line, size)
            if parsed is not None:
                yield parsed
                continue
            shown = line[:40].decode("utf-8", "replace").strip()
            self._wrong(
                f"line {first_number + num_lines - 1} is not a word followed by {size} finite numbers: '{shown}...'",
                "Correct the line, or leave such lines out with --skip-broken.",
            )
        if num_words not in (None, num_lines):
            self._wrong(f"has {num_lines} words, but its header states {num_words}", "Copy or download it again.")

    def _binary(self, stream: io.BufferedReader, size: int, num_words: int) -> Iterator[tuple[bytes, Vectors]]:
        """Read rows of a word, a space and little-endian numbers; some writers end a row with a newline."""
        for number in range(num_words):
            word = b""
            while (byte := stream.read(1)) not in (b" ", b""):
                word += byte
            numbers = stream.read(4 * size)
            if len(numbers) < 4 * size:
                self._wrong(f"ends after {number} of {num_words} words", "Copy or download it again.")
                return
            word, vector = word.lstrip(b"\r\n"), np.frombuffer(numbers, "<f4")
            if word and b"\n" not in word and np.isfinite(vector).all():
                yield word, vector
                continue
            shown = word.decode("utf-8", "replace")
            self._wrong(f"the word '{shown}' is empty or has numbers that are not finite", A_FILE)

    def _wrong(self, what: str, remedy: str) -> None:
        if self.on_error == "stop":
            raise VocabularyError(what, where=self.path, remedy=remedy)
        self.counts["skipped"] += 1


def parse_line(line: bytes, size: int) -> tuple[bytes, Vectors] | None:
    """Return a word, which may contain spaces like some of GloVe's, and its finite numbers; `None` for any other line.

    Example:
        >>> parse_line(b"new york 0.5 1", 2), parse_line(b"bad 1.0 2.0 3.0", 2)
        ((b'new york', array([0.5, 1. ], dtype=float32)), None)
    """
    parts = line.rsplit(None, size)
    if len(parts) != size + 1:
        return None
    *others, last = parts[0].split()
    if others and _DECIMAL.fullmatch(last):  # one number too many
        return None
    try:
        with np.errstate(over="ignore"):
            vector = np.fromiter(map(float, parts[1:]), np.float32, size)
    except ValueError:
        return None
    return (parts[0].strip(), vector) if np.isfinite(vector).all() else None

"""Word vectors: read as others publish them, prepared once as arrays that are mapped into memory, looked up, searched.

$ serein words prepare glove.840B.300d.txt -o glove
>>> vocabulary = open_vocabulary("glove")  # doctest: +SKIP
>>> words, cosines = vocabulary.nearest(vocabulary.vectors(["sadness"]), k=3)  # doctest: +SKIP

A prepared vocabulary is a folder:

| file | content |
|---|---|
| `vocabulary.json` | format, name, source and its SHA-256, counts |
| `vectors.npy` | (word, feature) float32 or float16, as the source has them |
| `norms.npy` | (word,) float64, Euclidean |
| `words.txt` | UTF-8, one a line, in the order of the source |
| `word_starts.npy` | (word + 1,) the byte of `words.txt` where each begins |
| `word_order.npy` | (word,) rows in the order of the words' bytes, for a binary search |
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import importlib
import io
import json
import math
import os
import re
import secrets
import shutil
import zlib
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from serein.data.files import sha256
from serein.errors import VocabularyError, expected_one_of
from serein.nearest import ExactIndex, FaissIndex, write_faiss
from serein.text.sentences import DEFAULT_ENCODER, SentenceEncoder, cache_folder

DType = Literal["float32", "float16"]
OnError = Literal["stop", "skip"]
Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much
Vectors = NDArray[np.float32]

FORMAT = 2
HEADER = "vocabulary.json"
PREPARE_AGAIN = "Prepare it again: serein words prepare SOURCE -o FOLDER."
A_FILE = "Name a text file of GloVe or word2vec, or word2vec's binary (.bin), also compressed (.gz)."
NPY_HEADER_BYTES = 128  # for any number of rows: numpy leaves room for it to grow
BUFFER_BYTES, SNIFFED_LINES = 1 << 20, 100
WORDS_PER_REPORT = 1 << 12
NUM_SPELLINGS_COMPARED = 200_000  # the first, which are the most frequent in published files

_COUNTS = re.compile(rb"\s*(\d+)[ \t]+(\d+)[ \t]*\r?\n")
_DECIMAL = re.compile(rb"[+-]?\d*\.\d+(e[+-]?\d+)?", re.IGNORECASE)


class WordVectorFile:
    """A file of word vectors: text of GloVe or word2vec, or word2vec's binary, also compressed by gzip.

    Attributes:
        on_error: `stop`: a wrong line is an error; `skip`: it is left out and counted.
        counts: What was met: `skipped` lines or words, and `mended` words that were no UTF-8.
    """

    def __init__(self, path: Path, on_error: OnError = "stop", on_progress: Progress | None = None) -> None:
        self.path, self.on_error, self.on_progress = path, on_error, on_progress
        self.counts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[tuple[bytes, Vectors]]:
        """Yield words, in UTF-8, and their vectors, (feature,); what is no UTF-8 in a word becomes U+FFFD.

        Raises:
            VocabularyError: A line is wrong, with its number; or the file is none of word vectors, or cut short.
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
                self._fail(f"cannot be decompressed ({error})", "Copy or download it again.")
        if self.on_progress:
            self.on_progress("reading", num_bytes, num_bytes)

    def _read(self, stream: io.BufferedReader) -> Iterator[tuple[bytes, Vectors]]:
        start = stream.peek(BUFFER_BYTES)
        if start[:1] == b"\x80":
            self._fail(
                "is a pickle, as gensim saves KeyedVectors; pickles are not opened",
                "Write it as word2vec: KeyedVectors.load(FILE).save_word2vec_format('vectors.bin', binary=True).",
            )
        header = _COUNTS.match(start)
        if header is None:
            if b"\0" in start or b"\n" not in start:
                self._fail("no lines of words and numbers, nor the header of word2vec's binary", A_FILE)
            lines = start.split(b"\n")[: SNIFFED_LINES + 1][:-1]
            sizes = Counter(len(line.split()) - 1 for line in lines if line.strip())  # words may hold spaces
            return self._text(stream, max(sizes, key=sizes.__getitem__, default=0), None)
        num_words, size = int(header[1]), int(header[2])
        if num_words < 1 or size < 1:
            self._fail(f"the header promises {num_words} words of {size} numbers", A_FILE)
        stream.read(header.end())
        is_text = parse_line(start[header.end() :].split(b"\n", 1)[0], size) is not None
        return (self._text if is_text else self._binary)(stream, size, num_words)

    def _text(self, stream: io.BufferedReader, size: int, num_words: int | None) -> Iterator[tuple[bytes, Vectors]]:
        if size < 1:
            self._fail("the lines are no words followed by numbers", A_FILE)
        num_lines, first_number = 0, 1 if num_words is None else 2
        for num_lines, line in enumerate(stream, start=1):
            parsed = parse_line(line, size)
            if parsed is not None:
                yield parsed
                continue
            shown = line[:40].decode("utf-8", "replace").strip()
            self._wrong(
                f"line {first_number + num_lines - 1}: no word followed by {size} finite numbers: '{shown}...'",
                "Mend the line, or leave such lines out with --skip-broken.",
            )
        if num_words not in (None, num_lines):
            self._wrong(f"has {num_lines} words, and its header promises {num_words}", "Copy or download it again.")

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
            self._fail(what, remedy)
        self.counts["skipped"] += 1

    def _fail(self, what: str, remedy: str) -> NoReturn:
        raise VocabularyError(what, where=self.path, remedy=remedy)


def parse_line(line: bytes, size: int) -> tuple[bytes, Vectors] | None:
    """Return a word, which may hold spaces as some of GloVe's do, and its finite numbers; `None` for any other line.

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


# -- prepared --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """What is known of a prepared vocabulary without its arrays.

    Attributes:
        name: Of the file it was made of, or of the Sentence-Transformers model.
        digest: SHA-256 that follows from the source's content and how it was read.
        source_sha256: Of the file, or of the model's files.
        encoder: The Sentence-Transformers model that also encodes words that are not stored; else `None`.
        num_duplicates: Words left out because they came again; the first counts.
        num_skipped: Wrong lines left out.
        num_mended: Words that were no UTF-8.
    """

    name: str
    digest: str
    source_sha256: str
    dtype: DType = "float32"
    encoder: str | None = None
    num_words: int = 0
    size: int = 0
    num_duplicates: int = 0
    num_skipped: int = 0
    num_mended: int = 0


def prepare(
    source: str | Path,
    out: str | Path,
    on_progress: Progress | None = None,
    *,
    dtype: DType = "float32",
    on_error: OnError = "stop",
) -> Header:
    """Read a file of word vectors once and write it as a vocabulary; memory grows with the words, not their vectors.

    Args:
        source: See `WordVectorFile`.
        out: A new folder; whole or not there.
        on_progress: Told of "reading" (bytes).
        dtype: Of the stored vectors.
        on_error: `stop`: a wrong line is an error; `skip`: it is left out and counted.

    Raises:
        VocabularyError: The file is none, a line is wrong, or `out` is there already.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise VocabularyError("no such file", where=source, remedy="Name a file of GloVe or word2vec.")
    file, source_sha256 = WordVectorFile(path, on_error, on_progress), sha256(path)
    header = Header(path.name, digest_of(source_sha256, dtype, on_error), source_sha256, dtype)
    return write_vocabulary(Path(out).expanduser(), file, header, file.counts)


def prepare_encoder(encoder: str | SentenceEncoder, out: str | Path, on_progress: Progress | None = None) -> Header:
    """Write the words of a Sentence-Transformers model's tokenizer, encoded by the model, as a vocabulary.

    Raises:
        VocabularyError: `out` is there already, or the tokenizer has no whole words.
        ModelError: There is no such model.
        MissingExtraError: The extra `text` is not installed.
    """
    encoder = SentenceEncoder(encoder) if isinstance(encoder, str) else encoder
    folders = sorted(path.parent for path in encoder.folder.rglob("tokenizer_config.json"))
    if not folders:
        raise VocabularyError("has no tokenizer_config.json", where=encoder.folder, remedy="Choose another model.")
    transformers = importlib.import_module("transformers")
    numbers = transformers.AutoTokenizer.from_pretrained(folders[0], local_files_only=True).get_vocab()
    words = whole_words(sorted(numbers, key=numbers.__getitem__))  # often the order of their frequency
    told = None if on_progress is None else partial(on_progress, "encoding")
    entries = zip([word.encode() for word in words], encoder.vectors(words, on_progress=told), strict=True)
    source = encoder.name if encoder.name == DEFAULT_ENCODER else str(encoder.folder.resolve())
    header = Header(encoder.name, digest_of(encoder.digest), encoder.digest, encoder=source)
    return write_vocabulary(Path(out).expanduser(), entries, header, Counter())


def write_vocabulary(
    out: Path, entries: Iterable[tuple[bytes, Vectors]], header: Header, counts: Counter[str]
) -> Header:
    """Write words and their vectors, (feature,), as a folder, whole or not at all; return the header with its counts.

    Raises:
        VocabularyError: There is no word, a number is too large for float16, or `out` is there already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise VocabularyError("is there already", where=out, remedy="Delete it, or name another folder with --out.")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        words: dict[bytes, None] = {}
        norms = array("d")
        dtype = np.dtype(header.dtype).newbyteorder("<")
        num_met, stored = 0, np.zeros(0, dtype)
        with open(folder / "vectors.npy", "wb", buffering=BUFFER_BYTES) as file, np.errstate(over="ignore"):
            file.seek(NPY_HEADER_BYTES)
            for num_met, (word, vector) in enumerate(entries, start=1):  # noqa: B007
                if word in words:
                    continue
                words[word] = None
                stored = vector.astype(dtype)
                norms.append(float(np.linalg.norm(stored.astype(np.float64))))
                if not math.isfinite(norms[-1]):
                    raise VocabularyError(f"a number is too large for {dtype.name}", remedy="Leave out --half.")
                file.write(stored.tobytes())
            if not words:
                raise VocabularyError("holds no words", where=header.name, remedy="Name a file of word vectors.")
            file.seek(0)
            shape = {"descr": dtype.str, "fortran_order": False, "shape": (len(words), len(stored))}
            np.lib.format.write_array_header_1_0(file, shape)
        listed = list(words)
        (folder / "words.txt").write_bytes(b"".join(word + b"\n" for word in listed))
        np.save(folder / "norms.npy", np.array(norms))
        np.save(folder / "word_starts.npy", np.cumsum([0, *(len(word) + 1 for word in listed)]))
        np.save(folder / "word_order.npy", np.array(sorted(range(len(listed)), key=listed.__getitem__)))
        header = replace(
            header,
            num_words=len(words),
            size=len(stored),
            num_duplicates=num_met - len(words),
            num_skipped=counts["skipped"],
            num_mended=counts["mended"],
        )
        text = json.dumps({"format": FORMAT, **asdict(header)}, indent=1, ensure_ascii=False)
        (folder / HEADER).write_text(text + "\n", encoding="utf-8")
        os.rename(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return header


def digest_of(source_sha256: str, *how: object) -> str:
    """Return the SHA-256 of a source's hash and of how it was read; 1 grows when files are read in another way."""
    return hashlib.sha256(" ".join(map(str, (1, source_sha256, *how))).encode()).hexdigest()


# -- opened ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Words and their vectors; other processes open it anew.

    Attributes:
        folder: Where its words lie; those of a Sentence-Transformers model are encoded when first searched.
        name: The file it was made of, or the Sentence-Transformers model.
        digest: SHA-256 of the source and of how it was read.
        size: Numbers in a vector.
        encoder: The Sentence-Transformers model that gives every word a vector, stored or not; else `None`.
    """

    folder: Path
    name: str
    digest: str
    size: int
    encoder: str | None = None

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The files of `folder` by their names, mapped; a Sentence-Transformers model's words are encoded first."""
        if not self._is_prepared():
            prepare_cached(load_encoder(self.encoder or ""), self.folder)
        return map_folder(self.folder)[1]

    def __len__(self) -> int:
        return len(self.arrays["norms"])

    def __contains__(self, word: object) -> bool:
        if not isinstance(word, str):
            return False
        return bool(word.strip()) if self.encoder is not None else self.row(word) is not None

    def __reduce__(self) -> tuple[object, ...]:
        return Vocabulary, (self.folder, self.name, self.digest, self.size, self.encoder)

    def row(self, word: str) -> int | None:
        """Return a word's row among the stored ones, or `None`."""
        wanted, order = word.encode("utf-8", "replace"), self.arrays["word_order"]
        place = bisect_left(order, wanted, key=self.encoded)
        return int(order[place]) if place < len(order) and self.encoded(order[place]) == wanted else None

    def word(self, row: int) -> str:
        """Return the word of a row."""
        return self.encoded(row).decode("utf-8")

    def encoded(self, row: int) -> bytes:
        """Return the word of a row in UTF-8."""
        start, end = self.arrays["word_starts"][row : row + 2]
        return self.arrays["words"][start : end - 1].tobytes()

    def vectors(self, words: Iterable[str]) -> Vectors:
        """Return (word, feature) float32, as the source has them.

        Raises:
            VocabularyError: A word has no vector; names the nearest spellings.
        """
        words = list(words)
        row_of = {word: row for word in set(words) if self._is_prepared() and (row := self.row(word)) is not None}
        is_stored = np.array([word in row_of for word in words], bool)
        vectors = np.zeros((len(words), self.size), np.float32)
        if row_of:
            vectors[is_stored] = self.arrays["vectors"][[row_of[word] for word in words if word in row_of]]
        if not is_stored.all():
            vectors[~is_stored] = self._encode([word for word in words if word not in row_of])
        return vectors

    def spellings(self, word: str, count: int = 5) -> list[str]:
        """Return stored words that are spelt like one, the most like first; among the 200,000 most frequent."""
        end = self.arrays["word_starts"][: NUM_SPELLINGS_COMPARED + 1][-1]
        by_lower: dict[str, str] = {}
        for each in self.arrays["words"][:end].tobytes().decode("utf-8").split("\n")[:-1]:
            by_lower.setdefault(each.lower(), each)
        return [by_lower[each] for each in difflib.get_close_matches(word.lower(), by_lower, count)]

    def nearest(
        self, queries: NDArray[np.floating[Any]], k: int = 10, index: str = "exact"
    ) -> tuple[list[list[str]], Vectors]:
        """Return the k stored words of the greatest cosine to each query, nearest first.

        Args:
            queries: (query, feature); a query of zeros has cosine 0 to all.
            index: `exact`; or `faiss`, which may miss some, and is built at the first search.

        Returns:
            Words, k for each query, and their cosines, (query, k) float32.

        Raises:
            VocabularyError: The queries are of another size or not finite, or k is more than there are words.
            MissingExtraError: The extra `search` is not installed.
        """
        queries = np.asarray(queries, np.float64)
        if queries.ndim != 2 or queries.shape[1] != self.size:
            what = f"queries of shape {queries.shape}, expected (query, {self.size})"
            self._fail(what, "Choose the vocabulary that the vectors were learned from.")
        if not np.isfinite(queries).all():
            self._fail("a query is not finite", "Check what the model predicts.")
        if not 1 <= k <= len(self):
            self._fail(f"{k} nearest of {len(self)} words", f"Ask for 1 to {len(self)}.")
        if index not in ("exact", "faiss"):
            self._fail(expected_one_of(index, ("exact", "faiss"), kind="index"), "Name one of them.")
        exact = ExactIndex(self.arrays["vectors"], "cosine", self.arrays["norms"])
        path = self.folder / "index.faiss"
        if index == "faiss" and not path.exists():
            write_faiss(exact, path, np.random.default_rng(0))
        rows, cosines = (exact if index == "exact" else FaissIndex(path, exact)).search(queries, k)
        return [[self.word(row) for row in some] for some in rows], cosines.astype(np.float32)

    def _is_prepared(self) -> bool:
        return self.encoder is None or (self.folder / HEADER).exists()

    def _encode(self, words: Sequence[str]) -> Vectors:
        """Return vectors of words that are not stored, (word, feature)."""
        empty = [word for word in words if not word.strip()]
        if self.encoder is None or empty:
            word = empty[0] if empty else words[0]
            if alike := "" if empty else ", ".join(self.spellings(word)):
                self._fail(f"the word '{word}' has no vector; spelt most like it: {alike}", "Choose one of these.")
            self._fail(f"the word '{word}' has no vector", "Choose another word.")
        encoder = load_encoder(self.encoder)
        if digest_of(encoder.digest) != self.digest:
            what = f"the model '{encoder.name}' is not the one that the words were encoded with"
            self._fail(what, "Prepare the vocabulary again, or restore the model.")
        return encoder.vectors(words)

    def _fail(self, what: str, remedy: str) -> NoReturn:
        raise VocabularyError(what, where=self.name, remedy=remedy)


def open_vocabulary(source: str | Path = DEFAULT_ENCODER) -> Vocabulary:
    """Open a prepared vocabulary, or a Sentence-Transformers model as one.

    Args:
        source: A folder that `prepare` wrote, or the name or folder of a Sentence-Transformers model. Such a model
            gives every word a vector; the words that can be found are its tokenizer's, encoded at the first search and
            kept in the user's cache.

    Raises:
        VocabularyError: It is neither, damaged, or a file that is not prepared.
        ModelError: There is no such model.
        MissingExtraError: The extra `text` is not installed.
    """
    folder = Path(source).expanduser()
    if folder.is_file():
        remedy = f"Prepare it once: serein words prepare {source} -o FOLDER."
        raise VocabularyError("is a file, not a prepared vocabulary", where=source, remedy=remedy)
    if (folder / HEADER).exists() or (folder.is_dir() and not (folder / "modules.json").exists()):
        header, _ = map_folder(folder)
        return Vocabulary(folder, header.name, header.digest, header.size, header.encoder)
    encoder = load_encoder(str(source))
    digest = digest_of(encoder.digest)
    cached = cache_folder() / "vocabularies" / f"{digest[:32]}-{FORMAT}"
    return Vocabulary(cached, encoder.name, digest, encoder.size, str(source))


def map_folder(folder: Path) -> tuple[Header, dict[str, NDArray[Any]]]:
    """Map the files of a prepared folder; nothing of them is read yet.

    Raises:
        VocabularyError: There is none, or of another format; or a file is missing, cut short or of another shape.
    """
    path, arrays = folder / HEADER, {}
    if not path.exists():
        raise VocabularyError(f"no {HEADER}: no prepared vocabulary", where=folder, remedy=PREPARE_AGAIN)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (number := content.pop("format")) != FORMAT:
            raise ValueError(f"format {number}, this reads {FORMAT}")
        header = Header(**content)
        num = header.num_words
        shapes = {"vectors": (num, header.size), "norms": (num,), "word_starts": (num + 1,), "word_order": (num,)}
        for name, shape in shapes.items():
            path = folder / f"{name}.npy"
            arrays[name] = np.load(path, mmap_mode="c")  # nothing is written, but torch takes no read-only arrays
            if arrays[name].shape != shape:
                raise ValueError(f"shape {arrays[name].shape}, expected {shape}")
        path = folder / "words.txt"
        arrays["words"] = np.memmap(path, np.uint8, "r", shape=(int(arrays["word_starts"][-1]),))
    except FileNotFoundError:
        raise VocabularyError("is missing", where=path, remedy=PREPARE_AGAIN) from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise VocabularyError(f"is damaged ({error})", where=path, remedy=PREPARE_AGAIN) from None
    return header, arrays


def prepare_cached(encoder: SentenceEncoder, folder: Path) -> None:
    """Encode a model's words, with a bar, unless another process is done first."""
    from serein.progress import Bars

    try:
        with Bars() as bars:
            label = f"words of {encoder.name}"
            prepare_encoder(encoder, folder, lambda _, done, total: bars(label, done, total, f"{total} words"))
    except (VocabularyError, OSError):
        if not (folder / HEADER).exists():
            raise


@lru_cache(maxsize=4)
def load_encoder(name: str) -> SentenceEncoder:
    """Return a Sentence-Transformers model, loaded once."""
    return SentenceEncoder(name)

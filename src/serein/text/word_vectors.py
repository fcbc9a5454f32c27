"""Word vectors: prepared once as memory-mapped arrays for lookup and search.

$ serein words prepare glove.840B.300d.txt -o glove
>>> vocabulary = open_vocabulary("glove")  # doctest: +SKIP
>>> words, cosines = vocabulary.nearest(vocabulary.vectors(["sadness"]), k=3)  # doctest: +SKIP

A prepared vocabulary is a folder:

| file | content |
|---|---|
| `vocabulary.json` | format, name, source and its SHA-256, counts |
| `vectors.npy` | (word, feature) float32 or float16, as in the source |
| `norms.npy` | (word,) float64, Euclidean |
| `words.txt` | UTF-8, one per line, in the order of the source |
| `word_starts.npy` | (word + 1,) byte of `words.txt` at which each word begins |
| `word_order.npy` | (word,) rows in the order of the words' bytes, for binary search |
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import math
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serein import hub
from serein.cache import cache_folder, claim
from serein.data.files import replacing_folder, sha256
from serein.errors import ModelError, VocabularyError, expected_one_of
from serein.nearest import ExactIndex, FaissIndex, write_faiss
from serein.text.sentences import DEFAULT_ENCODER, SentenceEncoder
from serein.text.word_vector_files import BUFFER_BYTES, OnError, Progress, Vectors, WordVectorFile

DType = Literal["float32", "float16"]

FORMAT = 2
HEADER = "vocabulary.json"
PREPARE_AGAIN = "Prepare it again: serein words prepare SOURCE -o FOLDER."
NPY_HEADER_BYTES = 128  # for any number of rows: NumPy leaves room for it to grow
NUM_SPELLINGS_COMPARED = 200_000  # the first words, which are the most frequent in published files


def whole_words(tokens: Iterable[str]) -> list[str]:
    """Return the distinct words of two or more letters among a tokenizer's entries, in their order.

    If entries mark the start of a word (`Ġ`, `▁`), unmarked entries are pieces; otherwise `##` marks pieces.

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
    """Metadata of a prepared vocabulary.

    Attributes:
        name: Name of the source file, or of the Sentence-Transformers model.
        digest: SHA-256 of the source's content and of how it was read.
        source_sha256: SHA-256 of the file, or of the model's files.
        encoder: The Sentence-Transformers model that also encodes words that are not stored; else `None`.
        num_duplicates: Number of repeated words left out; the first occurrence counts.
        num_skipped: Number of malformed lines left out.
        num_mended: Number of words that were not UTF-8.
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
        out: A new folder, written atomically.
        on_progress: Called with ("reading", bytes done, total bytes).
        dtype: Type of the stored vectors.
        on_error: `stop`: a malformed line is an error; `skip`: it is left out and counted.

    Raises:
        VocabularyError: The file does not exist, a line is malformed, or `out` already exists.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise VocabularyError("no such file", where=source, remedy="Specify a GloVe or word2vec file.")
    file, source_sha256 = WordVectorFile(path, on_error, on_progress), sha256(path)
    header = Header(path.name, digest_of(source_sha256, dtype, on_error), source_sha256, dtype)
    return write_vocabulary(Path(out).expanduser(), file, header, file.counts)


def prepare_encoder(encoder: str | SentenceEncoder, out: str | Path, on_progress: Progress | None = None) -> Header:
    """Write the words of a Sentence-Transformers model's tokenizer, encoded by the model, as a vocabulary.

    Raises:
        VocabularyError: `out` already exists, or the tokenizer has no whole words.
        ModelError: The model does not exist.
        MissingExtraError: The extra `text` is not installed.
    """
    encoder = SentenceEncoder(encoder) if isinstance(encoder, str) else encoder
    folders = sorted(path.parent for path in encoder.folder.rglob("tokenizer_config.json"))
    if not folders:
        raise VocabularyError("has no tokenizer_config.json", where=encoder.folder, remedy="Choose another model.")
    transformers = importlib.import_module("transformers")
    numbers = transformers.AutoTokenizer.from_pretrained(folders[0], local_files_only=True).get_vocab()
    words = whole_words(sorted(numbers, key=numbers.__getitem__))  # often in order of frequency
    report = None if on_progress is None else partial(on_progress, "encoding")
    entries = zip([word.encode() for word in words], encoder.vectors(words, on_progress=report), strict=True)
    source = encoder.name if encoder.name == DEFAULT_ENCODER else str(encoder.folder.resolve())
    encoder_sha256 = hub.folder_digest(encoder.folder)
    header = Header(encoder.name, digest_of(encoder_sha256), encoder_sha256, encoder=source)
    return write_vocabulary(Path(out).expanduser(), entries, header, Counter())


def write_vocabulary(
    out: Path, entries: Iterable[tuple[bytes, Vectors]], header: Header, counts: Counter[str]
) -> Header:
    """Write words and their vectors, (feature,), atomically as a folder; return the header with its counts.

    Raises:
        VocabularyError: There is no word, a number is too large for float16, or `out` already exists.
    """
    require_new(out)
    with replacing_folder(out) as folder:
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
                    raise VocabularyError(f"a number is too large for {dtype.name}", remedy="Omit --half.")
                file.write(stored.tobytes())
            if not words:
                raise VocabularyError("contains no words", where=header.name, remedy="Specify a file of word vectors.")
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
        require_new(out)  # another process may have finished first
    return header


def require_new(folder: Path) -> None:
    """Raise VocabularyError if a path exists and is not an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VocabularyError("already exists", where=folder, remedy="Delete it, or choose another folder with --out.")


def digest_of(source_sha256: str, *how: object) -> str:
    """Return the SHA-256 of a source's hash and of how it was read; increment the 1 when files are read differently."""
    return hashlib.sha256(" ".join(map(str, (1, source_sha256, *how))).encode()).hexdigest()


load_encoder = lru_cache(maxsize=4)(SentenceEncoder)  # a Sentence-Transformers model by its name, loaded once


# -- opened ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Words and their vectors; other processes open the files again.

    Attributes:
        folder: Folder of its words; those of a Sentence-Transformers model are encoded when first searched.
        name: The source file, or the Sentence-Transformers model.
        digest: SHA-256 of the source and of how it was read.
        size: Length of a vector.
        encoder: The Sentence-Transformers model that gives every word a vector, stored or not; else `None`.
    """

    folder: Path
    name: str
    digest: str
    size: int
    encoder: str | None = None

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The memory-mapped files of `folder` by name; the words of a Sentence-Transformers model are encoded first."""
        claimed = None if self.encoder is None else claim(self.folder)  # until all files are mapped
        if self.encoder is not None and not (self.folder / HEADER).exists():
            from serein.progress import Bars

            encoder = load_encoder(self.encoder)
            try:
                with Bars() as bars:
                    label = f"words of {encoder.name}"
                    prepare_encoder(
                        encoder, self.folder, lambda _, done, total: bars(label, done, total, f"{total} words")
                    )
            except (VocabularyError, OSError):
                if not (self.folder / HEADER).exists():  # otherwise another process finished first
                    raise
        arrays = map_folder(self.folder)[1]
        if claimed is not None:
            claimed.close()
        return arrays

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
        """Return (word, feature) float32, as in the source.

        Raises:
            VocabularyError: A word has no vector; names the nearest spellings.
        """
        words = list(words)
        is_prepared = self.encoder is None or (self.folder / HEADER).exists()
        row_of = {word: row for word in set(words) if is_prepared and (row := self.row(word)) is not None}
        is_stored = np.array([word in row_of for word in words], bool)
        vectors = np.zeros((len(words), self.size), np.float32)
        if row_of:
            vectors[is_stored] = self.arrays["vectors"][[row_of[word] for word in words if word in row_of]]
        if is_stored.all():
            return vectors
        others = [word for word in words if word not in row_of]
        empty = [word for word in others if not word.strip()]
        if self.encoder is None or empty:
            word = empty[0] if empty else others[0]
            what, remedy = f"the word '{word}' has no vector", "Choose another word."
            if alike := "" if empty else ", ".join(self.spellings(word)):
                what, remedy = f"{what}; similar spellings: {alike}", "Choose one of these."
            raise VocabularyError(what, where=self.name, remedy=remedy)
        encoder = load_encoder(self.encoder)
        if digest_of(hub.folder_digest(encoder.folder)) != self.digest:
            raise VocabularyError(
                f"the model '{encoder.name}' is not the one that the words were encoded with",
                where=self.name,
                remedy="Prepare the vocabulary again, or restore the model.",
            )
        vectors[~is_stored] = encoder.vectors(others)
        return vectors

    def spellings(self, word: str, count: int = 5) -> list[str]:
        """Return stored words with a similar spelling, the most similar first, among the 200,000 most frequent."""
        end = self.arrays["word_starts"][: NUM_SPELLINGS_COMPARED + 1][-1]
        by_lower: dict[str, str] = {}
        for each in self.arrays["words"][:end].tobytes().decode("utf-8").split("\n")[:-1]:
            by_lower.setdefault(each.lower(), each)
        return [by_lower[each] for each in difflib.get_close_matches(word.lower(), by_lower, count)]

    def nearest(
        self, queries: NDArray[np.floating[Any]], k: int = 10, index: str = "exact"
    ) -> tuple[list[list[str]], Vectors]:
        """Return the k stored words with the greatest cosine to each query, nearest first.

        Args:
            queries: (query, feature); a query of zeros has cosine 0 to all words.
            index: `exact`; or `faiss`, which may miss some, and is built at the first search.

        Returns:
            Words, k for each query, and their cosines, (query, k) float32.

        Raises:
            VocabularyError: The queries have another size or are not finite, or k exceeds the number of words.
            MissingExtraError: The extra `search` is not installed.
        """
        queries = np.asarray(queries, np.float64)
        what = remedy = ""
        if queries.ndim != 2 or queries.shape[1] != self.size:
            what = f"queries of shape {queries.shape}, expected (query, {self.size})"
            remedy = "Choose the vocabulary that the vectors were learned from."
        elif not np.isfinite(queries).all():
            what, remedy = "a query is not finite", "Check the model's predictions."
        elif not 1 <= k <= len(self):
            what, remedy = f"k is {k}, for {len(self)} words", f"Choose a k from 1 to {len(self)}."
        elif index not in ("exact", "faiss"):
            what, remedy = expected_one_of(index, ("exact", "faiss"), kind="index"), "Choose one of them."
        if what:
            raise VocabularyError(what, where=self.name, remedy=remedy)
        exact = ExactIndex(self.arrays["vectors"], "cosine", self.arrays["norms"])
        path = self.folder / "index.faiss"
        if index == "faiss" and not path.exists():
            write_faiss(exact, path, np.random.default_rng(0))
        rows, cosines = (exact if index == "exact" else FaissIndex(path, exact)).search(queries, k)
        return [[self.word(row) for row in some] for some in rows], cosines.astype(np.float32)


def open_vocabulary(source: str | Path = DEFAULT_ENCODER) -> Vocabulary:
    """Open a prepared vocabulary, or a Sentence-Transformers model as one.

    Args:
        source: A folder that `prepare` wrote, or the name or folder of a Sentence-Transformers model. Such a model
            gives every word a vector; the words that can be found are those of its tokenizer, which are encoded at the
            first search and kept in the user's cache.

    Raises:
        VocabularyError: It is neither, is damaged, or is a file that has not been prepared.
        ModelError: The model does not exist.
        MissingExtraError: The extra `text` is not installed.
    """
    folder = Path(source).expanduser()
    if folder.is_file():
        remedy = f"Prepare it once: serein words prepare {source} -o FOLDER."
        raise VocabularyError("is a file, not a prepared vocabulary", where=source, remedy=remedy)
    if (folder / HEADER).exists() or (folder.is_dir() and not (folder / "modules.json").exists()):
        header, _ = map_folder(folder)
        return Vocabulary(folder, header.name, header.digest, header.size, header.encoder)
    try:
        encoder = load_encoder(str(source))
    except ModelError as error:
        if folder.exists():
            raise
        prepare_it = f"Prepare word vectors: serein words prepare FILE -o {source}."
        remedy = f"{prepare_it} For a Sentence-Transformers model: {error.remedy}"
        raise ModelError(error.what, where=source, remedy=remedy) from error
    digest = digest_of(hub.folder_digest(encoder.folder))
    cached = cache_folder() / "vocabularies" / f"{digest[:32]}-{FORMAT}"
    return Vocabulary(cached, encoder.name, digest, encoder.size, str(source))


def map_folder(folder: Path) -> tuple[Header, dict[str, NDArray[Any]]]:
    """Memory-map the files of a prepared folder, without reading them.

    Raises:
        VocabularyError: It is no prepared folder or of another format, or a file is missing, truncated or misshapen.
    """
    path, arrays = folder / HEADER, {}
    if not path.exists():
        raise VocabularyError(f"no {HEADER}: not a prepared vocabulary", where=folder, remedy=PREPARE_AGAIN)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (number := content.pop("format")) != FORMAT:
            raise ValueError(f"format {number}, this version reads {FORMAT}")
        header = Header(**content)
        num = header.num_words
        shapes = {"vectors": (num, header.size), "norms": (num,), "word_starts": (num + 1,), "word_order": (num,)}
        for name, shape in shapes.items():
            path = folder / f"{name}.npy"
            arrays[name] = np.load(path, mmap_mode="c")  # never written to, but torch does not accept read-only arrays
            if arrays[name].shape != shape:
                raise ValueError(f"shape {arrays[name].shape}, expected {shape}")
        path = folder / "words.txt"
        arrays["words"] = np.memmap(path, np.uint8, "r", shape=(int(arrays["word_starts"][-1]),))
    except FileNotFoundError:
        raise VocabularyError("is missing", where=path, remedy=PREPARE_AGAIN) from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise VocabularyError(f"is damaged ({error})", where=path, remedy=PREPARE_AGAIN) from None
    return header, arrays

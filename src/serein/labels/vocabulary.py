"""Vocabularies: words and their vectors, millions of them, on disk; opened at once and searched exactly.

serein words prepare glove.840B.300d.txt -o glove
>>> vocabulary = open_vocabulary("glove")  # doctest: +SKIP
>>> vocabulary.nearest(vocabulary.vectors(["sadness"]), k=3)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serein.errors import VocabularyError
from serein.labels.sentences import DEFAULT_ENCODER, SentenceEncoder, cache_folder
from serein.labels.spelling import nearest_spellings
from serein.labels.vocabulary_files import (
    FORMAT,
    GROUP,
    HEADER,
    DType,
    Header,
    Writer,
    digest_of,
    mapped,
    new_folder,
    read_header,
    word_hashes,
    write_header,
)
from serein.labels.word_vectors import Broken, WordVectors, whole_words

Vectors = NDArray[np.float32]
Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Words and their vectors, mapped from a folder; copies and other processes open it anew.

    Attributes:
        folder: Where it lies.
        header: What it is: counts, source, hashes.
    """

    folder: Path
    header: Header
    _arrays: dict[str, NDArray[Any]] = field(repr=False)

    @property
    def name(self) -> str:
        """The file it was made of, or the Sentence-Transformers model."""
        return self.header.name

    @property
    def digest(self) -> str:
        """SHA-256 of the source and of how it was read."""
        return self.header.digest

    @property
    def size(self) -> int:
        """Numbers in a vector."""
        return self.header.size

    @property
    def encodes_all(self) -> bool:
        """Whether every word has a vector, encoded when it is asked for."""
        return self.header.encoder is not None

    def __len__(self) -> int:
        return self.header.num_words

    def __contains__(self, word: object) -> bool:
        if not isinstance(word, str):
            return False
        return self.row(word) is not None or (self.encodes_all and bool(word.strip()))

    def __reduce__(self) -> tuple[object, ...]:
        return _open, (self.folder,)

    def array(self, name: str) -> NDArray[Any]:
        """Return one of the mapped arrays; `serein.labels.vocabulary_files` says which there are."""
        return self._arrays[name]

    def row(self, word: str) -> int | None:
        """Return a stored word's row, or `None`."""
        encoded = word.encode("utf-8", "replace")
        hashes, rows = self._arrays["hashes"], self._arrays["hashed_rows"]
        wanted = word_hashes([encoded])[0]
        place = int(np.searchsorted(hashes, wanted))
        while place < len(hashes) and hashes[place] == wanted:
            row = int(rows[place])
            if self._encoded_word(row) == encoded:
                return row
            place += 1
        return None

    def word(self, row: int) -> str:
        """Return the word of a row.

        Raises:
            IndexError: There is no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} words")
        return self._encoded_word(row).decode("utf-8", "replace")

    def vector(self, word: str) -> Vectors:
        """Return (size,) float32, as the source has it.

        Raises:
            VocabularyError: The word has no vector; names the nearest spellings.
        """
        return self.vectors([word])[0]

    def vectors(self, words: Iterable[str]) -> Vectors:
        """Return (word, size) float32; see `vector`."""
        words = list(words)
        rows = [self.row(word) for word in words]
        found = np.zeros((len(words), self.size), np.float32)
        missing = [i for i, row in enumerate(rows) if row is None]
        if missing:
            found[missing] = self._encoded_now([words[i] for i in missing])
        for i, row in enumerate(rows):
            if row is not None:
                found[i] = self._arrays["vectors"][row]
        return found

    def spellings(self, word: str, count: int = 5) -> list[str]:
        """Return the stored words that are spelt most like one, nearest first."""
        rows = nearest_spellings(word, self._arrays["words"], self._arrays["starts"], count)
        return [self.word(row) for row in rows]

    def nearest(
        self, queries: NDArray[np.floating[Any]], k: int = 10, index: str = "exact"
    ) -> tuple[list[list[str]], Vectors]:
        """Return the k stored words of the greatest cosine to each query, nearest first.

        Args:
            queries: (query, size); a query of zeros has cosine 0 to all.
            index: `exact`, or `faiss` (approximate: some of the nearest may be missed).

        Returns:
            Words, k for each query, and their cosines, (query, k) float32.

        Raises:
            VocabularyError: The queries are of another size or not finite, or k is more than there are words.
        """
        rows, cosines = self.nearest_rows(queries, k, index)
        return [[self.word(int(row)) for row in some] for some in rows], cosines

    def nearest_rows(
        self, queries: NDArray[np.floating[Any]], k: int = 10, index: str = "exact"
    ) -> tuple[NDArray[np.int64], Vectors]:
        """Return rows instead of words, (query, k); see `nearest`."""
        from serein.labels.word_search import search_named

        search = search_named(index)
        checked = self._checked(queries, k)
        if not len(checked):
            return np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)
        lengths = np.linalg.norm(checked, axis=1, keepdims=True)
        rows, cosines = search(self, checked / np.where(lengths > 0, lengths, 1.0), k)
        return rows, cosines.astype(np.float32)

    def _checked(self, queries: NDArray[np.floating[Any]], k: int) -> NDArray[np.float64]:
        queries = np.asarray(queries, np.float64)
        if queries.ndim != 2 or queries.shape[1] != self.size:
            raise VocabularyError(
                f"queries of shape {queries.shape}, expected (query, {self.size})",
                where=self.folder,
                remedy="Choose the vocabulary that the vectors were learned from.",
            )
        if not np.isfinite(queries).all():
            raise VocabularyError("a query is not finite", where=self.folder, remedy="Check what the model answers.")
        if not 1 <= k <= len(self):
            raise VocabularyError(
                f"{k} nearest of {len(self)} words", where=self.folder, remedy=f"Ask for 1 to {len(self)}."
            )
        return queries

    def _encoded_word(self, row: int) -> bytes:
        starts = self._arrays["starts"]
        return self._arrays["words"][int(starts[row]) : int(starts[row + 1])].tobytes()

    def _encoded_now(self, words: Sequence[str]) -> Vectors:
        empty = [word for word in words if not word.strip()]
        if self.header.encoder is None or empty:
            raise self._unknown(empty[0] if empty else words[0])
        encoder = _encoder(self.header.encoder)
        if encoder.digest != self.header.source_sha256:
            raise VocabularyError(
                f"the model '{encoder.name}' is not the one that the words were encoded with",
                where=self.folder,
                remedy="Prepare the vocabulary again, or restore the model.",
            )
        return encoder.vectors(words)

    def _unknown(self, word: str) -> VocabularyError:
        alike = ", ".join(self.spellings(word)) if word.strip() else ""
        return VocabularyError(
            f"the word '{word}' has no vector; spelt most like it: {alike or 'no word'}",
            where=self.name,
            remedy="Choose one of these, or another word.",
        )


def open_vocabulary(source: str | Path = DEFAULT_ENCODER, on_progress: Progress | None = None) -> Vocabulary:
    """Open a prepared vocabulary, or a Sentence-Transformers model as one.

    Args:
        source: A folder that `prepare` wrote, or the name or folder of a Sentence-Transformers model. The words of such
            a model are its tokenizer's; they are encoded at first use and kept in the user's cache.
        on_progress: Told what is done, when a model's words are encoded.

    Raises:
        VocabularyError: It is neither, damaged, or a file that is not prepared.
        ModelError: There is no such model.
        MissingExtraError: The extra `text` is not installed.
    """
    folder = Path(source).expanduser()
    if folder.is_file():
        raise VocabularyError(
            "is a file, not a prepared vocabulary",
            where=source,
            remedy=f"Prepare it once: serein words prepare {source} -o FOLDER.",
        )
    if (folder / HEADER).exists() or (folder.is_dir() and not (folder / "modules.json").exists()):
        return _open(folder)
    encoder = _encoder(str(source))
    cached = cache_folder() / "vocabularies" / f"{encoder.digest[:32]}-{FORMAT}"
    if not (cached / HEADER).exists():
        try:
            _prepare_encoder(encoder, cached, on_progress)
        except (VocabularyError, OSError):
            if not (cached / HEADER).exists():  # else another process was first
                raise
    return _open(cached)


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    dtype: DType = "float32",
    broken: Broken = "stop",
    on_progress: Progress | None = None,
) -> Vocabulary:
    """Read a file of word vectors once and write it as a vocabulary; memory does not grow with the vectors.

    Args:
        source: Text of GloVe or word2vec, or word2vec's binary, also compressed with gzip.
        out: A new folder; whole or not there.
        dtype: Of the stored vectors.
        broken: `stop`: a wrong line is an error; `skip`: it is left out and counted (`header.num_skipped`).
        on_progress: Told of "reading" (bytes) and "indexing" (words).

    Raises:
        VocabularyError: The file is none, a line is wrong, or `out` is there already.
    """
    path, out = Path(source).expanduser(), Path(out).expanduser()
    if not path.is_file():
        raise VocabularyError("no such file", where=source, remedy="Name a file of GloVe or word2vec.")
    file = WordVectors(path, broken, _told(on_progress, "reading"))
    with new_folder(out) as partial:
        writer = Writer(partial, dtype)
        for words, vectors in file.portions():
            writer.add(words, vectors)
        num_duplicates = writer.finish(_told(on_progress, "indexing"))
        header = Header(
            name=path.name,
            digest=digest_of(file.sha256, dtype, broken),
            num_words=writer.num_words,
            size=writer.size,
            dtype=dtype,
            source_sha256=file.sha256,
            num_duplicates=num_duplicates,
            num_skipped=file.num["skipped"],
            num_mended=file.num["mended"],
        )
        write_header(partial, header)
    return _open(out)


def prepare_encoder(name: str, out: str | Path, *, on_progress: Progress | None = None) -> Vocabulary:
    """Write the words of a Sentence-Transformers model's tokenizer, encoded by it, as a vocabulary.

    Raises:
        VocabularyError: `out` is there already, or the tokenizer has no whole words.
        ModelError: There is no such model.
        MissingExtraError: The extra `text` is not installed.
    """
    _prepare_encoder(SentenceEncoder(name), Path(out).expanduser(), on_progress)
    return _open(Path(out).expanduser())


def _prepare_encoder(encoder: SentenceEncoder, out: Path, on_progress: Progress | None) -> None:
    words = whole_words(_tokens(encoder))
    with new_folder(out) as partial:
        vectors = encoder.vectors(words, on_progress=_told(on_progress, "encoding words"))
        writer = Writer(partial)
        writer.add([word.encode() for word in words], vectors)
        writer.finish()
        header = Header(
            name=encoder.name,
            digest=digest_of(encoder.digest),
            num_words=writer.num_words,
            size=writer.size,
            dtype="float32",
            source_sha256=encoder.digest,
            encoder=encoder.name if encoder.name == DEFAULT_ENCODER else str(encoder.folder.resolve()),
        )
        write_header(partial, header)


def _tokens(encoder: SentenceEncoder) -> list[str]:
    """Return a model's tokens in the order of their numbers, which is often that of their frequency."""
    folders = sorted(path.parent for path in encoder.folder.rglob("tokenizer_config.json"))
    if not folders:
        raise VocabularyError("has no tokenizer_config.json", where=encoder.folder, remedy="Choose another model.")
    transformers = importlib.import_module("transformers")
    numbers = transformers.AutoTokenizer.from_pretrained(folders[0], local_files_only=True).get_vocab()
    return sorted(numbers, key=numbers.__getitem__)


def _open(folder: Path) -> Vocabulary:
    header = read_header(folder)
    num_groups = -(-header.num_words // GROUP)
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "vectors": (header.dtype, (header.num_words, header.size)),
        "norms": ("float64", (header.num_words,)),
        "starts": ("uint64", (header.num_words + 1,)),
        "hashes": ("uint64", (header.num_words,)),
        "hashed_rows": ("uint32", (header.num_words,)),
        "codes": ("int8", (num_groups * GROUP, header.size)),
        "code_rows": ("uint32", (num_groups * GROUP,)),
        "code_scales": ("float32", (num_groups,)),
        "code_errors": ("float32", (num_groups,)),
    }
    arrays = {name: mapped(folder, f"{name}.bin", dtype, shape) for name, (dtype, shape) in shapes.items()}
    arrays["words"] = mapped(folder, "words.bin", "uint8", (int(arrays["starts"][-1]),))
    return Vocabulary(folder, header, arrays)


@lru_cache(maxsize=4)
def _encoder(name: str) -> SentenceEncoder:
    return SentenceEncoder(name)


def _told(on_progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if on_progress is None else lambda done, total: on_progress(what, done, total)

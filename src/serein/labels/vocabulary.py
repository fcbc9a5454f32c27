"""Vocabularies: words and their vectors, millions of them, on disk; opened at once and searched exactly.

$ serein words prepare glove.840B.300d.txt -o glove
>>> vocabulary = open_vocabulary("glove")  # doctest: +SKIP
>>> words, cosines = vocabulary.nearest(vocabulary.vectors(["sadness"]), k=3)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serein.errors import VocabularyError
from serein.labels.preparing import Progress, encoder_digest, prepare, prepare_encoder
from serein.labels.stored_words import StoredWords, open_words
from serein.labels.vocabulary_files import FORMAT, HEADER
from serein.text.sentences import DEFAULT_ENCODER, SentenceEncoder, cache_folder

__all__ = ["Vocabulary", "open_vocabulary", "prepare", "prepare_encoder"]

Vectors = NDArray[np.float32]


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
    def stored(self) -> StoredWords:
        """The words that can be found: all of a file, or those of a model's tokenizer."""
        if self.encoder is not None and not (self.folder / HEADER).exists():
            _prepare_cached(_encoder(self.encoder), self.folder)
        return open_words(self.folder)

    def __len__(self) -> int:
        return len(self.stored)

    def __bool__(self) -> bool:
        return True  # else `len` would be asked, and a model's words encoded

    def __contains__(self, word: object) -> bool:
        if not isinstance(word, str):
            return False
        return bool(word.strip()) if self.encoder is not None else self.stored.row(word) is not None

    def __reduce__(self) -> tuple[object, ...]:
        return Vocabulary, (self.folder, self.name, self.digest, self.size, self.encoder)

    def word(self, row: int) -> str:
        """Return the word of a row.

        Raises:
            IndexError: There is no such row.
        """
        return self.stored.word(row)

    def vector(self, word: str) -> Vectors:
        """Return (size,) float32, as the source has it.

        Raises:
            VocabularyError: The word has no vector; names the nearest spellings.
        """
        vector: Vectors = self.vectors([word])[0]
        return vector

    def vectors(self, words: Iterable[str]) -> Vectors:
        """Return (word, size) float32; see `vector`."""
        words = list(words)
        row_of = self._rows(words)
        unknown = [word for word in words if word not in row_of]
        found = np.zeros((len(words), self.size), np.float32)
        is_known = np.array([word in row_of for word in words], bool)
        if row_of:
            found[is_known] = self.stored.array("vectors")[[row_of[word] for word in words if word in row_of]]
        if unknown:
            found[~is_known] = self._encoded_now(unknown)
        return found

    def spellings(self, word: str, count: int = 5) -> list[str]:
        """Return the stored words that are spelt most like one, nearest first."""
        return self.stored.spellings(word, count)

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
            MissingExtraError: The extra `search` is not installed.
        """
        rows, cosines = self.nearest_rows(queries, k, index)
        return [[self.word(int(row)) for row in some] for some in rows], cosines

    def nearest_rows(
        self, queries: NDArray[np.floating[Any]], k: int = 10, index: str = "exact"
    ) -> tuple[NDArray[np.int64], Vectors]:
        """Return rows instead of words, (query, k); see `nearest`."""
        from serein.labels.word_search import search_named

        search = search_named(index)
        directions = self._directions(queries, k)
        if not len(directions):
            return np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)
        rows, cosines = search(self.stored, directions, k)
        return rows, cosines.astype(np.float32)

    def _rows(self, words: Sequence[str]) -> dict[str, int]:
        """Return the rows of those words that are stored."""
        if self.encoder is not None and not (self.folder / HEADER).exists():
            return {}
        rows = ((word, self.stored.row(word)) for word in set(words))
        return {word: row for word, row in rows if row is not None}

    def _directions(self, queries: NDArray[np.floating[Any]], k: int) -> NDArray[np.float64]:
        """Return checked queries of length 1, or zeros."""
        checked = np.asarray(queries, np.float64)
        if checked.ndim != 2 or checked.shape[1] != self.size:
            raise VocabularyError(
                f"queries of shape {checked.shape}, expected (query, {self.size})",
                where=self.name,
                remedy="Choose the vocabulary that the vectors were learned from.",
            )
        if not np.isfinite(checked).all():
            raise VocabularyError("a query is not finite", where=self.name, remedy="Check what the model answers.")
        if not 1 <= k <= len(self):
            raise VocabularyError(
                f"{k} nearest of {len(self)} words", where=self.name, remedy=f"Ask for 1 to {len(self)}."
            )
        largest = np.abs(checked).max(axis=1, keepdims=True, initial=0.0)
        checked = checked / np.where(largest > 0, largest, 1.0)  # else squares of large numbers would overflow
        lengths = np.linalg.norm(checked, axis=1, keepdims=True)
        directions: NDArray[np.float64] = checked / np.where(lengths > 0, lengths, 1.0)
        return directions

    def _encoded_now(self, words: Sequence[str]) -> Vectors:
        empty = [word for word in words if not word.strip()]
        if self.encoder is None or empty:
            raise self._unknown(empty[0] if empty else words[0])
        encoder = _encoder(self.encoder)
        if encoder_digest(encoder) != self.digest:
            raise VocabularyError(
                f"the model '{encoder.name}' is not the one that the words were encoded with",
                where=self.folder,
                remedy="Prepare the vocabulary again, or restore the model.",
            )
        return encoder.vectors(words)

    def _unknown(self, word: str) -> VocabularyError:
        alike = ", ".join(self.spellings(word)) if word.strip() and self.encoder is None else ""
        return VocabularyError(
            f"the word '{word}' has no vector" + (f"; spelt most like it: {alike}" if alike else ""),
            where=self.name,
            remedy="Choose one of these, or another word." if alike else "Choose another word.",
        )


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
        raise VocabularyError(
            "is a file, not a prepared vocabulary",
            where=source,
            remedy=f"Prepare it once: serein words prepare {source} -o FOLDER.",
        )
    if (folder / HEADER).exists() or (folder.is_dir() and not (folder / "modules.json").exists()):
        header = open_words(folder).header
        return Vocabulary(folder, header.name, header.digest, header.size, header.encoder)
    encoder = _encoder(str(source))
    digest = encoder_digest(encoder)
    cached = cache_folder() / "vocabularies" / f"{digest[:32]}-{FORMAT}"
    return Vocabulary(cached, encoder.name, digest, encoder.size, str(source))


def _prepare_cached(encoder: SentenceEncoder, folder: Path) -> None:
    """Encode a model's words, with a bar, unless another process is done first."""
    from serein.progress import Bars

    try:
        with Bars() as bars:
            label = f"words of {encoder.name}"
            on_progress: Progress = lambda what, done, total: bars(label, done, total, f"{total} words")  # noqa: E731
            prepare_encoder(encoder, folder, on_progress)
    except (VocabularyError, OSError):
        if not (folder / HEADER).exists():
            raise


@lru_cache(maxsize=4)
def _encoder(name: str) -> SentenceEncoder:
    return SentenceEncoder(name)

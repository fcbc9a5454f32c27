"""The words and vectors of a prepared folder, mapped into memory: a word's row, a row's word, the nearest spellings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serein.labels.spelling import nearest_spellings
from serein.labels.vocabulary_files import GROUP, Header, mapped, read_header, word_hashes


@dataclass(frozen=True, eq=False)
class StoredWords:
    """What lies in a folder; see `serein.labels.vocabulary_files` for its files.

    Attributes:
        header: Counts, source and hashes.
    """

    folder: Path
    header: Header
    _arrays: dict[str, NDArray[Any]] = field(repr=False)

    def __len__(self) -> int:
        return self.header.num_words

    def array(self, name: str) -> NDArray[Any]:
        """Return one of the mapped arrays, by its file's name without `.bin`."""
        return self._arrays[name]

    def row(self, word: str) -> int | None:
        """Return a word's row, or `None`."""
        encoded = word.encode("utf-8", "replace")
        hashes, rows = self._arrays["hashes"], self._arrays["hashed_rows"]
        wanted = word_hashes([encoded])[0]
        place = int(np.searchsorted(hashes, wanted))
        while place < len(hashes) and hashes[place] == wanted:
            row = int(rows[place])
            if self._encoded(row) == encoded:
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
        return self._encoded(row).decode("utf-8", "replace")

    def spellings(self, word: str, count: int) -> list[str]:
        """Return the words that are spelt most like one, nearest first."""
        rows = nearest_spellings(word, self._arrays["words"], self._arrays["starts"], count)
        return [self.word(row) for row in rows]

    def _encoded(self, row: int) -> bytes:
        starts = self._arrays["starts"]
        return self._arrays["words"][int(starts[row]) : int(starts[row + 1])].tobytes()


def open_words(folder: Path) -> StoredWords:
    """Map a prepared folder's files.

    Raises:
        VocabularyError: There is no vocabulary, or a file is missing or cut short.
    """
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
    return StoredWords(folder, header, arrays)

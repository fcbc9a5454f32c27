"""The words of a vocabulary that are spelt most like one that it does not hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LONGEST = 40  # bytes; longer words are compared by their start
_LOWER = np.array([byte + 32 if 65 <= byte <= 90 else byte for byte in range(256)], np.uint8)


def nearest_spellings(
    word: str, text: NDArray[np.uint8], starts: NDArray[np.uint64], count: int = 5, reach: int = 2
) -> list[int]:
    """Return the rows whose words need the fewest insertions, deletions and substitutions to become `word`.

    ASCII capitals count as small letters. Of equally near words, those that start alike for longer come first, and
    then the earlier ones, which are the more frequent in published files.

    Args:
        text: UTF-8 of all words, one after the other.
        starts: (word + 1,) where each starts.
        count: At most so many.
        reach: Words longer or shorter by more bytes are not looked at.

    Example:
        >>> words = [b"august", b"disgusted", b"Disgusts", b"happy"]
        >>> starts = np.cumsum([0, *map(len, words)]).astype(np.uint64)
        >>> nearest_spellings("disgust", np.frombuffer(b"".join(words), np.uint8), starts, count=2)
        [2, 1]
    """
    target = _LOWER[np.frombuffer(word.encode("utf-8", "replace")[:LONGEST], np.uint8)]
    lengths = np.minimum(np.diff(starts), LONGEST).astype(np.int16)
    rows = np.flatnonzero((lengths >= len(target) - reach) & (lengths <= len(target) + reach))
    if not len(rows):
        return []
    lengths, begins = lengths[rows], starts[rows].astype(np.int64)
    last = len(text) - 1
    letters = np.stack([_LOWER[text[np.minimum(begins + i, last)]] for i in range(lengths.max())])
    distances = _distances(letters, lengths, target)
    num_near = min(count, len(rows))
    near = np.flatnonzero(distances <= np.partition(distances, num_near - 1)[num_near - 1])
    alike = (letters[: len(target), near] == target[: len(letters), None]).cumprod(axis=0).sum(axis=0)
    order = np.lexsort((rows[near], -alike, distances[near]))
    return [int(row) for row in rows[near][order][:count]]


def _distances(letters: NDArray[np.uint8], lengths: NDArray[np.int16], target: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (row,) Levenshtein distances, of all rows at once.

    Args:
        letters: (letter, row).
        lengths: (row,) how many of the letters count.
    """
    num_rows = letters.shape[1]
    above = np.repeat(np.arange(len(target) + 1, dtype=np.uint8)[:, None], num_rows, axis=1)
    found = np.full(num_rows, len(target), np.uint8)
    for number, row_letters in enumerate(letters, start=1):
        here = np.empty_like(above)
        here[0] = number
        for place, letter in enumerate(target, start=1):
            changed = above[place - 1] + (row_letters != letter)
            here[place] = np.minimum(np.minimum(above[place], here[place - 1]) + np.uint8(1), changed)
        found = np.where(lengths == number, here[-1], found)
        above = here
    return found

"""Texts as letters: normalised, numbered, spelt again, and compared."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from serein.errors import ManifestError, MissingExtraError
from serein.tasks.ctc import PADDING, UNKNOWN, Alphabet, WordErrors, normalised, word_errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Kids are talking by the door.", "kids are talking by the door"),
        ("  DON'T -- stop!  ", "don't stop"),
        ("'quoted' rock 'n' roll’s", "quoted rock n roll's"),
        ("Grüße, Ἀθήνα 5½", "grüße ἀθήνα 5½"),
        ("...", ""),
        (None, ""),
    ],
)
def test_how_texts_are_normalised(text: str | None, expected: str) -> None:
    assert normalised(text) == expected
    assert normalised(expected) == expected


def test_letters_are_those_of_the_texts_it_is_made_of() -> None:
    alphabet = Alphabet.of(["Go, go!", None, "see"])
    assert alphabet.letters == " egos"
    assert alphabet.numbers("so sad") == [5, 4, 1, 5, UNKNOWN, UNKNOWN]
    with pytest.raises(ManifestError, match="no training utterance has a transcript"):
        Alphabet.of([None, "?!"])


def test_rows_are_padded_and_spelt_again() -> None:
    alphabet = Alphabet.of(["oh no"])
    rows = alphabet.rows(["no", None, "oh oh no"])
    assert rows.shape == (3, 8)
    assert rows.dtype == np.int16
    assert (rows == PADDING).sum(axis=1).tolist() == [6, 8, 0]
    assert [alphabet.spelt(row) for row in rows] == ["no", "", "oh oh no"]
    assert alphabet.spelt(alphabet.numbers("now")) == "no\ufffd"


@pytest.mark.parametrize(
    ("symbols", "text"),
    [([0, 0], ""), ([1, 1, 1], "a"), ([1, 0, 1], "aa"), ([1, 2, 2, 0, 2], "abb"), ([], "")],
)
def test_greedy_decoding_joins_repeats_and_leaves_out_blanks(symbols: list[int], text: str) -> None:
    assert Alphabet("ab").text(symbols) == text


def test_spaces_at_the_ends_and_in_a_row_are_one() -> None:
    assert Alphabet(" a").text([1, 2, 1, 0, 1, 2, 1]) == "a a"


@pytest.mark.parametrize(
    ("truth", "heard", "errors"),
    [
        ("a b c", "a b c", WordErrors(0, 3, 0, 5)),
        ("a b c", "a x c", WordErrors(1, 3, 1, 5)),
        ("a b c", "", WordErrors(3, 3, 5, 5)),
        ("a", "a b c d", WordErrors(3, 1, 6, 1)),
    ],
)
def test_errors_by_hand(truth: str, heard: str, errors: WordErrors) -> None:
    assert word_errors(truth, heard) == errors


def test_without_jiwer_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serein\[asr\]'"):
        word_errors("a", "a")

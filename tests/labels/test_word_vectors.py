"""Files of word vectors: each format as its makers write it, and what is wrong in real ones."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from serein.errors import VocabularyError
from serein.labels import word_vectors
from serein.labels.word_vectors import Broken, WordVectors, whole_words

GLOVE = b"sad 0.5 -1 2e-1\nglad 1 2 3\n. . . 4 5 6\nto name@domain.com 7 8 9\n"
WORDS = ["sad", "glad", ". . .", "to name@domain.com"]
VECTORS = [[0.5, -1, 0.2], [1, 2, 3], [4, 5, 6], [7, 8, 9]]


def read(folder: Path, content: bytes, broken: Broken = "stop") -> tuple[list[str], np.ndarray, WordVectors]:
    path = folder / "vectors"
    path.write_bytes(content)
    file = WordVectors(path, broken)
    portions = list(file.portions())
    words = [word.decode("utf-8") for portion in portions for word in portion.words]
    return words, np.concatenate([portion.vectors for portion in portions]), file


def binary(end: bytes = b"\n", count: int = 3) -> bytes:
    rows = [b"sad " + struct.pack("<2f", 1, 2), b"glad " + struct.pack("<2f", 3, 4), b"so " + struct.pack("<2f", 5, 6)]
    return f"{count} 2\n".encode() + b"".join(row + end for row in rows)


@pytest.mark.parametrize("portion_bytes", [1, 40, 1 << 23])
@pytest.mark.parametrize(
    "content",
    [
        GLOVE,
        GLOVE.replace(b"\n", b"\r\n"),
        GLOVE.replace(b"\n", b" \n"),  # the original word2vec, fastText
        GLOVE.replace(b"glad 1 2", b"glad\t1\t2"),
        GLOVE[:-1],
        b"4 3\n" + GLOVE,
    ],
)
def test_text_is_read_as_it_is(
    content: bytes, portion_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_vectors, "PORTION_BYTES", portion_bytes)
    words, vectors, file = read(tmp_path, content)
    assert words == WORDS
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, VECTORS)
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert not file.num


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize("portion_bytes", [3, 1 << 23])
def test_binary_is_read_as_it_is(
    end: bytes, portion_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_vectors, "PORTION_BYTES", portion_bytes)
    words, vectors, _ = read(tmp_path, binary(end))
    assert words == ["sad", "glad", "so"]
    assert vectors.tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("content", [GLOVE, binary()])
def test_compressed_files_are_read(content: bytes, tmp_path: Path) -> None:
    words, _, file = read(tmp_path, gzip.compress(content, mtime=0))
    assert words[:2] == ["sad", "glad"]
    assert file.sha256 == hashlib.sha256((tmp_path / "vectors").read_bytes()).hexdigest()


def test_words_that_are_no_utf8_are_mended_and_counted(tmp_path: Path) -> None:
    words, _, file = read(tmp_path, b"caf\xc3 1 2\ncaf\xc3\xa9 3 4\n\xc2\xa0x 5 6\n\xc2\x85 7 8\n")
    assert words == ["caf\ufffd", "café", "\u00a0x", "\u0085"]
    assert file.num["mended"] == 1


@pytest.mark.parametrize(
    "line",
    [b"bad 1 2", b"bad 1.0 2.0 3.0 4.0", b"bad 1 2 x", b"bad 1 2 3x", b"bad 1 nan 3", b"bad 1 1e99 3", b"", b" 1 2 3"],
)
def test_a_wrong_line_is_named_by_its_number_or_skipped(line: bytes, tmp_path: Path) -> None:
    content = b"sad 0.5 -1 2e-1\n" + line + b"\nglad 1 2 3\nmad 1 2 3\n"
    with pytest.raises(VocabularyError, match="line 2: no word followed by 3 finite numbers"):
        read(tmp_path, content)
    words, _, file = read(tmp_path, content, "skip")
    assert words == ["sad", "glad", "mad"]
    assert file.num == {"skipped": 1}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "no lines of words"),
        (b"\x00\x01\x02", "no lines of words"),
        (b"only words\nno numbers\n", "line 1"),
        (b"words\nalone\n", "no words followed by numbers"),
        (b"0 3\n", "promises 0 words"),
        (b"9 3\n" + GLOVE, "has 4 words, and its header promises 9"),
        (binary(count=5), "ends after 3 of 5 words"),
        (binary()[:-6], "ends after 2 of 3 words"),
        (binary().replace(struct.pack("<f", 4), struct.pack("<f", np.nan)), "'glad' is empty or has numbers"),
        (gzip.compress(GLOVE, mtime=0)[:-12], "cannot be decompressed"),
    ],
)
def test_what_is_no_such_file_is_refused(content: bytes, what: str, tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=what) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "vectors") in str(caught.value)
    assert caught.value.remedy


def test_progress_ends_at_the_files_size(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(GLOVE)
    told: list[tuple[int, int]] = []
    list(WordVectors(tmp_path / "a.txt", on_progress=lambda done, total: told.append((done, total))).portions())
    assert told[-1] == (len(GLOVE), len(GLOVE))


def test_whole_words_of_tokenizers() -> None:
    assert whole_words(["[CLS]", "sad", "##ness", "!", "42", "sad", "Ärger"]) == ["sad", "Ärger"]
    assert whole_words(["<s>", "Ġsad", "ness", "Ġ", "Ġx"]) == ["sad"]

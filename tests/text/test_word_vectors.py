"""Word vectors: each format as its makers write it, what is wrong in real files, prepared once, opened, searched."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serein import hub
from serein.errors import ModelError, SereinError, VocabularyError
from serein.text import word_vectors
from serein.text.word_vector_files import OnError, Vectors, WordVectorFile
from serein.text.word_vectors import (
    Header,
    Vocabulary,
    open_vocabulary,
    prepare,
    prepare_encoder,
    whole_words,
    write_vocabulary,
)

REAL = Path(os.environ.get("SEREIN_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
GLOVE_EXCERPT = REAL / "glove_50d_5k.txt"
GLOVE = b"sad 0.5 -1 2e-1\nglad 1 2 3\n. . . 4 5 6\nto name@domain.com 7 8 9\n"
WORDS = ["sad", "glad", ". . .", "to name@domain.com"]
VECTORS = [[0.5, -1, 0.2], [1, 2, 3], [4, 5, 6], [7, 8, 9]]


def read(folder: Path, content: bytes, on_error: OnError = "stop") -> tuple[list[str], np.ndarray, WordVectorFile]:
    (folder / "vectors").write_bytes(content)
    file = WordVectorFile(folder / "vectors", on_error)
    words, vectors = zip(*file, strict=True)
    return [word.decode("utf-8") for word in words], np.stack(vectors), file


def binary(end: bytes = b"\n", count: int = 3) -> bytes:
    rows = [b"sad " + struct.pack("<2f", 1, 2), b"glad " + struct.pack("<2f", 3, 4), b"so " + struct.pack("<2f", 5, 6)]
    return f"{count} 2\n".encode() + b"".join(row + end for row in rows)


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # parameters must not depend on the time


def vocabulary_of(folder: Path, words: list[str], vectors: np.ndarray, **how: str) -> Vocabulary:
    rows = (f"{word} {' '.join(map(repr, row.tolist()))}\n" for word, row in zip(words, vectors, strict=True))
    (folder / "made.txt").write_text("".join(rows))
    prepare(folder / "made.txt", folder / "made", **how)
    return open_vocabulary(folder / "made")


def random_vocabulary(folder: Path, num_words: int, size: int = 20) -> Vocabulary:
    vectors = np.random.default_rng(0).standard_normal((num_words, size)).astype(np.float32)
    return vocabulary_of(folder, [f"w{number}" for number in range(num_words)], vectors)


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(GLOVE, id="glove"),
        pytest.param(GLOVE.replace(b"\n", b"\r\n"), id="windows"),
        pytest.param(GLOVE.replace(b"\n", b" \n"), id="space at the end"),  # the original word2vec, fastText
        pytest.param(GLOVE.replace(b"glad 1 2", b"glad\t1\t2"), id="tabs"),
        pytest.param(GLOVE[:-1], id="no last newline"),
        pytest.param(b"4 3\n" + GLOVE, id="word2vec"),
        pytest.param(gzipped(GLOVE), id="compressed"),
    ],
)
def test_text_is_read_as_it_is(content: bytes, tmp_path: Path) -> None:
    words, vectors, file = read(tmp_path, content)
    assert words == WORDS
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, VECTORS)
    assert not file.counts.total()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(binary(), id="newlines"),
        pytest.param(binary(b""), id="no newlines"),
        pytest.param(gzipped(binary()), id="compressed"),
    ],
)
def test_binary_is_read_as_it_is(content: bytes, tmp_path: Path) -> None:
    words, vectors, _ = read(tmp_path, content)
    assert words == ["sad", "glad", "so"]
    assert vectors.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_words_that_are_no_utf8_are_mended_and_counted(tmp_path: Path) -> None:
    words, _, file = read(tmp_path, b"caf\xc3 1 2\ncaf\xc3\xa9 3 4\n\xc2\xa0x 5 6\n\xc2\x85 7 8\n")
    assert words == ["caf\ufffd", "café", "\u00a0x", "\u0085"]
    assert file.counts["mended"] == 1


@pytest.mark.parametrize(
    "line",
    [b"bad 1 2", b"bad 1.0 2.0 3.0 4.0", b"bad 1 2 x", b"bad 1 2 3x", b"bad 1 nan 3", b"bad 1 1e99 3", b"", b" 1 2 3"],
)
def test_a_wrong_line_is_named_by_its_number_or_skipped(line: bytes, tmp_path: Path) -> None:
    content = b"sad 0.5 -1 2e-1\n" + line + b"\nglad 1 2 3\nmad 1 2 3\n"
    with pytest.raises(VocabularyError, match="line 2 is not a word followed by 3 finite numbers"):
        read(tmp_path, content)
    words, _, file = read(tmp_path, content, "skip")
    assert words == ["sad", "glad", "mad"]
    assert file.counts["skipped"] == 1
    with pytest.raises(VocabularyError, match="line 3 is not a word"):
        read(tmp_path, b"4 3\n" + content)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        pytest.param(b"", "contains neither lines of words", id="empty"),
        pytest.param(b"\x00\x01\x02", "contains neither lines of words", id="bytes"),
        pytest.param(b"only words\nno numbers\n", "line 1", id="words"),
        pytest.param(b"words\nalone\n", "the lines are not words followed by numbers", id="single words"),
        pytest.param(b"0 3\n", "states 0 words", id="no words"),
        pytest.param(b"9 3\n" + GLOVE, "has 4 words, but its header states 9", id="too few lines"),
        pytest.param(binary(count=5), "ends after 3 of 5 words", id="too few rows"),
        pytest.param(binary()[:-6], "ends after 2 of 3 words", id="cut"),
        pytest.param(
            binary().replace(struct.pack("<f", 4), struct.pack("<f", np.nan)), "'glad' is empty or has", id="nan"
        ),
        pytest.param(gzipped(GLOVE)[:-12], "cannot be decompressed", id="cut and compressed"),
        pytest.param(
            pickle.dumps({"vectors": [1]}), r"save_word2vec_format\('vectors.bin', binary=True\)", id="gensim"
        ),
    ],
)
def test_what_is_no_such_file_is_refused(content: bytes, what: str, tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=what) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "vectors") in str(caught.value)
    assert caught.value.remedy


def test_progress_ends_at_the_files_size(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(GLOVE)
    told: list[tuple[str, int, int]] = []
    list(WordVectorFile(tmp_path / "a.txt", on_progress=lambda *some: told.append(some)))
    assert told[-1] == ("reading", len(GLOVE), len(GLOVE))


def test_whole_words_of_tokenizers() -> None:
    assert whole_words(["[CLS]", "sad", "##ness", "!", "42", "sad", "Ärger"]) == ["sad", "Ärger"]
    assert whole_words(["<s>", "Ġsad", "ness", "Ġ", "Ġx"]) == ["sad"]


# -- prepared --------------------------------------------------------------------------------------------------------


def test_words_and_vectors_come_back(tmp_path: Path) -> None:
    vectors = np.array([[3, 4], [0, -2], [0, 0], [1e-8, 0.1]], np.float32)
    opened = vocabulary_of(tmp_path, ["sad", "Glad", "null", "déjà vu"], vectors)
    assert (len(opened), opened.size, opened.name) == (4, 2, "made.txt")
    assert [opened.word(row) for row in range(4)] == ["sad", "Glad", "null", "déjà vu"]
    assert [opened.row(word) for word in ("sad", "Glad", "null", "déjà vu", "zoo")] == [0, 1, 2, 3, None]
    assert [word in opened for word in ("sad", "glad", "déjà vu", "", 3)] == [True, False, True, False, False]
    np.testing.assert_array_equal(opened.vectors(["déjà vu", "sad", "sad"]), vectors[[3, 0, 0]])
    assert opened.vectors([]).shape == (0, 2)
    np.testing.assert_allclose(opened.arrays["norms"], [5, 2, 0, 0.1], rtol=1e-6)


def test_a_folder_is_plain_files(tmp_path: Path) -> None:
    """Whoever has numpy and an editor can read it."""
    random_vocabulary(tmp_path, 50)
    assert (tmp_path / "made" / "words.txt").read_text().split() == [f"w{number}" for number in range(50)]
    assert np.load(tmp_path / "made" / "vectors.npy").shape == (50, 20)


def test_the_first_of_equal_words_counts(tmp_path: Path) -> None:
    words = [f"w{number % 150}" for number in range(400)]
    vectors = np.arange(800, dtype=np.float32).reshape(400, 2)
    opened = vocabulary_of(tmp_path, words, vectors)
    assert len(opened) == 150
    assert word_vectors.map_folder(opened.folder)[0].num_duplicates == 250
    np.testing.assert_array_equal(opened.vectors(words[:150]), vectors[:150])
    assert opened.word(149) == "w149"


def test_half_as_large_with_float16(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    opened = vocabulary_of(tmp_path, [f"w{i}" for i in range(100)], vectors, dtype="float16")
    assert opened.vectors(["w3"]).dtype == np.float32
    np.testing.assert_array_equal(opened.vectors(["w3"])[0], vectors[3].astype(np.float16))
    assert opened.arrays["vectors"].dtype == np.float16
    assert [words[0] for words in opened.nearest(vectors, 1)[0]] == [f"w{i}" for i in range(100)]
    with pytest.raises(VocabularyError, match="too large for float16"):
        vocabulary_of(tmp_path / "made", ["a"], np.array([[1e6]], np.float32), dtype="float16")
    assert not list((tmp_path / "made").glob(".*"))  # nothing is left of it


def test_the_same_source_has_the_same_digest_and_another_has_not(tmp_path: Path) -> None:
    digests = []
    for name, words in (("a", ["x", "y"]), ("b", ["x", "y"]), ("c", ["x", "z"])):
        (tmp_path / name).mkdir()
        digests.append(vocabulary_of(tmp_path / name, words, np.eye(2, dtype=np.float32)).digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    random_vocabulary(tmp_path, 5)
    with pytest.raises(VocabularyError, match="already exists"):
        prepare(tmp_path / "made.txt", tmp_path / "made")


def test_a_folder_that_another_process_finished_first_stays(tmp_path: Path) -> None:
    def entries() -> Iterator[tuple[bytes, Vectors]]:
        yield b"a", np.ones(2, np.float32)
        vocabulary_of(tmp_path, ["b", "c"], np.eye(2, dtype=np.float32))

    with pytest.raises(VocabularyError, match="already exists"):
        write_vocabulary(tmp_path / "made", entries(), Header("made", "0", "0"), Counter())
    assert open_vocabulary(tmp_path / "made").word(1) == "c"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "made.txt"]


def test_a_broken_source_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "made.txt").write_text("a 1 2\nb 1 x\nc 1 2\n")
    with pytest.raises(VocabularyError, match="line 2"):
        prepare(tmp_path / "made.txt", tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["made.txt"]
    assert prepare(tmp_path / "made.txt", tmp_path / "made", on_error="skip").num_skipped == 1


# -- opened ----------------------------------------------------------------------------------------------------------


def test_nearest_by_hand(tmp_path: Path) -> None:
    opened = vocabulary_of(tmp_path, ["east", "north", "northeast"], np.array([[2, 0], [0, 9], [1, 1]], np.float32))
    words, cosines = opened.nearest(np.array([[4.0, 3.0]]), k=3)
    assert words == [["northeast", "east", "north"]]
    np.testing.assert_allclose(cosines, [[7 / 50**0.5, 0.8, 0.6]], rtol=1e-6)


def test_a_copy_is_opened_anew(tmp_path: Path) -> None:
    opened = random_vocabulary(tmp_path, 3000)
    content = pickle.dumps(opened)
    assert len(content) < 1000
    np.testing.assert_array_equal(pickle.loads(content).vectors(["w7"]), opened.vectors(["w7"]))


@pytest.mark.parametrize("name", ["vectors.npy", "norms.npy", "word_starts.npy", "word_order.npy", "words.txt"])
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    random_vocabulary(tmp_path, 100)
    path = tmp_path / "made" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VocabularyError, match=f"{name}: is damaged") as caught:
        open_vocabulary(tmp_path / "made")
    assert "serein words prepare" in str(caught.value)
    path.unlink()
    with pytest.raises(VocabularyError, match=f"{name}: is missing"):
        open_vocabulary(tmp_path / "made")


def test_what_is_no_vocabulary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "glove.txt").write_text("a 1 2\n")
    with pytest.raises(VocabularyError, match="serein words prepare"):
        open_vocabulary(tmp_path / "glove.txt")
    with pytest.raises(VocabularyError, match="not a prepared vocabulary"):
        open_vocabulary(tmp_path)
    with pytest.raises(VocabularyError, match="no such file"):
        prepare(tmp_path / "absent.txt", tmp_path / "out")
    monkeypatch.setattr(hub, "is_reachable", lambda library: False)
    with pytest.raises(ModelError, match="serein words prepare FILE -o glove.840B.300d.* hf download glove.840B.300d"):
        open_vocabulary("glove.840B.300d")
    for content, what in (
        ('{"format": 1}', "format 1, this version reads 2"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
    ):
        (tmp_path / "vocabulary.json").write_text(content)
        with pytest.raises(VocabularyError, match=what):
            open_vocabulary(tmp_path)


def test_questions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    opened = random_vocabulary(tmp_path, 10)
    for queries, k, index in (
        (np.ones((1, 3)), 1, "exact"),
        (np.full((1, 20), np.nan), 1, "exact"),
        (np.ones((1, 20)), 11, "exact"),
        (np.ones((1, 20)), 0, "exact"),
        (np.ones((1, 20)), 1, "annoy"),
    ):
        with pytest.raises(VocabularyError):
            opened.nearest(queries, k, index)
    assert opened.nearest(np.zeros((0, 20)), 3)[0] == []


def test_faiss_finds_nearly_all(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="pip install 'serein[search]'")
    opened = random_vocabulary(tmp_path, 5000)
    queries = opened.arrays["vectors"][:50] + 0.1
    exact, cosines = opened.nearest(queries, 5)
    words, found = opened.nearest(queries, 5, "faiss")
    assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(exact, words, strict=True)]) > 0.9
    np.testing.assert_array_equal(found[:, 0], cosines[:, 0])
    assert (tmp_path / "made" / "index.faiss").exists()
    assert open_vocabulary(tmp_path / "made").nearest(queries, 5, "faiss")[0] == words


def test_spellings(tmp_path: Path) -> None:
    words = ["happy", "disgusted", "discuss", "Disgust", "isgust", "tremendously"]
    opened = vocabulary_of(tmp_path, words, np.eye(6, dtype=np.float32))
    assert opened.spellings("disgust", 3) == ["Disgust", "isgust", "disgusted"]
    assert opened.spellings("DISGUSTED", 1) == ["disgusted"]
    assert opened.spellings("xyz") == []
    with pytest.raises(VocabularyError, match="the word 'hapy' has no vector; similar spellings: happy"):
        opened.vectors(["happy", "hapy"])
    with pytest.raises(VocabularyError, match="the word ' ' has no vector. Choose another word"):
        opened.vectors([" "])


@pytest.mark.skipif(not GLOVE_EXCERPT.exists(), reason=f"no {GLOVE_EXCERPT}")
def test_a_real_excerpt_of_glove(tmp_path: Path) -> None:
    prepare(GLOVE_EXCERPT, tmp_path / "glove")
    opened = open_vocabulary(tmp_path / "glove")
    assert (len(opened), opened.size) == (5050, 50)
    assert opened.nearest(opened.vectors(["anger"]), 2)[0] == [["anger", "fear"]]
    with pytest.raises(SereinError, match="'disgust' has no vector; similar spellings: ") as caught:
        opened.vectors(["disgust"])
    assert "disgust" not in opened
    assert caught.value.remedy


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("sentence_transformers", reason="pip install 'serein[text]'")
    from sentence_transformers import SentenceTransformer, models
    from transformers import BertConfig, BertModel, BertTokenizerFast

    monkeypatch.setenv("SEREIN_CACHE", str(tmp_path / "cache"))
    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sad", "glad", "##ness", "x"])
    )
    BertTokenizerFast(str(bert / "vocab.txt")).save_pretrained(bert)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=9, **sizes)).save_pretrained(bert)
    modules = [models.Transformer(str(bert)), models.Pooling(16), models.Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "model"))
    return str(tmp_path / "model")


def test_a_sentence_model_has_a_vector_for_every_word(encoder: str, tmp_path: Path) -> None:
    from serein.text.sentences import SentenceEncoder

    opened = open_vocabulary(encoder)
    assert "sadness of a glad day" in opened
    assert " " not in opened
    np.testing.assert_allclose(
        opened.vectors(["sadness", "sad"]), SentenceEncoder(encoder).vectors(["sadness", "sad"]), atol=1e-5
    )
    assert not list((tmp_path / "cache").rglob("vocabulary.json"))  # its own words are encoded when they are searched
    words, cosines = opened.nearest(opened.vectors(["glad"]), k=1)
    assert (words, len(opened)) == ([["glad"]], 2)
    np.testing.assert_allclose(cosines, 1, atol=1e-5)
    assert list((tmp_path / "cache").rglob("vocabulary.json"))
    prepare_encoder(encoder, tmp_path / "prepared")
    prepared = open_vocabulary(tmp_path / "prepared")
    assert prepared.digest == opened.digest
    np.testing.assert_allclose(prepared.vectors(["sad", "sadness"]), opened.vectors(["sad", "sadness"]), atol=1e-5)
    with pytest.raises(VocabularyError, match="the word ' ' has no vector"):
        opened.vectors([" "])

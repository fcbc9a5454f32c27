"""Vocabularies: stored once, opened at once, searched exactly; checked against float64 and hand-worked vectors."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from serein.errors import SereinError, VocabularyError
from serein.labels import vocabulary_files, word_search
from serein.labels.spelling import nearest_spellings
from serein.labels.vocabulary import Vocabulary, open_vocabulary, prepare, prepare_encoder

REAL = Path(os.environ.get("SEREIN_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
GLOVE = REAL / "glove_50d_5k.txt"


def vocabulary_of(folder: Path, words: list[str], vectors: np.ndarray, **how: str) -> Vocabulary:
    rows = (f"{word} {' '.join(map(repr, row.tolist()))}\n" for word, row in zip(words, vectors, strict=True))
    (folder / "made.txt").write_text("".join(rows))
    prepare(folder / "made.txt", folder / "made", **how)
    return open_vocabulary(folder / "made")


def random_vocabulary(folder: Path, num_words: int, size: int = 20, seed: int = 0) -> Vocabulary:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((num_words, size)).astype(np.float32) * rng.lognormal(size=(num_words, 1))
    return vocabulary_of(folder, [f"w{number}" for number in range(num_words)], vectors.astype(np.float32))


def by_float64(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    unit = vectors / np.maximum(np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True), 1e-300)
    cosines = (queries / np.linalg.norm(queries, axis=1, keepdims=True) @ unit.T).round(12)
    rows = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(cosines, rows, 1)


def test_words_and_vectors_come_back(tmp_path: Path) -> None:
    vectors = np.array([[3, 4], [0, -2], [0, 0], [1e-8, 0.1]], np.float32)
    opened = vocabulary_of(tmp_path, ["sad", "Glad", "null", "déjà vu"], vectors)
    assert (len(opened), opened.size, opened.name) == (4, 2, "made.txt")
    assert [opened.word(row) for row in range(4)] == ["sad", "Glad", "null", "déjà vu"]
    assert [word in opened for word in ("sad", "glad", "déjà vu", "")] == [True, False, True, False]
    np.testing.assert_array_equal(opened.vectors(["déjà vu", "sad", "sad"]), vectors[[3, 0, 0]])
    assert opened.vector("Glad").tolist() == [0, -2]
    assert opened.vectors([]).shape == (0, 2)
    np.testing.assert_allclose(opened.stored.array("norms"), [5, 2, 0, 0.1], rtol=1e-6)


def test_nearest_by_hand(tmp_path: Path) -> None:
    opened = vocabulary_of(tmp_path, ["east", "north", "northeast"], np.array([[2, 0], [0, 9], [1, 1]], np.float32))
    words, cosines = opened.nearest(np.array([[4.0, 3.0]]), k=3)
    assert words == [["northeast", "east", "north"]]
    np.testing.assert_allclose(cosines, [[7 / 50**0.5, 0.8, 0.6]], rtol=1e-6)


@pytest.mark.parametrize("num_words", [7, 64, 1500, 20_000])
@pytest.mark.parametrize("k", [1, 7])
@pytest.mark.parametrize("is_bytewise", [True, False])
def test_the_search_is_exact(
    num_words: int, k: int, is_bytewise: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_search, "_multiplies_bytes", lambda: is_bytewise)
    monkeypatch.setattr(word_search, "FIRST_ROWS", 64)
    monkeypatch.setattr(word_search, "PAIRS_HELD", 50)
    monkeypatch.setattr(word_search, "QUERIES_AT_ONCE", 16)
    opened = random_vocabulary(tmp_path, num_words)
    vectors = opened.stored.array("vectors")
    queries = np.concatenate(
        [np.random.default_rng(1).standard_normal((20, 20)), vectors[:5] * 1e-9, vectors[:5] * 1e9]
    )
    rows, cosines = opened.nearest_rows(queries, k)
    expected_rows, expected = by_float64(vectors, queries, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(cosines, expected, atol=1e-6)


def test_the_search_is_exact_in_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    had = torch.get_num_threads()
    opened = random_vocabulary(tmp_path, 5000)
    queries = np.random.default_rng(1).standard_normal((40, 20))
    try:
        torch.set_num_threads(3)
        rows, _ = opened.nearest_rows(queries, 5)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(had)
    np.testing.assert_array_equal(rows, by_float64(opened.stored.array("vectors"), queries, 5)[0])


def test_vectors_alike_to_the_last_digits_are_told_apart(tmp_path: Path) -> None:
    """Thousands of directions nearer to each other than their 8-bit codes."""
    rng = np.random.default_rng(0)
    vectors = (1 + 1e-4 * rng.standard_normal((4000, 8))).astype(np.float32)
    opened = vocabulary_of(tmp_path, [f"w{i}" for i in range(4000)], vectors)
    queries = 1 + 1e-4 * rng.standard_normal((3, 8))
    rows, _ = opened.nearest_rows(queries, 5)
    np.testing.assert_array_equal(rows, by_float64(vectors, queries, 5)[0])


def test_equal_vectors_come_in_their_order_and_nothing_is_near_to_all(tmp_path: Path) -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), 1000, axis=0)
    opened = vocabulary_of(tmp_path, [f"w{i}" for i in range(3000)], vectors)
    rows, cosines = opened.nearest_rows(np.array([[0, 0, 1.0], [0, 0, 0]]), 3)
    assert rows[0].tolist() == [2000, 2001, 2002]
    assert cosines.tolist() == [[1, 1, 1], [0, 0, 0]]


def test_codes_err_by_no_more_than_they_say(tmp_path: Path) -> None:
    made = np.random.default_rng(0).standard_normal((1000, 20)).astype(np.float32)
    made[3], made[4], made[5] = 0, 1e-42, [1e30] + 19 * [0]
    stored = vocabulary_of(tmp_path, [f"w{i}" for i in range(1000)], made).stored
    rows = stored.array("code_rows")
    vectors = np.append(stored.array("vectors"), np.zeros((1, 20)), axis=0)[rows]
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    directions = vectors / np.where(lengths > 0, lengths, 1)
    decoded = stored.array("codes") * np.repeat(stored.array("code_scales"), 64)[:, None]
    errors = np.linalg.norm(directions - decoded, axis=1).reshape(-1, 64)
    assert (errors.max(axis=1) <= stored.array("code_errors")).all()
    assert sorted(rows[rows < 1000]) == list(range(1000))


def test_the_first_of_equal_words_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_files, "ROWS_AT_ONCE", 64)
    words = [f"w{number % 150}" for number in range(400)]
    vectors = np.arange(800, dtype=np.float32).reshape(400, 2)
    opened = vocabulary_of(tmp_path, words, vectors)
    assert len(opened) == 150
    assert opened.stored.header.num_duplicates == 250
    np.testing.assert_array_equal(opened.vectors(words[:150]), vectors[:150])
    assert opened.word(149) == "w149"


def test_equal_hashes_do_not_make_words_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_files, "word_hashes", lambda words: np.zeros(len(words), np.uint64))
    monkeypatch.setattr("serein.labels.stored_words.word_hashes", lambda words: np.zeros(len(words), np.uint64))
    opened = vocabulary_of(tmp_path, ["a", "b", "a", "c"], np.arange(8, dtype=np.float32).reshape(4, 2))
    assert len(opened) == 3
    assert opened.vectors(["c", "b", "a"]).tolist() == [[6, 7], [2, 3], [0, 1]]


def test_half_as_large_with_float16(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    opened = vocabulary_of(tmp_path, [f"w{i}" for i in range(100)], vectors, dtype="float16")
    assert opened.vectors(["w3"]).dtype == np.float32
    np.testing.assert_array_equal(opened.vectors(["w3"])[0], vectors[3].astype(np.float16))
    assert (tmp_path / "made" / "vectors.bin").stat().st_size == 100 * 8 * 2
    rows, _ = opened.nearest_rows(vectors, 1)
    assert rows[:, 0].tolist() == list(range(100))
    with pytest.raises(VocabularyError, match="too large for float16"):
        vocabulary_of(tmp_path / "made", ["a"], np.array([[1e6]], np.float32), dtype="float16")
    assert not list((tmp_path / "made").glob(".*"))  # nothing is left of it


def test_the_same_source_has_the_same_digest_and_another_has_not(tmp_path: Path) -> None:
    vectors = np.eye(2, dtype=np.float32)
    digests = []
    for name, words in (("a", ["x", "y"]), ("b", ["x", "y"]), ("c", ["x", "z"])):
        (tmp_path / name).mkdir()
        digests.append(vocabulary_of(tmp_path / name, words, vectors).digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_copy_is_opened_anew(tmp_path: Path) -> None:
    opened = random_vocabulary(tmp_path, 3000)
    content = pickle.dumps(opened)
    assert len(content) < 1000
    np.testing.assert_array_equal(pickle.loads(content).vector("w7"), opened.vector("w7"))


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    random_vocabulary(tmp_path, 5)
    with pytest.raises(VocabularyError, match="is there already"):
        prepare(tmp_path / "made.txt", tmp_path / "made")


def test_a_broken_source_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "made.txt").write_text("a 1 2\nb 1 x\nc 1 2\n")
    with pytest.raises(VocabularyError, match="line 2"):
        prepare(tmp_path / "made.txt", tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["made.txt"]
    assert prepare(tmp_path / "made.txt", tmp_path / "made", broken="skip").num_skipped == 1


@pytest.mark.parametrize("name", ["vectors.bin", "words.bin", "codes.bin", "hashes.bin"])
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    random_vocabulary(tmp_path, 100)
    path = tmp_path / "made" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VocabularyError, match="bytes, expected"):
        open_vocabulary(tmp_path / "made")
    path.unlink()
    with pytest.raises(VocabularyError, match=f"{name}: is missing"):
        open_vocabulary(tmp_path / "made")


def test_what_is_no_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_text("a 1 2\n")
    with pytest.raises(VocabularyError, match="serein words prepare"):
        open_vocabulary(tmp_path / "glove.txt")
    with pytest.raises(VocabularyError, match="no prepared vocabulary"):
        open_vocabulary(tmp_path)
    with pytest.raises(VocabularyError, match="no such file"):
        prepare(tmp_path / "absent.txt", tmp_path / "out")
    (tmp_path / "vocabulary.json").write_text('{"format": 99}')
    with pytest.raises(VocabularyError, match="format 99"):
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
    queries = opened.stored.array("vectors")[:50] + 0.1
    exact, cosines = opened.nearest_rows(queries, 5)
    rows, found = opened.nearest_rows(queries, 5, "faiss")
    assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(exact, rows, strict=True)]) > 0.8
    assert (found <= cosines + 1e-6).all()
    assert (np.diff(found, axis=1) <= 0).all()
    np.testing.assert_allclose(found[:, 0], cosines[:, 0], atol=1e-6)
    assert (tmp_path / "made" / word_search.FAISS_FILE).exists()
    assert open_vocabulary(tmp_path / "made").nearest_rows(queries, 5, "faiss")[0].tolist() == rows.tolist()


def spelt_like(word: str, *words: str, count: int = 3) -> list[str]:
    encoded = [each.encode() for each in words]
    starts = np.cumsum([0, *map(len, encoded)]).astype(np.uint64)
    rows = nearest_spellings(word, np.frombuffer(b"".join(encoded), np.uint8), starts, count)
    return [words[row] for row in rows]


def test_spellings() -> None:
    assert spelt_like("disgust", "happy", "disgusted", "discuss", "Disgust", "isgust") == [
        "Disgust",
        "isgust",
        "disgusted",
    ]
    assert spelt_like("kitten", "sitting", "mitten", "bitten", "kit", count=2) == ["mitten", "bitten"]  # as they come
    assert spelt_like("sad", "tremendously") == []


def test_spellings_agree_with_the_textbook() -> None:
    rng = np.random.default_rng(0)
    words = list(dict.fromkeys("".join(rng.choice(list("abc"), rng.integers(2, 7))) for _ in range(300)))
    for target in words[:10]:
        found = spelt_like(target, *words, count=8)
        near = [word for word in words if abs(len(word) - len(target)) <= 2]
        expected = sorted(levenshtein(word, target) for word in near)[:8]
        assert [levenshtein(word, target) for word in found] == expected


def levenshtein(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    if a[0] == b[0]:
        return levenshtein(a[1:], b[1:])
    return 1 + min(levenshtein(a[1:], b), levenshtein(a, b[1:]), levenshtein(a[1:], b[1:]))


@pytest.mark.skipif(not GLOVE.exists(), reason=f"no {GLOVE}")
def test_a_real_excerpt_of_glove(tmp_path: Path) -> None:
    prepare(GLOVE, tmp_path / "glove")
    opened = open_vocabulary(tmp_path / "glove")
    assert (len(opened), opened.size) == (5050, 50)
    assert opened.nearest(opened.vectors(["anger"]), 2)[0] == [["anger", "fear"]]
    with pytest.raises(SereinError, match="'disgust' has no vector; spelt most like it: ") as caught:
        opened.vector("disgust")
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
    from serein.text.sentences import sentence_vectors

    opened = open_vocabulary(encoder)
    assert "sadness of a glad day" in opened
    assert " " not in opened
    np.testing.assert_allclose(
        opened.vectors(["sadness", "sad"]), sentence_vectors(["sadness", "sad"], encoder), atol=1e-5
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
        opened.vector(" ")

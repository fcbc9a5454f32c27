"""Text vectors: those of Sentence-Transformers, each text encoded once; tiny random BERTs stand for the real ones."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from serein import hub
from serein.errors import MissingExtraError, ModelError
from serein.text import sentences
from serein.text.sentences import SentenceEncoder, VectorCache

library = pytest.importorskip("sentence_transformers", reason="pip install 'serein[text]'")

WORDS = ["i", "am", "happy", "sad", "the", "dogs", "are", "sitting", "by", "door", "it", "is", "eleven", "o'clock"]
TEXTS = ["i am happy", "the dogs are sitting by the door", "it", "it is eleven o'clock by the door" * 4, "i am sad"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEREIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


def write_encoder(
    folder: Path, pooling: str | tuple[str, ...] = "mean", dense: int | None = None, seed: int = 0
) -> str:
    """Save a tiny random BERT with its tokenizer, a pooling and the normalisation."""
    from sentence_transformers import models
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(seed)
    bert = folder / "bert"
    bert.mkdir(parents=True)
    (bert / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "'", "o", "clock"])
    )
    BertTokenizerFast(str(bert / "vocab.txt"), do_lower_case=True).save_pretrained(bert)
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(bert)
    transformer = models.Transformer(str(bert))
    parts = [transformer, models.Pooling(16, pooling_mode=pooling)]
    if dense:
        parts.append(models.Dense(16, dense))
    path = folder / "model"
    library.SentenceTransformer(modules=[*parts, models.Normalize()], device="cpu").save(str(path))
    return str(path)


def test_they_are_those_of_the_library(encoder: str) -> None:
    model = library.SentenceTransformer(encoder, device="cpu")
    expected = np.stack([model.encode(text) for text in TEXTS])  # each alone: batching changes nothing
    vectors = SentenceEncoder(encoder).vectors(TEXTS)
    assert vectors.dtype == np.float32
    assert expected.std(axis=0).max() > 1e-3  # the texts differ
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_no_text_is_a_row_of_zeros(encoder: str) -> None:
    vectors = SentenceEncoder(encoder).vectors([None, "it", "", "  ", "\n"])
    assert vectors.shape == (5, 16)
    assert np.flatnonzero(vectors.any(axis=1)).tolist() == [1]
    assert SentenceEncoder(encoder).vectors([]).shape == (0, 16)


def test_white_space_around_a_text_does_not_count(encoder: str) -> None:
    vectors = SentenceEncoder(encoder).vectors(["it", " it\n"])
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_the_second_time_nothing_is_computed(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    first = SentenceEncoder(encoder).vectors(
        [*TEXTS, *TEXTS], on_progress=lambda done, total: told.append((done, total))
    )
    assert told == [(5, 5)]  # each distinct text once
    monkeypatch.setattr(library, "SentenceTransformer", lambda *_, **__: pytest.fail("the model is loaded"))
    np.testing.assert_array_equal(SentenceEncoder(encoder).vectors([*TEXTS, *TEXTS]), first)


def test_only_new_texts_are_computed(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    SentenceEncoder(encoder).vectors(TEXTS[:3])
    encoded: list[str] = []
    real = SentenceEncoder.encode
    monkeypatch.setattr(SentenceEncoder, "encode", lambda self, texts: encoded.extend(texts) or real(self, texts))
    SentenceEncoder(encoder).vectors(TEXTS)
    assert sorted(encoded) == sorted(TEXTS[3:])


def test_other_weights_have_a_cache_of_their_own(encoder: str, tmp_path: Path) -> None:
    other = write_encoder(tmp_path, seed=1)
    first = SentenceEncoder(encoder).vectors(TEXTS)
    assert np.abs(SentenceEncoder(other).vectors(TEXTS) - first).max() > 1e-2


@pytest.mark.parametrize(("pooling", "dense", "size"), [("mean", None, 16), (("mean", "max"), None, 32), ("cls", 6, 6)])
def test_the_size_is_that_of_the_vectors(
    tmp_path: Path, pooling: str | tuple[str, ...], dense: int | None, size: int
) -> None:
    if isinstance(pooling, tuple) and dense is None:
        encoder = write_encoder(tmp_path, pooling)
    else:
        encoder = write_encoder(tmp_path, pooling, dense)
    assert SentenceEncoder(encoder).size == SentenceEncoder(encoder).vectors(["it"]).shape[1] == size


def test_the_size_is_read_without_weights(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "SentenceTransformer", lambda *_, **__: pytest.fail("the model is loaded"))
    assert SentenceEncoder(encoder).size == 16


def test_the_size_is_read_from_configurations_as_they_were_once_written(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    switches = {"word_embedding_dimension": 384, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(switches))
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert SentenceEncoder(str(tmp_path)).size == 384


def test_a_damaged_cache_is_computed_again(encoder: str, cache: Path) -> None:
    first = SentenceEncoder(encoder).vectors(TEXTS)
    for path in cache.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-7])
    np.testing.assert_allclose(SentenceEncoder(encoder).vectors(TEXTS), first, atol=1e-6)


def test_a_cache_that_cannot_be_written_costs_time_not_the_answer(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = SentenceEncoder(encoder).vectors(TEXTS)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SEREIN_CACHE", str(tmp_path / "file"))
    np.testing.assert_allclose(SentenceEncoder(encoder).vectors(TEXTS), first, atol=1e-6)


def test_several_may_write_at_once(tmp_path: Path) -> None:
    keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(200)]
    vector = {key: np.full(4, position, np.float32) for position, key in enumerate(keys)}
    parts = [{key: vector[key] for key in keys[start::8]} for start in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda part: VectorCache(tmp_path, 4).add(part), parts))
    found = VectorCache(tmp_path, 4).read(keys)
    assert all((found[key] == vector[key]).all() for key in found)  # some may be lost, none is wrong
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".safetensors" or path.name.startswith(".")]


def test_portions_never_divide_a_shelf(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    portions: list[list[str]] = []
    monkeypatch.setattr(sentences, "TEXTS_AT_ONCE", 3)
    monkeypatch.setattr(
        SentenceEncoder, "encode", lambda self, texts: portions.append(texts) or np.zeros((len(texts), 16), np.float32)
    )
    texts = [str(number) for number in range(300)]
    SentenceEncoder(encoder).vectors(texts)
    shelves = [{hashlib.sha256(text.encode()).hexdigest()[:2] for text in portion} for portion in portions]
    assert sorted(text for portion in portions for text in portion) == sorted(texts)
    assert sum(map(len, shelves)) == len(set.union(*shelves)) < len(texts)
    assert all(len(portion) >= 3 for portion in portions[:-1])
    assert max(map(len, portions)) < 30


def test_the_cache_lies_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert sentences.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("SEREIN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert sentences.cache_folder() == tmp_path / "serein"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the XDG specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sentences.cache_folder() == tmp_path / ".cache" / "serein"


def test_offline_and_absent_fails_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "is_reachable", lambda library: False)
    with pytest.raises(ModelError, match=r"somebody/nothing: .* hf download somebody/nothing"):
        SentenceEncoder("somebody/nothing")


@pytest.mark.parametrize("name", ["/no/such/folder", "no such"])
def test_what_can_be_no_name_is_not_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "is_reachable", lambda library: pytest.fail("the Hub is asked"))
    with pytest.raises(ModelError, match="no such folder"):
        SentenceEncoder(name)


def test_a_folder_that_is_no_such_model_is_refused(encoder: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no readable modules.json"):
        SentenceEncoder(str(tmp_path))
    (tmp_path / "modules.json").write_text('[{"path": "", "type": "custom.Transformer"}]')
    with pytest.raises(ModelError, match="code of its own"):
        SentenceEncoder(str(tmp_path))


def test_the_default_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "DEFAULT_PACKAGE", "no_such_package")
    with pytest.raises(MissingExtraError, match=r"serein\[text\]"):
        SentenceEncoder()


def test_the_default_hears_meaning() -> None:
    pytest.importorskip(sentences.DEFAULT_PACKAGE)
    texts = ["I am so glad.", "I feel happy!", "The door is made of wood."]
    glad, happy, door = vectors = SentenceEncoder().vectors(texts)
    assert SentenceEncoder().size == len(glad) == 384
    assert glad @ happy > 0.4 > 0.1 > glad @ door
    model = library.SentenceTransformer(str(SentenceEncoder().folder), device="cpu")
    np.testing.assert_allclose(vectors, model.encode(texts), atol=1e-5)

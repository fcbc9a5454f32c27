"""audformat: databases that the package itself writes, read without it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serein.corpora.audformat import parse, remarks
from serein.data.manifest import Rating
from serein.errors import ManifestError

audformat = pytest.importorskip("audformat", reason="audformat is not installed")
pandas = pytest.importorskip("pandas")

Write = Callable[..., Path]


@pytest.fixture
def database() -> Any:
    """Two speakers: one file in two parts with emotions, one file as a whole; splits by table."""
    made = audformat.Database("toy", languages=["deu"], license="CC0-1.0")
    made.raters["gold"] = audformat.Rater()
    made.schemes["emotion"] = audformat.Scheme(labels=["anger", "sadness"])
    made.schemes["level"] = audformat.Scheme("float")
    made.schemes["speaker"] = audformat.Scheme(labels={"03": {"gender": "male", "age": 31}, "08": {"gender": "female"}})
    made.splits["a"], made.splits["b"] = audformat.Split("train"), audformat.Split("test")
    made["files"] = audformat.Table(audformat.filewise_index(["wav/a.wav", "wav/b.wav"]))
    made["files"]["speaker"] = audformat.Column(scheme_id="speaker")
    made["files"]["speaker"].set(["03", "08"])
    parts = audformat.segmented_index(["wav/a.wav", "wav/a.wav"], ["0s", "1.5s"], ["1.5s", pandas.NaT])
    made["emotion.train"] = audformat.Table(parts, split_id="a")
    made["emotion.train"]["emotion"] = audformat.Column(scheme_id="emotion", rater_id="gold")
    made["emotion.train"]["emotion"].set(["anger", None])
    made["emotion.train"]["arousal"] = audformat.Column(scheme_id="level")
    made["emotion.train"]["arousal"].set([0.5, None])
    made["emotion.test"] = audformat.Table(audformat.filewise_index(["wav/b.wav"]), split_id="b")
    made["emotion.test"]["emotion"] = audformat.Column(scheme_id="emotion", rater_id="gold")
    made["emotion.test"]["emotion"].set(["sadness"])
    made["emotion.test"]["snr"] = audformat.Column(scheme_id="level")
    made["emotion.test"]["snr"].set([12.0])
    return made


@pytest.mark.parametrize("storage", ["csv", "parquet"])
def test_tables_files_and_header_make_utterances(storage: str, database: Any, tmp_path: Path) -> None:
    database.save(str(tmp_path), storage_format=storage)
    found = {u.id: u.model_dump(exclude_defaults=True) for u in parse(tmp_path)}
    of_both = {"language": "de", "corpus": "toy"}
    first = {"audio": str(tmp_path / "wav/a.wav"), "speaker": "03", "split": "train", **of_both}
    first |= {"gender": "male", "age": 31.0}
    assert found == {
        "wav/a#0-1.5": {"id": "wav/a#0-1.5", "end_s": 1.5, "emotion": "anger", "arousal": 0.5, **first},
        "wav/a#1.5-end": {"id": "wav/a#1.5-end", "start_s": 1.5, **first},
        "wav/b": {
            "id": "wav/b",
            "audio": str(tmp_path / "wav/b.wav"),
            "emotion": "sadness",
            "speaker": "08",
            "gender": "female",
            "split": "test",
            **of_both,
        },
    }
    assert remarks(tmp_path) == [
        "emotion.test: left out the columns snr",
        "the database states its licence: CC0-1.0",
    ]


def test_a_column_for_each_rater_gives_ratings(tmp_path: Path) -> None:
    made = audformat.Database("toy")
    made.schemes["emotion"] = audformat.Scheme(labels=["anger", "sadness"])
    made["votes"] = audformat.Table(audformat.filewise_index(["a.wav"]))
    for rater, label in (("r1", "anger"), ("r2", "sadness"), ("r3", None)):
        made.raters[rater] = audformat.Rater("human")
        made["votes"][rater] = audformat.Column(scheme_id="emotion", rater_id=rater)
        made["votes"][rater].set([label])
    made.save(str(tmp_path))
    (utterance,) = parse(tmp_path)
    assert utterance.emotion is None
    assert utterance.ratings == (Rating(labels=("anger",), rater="r1"), Rating(labels=("sadness",), rater="r2"))


def test_tables_that_disagree_are_named_and_one_can_be_chosen(database: Any, tmp_path: Path) -> None:
    database["other"] = audformat.Table(audformat.filewise_index(["wav/b.wav"]))
    database["other"]["emotion"] = audformat.Column(scheme_id="emotion")
    database["other"]["emotion"].set(["anger"])
    database.save(str(tmp_path), storage_format="csv")
    with pytest.raises(
        ManifestError, match=r"give wav/b\.wav the emotion 'sadness' and 'anger'.*Specify the table to use"
    ):
        parse(tmp_path)
    chosen = parse(tmp_path / "db.other.csv")
    assert [(u.id, u.emotion, u.speaker) for u in chosen] == [("wav/b", "anger", "08")]
    (tmp_path / "notes.csv").touch()
    with pytest.raises(ManifestError, match="is not a table of the database, which has"):
        parse(tmp_path / "notes.csv")


def test_speakers_may_stand_in_a_table_of_their_own(database: Any, tmp_path: Path) -> None:
    index = pandas.Index(["03", "08"], name="speaker", dtype="string")
    database["people"] = audformat.MiscTable(index)
    database["people"]["gender"] = audformat.Column()
    database["people"]["gender"].set(["male", "female"])
    database.schemes["speaker"].replace_labels("people")
    database.save(str(tmp_path))
    assert {(u.speaker, u.gender) for u in parse(tmp_path)} == {("03", "male"), ("08", "female")}


@pytest.mark.parametrize("kind", ["text", "mapping", "table"])
@pytest.mark.parametrize("storage", ["csv", "parquet"])
def test_labels_of_a_transcript_become_the_texts_that_they_stand_for(
    kind: str, storage: str, database: Any, tmp_path: Path
) -> None:
    texts = {"a01": "Der Lappen liegt auf dem Eisschrank.", "a02": "Das will sie am Mittwoch abgeben."}
    if kind == "table":
        index = pandas.Index(list(texts), name="transcription", dtype="string")
        database["sentences"] = audformat.MiscTable(index)
        database["sentences"]["text"] = audformat.Column()
        database["sentences"]["text"].set(list(texts.values()))
    of_kind = {"text": texts, "mapping": {code: {"length": 6, "text": text} for code, text in texts.items()}}
    database.schemes["transcription"] = audformat.Scheme("str", labels=of_kind.get(kind, "sentences"))
    database["files"]["transcription"] = audformat.Column(scheme_id="transcription")
    database["files"]["transcription"].set(["a02", "a01"])
    database.save(str(tmp_path), storage_format=storage)
    assert {u.id: u.transcript for u in parse(tmp_path)} == {
        "wav/a#0-1.5": texts["a02"],
        "wav/a#1.5-end": texts["a02"],
        "wav/b": texts["a01"],
    }


def test_pickles_and_code_in_the_header_are_never_run(database: Any, tmp_path: Path) -> None:
    database.save(str(tmp_path), storage_format="csv")
    (tmp_path / "db.files.pkl").write_bytes(pickle.dumps({}))
    assert remarks(tmp_path)[-1] == "did not read pickled tables: db.files.pkl"
    (tmp_path / "db.files.csv").unlink()
    with pytest.raises(ManifestError, match="table 'files' only as a pickle, which may run code"):
        parse(tmp_path)
    (tmp_path / "db.yaml").write_text("tables: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"db\.yaml: is not plain YAML"):
        parse(tmp_path)


@pytest.mark.parametrize(
    ("header", "what"),
    [
        (None, r"contains no db\.yaml"),
        ("a: 1\n", "lists no tables"),
        ("tables: {x: {columns: {}}}\n", "contains no table 'x'"),
    ],
)
def test_what_is_no_database_is_named(header: str | None, what: str, tmp_path: Path) -> None:
    if header is not None:
        (tmp_path / "db.yaml").write_text(header, encoding="utf-8")
    with pytest.raises(ManifestError, match=what) as error:
        parse(tmp_path)
    assert error.value.remedy

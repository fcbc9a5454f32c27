"""Datasets of the Hugging Face Hub, as `datasets` writes them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from serein.corpora.hub import HUB, parse, remarks
from serein.corpora.prepare import prepare
from serein.errors import ManifestError

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet")

NAMES = ["anger", "fear"]


def flac() -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.full(800, 0.1), 16_000, format="FLAC")
    return content.getvalue()


def table(recordings: list[Any], labels: str = "label", **columns: list[Any]) -> Any:
    """Return a table with the features that `datasets` notes in its metadata."""
    made = pyarrow.table({"audio": recordings, labels: [0, 1, 0, 1][: len(recordings)], **columns})
    features = {"audio": {"_type": "Audio"}, labels: {"names": NAMES, "_type": "ClassLabel"}}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def inside(*paths: str | None) -> list[dict[str, object]]:
    return [{"bytes": flac(), "path": path} for path in paths]


def test_a_parquet_file_of_recordings_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = table(inside("a.flac", "../b.wav"), speaker_id=["03", None], mood=["x", "y"])
    parquet.write_table(rows, tmp_path / "data" / "validation-00000-of-00001.parquet")
    first, second = parse(tmp_path, tmp_path / "out")
    assert first.model_dump(exclude_defaults=True) == {
        "id": "dev/a",
        "audio": str(tmp_path / "out" / "dev" / "a.flac"),
        "speaker": "03",
        "emotion": "anger",
        "split": "dev",
    }
    assert (second.id, second.audio, second.speaker) == ("dev/b", str(tmp_path / "out" / "dev" / "b.flac"), None)
    assert Path(second.audio).read_bytes() == flac()
    assert remarks(tmp_path) == ["left out 1 unknown columns: mood"]


def test_names_that_repeat_and_rows_without_one_are_told_apart(tmp_path: Path) -> None:
    parquet.write_table(table(inside("a.wav", "a.wav", None)), tmp_path / "clips.parquet")
    ids = [u.id for u in parse(tmp_path / "clips.parquet", tmp_path / "out")]
    assert ids == ["a", "a-clips-000001", "clips-000002"]
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    for split, label in (("train", "a"), ("test", "b")):
        folder = tmp_path / split
        folder.mkdir()
        rows = table(inside(f"{label}.flac"))
        with pyarrow.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), rows.schema) as stream:
            stream.write_table(rows)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
        (folder / "cache-0123456789abcdef.arrow").write_bytes(b"left by map()")
    assert [(u.id, u.split, u.emotion) for u in parse(tmp_path, tmp_path / "out")] == [
        ("test/b", "test", "anger"),
        ("train/a", "train", "anger"),
    ]


def test_paths_and_words_need_no_unpacking(tmp_path: Path) -> None:
    rows = pyarrow.table(
        {"file": ["a.wav"], "emotion": ["sad"], "start": ["00:01.5"], "end": [None], "text": ["Well."]}
    )
    parquet.write_table(rows, tmp_path / "clips.parquet")
    (utterance,) = parse(tmp_path / "clips.parquet")
    assert (utterance.audio, utterance.emotion, utterance.start_s) == (str(tmp_path / "a.wav"), "sad", 1.5)


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"start": [0.0], "duration": [1.0]}, "column 'duration' may specify"),
        ({"start_ms": [5]}, "column 'start_ms' may"),
    ],
)
def test_times_in_other_words_are_asked_about(columns: dict[str, list[float]], what: str, tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"file": ["a.wav"], "emotion": ["sad"], **columns}), tmp_path / "clips.parquet")
    with pytest.raises(ManifestError, match=what):
        parse(tmp_path / "clips.parquet")


def test_times_of_clips_inside_a_dataset_are_left_out(tmp_path: Path) -> None:
    rows = table(inside("a.wav", "b.wav"), begin_time=[0.01, 14.7], end_time=[0.02, 15.2])
    parquet.write_table(rows, tmp_path / "train.parquet")
    assert [(u.id, u.start_s, u.end_s) for u in parse(tmp_path, tmp_path / "out")] == [
        ("train/a", 0.0, None),
        ("train/b", 0.0, None),
    ]
    assert remarks(tmp_path) == ["left out begin_time, end_time: recordings inside a dataset are taken as cut already"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("default/train/0000.parquet", "train"),
        ("default/partial-validation/0000.parquet", "dev"),
        ("test/de/0000.parquet", "test"),
        ("data/train.clean.100-00000-of-00001.parquet", "train"),
        ("test.other-00000-of-00001.parquet", "test"),
        ("clips/training-notes.parquet", None),
    ],
)
def test_the_split_comes_from_the_file_or_the_folder(name: str, split: str | None, tmp_path: Path) -> None:
    root = tmp_path / "test"  # the folder that a user specifies may have any name
    (root / name).parent.mkdir(parents=True)
    parquet.write_table(table(inside("a.wav")), root / name)
    assert [u.split for u in parse(root, tmp_path / "out")] == [split]
    assert remarks(root) == []
    parquet.write_table(table(inside("b.wav")), root / "0.parquet")
    assert remarks(root) == [f"{1 if split else 2} of 2 files name no split, such as 0.parquet"]
    parquet.write_table(table(inside("b.wav"), split=["test"]), root / "0.parquet")
    assert remarks(root) == []


def test_a_number_of_no_class_is_a_missing_label(tmp_path: Path) -> None:
    parquet.write_table(table(inside("a.wav", "b.wav")), tmp_path / "train.parquet")
    hidden = table(inside("c.wav", "d.wav"))
    labels = pyarrow.array([-1, -1])
    parquet.write_table(hidden.set_column(1, "label", labels), tmp_path / "test.parquet")
    assert [(u.split, u.emotion) for u in parse(tmp_path, tmp_path / "out")] == [
        ("test", None),
        ("test", None),
        ("train", "anger"),
        ("train", "fear"),
    ]
    assert remarks(tmp_path) == ["2 cells '-1' of column 'label' read as missing"]


def test_folders_may_repeat_the_names_of_files_and_recordings(tmp_path: Path) -> None:
    for number, language in enumerate(("de", "en", "fr")):
        (tmp_path / language).mkdir()
        clips = [{"array": [0.1 * number] * 8, "sampling_rate": 8000, "path": path} for path in ("0.wav", None)]
        parquet.write_table(table(clips), tmp_path / language / "train-00000-of-00001.parquet")
    found = {u.id: soundfile.read(u.audio)[0][0] for u in parse(tmp_path, tmp_path / "out")}
    row = "train-00000-of-00001-000001"
    assert found == pytest.approx(
        {
            "train/0": 0.0,
            f"train/{row}": 0.0,
            "en/train/0": 0.1,
            f"en/train/{row}": 0.1,
            "fr/train/0": 0.2,
            f"fr/train/{row}": 0.2,
        }
    )


def test_samples_become_recordings_of_their_rate(tmp_path: Path) -> None:
    rows = table([{"array": [0.5, -0.5], "sampling_rate": 8000}])
    parquet.write_table(rows, tmp_path / "clips.parquet")
    (utterance,) = parse(tmp_path / "clips.parquet", tmp_path / "out")
    samples, rate = soundfile.read(utterance.audio)
    assert (samples.tolist(), rate) == ([0.5, -0.5], 8000)


def test_prepare_writes_where_it_is_told(tmp_path: Path) -> None:
    parquet.write_table(table(inside("a.wav")), tmp_path / "clips.parquet")
    prepared = prepare(HUB, tmp_path / "clips.parquet", unpacked=tmp_path / "m-audio")
    assert [u.audio for u in prepared.utterances] == [str(tmp_path / "m-audio" / "a.flac")]
    with pytest.raises(ManifestError, match="contains embedded recordings"):
        prepare(HUB, tmp_path / "clips.parquet")


def test_a_column_of_classes_that_is_not_named_so_is_asked_about(tmp_path: Path) -> None:
    parquet.write_table(table(inside("a.wav"), labels="major"), tmp_path / "clips.parquet")
    with pytest.raises(ManifestError, match=r"no column 'emotion'; the emotions may be in column 'major'\. If so"):
        parse(tmp_path / "clips.parquet", tmp_path / "out")


def test_what_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="contains no dataset"):
        parse(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ManifestError, match="is not a readable dataset"):
        parse(tmp_path)
    parquet.write_table(pyarrow.table({"emotion": ["sad"]}), tmp_path / "a.parquet")
    with pytest.raises(ManifestError, match="has no column of recordings; its columns are: emotion"):
        parse(tmp_path)
    (tmp_path / "state.json").write_text("{", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"state\.json: contains no valid JSON"):
        parse(tmp_path)

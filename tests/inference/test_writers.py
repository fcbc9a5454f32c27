"""Label files, to the letter, and read back by rules of the formats; embeddings, the same in every format."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import safe_open

from serein.corpora.audformat import parse
from serein.errors import ManifestError, ModelError, RunError
from serein.inference.prediction import Prediction, RejectOption, Segment, merged_segments, segment_of
from serein.inference.writers import EMBEDDING_SUFFIXES, audacity, msp_challenge, srt, textgrid, write_embeddings
from serein.inference.writers import audformat as audformat_of
from serein.tasks.task import most_probable


def window(start_s: float, end_s: float, sad: float) -> Segment:
    return segment_of(most_probable({"calm": 1.0 - sad, "sad": sad}), start_s, end_s)


def prediction(duration_s: float, *windows: Segment, min_confidence: float = 0.0, start_s: float = 0.0) -> Prediction:
    segments = merged_segments(windows, RejectOption(min_confidence))
    return Prediction("sad", 0.5, file="a.wav", segments=segments, start_s=start_s, duration_s=duration_s)


SMALL = prediction(5.0, window(1.0, 2.0, 0.9), window(2.0, 3.0, 0.25), window(4.0, 5.0, 0.6), min_confidence=0.7)


def test_audacity() -> None:
    assert audacity(SMALL) == (
        "1.000000\t2.000000\tsad 0.90\n2.000000\t3.000000\tcalm 0.75\n4.000000\t5.000000\tlow confidence 0.60\n"
    )


def test_textgrid() -> None:
    lines = textgrid(SMALL).splitlines()
    assert lines[:8] == [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0.000000",
        "xmax = 5.000000",
        "tiers? <exists>",
        "size = 2",
        "item []:",
    ]
    tier = "\n".join(lines[8 : lines.index("    item [2]:")])
    texts = re.findall(r"xmin = ([\d.]+)\n\s+xmax = ([\d.]+)\n\s+text = \"(.*)\"", tier)
    assert texts == [
        ("0.000000", "1.000000", ""),
        ("1.000000", "2.000000", "sad"),
        ("2.000000", "3.000000", "calm"),
        ("3.000000", "4.000000", ""),
        ("4.000000", "5.000000", "low confidence"),
    ]
    assert "intervals: size = 5" in tier


def test_textgrids_have_no_gaps_even_after_rounding() -> None:
    rng = np.random.default_rng(1)
    starts = np.cumsum(rng.uniform(0.5, 2.0, 50))
    windows = [window(start, start + rng.uniform(0.3, 3.0), rng.uniform()) for start in starts]
    text = textgrid(prediction(float(starts[-1]) + 1.0, *sorted(windows, key=lambda each: each.start_s)))
    for tier in text.split("    item [")[1:]:
        bounds = re.findall(r"intervals \[\d+\]:\n\s+xmin = ([\d.]+)\n\s+xmax = ([\d.]+)", tier)
        assert bounds[0][0] == "0.000000"
        assert all(before[1] == after[0] for before, after in zip(bounds, bounds[1:], strict=False))
        assert all(float(low) < float(high) for low, high in bounds)


def test_quotes_are_doubled() -> None:
    strange = prediction(1.0, segment_of(most_probable({'so "sad"': 1.0}), 0.0, 1.0))
    assert 'text = "so ""sad"""' in textgrid(strange)


def test_a_part_of_a_file_keeps_the_times_of_the_file() -> None:
    text = textgrid(prediction(2.0, window(4.5, 5.5, 0.9), start_s=4.0))
    assert re.findall(r"xmin = ([\d.]+)\n\s+xmax = ([\d.]+)\n\s+text", text)[:3] == [
        ("4.000000", "4.500000"),
        ("4.500000", "5.500000"),
        ("5.500000", "6.000000"),
    ]
    assert text.splitlines()[3:5] == ["xmin = 4.000000", "xmax = 6.000000"]


def test_subtitles() -> None:
    segments = (Segment("sad", 0.5, {"sad": 0.5}, start_s=1.25, end_s=3725.0), Segment(None, rejected="too short"))
    assert srt(Prediction(None, segments=segments)) == (
        "1\n00:00:01,250 --> 01:02:05,000\nsad 0.50\n\n2\n00:00:00,000 --> 00:00:00,000\ntoo short\n\n"
    )


def test_an_audformat_database_is_read_by_its_package_and_here(tmp_path: Path) -> None:
    probabilities = {"happy": 0.75, "sad": 0.25}
    segments = (
        Segment("happy", 0.75, probabilities, start_s=0.5, end_s=3.25),
        Segment("sad", 0.6, {"happy": 0.4, "sad": 0.6}, start_s=90_000.0, end_s=90_001.5),
    )
    model = {"name": "default", "sha256": "6f"}
    spoken = Prediction("happy", 0.75, probabilities, file="a.wav", segments=segments, model=model)
    silent = Prediction(None, rejected="no speech", file="b.wav", duration_s=2.0, model=model)
    audformat_of([spoken, silent, spoken], tmp_path, list(probabilities))
    found = {(Path(u.audio).name, u.start_s, u.end_s): u.emotion for u in parse(tmp_path)}
    assert found == {
        ("a.wav", 0.5, 3.25): "happy",
        ("a.wav", 90_000.0, 90_001.5): "sad",
        ("b.wav", 0.0, 2.0): None,
    }
    audformat = pytest.importorskip("audformat")
    table = audformat.Database.load(str(tmp_path))["predictions"].get()
    assert table["emotion"].tolist()[:2] == ["happy", "sad"]
    assert table["probability of sad"].tolist()[:2] == [0.25, 0.6]
    assert table["rejected"].tolist()[2] == "no speech"
    assert [end.total_seconds() for _, _, end in table.index] == [3.25, 90_001.5, 2.0]
    (tmp_path / "db.yaml").write_text("name: precious\n", encoding="utf-8")
    with pytest.raises(ManifestError, match="contains another database"):
        audformat_of([spoken], tmp_path, list(probabilities))


def test_an_audformat_database_has_all_columns_if_the_first_recording_has_no_speech(tmp_path: Path) -> None:
    numbers = {"valence": 0.5, "arousal": 0.125}
    silent = Prediction(None, rejected="no speech", file="a.wav", duration_s=2.0)
    spoken = Prediction("sad", 0.75, {"happy": 0.25, "sad": 0.75}, file="b.wav", dimensions=numbers, duration_s=2.0)
    audformat_of([silent, spoken], tmp_path, ["happy", "sad"], ["arousal", "valence"])
    titles, *rows = csv.reader((tmp_path / "db.predictions.csv").read_text(encoding="utf-8").splitlines())
    assert titles[3:] == [
        *("emotion", "confidence", "rejected", "probability of happy", "probability of sad"),
        *("arousal (number)", "valence (number)"),
    ]
    assert [row[3:] for row in rows] == [
        ["", "", "no speech", "", "", "", ""],
        ["sad", "0.75", "", "0.25", "0.75", "0.125", "0.5"],
    ]
    assert yaml.safe_load((tmp_path / "db.yaml").read_text())["schemes"]["emotion"]["labels"] == ["happy", "sad"]
    number = Prediction(None, value=0.5, file="b.wav", task="arousal", dimensions={"arousal": 0.5}, duration_s=2.0)
    audformat_of([replace(silent, task="arousal"), number], tmp_path, [], ["arousal"])
    assert yaml.safe_load((tmp_path / "db.yaml").read_text())["schemes"]["arousal"] == {"dtype": "float"}


def test_a_number_has_its_name_and_one_tier() -> None:
    numbers = {"arousal": 0.25}
    segment = Segment(None, value=0.25, dimensions=numbers, start_s=0.0, end_s=1.0)
    number = Prediction(
        None, value=0.25, dimensions=numbers, task="arousal", segments=(segment,), curve=(segment,), duration_s=1.0
    )
    assert number.text == segment.text == "arousal 0.25"
    assert repr(number) == "Prediction(file='-', arousal=0.250, segments=1)"
    assert audacity(number) == "0.000000\t1.000000\tarousal 0.25\n"
    assert srt(number).splitlines()[2] == "arousal 0.25"
    assert re.findall(r'name = "(\w+)"', textgrid(number)) == ["confidence", "arousal"]
    assert 'text = "0.25"' in textgrid(number)
    sad = replace(segment, label="sad", confidence=0.5, value=None)
    assert srt(Prediction("sad", segments=(sad,))).splitlines()[2] == "sad 0.50 arousal 0.25"
    with pytest.raises(ModelError, match="predicts arousal, but the challenge has emotions, or the three"):
        msp_challenge([number])


VECTORS = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
PREDICTIONS = [
    Prediction("sad", file="ä.wav", duration_s=1.5, embedding=VECTORS[0]),
    Prediction("sad", file="b.wav", id="part", start_s=0.25, duration_s=2.0, embedding=VECTORS[1]),
]
IDS, FILES, STARTS_S, ENDS_S = ["ä.wav", "part"], ["ä.wav", "b.wav"], [0.0, 0.25], [1.5, 2.25]


@pytest.mark.parametrize("suffix", [*EMBEDDING_SUFFIXES, ".NPZ"])
def test_vectors_ids_and_times_come_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"e{suffix}"
    if suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
    write_embeddings(PREDICTIONS, path, {"task": "emotion", "model": "m"})
    if suffix == ".safetensors":
        with safe_open(path, "numpy") as file:
            vectors, times = (
                file.get_tensor("embeddings"),
                [file.get_tensor(key).tolist() for key in ("start_s", "end_s")],
            )
            known = [json.loads(file.metadata()[key]) for key in ("ids", "files")] + times
            assert file.metadata()["task"] == "emotion"
    elif suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as page:
            head, *rows = csv.reader(page)
        assert head == ["id", "file", "start_s", "end_s", "0", "1", "2"]
        vectors = np.array([row[4:] for row in rows], np.float32)
        known = [[row[0] for row in rows], [row[1] for row in rows]]
        known += [[float(row[column]) for row in rows] for column in (2, 3)]
    elif suffix == ".parquet":
        table = parquet.read_table(path)
        assert table.schema.metadata[b"task"] == b"emotion"
        vectors = np.array(table["embedding"].to_pylist(), np.float32)
        known = [table[key].to_pylist() for key in ("id", "file", "start_s", "end_s")]
    else:
        content = np.load(path, allow_pickle=False)
        vectors = content["embedding" if suffix == ".npy" else "embeddings"]
        keys = ("id", "file") if suffix == ".npy" else ("ids", "files")
        known = [content[key].tolist() for key in (*keys, "start_s", "end_s")]
    np.testing.assert_array_equal(vectors, VECTORS)
    assert known == [IDS, FILES, STARTS_S, ENDS_S]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"unknown suffix '.mat', expected one of: .safetensors"):
        write_embeddings(PREDICTIONS, tmp_path / "e.mat", {})

"""FSDD: everything is in the file name."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from serein.corpora.corpus import prepare
from serein.corpora.fsdd import FSDD, WORDS, parse
from serein.errors import ManifestError


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_a_file_name_says_everything(tmp_path: Path) -> None:
    (utterance,) = parse(tree(tmp_path, "recordings/7_jackson_32.wav"))
    assert utterance.model_dump(exclude_defaults=True) == {
        "id": "7_jackson_32",
        "audio": str(tmp_path / "recordings" / "7_jackson_32.wav"),
        "speaker": "jackson",
        "gender": "male",
        "transcript": "seven",
        "style": "scripted",
        "split": "train",
        "language": "en",
        "corpus": "fsdd",
    }


def test_recordings_0_to_4_are_the_official_test_set(tmp_path: Path) -> None:
    utterances = parse(tree(tmp_path, *(f"0_theo_{number}.wav" for number in (10, 5, 4, 0))))
    assert [(u.id, u.split) for u in utterances] == [
        ("0_theo_0", "test"),
        ("0_theo_4", "test"),
        ("0_theo_5", "train"),
        ("0_theo_10", "train"),
    ]


@pytest.mark.parametrize("name", ["x_theo_1.wav", "10_theo_1.wav", "1_theo.wav", "song.wav"])
def test_a_foreign_name_stops(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="not named as FSDD"):
        parse(tree(tmp_path, "1_theo_1.wav", name))


def test_two_formats_of_one_clip_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"1_theo_1\.flac and 1_theo_1\.wav"):
        parse(tree(tmp_path, "1_theo_1.wav", "1_theo_1.flac"))


def test_the_real_corpus_is_complete_and_agrees_with_its_table(real_data: Callable[[str], Path]) -> None:
    root = real_data("fsdd")
    prepared = prepare(FSDD, root)
    assert not prepared.skipped
    assert set(Counter(u.speaker for u in prepared.utterances).values()) == {500}
    with (root / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = {Path(row["path"]).stem: row for row in csv.DictReader(file)}
    assert {u.id: (u.speaker, u.transcript) for u in prepared.utterances} == {
        name: (row["speaker"], WORDS[int(row["text"])]) for name, row in rows.items()
    }

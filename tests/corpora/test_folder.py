"""A folder for every emotion."""

from __future__ import annotations

from pathlib import Path

import pytest

from serein.corpora.folder import parse, remarks
from serein.errors import ManifestError


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_emotion_and_speaker_come_from_the_folders(tmp_path: Path) -> None:
    root = tree(tmp_path, "sad/anna/1.wav", "sad/ben/1.flac", "happy/2.take.mp3")
    assert [(u.id, u.emotion, u.speaker) for u in parse(root)] == [
        ("happy/2.take", "happy", None),
        ("sad/anna/1", "sad", "anna"),
        ("sad/ben/1", "sad", "ben"),
    ]


def test_no_field_is_guessed(tmp_path: Path) -> None:
    first = parse(tree(tmp_path, "a/1.wav", "b/1.wav"))[0]
    assert first.model_dump(exclude_defaults=True) == {
        "id": "a/1",
        "audio": str(tmp_path / "a" / "1.wav"),
        "emotion": "a",
    }


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ((), "holds no audio \\(the folder is empty\\)"),
        (("a/1.m4a", "a/2.m4a", "b/x.txt"), r"holds no audio \(found 2 \.m4a, 1 \.txt\)\. .*ffmpeg"),
        (("1.wav", "a/1.wav", "b/1.wav"), r"1 of 3 files lie directly in the folder, such as 1\.wav"),
        (
            ("a/b/c/1.wav", "b/1.wav"),
            r"1 of 2 files lie deeper than <emotion>/<speaker>, such as a/b/c/1\.wav",
        ),
        (("a/1.wav", "a/2.wav"), "holds one emotion only: a"),
        (("train/angry/1.wav", "test/sad/1.wav"), "test, train look like splits"),
        (("a/1.wav", "a/1.flac", "b/1.wav"), r"1 names occur twice, such as a/1\.flac and a/1\.wav"),
        (("03/1.wav", "08/1.wav", "16/1.wav"), "03, 08, 16 look like speakers, not emotions"),
        (("Actor_01/1.wav", "Actor_02/1.wav"), "look like speakers.*If they are codes of emotions"),
        (("03/wut/1.wav", "08/wut/1.wav"), "03, 08 look like speakers"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, names: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ManifestError, match=complaint) as error:
        parse(tree(tmp_path, *names))
    assert error.value.remedy


def test_what_was_taken_and_left_out_is_said(tmp_path: Path) -> None:
    root = tree(tmp_path, "Anna/1.wav", "Ben/1.wav", "Ben/2.m4a", "README", ".DS_Store")
    assert remarks(root) == [
        "took the names of 2 folders for emotions: Anna, Ben",
        "left out what is not audio: 1 .m4a, 1 without suffix",
    ]


@pytest.mark.parametrize("upper", [("03", "08"), ("anna", "ben")])
def test_speakers_above_emotions_are_noticed(upper: tuple[str, str], tmp_path: Path) -> None:
    root = tree(tmp_path, *(f"{speaker}/{emotion}/1.wav" for speaker in upper for emotion in ("Happy", "sad")))
    assert [(u.id, u.emotion, u.speaker) for u in parse(root)] == [
        (f"{speaker}/{emotion}/1", emotion, speaker) for speaker in upper for emotion in ("Happy", "sad")
    ]
    assert remarks(root) == [
        "took the names of 2 folders for emotions: Happy, sad",
        "took the upper folders for speakers, because those below them are named as emotions",
    ]

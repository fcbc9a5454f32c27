"""ESD: folders of speakers and emotions, texts in many encodings."""

from __future__ import annotations

from pathlib import Path

import pytest

from serein.corpora.esd import parse
from serein.errors import ManifestError


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_folders_and_the_texts_say_everything(tmp_path: Path) -> None:
    root = tree(tmp_path, "0001/Angry/0001_000351.wav")
    (root / "0001" / "0001.txt").write_bytes("0001_000351\t打远一看\t生气\n".encode("gb2312"))
    (utterance,) = parse(root)
    assert utterance.model_dump(exclude_defaults=True) == {
        "id": "0001_000351",
        "audio": str(root / "0001" / "Angry" / "0001_000351.wav"),
        "speaker": "0001",
        "gender": "female",
        "emotion": "angry",
        "transcript": "打远一看",
        "style": "scripted",
        "language": "zh",
        "corpus": "esd",
    }


@pytest.mark.parametrize(("folder", "split"), [("train", "train"), ("evaluation", "dev"), ("test", "test")])
def test_the_splits_of_the_copies_that_have_them(folder: str, split: str, tmp_path: Path) -> None:
    root = tree(tmp_path, f"Emotion Speech Dataset/0020/Surprise/{folder}/0020_001401.wav")
    (utterance,) = parse(root)
    assert (utterance.split, utterance.emotion, utterance.gender, utterance.language) == (
        split,
        "surprise",
        "male",
        "en",
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
@pytest.mark.parametrize("line", ["0015_000137\tLet é be.\tNeutral", "0015_000137 Let é be.\tNeutral"])
def test_texts_in_any_encoding_and_with_a_tab_lost(encoding: str, line: str, tmp_path: Path) -> None:
    root = tree(tmp_path, "0015/Neutral/0015_000137.wav", "0015/Neutral/0015_000138.wav")
    (root / "0015" / "0015.txt").write_bytes(f"{line}\r\n\r\nno text\r\n0015_000138\t\tNeutral\r\n".encode(encoding))
    assert [u.transcript for u in parse(root)] == ["Let é be.", None]


def test_a_clip_in_no_folder_of_an_emotion_and_a_foreign_name_stop(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"lies in no folder of an emotion \(Angry, Happy, Neutral, Sad, Surprise\)"
    ):
        parse(tree(tmp_path / "a", "0001/0001_000351.wav"))
    with pytest.raises(ManifestError, match="not named as ESD"):
        parse(tree(tmp_path / "b", "0001/Angry/0021_000351.wav"))

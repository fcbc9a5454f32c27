"""MELD: three tables and three folders of clips."""

from __future__ import annotations

from pathlib import Path

import pytest

from serein.corpora.acted_tables import meld_remarks, parse_meld
from serein.errors import ManifestError

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
ROWS = {
    "train": 'x,"Well, you\u0092re right",Chandler,neutral,neutral,0,3,8,21,"00:16:16,059","00:16:21,731"\n'
    'x,lost,Joey,neutral,neutral,125,3,8,21,"00:16:16,059","00:16:21,731"\n',
    "dev": 'x,Hi,Dr. Harad,joy,positive,13,0,5,3,"00:16:02,544","00:16:04,504"\n',
    "test": 'x,No!,Monica,Anger,negative,0,3,3,19,"00:16:16,059","00:16:21,731"\n',
}


def release(root: Path, *clips: str) -> Path:
    root.mkdir(exist_ok=True)
    for split, rows in ROWS.items():
        (root / f"{split}_sent_emo.csv").write_text(HEADER + rows, encoding="utf-8")
    for clip in clips:
        (root / clip).parent.mkdir(parents=True, exist_ok=True)
        (root / clip).touch()
    return root


def test_a_row_says_everything(tmp_path: Path) -> None:
    root = release(tmp_path, "train_splits/dia0_utt3.mp4")
    first, *_ = parse_meld(root)
    assert first.model_dump(exclude_defaults=True) == {
        "id": "train_dia0_utt3",
        "audio": str(root / "train_splits" / "dia0_utt3.mp4"),
        "speaker": "Chandler",
        "session": "train_dia0",
        "emotion": "neutral",
        "transcript": "Well, you’re right",
        "style": "scripted",
        "split": "train",
        "language": "en",
        "corpus": "meld",
    }
    assert [(u.id, u.split, u.emotion) for u in parse_meld(root)] == [
        ("train_dia0_utt3", "train", "neutral"),
        ("dev_dia13_utt0", "dev", "joy"),
        ("test_dia0_utt3", "test", "anger"),
    ]


def test_a_row_without_a_clip_in_the_release_is_left_out_and_said(tmp_path: Path) -> None:
    root = release(tmp_path)
    assert meld_remarks(root) == ["left out train_dia125_utt3: the release has no clip that can be decoded"]


def test_corrected_clips_and_audio_go_first(tmp_path: Path) -> None:
    root = release(
        tmp_path,
        "test/output_repeated_splits_test/dia0_utt3.mp4",
        "test/output_repeated_splits_test/final_videos_testdia0_utt3.mp4",
        "dev_splits_complete/dia13_utt0.mp4",
        "dev_splits_complete/dia13_utt0.wav",
    )
    names = {u.split: Path(u.audio).name for u in parse_meld(root)}
    assert names["test"] == "final_videos_testdia0_utt3.mp4"
    assert names["dev"] == "dia13_utt0.wav"


def test_a_missing_table_and_an_unknown_emotion_stop(tmp_path: Path) -> None:
    root = release(tmp_path)
    (root / "dev_sent_emo.csv").write_text(HEADER + "x,Hi,Joey,glee,positive,13,0,5,3,0,1\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"dev_sent_emo\.csv:2: unknown emotion 'glee'"):
        parse_meld(root)
    (root / "dev_sent_emo.csv").unlink()
    with pytest.raises(ManifestError, match=r"contains no dev_sent_emo\.csv"):
        parse_meld(root)

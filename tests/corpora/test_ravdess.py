"""RAVDESS: everything is in the file name."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from serein.corpora.corpus import prepare
from serein.corpora.ravdess import EMOTIONS, RAVDESS, parse, remarks
from serein.errors import ManifestError

REAL = Path(os.environ.get("SEREIN_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
needs_ravdess = pytest.mark.skipif(not (REAL / "ravdess").is_dir(), reason=f"no RAVDESS in {REAL}")


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_a_file_name_says_everything(tmp_path: Path) -> None:
    (utterance,) = parse(tree(tmp_path, "Actor_12/03-01-06-01-02-01-12.wav"))
    assert utterance.model_dump(exclude_defaults=True) == {
        "id": "03-01-06-01-02-01-12",
        "audio": str(tmp_path / "Actor_12" / "03-01-06-01-02-01-12.wav"),
        "speaker": "12",
        "gender": "female",
        "emotion": "fearful",
        "transcript": "Dogs are sitting by the door",
        "style": "scripted",
        "language": "en",
        "corpus": "ravdess",
    }


@pytest.mark.parametrize(("code", "emotion"), EMOTIONS.items())
def test_every_emotion_code(tmp_path: Path, code: str, emotion: str) -> None:
    (utterance,) = parse(tree(tmp_path, f"03-01-{code}-01-01-02-07.flac"))
    assert (utterance.emotion, utterance.gender) == (emotion, "male")
    assert utterance.transcript == "Kids are talking by the door"


@pytest.mark.parametrize("prefix", ["", "Actor_01/", "Audio_Speech_Actors_01-24/Actor_01/"])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3"])
def test_the_layout_and_the_suffix_do_not_matter(tmp_path: Path, prefix: str, suffix: str) -> None:
    root = tree(tmp_path, *(f"{prefix}03-01-0{emotion}-01-01-01-01{suffix}" for emotion in (4, 1)))
    assert [u.id for u in parse(root)] == ["03-01-01-01-01-01-01", "03-01-04-01-01-01-01"]


def test_the_order_is_by_actor_whatever_the_folders(tmp_path: Path) -> None:
    root = tree(tmp_path, "b/03-01-01-01-01-01-02.wav", "a/03-01-02-01-01-01-10.wav", "c/03-01-08-01-01-01-01.wav")
    assert [u.speaker for u in parse(root)] == ["01", "02", "10"]


def test_song_and_video_are_left_out_and_counted(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "Actor_01/03-01-01-01-01-01-01.wav",
        "Actor_01/01-01-01-01-01-01-01.wav",
        "Song/Actor_01/03-02-01-01-01-01-01.wav",
        "Song/Actor_01/03-02-01-01-01-02-01.wav",
        "__MACOSX/Actor_01/._03-01-01-01-01-01-01.wav",
    )
    assert [u.id for u in parse(root)] == ["03-01-01-01-01-01-01"]
    assert remarks(root) == ["left out 2 clips of song", "left out 1 clips of video"]


def test_a_folder_of_song_only_says_so(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no audio-only speech clips \(left out 1 clips of song\)"):
        parse(tree(tmp_path, "03-02-01-01-01-01-01.wav"))


@pytest.mark.parametrize(
    "name", ["holiday.wav", "03-01-09-01-01-01-01.wav", "03-01-01-01-01-01-25.wav", "03-01-01-01-01-01.wav"]
)
def test_a_foreign_name_stops(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="not named as RAVDESS"):
        parse(tree(tmp_path, "03-01-01-01-01-01-01.wav", name))


def test_the_doubled_download_is_refused(tmp_path: Path) -> None:
    """The copy on Kaggle holds every clip twice, in Actor_NN/ and in audio_speech_actors_01-24/Actor_NN/."""
    name = "Actor_01/03-01-01-01-01-01-01.wav"
    root = tree(tmp_path, name, f"audio_speech_actors_01-24/{name}")
    with pytest.raises(ManifestError, match="1 names occur twice.*Name the folder of one copy"):
        parse(root)


def test_missing_folder_file_and_archive(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such folder"):
        parse(tmp_path / "none")
    with pytest.raises(ManifestError, match="Unpack it"):
        parse(tree(tmp_path, "Audio_Speech_Actors_01-24.zip") / "Audio_Speech_Actors_01-24.zip")
    with pytest.raises(ManifestError, match=r"found 1 \.zip.*Unpack the archive"):
        parse(tmp_path)


@needs_ravdess
def test_the_real_corpus_is_complete_and_agrees_with_its_table() -> None:
    prepared = prepare(RAVDESS, REAL / "ravdess")
    assert len(prepared.utterances) == 1440
    assert not prepared.skipped
    assert not prepared.notes
    with (REAL / "ravdess" / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = {Path(row["path"]).stem: row for row in csv.DictReader(file)}
    for u in prepared.utterances:
        row = rows.pop(u.id)
        assert (u.speaker, (u.gender or "")[0], u.emotion, u.transcript) == (
            row["speaker"],
            row["gender"],
            row["emotion"],
            row["text"],
        )
    assert not rows

"""LibriSpeech: a miniature tree of two subsets, an excerpt without inner folders, and defects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serein.corpora.corpus import Expected, prepare
from serein.corpora.librispeech import LIBRISPEECH, SUBSETS, expected, parse, remarks
from serein.errors import ManifestError

SPEAKERS = """\
; Some pipe(|) separated metadata
;ID  |SEX| SUBSET           |MINUTES| NAME
19   | F | train-clean-100  | 25.19 | Kara Shallenberg
60   | M | test-clean       | 20.18 | |CBW|Simon
"""
MINIATURE = replace(LIBRISPEECH, expected=Expected(splits={"train": 2, "test-clean": 1}, num_speakers=2))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "SPEAKERS.TXT").write_text(SPEAKERS)
    for subset, clip in (
        ("train-clean-100", "19-198-0000"),
        ("train-clean-100", "19-198-0001"),
        ("test-clean", "60-121082-0000"),
    ):
        speaker, chapter, _ = clip.split("-")
        folder = tmp_path / subset / speaker / chapter
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{clip}.flac", np.full(800, 0.1), 16_000)
        with (folder / f"{speaker}-{chapter}.trans.txt").open("a") as file:
            file.write(f"{clip} WORDS OF {clip}\n")
    return tmp_path


def test_an_utterance_says_all_that_the_release_says(root: Path) -> None:
    assert parse(root)[0].model_dump(exclude_defaults=True) == {
        "id": "19-198-0000",
        "audio": str(root / "train-clean-100/19/198/19-198-0000.flac"),
        "speaker": "19",
        "gender": "female",
        "session": "198",
        "transcript": "WORDS OF 19-198-0000",
        "style": "scripted",
        "split": "train",
        "language": "en",
        "corpus": "librispeech",
    }


def test_a_whole_tree_has_no_notes(root: Path) -> None:
    prepared = prepare(MINIATURE, root)
    assert [(u.id, u.gender, u.split) for u in prepared.utterances] == [
        ("19-198-0000", "female", "train"),
        ("19-198-0001", "female", "train"),
        ("60-121082-0000", "male", "test-clean"),
    ]
    assert prepared.notes == []


def test_the_counts_of_the_subsets_at_hand_are_checked(root: Path) -> None:
    with pytest.raises(ManifestError) as error:
        prepare(LIBRISPEECH, root)
    assert (
        "found 3 of the 31159 utterances that LibriSpeech publishes (split test-clean: 1 of 2620; "
        "split train: 2 of 28539; speakers: 2 of 291)"
    ) in str(error.value)
    assert len(prepare(LIBRISPEECH, root, counts="partial").utterances) == 3


def test_the_published_counts_are_those_of_the_whole() -> None:
    assert sum(number for number, _ in SUBSETS.values()) == 292_367
    assert sum(speakers for _, speakers in SUBSETS.values()) == 2_484


def test_training_subsets_are_counted_together(root: Path) -> None:
    (root / "train-clean-100").rename(root / "train-other-500")
    assert expected(parse(root)).splits == {"train": 148_688, "test-clean": 2_620}


def test_an_excerpt_without_inner_folders_is_read_and_says_what_it_lacks(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "19-198-0000.flac", np.full(800, 0.1), 16_000)
    (utterance,) = parse(tmp_path)
    assert (utterance.speaker, utterance.transcript, utterance.gender, utterance.split) == ("19", None, None, None)
    assert remarks(tmp_path) == [
        "1 of 1 utterances have no transcript, for want of .trans.txt files",
        "1 of 1 utterances have no gender, for want of SPEAKERS.TXT",
        "1 of 1 utterances have no split, for want of a folder named as a subset",
    ]


def test_a_subset_by_itself_finds_the_speakers_one_folder_up(root: Path) -> None:
    assert [u.gender for u in parse(root / "test-clean")] == ["male"]


@pytest.mark.parametrize(
    ("path", "old", "new", "said"),
    [
        (
            "train-clean-100/19/198/19-198.trans.txt",
            "19-198-0001 W",
            "19_198 W",
            "trans.txt:2: is no transcript: '19_198",
        ),
        ("train-clean-100/19/198/19-198.trans.txt", " WORDS OF 19-198-0001", "", "trans.txt:2: is no transcript"),
        ("SPEAKERS.TXT", "| F |", "| X |", "SPEAKERS.TXT:3: is no speaker: '19 | X |"),
        ("SPEAKERS.TXT", "60 ", "Simon ", "SPEAKERS.TXT:4: is no speaker: 'Simon"),
    ],
)
def test_a_broken_list_stops_with_its_line(root: Path, path: str, old: str, new: str, said: str) -> None:
    text = (root / path).read_text()
    assert old in text
    (root / path).write_text(text.replace(old, new))
    with pytest.raises(ManifestError) as error:
        parse(root)
    assert said in str(error.value)


def test_a_foreign_name_and_a_second_copy_are_refused(root: Path) -> None:
    source = root / "test-clean/60/121082/60-121082-0000.flac"
    (root / "copy").mkdir()
    (root / "copy" / source.name).write_bytes(source.read_bytes())
    with pytest.raises(ManifestError, match="1 names occur twice"):
        parse(root)
    (root / "copy" / source.name).rename(root / "copy" / "noise.flac")
    with pytest.raises(ManifestError, match="is not named as LibriSpeech names its clips"):
        parse(root)


def test_the_real_excerpt(real_data: Callable[[str], Path]) -> None:
    prepared = prepare(LIBRISPEECH, real_data("librispeech_excerpt"), counts="partial")
    assert (len(prepared.utterances), len({u.speaker for u in prepared.utterances})) == (351, 261)
    assert {u.gender for u in prepared.utterances} == {"female", "male"}

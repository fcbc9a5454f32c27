"""Corpora without emotions: miniature trees in the layouts of the releases, and defects planted in them."""

from __future__ import annotations

import csv
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serein.corpora import corpus_named
from serein.corpora.corpus import Expected
from serein.corpora.prepare import prepare
from serein.corpora.speech import (
    DIGITS,
    FSDD,
    LIBRISPEECH,
    LIBRISPEECH_SUBSETS,
    VOXCELEB1,
    librispeech_counts,
    librispeech_remarks,
    parse_fsdd,
    parse_librispeech,
    parse_voxceleb1,
    voxceleb1_remarks,
)
from serein.data import manifest
from serein.data.splits import make_folds
from serein.errors import AudioError, ManifestError, SereinError
from serein.recipe import Protocol


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


# -- VoxCeleb1 ---------------------------------------------------------------------------------------------------------


SPLIT_LIST = """\
1 id10001/1zcIwhmdeo4/00001.wav
1 id10001/1zcIwhmdeo4/00002.wav
2 id10001/7w0IBEWc9Qw/00001.wav
3 id10001/J9lHsKG98U8/00001.wav
1 id10002/0_laIeN-Q44/00001.wav
2 id10002/6WO410QOeuo/00003.wav
3 id10002/6WO410QOeuo/00004.wav
"""
SPEAKER_TABLE = """\
VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet
id10001\tA.J._Buckley\tm\tIreland\tdev
id10002\tA.R._Rahman\tm\tIndia\tdev
id10003\tAamir_Khan\tf\tIndia\ttest
"""
MINIATURE = replace(
    VOXCELEB1, expected=Expected(splits={"train": 3, "dev": 2, "test": 2}, num_speakers=2), title="Miniature"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "iden_split.txt").write_text(SPLIT_LIST)
    (tmp_path / "vox1_meta.csv").write_text(SPEAKER_TABLE)
    for number, line in enumerate(SPLIT_LIST.splitlines(), start=1):
        path = tmp_path / "wav" / line.split()[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(800 + number, 0.1), 16_000)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# -- the whole release -------------------------------------------------------------------------------------------------


def test_an_utterance_says_all_that_the_release_says(root: Path) -> None:
    assert parse_voxceleb1(root)[0].model_dump(exclude_defaults=True) == {
        "id": "id10001/1zcIwhmdeo4/00001",
        "audio": str(root / "wav" / "id10001" / "1zcIwhmdeo4" / "00001.wav"),
        "speaker": "id10001",
        "gender": "male",
        "session": "1zcIwhmdeo4",
        "style": "natural",
        "split": "train",
        "corpus": "voxceleb1",
    }


def test_the_order_and_the_splits_are_the_lists(root: Path) -> None:
    prepared = prepare(MINIATURE, root)
    assert [(u.id, u.split) for u in prepared.utterances] == [
        (line[2:].removesuffix(".wav"), {"1": "train", "2": "dev", "3": "test"}[line[0]])
        for line in SPLIT_LIST.splitlines()
    ]
    assert prepared.notes == []


def test_the_official_protocol_takes_the_identification_split(root: Path) -> None:
    folds = make_folds(parse_voxceleb1(root), Protocol(name="official", dev="official"))
    (fold,) = folds.folds
    assert [len(part) for part in (fold.train, fold.dev, fold.test)] == [3, 2, 2]


def test_what_was_prepared_can_be_written_and_read(root: Path) -> None:
    prepared = prepare(MINIATURE, root)
    manifest.write(prepared.utterances, root / "m.jsonl")
    assert manifest.read(root / "m.jsonl") == prepared.utterances


def test_the_published_counts() -> None:
    counts = corpus_named("voxceleb1").expected
    assert isinstance(counts, Expected)
    assert (counts.num_utterances, counts.num_speakers) == (153_516, 1_251)


@pytest.mark.parametrize("folder", ["dev", "vox1_test_wav"])
def test_the_two_archives_may_lie_side_by_side(root: Path, folder: str) -> None:
    (root / folder / "wav").mkdir(parents=True)
    (root / "wav" / "id10002").rename(root / folder / "wav" / "id10002")
    assert len(prepare(MINIATURE, root).utterances) == 7


def test_clips_may_be_converted_to_another_format(root: Path) -> None:
    path = root / "wav" / "id10001" / "1zcIwhmdeo4" / "00001.wav"
    soundfile.write(path.with_suffix(".flac"), np.full(801, 0.1), 16_000)
    path.unlink()
    assert prepare(MINIATURE, root).utterances[0].audio.endswith("00001.flac")


def test_lines_may_end_as_windows_ends_them(root: Path) -> None:
    before = parse_voxceleb1(root)
    for name, text in (("iden_split.txt", SPLIT_LIST), ("vox1_meta.csv", SPEAKER_TABLE)):
        (root / name).write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert parse_voxceleb1(root) == before


def test_no_clip_is_looked_at_by_itself(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 153,516 clips on a network disk, a stat each takes minutes; `prepare` opens each once, afterwards."""
    looked_at: list[str] = []
    stat = os.stat

    def counting(path: object, *rest: object, **named: object) -> os.stat_result:
        looked_at.append(str(path))
        return stat(path, *rest, **named)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "stat", counting)
    parse_voxceleb1(root)
    assert not [path for path in looked_at if path.endswith(".wav")]


# -- defects: what is missing ------------------------------------------------------------------------------------------


def remove_clip(root: Path) -> None:
    (root / "wav/id10001/1zcIwhmdeo4/00002.wav").unlink()


def remove_video(root: Path) -> None:
    shutil.rmtree(root / "wav/id10001/1zcIwhmdeo4")


def remove_speaker(root: Path) -> None:
    shutil.rmtree(root / "wav/id10002")


def move_clip(root: Path) -> None:
    (root / "wav/id10001/1zcIwhmdeo4/00002.wav").rename(root / "wav/id10001/1zcIwhmdeo4/00009.wav")


@pytest.mark.parametrize(
    ("plant", "found", "said"),
    [
        (remove_clip, 6, "no file of 1 clips of other speakers: id10001/1zcIwhmdeo4/00002; split train: 2 of 3"),
        (remove_video, 5, "no file of 2 clips of other speakers: id10001/1zcIwhmdeo4/00001, id10001/1zcIwhmdeo4/00002"),
        (remove_speaker, 4, "no folder of 1 speakers: id10002; split dev: 1 of 2; split test: 1 of 2; split train: 2"),
        (move_clip, 6, "no file of 1 clips of other speakers: id10001/1zcIwhmdeo4/00002; split train: 2 of 3"),
    ],
)
def test_a_partial_tree_says_what_is_missing(root: Path, plant: Callable[[Path], None], found: int, said: str) -> None:
    plant(root)
    with pytest.raises(ManifestError) as error:
        prepare(MINIATURE, root)
    assert f"found {found} of the 7 utterances that Miniature publishes ({said}" in str(error.value)
    assert str(error.value).endswith("Download the rest, or use --partial.")
    partial = prepare(MINIATURE, root, counts="partial")
    assert len(partial.utterances) == found
    assert said in partial.notes[-1]


def test_recordings_that_the_list_does_not_name_are_left_out_and_noted(root: Path) -> None:
    move_clip(root)
    note = "left out 1 recordings that iden_split.txt does not list: id10001/1zcIwhmdeo4/00009"
    assert voxceleb1_remarks(root) == [note]
    assert prepare(MINIATURE, root, counts="partial").notes[0] == note


def test_what_is_hidden_or_no_recording_is_passed_over(root: Path) -> None:
    (root / "wav" / ".DS_Store").write_bytes(b"x")
    (root / "wav" / "readme.txt").write_text("x")
    (root / "wav/id10001/1zcIwhmdeo4/._00001.wav").write_bytes(b"x")
    (root / "wav/id10001/1zcIwhmdeo4/00001.txt").write_text("FRAME X Y W H")
    assert prepare(MINIATURE, root).notes == []


# -- defects: the lists ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iden_split.txt", "vox1_meta.csv"])
def test_an_absent_list_is_named_with_its_address(root: Path, name: str) -> None:
    (root / name).unlink()
    with pytest.raises(ManifestError, match=f"contains no {name}. Download https://www.robots.ox.ac.uk/.*{name}"):
        parse_voxceleb1(root)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("iden_split.txt", "2 id10001", "4 id10001", "iden_split.txt:3: unknown split '4', expected one of: 1, 2, 3"),
        ("iden_split.txt", "2 id10001", "id10001", "iden_split.txt:3: unknown split 'id10001/7w0IBEWc9Qw/00001.wav'"),
        ("iden_split.txt", "id10001/7w0", "Abe_Lim/7w0", "iden_split.txt:3: 'Abe_Lim/7w0IBEWc9Qw/00001.wav' does not"),
        ("iden_split.txt", "Qw/00001.wav", "Qw/0000", "iden_split.txt:3: 'id10001/7w0IBEWc9Qw/0000' does not match"),
        (
            "iden_split.txt",
            "00002.wav",
            "00001.wav",
            "iden_split.txt:2: id10001/1zcIwhmdeo4/00001.wav is already listed",
        ),
        ("iden_split.txt", SPLIT_LIST, "\n", "iden_split.txt: lists no clips"),
        ("vox1_meta.csv", "Gender", "Sex", "has no column 'Gender'; its columns are: VoxCeleb1 ID, VGGFace1 ID, Sex"),
        ("vox1_meta.csv", SPEAKER_TABLE, "", "has no column 'VoxCeleb1 ID'; its columns are: none"),
        ("vox1_meta.csv", SPEAKER_TABLE, SPEAKER_TABLE.replace("\t", ","), "columns are: VoxCeleb1 ID,VGGFace1 ID,"),
        ("vox1_meta.csv", "\tm\tIreland", "\tx\tIreland", "vox1_meta.csv:2: unknown Gender 'x', expected one of: m, f"),
        ("vox1_meta.csv", "\tIndia\tdev", "", "vox1_meta.csv:3: has 3 cells, but the header has 5"),
        ("vox1_meta.csv", "id10003", "id10001", "vox1_meta.csv:4: id10001 is already listed in an earlier line"),
        ("vox1_meta.csv", "id10002", "id10009", "does not contain 1 speakers of iden_split.txt: id10002. Copy both"),
    ],
)
def test_a_broken_list_stops_with_its_line(root: Path, name: str, old: str, new: str, said: str) -> None:
    edit(root / name, old, new)
    with pytest.raises(ManifestError) as error:
        prepare(MINIATURE, root)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["iden_split.txt", "vox1_meta.csv"])
def test_a_list_in_another_encoding_is_refused(root: Path, name: str) -> None:
    (root / name).write_bytes((root / name).read_bytes() + b"caf\xe9")
    with pytest.raises(ManifestError, match=f"{name}: is not UTF-8 text"):
        parse_voxceleb1(root)


# -- defects: the recordings -------------------------------------------------------------------------------------------


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def no_audio(path: Path) -> None:
    path.write_text("<html>404 Not Found</html>")


@pytest.mark.parametrize(
    ("plant", "reason"),
    [(empty, "the file is empty"), (cut_off, "truncated"), (no_audio, "cannot be decoded as audio")],
)
def test_a_broken_recording_stops_or_is_listed(root: Path, plant: Callable[[Path], None], reason: str) -> None:
    path = root / "wav/id10002/0_laIeN-Q44/00001.wav"
    plant(path)
    with pytest.raises(AudioError, match=reason):
        prepare(MINIATURE, root)
    skipping = prepare(MINIATURE, root, unreadable="skip")
    assert [name for name, _ in skipping.skipped] == [str(path)]
    assert len(skipping.utterances) == 6


def test_a_clip_in_two_places_is_refused(root: Path) -> None:
    shutil.copytree(root / "wav", root / "copy" / "wav")
    with pytest.raises(ManifestError, match="7 clips are present twice, such as .*copy/wav/id10001"):
        parse_voxceleb1(root)


def test_folders_named_as_in_the_first_release_are_shown(root: Path) -> None:
    shutil.rmtree(root / "wav" / "id10002")
    (root / "wav" / "id10001").rename(root / "wav" / "A.J._Buckley")
    with pytest.raises(
        ManifestError, match=r"contains none of the 7 clips of iden_split.txt; found: A.J._Buckley/1zcI"
    ):
        parse_voxceleb1(root)


def test_archives_that_are_not_unpacked_are_shown(root: Path) -> None:
    shutil.rmtree(root / "wav")
    (root / "vox1_dev_wav.zip").write_bytes(b"PK")
    with pytest.raises(ManifestError, match=r"found: iden_split.txt, vox1_dev_wav.zip, vox1_meta.csv. Unpack"):
        parse_voxceleb1(root)


@pytest.mark.parametrize("name", ["iden_split.txt", "none"])
def test_what_is_no_folder_is_refused(root: Path, name: str) -> None:
    with pytest.raises(SereinError, match="is a file, not a folder|no such folder"):
        parse_voxceleb1(root / name)


# -- LibriSpeech: two subsets, an excerpt without inner folders --------------------------------------------------------


SPEAKERS = """\
; Some pipe(|) separated metadata
;ID  |SEX| SUBSET           |MINUTES| NAME
19   | F | train-clean-100  | 25.19 | Kara Shallenberg
60   | M | test-clean       | 20.18 | |CBW|Simon
"""
TWO_SUBSETS = replace(LIBRISPEECH, expected=Expected(splits={"train": 2, "test-clean": 1}, num_speakers=2))


@pytest.fixture
def subsets(tmp_path: Path) -> Path:
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


def test_an_utterance_says_all_that_the_release_says_in_librispeech(subsets: Path) -> None:
    assert parse_librispeech(subsets)[0].model_dump(exclude_defaults=True) == {
        "id": "19-198-0000",
        "audio": str(subsets / "train-clean-100/19/198/19-198-0000.flac"),
        "speaker": "19",
        "gender": "female",
        "session": "198",
        "transcript": "WORDS OF 19-198-0000",
        "style": "scripted",
        "split": "train",
        "language": "en",
        "corpus": "librispeech",
    }


def test_a_whole_tree_has_no_notes(subsets: Path) -> None:
    prepared = prepare(TWO_SUBSETS, subsets)
    assert [(u.id, u.gender, u.split) for u in prepared.utterances] == [
        ("19-198-0000", "female", "train"),
        ("19-198-0001", "female", "train"),
        ("60-121082-0000", "male", "test-clean"),
    ]
    assert prepared.notes == []


def test_the_counts_of_the_subsets_at_hand_are_checked(subsets: Path) -> None:
    with pytest.raises(ManifestError) as error:
        prepare(LIBRISPEECH, subsets)
    assert (
        "found 3 of the 31159 utterances that LibriSpeech publishes (split test-clean: 1 of 2620; "
        "split train: 2 of 28539; speakers: 2 of 291)"
    ) in str(error.value)
    assert len(prepare(LIBRISPEECH, subsets, counts="partial").utterances) == 3


def test_the_published_counts_are_those_of_the_whole() -> None:
    assert sum(number for number, _ in LIBRISPEECH_SUBSETS.values()) == 292_367
    assert sum(speakers for _, speakers in LIBRISPEECH_SUBSETS.values()) == 2_484


def test_training_subsets_are_counted_together(subsets: Path) -> None:
    (subsets / "train-clean-100").rename(subsets / "train-other-500")
    assert librispeech_counts(parse_librispeech(subsets)).splits == {"train": 148_688, "test-clean": 2_620}


def test_an_excerpt_without_inner_folders_is_read_and_says_what_it_lacks(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "19-198-0000.flac", np.full(800, 0.1), 16_000)
    (utterance,) = parse_librispeech(tmp_path)
    assert (utterance.speaker, utterance.transcript, utterance.gender, utterance.split) == ("19", None, None, None)
    assert librispeech_remarks(tmp_path) == [
        "1 of 1 utterances have no transcript, because .trans.txt files are missing",
        "1 of 1 utterances have no gender, because SPEAKERS.TXT is missing",
        "1 of 1 utterances have no split, because no folder is named after a subset",
    ]


def test_a_subset_by_itself_finds_the_speakers_one_folder_up(subsets: Path) -> None:
    assert [u.gender for u in parse_librispeech(subsets / "test-clean")] == ["male"]


@pytest.mark.parametrize(
    ("path", "old", "new", "said"),
    [
        (
            "train-clean-100/19/198/19-198.trans.txt",
            "19-198-0001 W",
            "19_198 W",
            "trans.txt:2: is not a transcript: '19_198",
        ),
        ("train-clean-100/19/198/19-198.trans.txt", " WORDS OF 19-198-0001", "", "trans.txt:2: is not a transcript"),
        ("SPEAKERS.TXT", "| F |", "| X |", "SPEAKERS.TXT:3: is not a speaker: '19 | X |"),
        ("SPEAKERS.TXT", "60 ", "Simon ", "SPEAKERS.TXT:4: is not a speaker: 'Simon"),
    ],
)
def test_a_broken_list_stops_with_its_line_in_librispeech(
    subsets: Path, path: str, old: str, new: str, said: str
) -> None:
    text = (subsets / path).read_text()
    assert old in text
    (subsets / path).write_text(text.replace(old, new))
    with pytest.raises(ManifestError) as error:
        parse_librispeech(subsets)
    assert said in str(error.value)


def test_a_foreign_name_and_a_second_copy_are_refused(subsets: Path) -> None:
    source = subsets / "test-clean/60/121082/60-121082-0000.flac"
    (subsets / "copy").mkdir()
    (subsets / "copy" / source.name).write_bytes(source.read_bytes())
    with pytest.raises(ManifestError, match="1 names occur twice"):
        parse_librispeech(subsets)
    (subsets / "copy" / source.name).rename(subsets / "copy" / "noise.flac")
    with pytest.raises(ManifestError, match="does not match the clip names of LibriSpeech"):
        parse_librispeech(subsets)


def test_the_real_excerpt(real_data: Callable[[str], Path]) -> None:
    prepared = prepare(LIBRISPEECH, real_data("librispeech_excerpt"), counts="partial")
    assert (len(prepared.utterances), len({u.speaker for u in prepared.utterances})) == (351, 261)
    assert {u.gender for u in prepared.utterances} == {"female", "male"}


# -- Free Spoken Digit Dataset: everything is in the file name ---------------------------------------------------------


def test_a_file_name_says_everything(tmp_path: Path) -> None:
    (utterance,) = parse_fsdd(tree(tmp_path, "recordings/7_jackson_32.wav"))
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
    utterances = parse_fsdd(tree(tmp_path, *(f"0_theo_{number}.wav" for number in (10, 5, 4, 0))))
    assert [(u.id, u.split) for u in utterances] == [
        ("0_theo_0", "test"),
        ("0_theo_4", "test"),
        ("0_theo_5", "train"),
        ("0_theo_10", "train"),
    ]


@pytest.mark.parametrize("name", ["x_theo_1.wav", "10_theo_1.wav", "1_theo.wav", "song.wav"])
def test_a_foreign_name_stops(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="does not match the clip names of FSDD"):
        parse_fsdd(tree(tmp_path, "1_theo_1.wav", name))


def test_two_formats_of_one_clip_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"1_theo_1\.flac and 1_theo_1\.wav"):
        parse_fsdd(tree(tmp_path, "1_theo_1.wav", "1_theo_1.flac"))


@pytest.mark.slow
def test_the_real_corpus_is_complete_and_agrees_with_its_table(real_data: Callable[[str], Path]) -> None:
    root = real_data("fsdd")
    prepared = prepare(FSDD, root)
    assert not prepared.skipped
    assert set(Counter(u.speaker for u in prepared.utterances).values()) == {500}
    with (root / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = {Path(row["path"]).stem: row for row in csv.DictReader(file)}
    assert {u.id: (u.speaker, u.transcript) for u in prepared.utterances} == {
        name: (row["speaker"], DIGITS[int(row["text"])]) for name, row in rows.items()
    }

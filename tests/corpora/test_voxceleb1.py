"""VoxCeleb1: a miniature tree in the layout of the release, and defects planted in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serein.corpora import corpus_named
from serein.corpora.corpus import Expected, prepare
from serein.corpora.voxceleb1 import VOXCELEB1, parse, remarks
from serein.data import manifest
from serein.data.splits import make_folds
from serein.errors import AudioError, ManifestError, SereinError
from serein.recipe import Protocol

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
    assert parse(root)[0].model_dump(exclude_defaults=True) == {
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
    folds = make_folds(parse(root), Protocol(name="official", dev="official"))
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
    before = parse(root)
    for name, text in (("iden_split.txt", SPLIT_LIST), ("vox1_meta.csv", SPEAKER_TABLE)):
        (root / name).write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert parse(root) == before


def test_no_clip_is_looked_at_by_itself(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 153,516 clips on a network disk, a stat each takes minutes; `prepare` opens each once, afterwards."""
    looked_at: list[str] = []
    stat = os.stat

    def counting(path: object, *rest: object, **named: object) -> os.stat_result:
        looked_at.append(str(path))
        return stat(path, *rest, **named)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "stat", counting)
    parse(root)
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
    assert str(error.value).endswith("Download the rest, or say --partial.")
    partial = prepare(MINIATURE, root, counts="partial")
    assert len(partial.utterances) == found
    assert said in partial.notes[-1]


def test_recordings_that_the_list_does_not_name_are_left_out_and_noted(root: Path) -> None:
    move_clip(root)
    note = "left out 1 recordings that iden_split.txt does not name: id10001/1zcIwhmdeo4/00009"
    assert remarks(root) == [note]
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
    with pytest.raises(ManifestError, match=f"holds no {name}. Download https://www.robots.ox.ac.uk/.*{name}"):
        parse(root)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("iden_split.txt", "2 id10001", "4 id10001", "iden_split.txt:3: unknown split '4', expected one of: 1, 2, 3"),
        ("iden_split.txt", "2 id10001", "id10001", "iden_split.txt:3: unknown split 'id10001/7w0IBEWc9Qw/00001.wav'"),
        ("iden_split.txt", "id10001/7w0", "Abe_Lim/7w0", "iden_split.txt:3: 'Abe_Lim/7w0IBEWc9Qw/00001.wav' is not"),
        ("iden_split.txt", "Qw/00001.wav", "Qw/0000", "iden_split.txt:3: 'id10001/7w0IBEWc9Qw/0000' is not named as"),
        ("iden_split.txt", "00002.wav", "00001.wav", "iden_split.txt:2: id10001/1zcIwhmdeo4/00001.wav stands in an"),
        ("iden_split.txt", SPLIT_LIST, "\n", "iden_split.txt: names no clips"),
        ("vox1_meta.csv", "Gender", "Sex", "has no column 'Gender'; its columns are: VoxCeleb1 ID, VGGFace1 ID, Sex"),
        ("vox1_meta.csv", SPEAKER_TABLE, "", "has no column 'VoxCeleb1 ID'; its columns are: none"),
        ("vox1_meta.csv", SPEAKER_TABLE, SPEAKER_TABLE.replace("\t", ","), "columns are: VoxCeleb1 ID,VGGFace1 ID,"),
        ("vox1_meta.csv", "\tm\tIreland", "\tx\tIreland", "vox1_meta.csv:2: unknown Gender 'x', expected one of: m, f"),
        ("vox1_meta.csv", "\tIndia\tdev", "", "vox1_meta.csv:3: has 3 cells, the header has 5"),
        ("vox1_meta.csv", "id10003", "id10001", "vox1_meta.csv:4: id10001 stands in an earlier line already"),
        ("vox1_meta.csv", "id10002", "id10009", "does not know 1 speakers of iden_split.txt: id10002. Copy both"),
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
    with pytest.raises(ManifestError, match=f"{name}: is no text in UTF-8"):
        parse(root)


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
    with pytest.raises(ManifestError, match="7 clips lie there twice, such as .*copy/wav/id10001"):
        parse(root)


def test_folders_named_as_in_the_first_release_are_shown(root: Path) -> None:
    shutil.rmtree(root / "wav" / "id10002")
    (root / "wav" / "id10001").rename(root / "wav" / "A.J._Buckley")
    with pytest.raises(ManifestError, match=r"holds none of the 7 clips of iden_split.txt; found: A.J._Buckley/1zcI"):
        parse(root)


def test_archives_that_are_not_unpacked_are_shown(root: Path) -> None:
    shutil.rmtree(root / "wav")
    (root / "vox1_dev_wav.zip").write_bytes(b"PK")
    with pytest.raises(ManifestError, match=r"found: iden_split.txt, vox1_dev_wav.zip, vox1_meta.csv. Unpack"):
        parse(root)


@pytest.mark.parametrize("name", ["iden_split.txt", "none"])
def test_what_is_no_folder_is_refused(root: Path, name: str) -> None:
    with pytest.raises(SereinError, match="is a file, not a folder|no such folder"):
        parse(root / name)

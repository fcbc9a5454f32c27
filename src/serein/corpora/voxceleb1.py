"""VoxCeleb1: interviews of 1,251 celebrities cut from videos, for telling who speaks (Nagrani et al. 2017).

`wav/id10001/1zcIwhmdeo4/00001.wav` is speaker, video, clip; the two archives may also be unpacked side by side
(`dev/wav`, `test/wav`). `iden_split.txt` divides the clips of every speaker for identification: 1 is train, 2 dev,
3 test. `vox1_meta.csv` knows the speakers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serein import audio
from serein.corpora.corpus import Corpus, Expected, require_folder, text_lines
from serein.data.utterance import Gender, Utterance
from serein.errors import ManifestError, expected_one_of

SPLIT_LIST = "iden_split.txt"
SPEAKER_TABLE = "vox1_meta.csv"
SPLITS = {"1": "train", "2": "dev", "3": "test"}
GENDERS: dict[str, Gender] = {"m": "male", "f": "female"}
META_URL = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/"

_COLUMNS = ("VoxCeleb1 ID", "Gender")
_CLIP = re.compile(r"(?P<speaker>id\d{5})/(?P<video>[\w-]+)/\d{5}\.wav")
_AGAIN = "Copy it again from the release."


@dataclass(frozen=True)
class _Release:
    """What the lists name and the folder holds; a clip is `id10001/1zcIwhmdeo4/00001`, without its suffix.

    Attributes:
        split_of: Clip -> split, in the list's order.
        gender_of: Speaker -> gender.
        files: Clip -> its files, more than one when it lies there twice.
    """

    split_of: Mapping[str, str]
    gender_of: Mapping[str, Gender]
    files: Mapping[str, Sequence[str]]

    @property
    def missing(self) -> list[str]:
        """Clips of the list without a file."""
        return [clip for clip in self.split_of if clip not in self.files]


def parse(root: Path) -> list[Utterance]:
    """Return every clip that both the list and the folder hold, in the list's order, with its identification split.

    Raises:
        ManifestError: A list is missing or broken, the lists do not belong together, or a clip lies there twice.
    """
    release = _read(root)
    found = [clip for clip in release.split_of if clip in release.files]
    if not found:
        example = next(iter(release.files), None) or ", ".join(sorted(os.listdir(root))[:8])
        raise ManifestError(
            f"holds none of the {len(release.split_of)} clips of {SPLIT_LIST}; found: {example}",
            where=root,
            remedy="Unpack the archives so that it holds wav/id10001/..., named as in release 1.1 or later.",
        )
    return [_utterance(release, clip) for clip in found]


def remarks(root: Path) -> list[str]:
    """Return a note on the recordings that no line of the list names."""
    release = _read(root)
    unnamed = [clip for clip in release.files if clip not in release.split_of]
    return [f"left out {len(unnamed)} recordings that {SPLIT_LIST} does not name: {_some(unnamed)}"] if unnamed else []


def missing(root: Path) -> list[str]:
    """Return what the list names and the folder does not hold: whole speakers, then further clips."""
    release = _read(root)
    if not (clips := release.missing):
        return []
    there = {clip.partition("/")[0] for clip in release.files}
    gone = sorted({_speaker(clip) for clip in clips} - there)
    single = [clip for clip in clips if _speaker(clip) in there]
    said = [f"no folder of {len(gone)} speakers: {_some(gone)}"] if gone else []
    return said + ([f"no file of {len(single)} clips of other speakers: {_some(single)}"] if single else [])


def _read(root: Path) -> _Release:
    require_folder(root)
    for name in (SPLIT_LIST, SPEAKER_TABLE):
        if not (root / name).is_file():
            raise ManifestError(f"holds no {name}", where=root, remedy=f"Download {META_URL}{name} into it.")
    split_of, gender_of = _splits(root / SPLIT_LIST), _genders(root / SPEAKER_TABLE)
    unknown = sorted({_speaker(clip) for clip in split_of} - gender_of.keys())
    if unknown:
        raise ManifestError(
            f"does not know {len(unknown)} speakers of {SPLIT_LIST}: {_some(unknown)}",
            where=root / SPEAKER_TABLE,
            remedy="Copy both again, from one release.",
        )
    files = _files(root)
    twice = [clip for clip, paths in files.items() if len(paths) > 1 and clip in split_of]
    if twice:
        pair = " and ".join(os.path.relpath(path, root) for path in files[twice[0]][:2])
        raise ManifestError(
            f"{len(twice)} clips lie there twice, such as {pair}", where=root, remedy="Remove one copy of each."
        )
    return _Release(split_of, gender_of, files)


def _splits(path: Path) -> dict[str, str]:
    """Read lines such as `1 id10001/1zcIwhmdeo4/00001.wav`: clip -> split."""
    splits: dict[str, str] = {}
    for number, line in text_lines(path):
        split, _, name = line.partition(" ")
        where = f"{path}:{number}"
        if split not in SPLITS:
            raise ManifestError(expected_one_of(split, SPLITS, kind="split"), where=where, remedy=_AGAIN)
        if not _CLIP.fullmatch(name.strip()):
            raise ManifestError(
                f"'{name.strip()}' is not named as VoxCeleb1 names its clips, such as id10001/1zcIwhmdeo4/00001.wav",
                where=where,
                remedy=_AGAIN,
            )
        clip = name.strip().removesuffix(".wav")
        if clip in splits:
            raise ManifestError(f"{clip}.wav stands in an earlier line already", where=where, remedy=_AGAIN)
        splits[clip] = SPLITS[split]
    if not splits:
        raise ManifestError("names no clips", where=path, remedy=_AGAIN)
    return splits


def _genders(path: Path) -> dict[str, Gender]:
    """Read the tab-separated table: speaker -> gender."""
    rows = [(number, [cell.strip() for cell in line.split("\t")]) for number, line in text_lines(path)]
    header = rows[0][1] if rows else []
    for column in _COLUMNS:
        if column not in header:
            raise ManifestError(
                f"has no column '{column}'; its columns are: {', '.join(header) or 'none'}",
                where=path,
                remedy="Use the tab-separated table as it is published.",
            )
    genders: dict[str, Gender] = {}
    for number, cells in rows[1:]:
        where = f"{path}:{number}"
        if len(cells) != len(header):
            raise ManifestError(f"has {len(cells)} cells, the header has {len(header)}", where=where, remedy=_AGAIN)
        speaker, gender = (cells[header.index(column)] for column in _COLUMNS)
        if gender not in GENDERS:
            raise ManifestError(expected_one_of(gender, GENDERS, kind="Gender"), where=where, remedy=_AGAIN)
        if speaker in genders:
            raise ManifestError(f"{speaker} stands in an earlier line already", where=where, remedy=_AGAIN)
        genders[speaker] = GENDERS[gender]
    return genders


def _files(root: Path) -> dict[str, list[str]]:
    """Return the recordings below `wav`, clip -> paths; folders are listed, no file is looked at by itself."""
    files: dict[str, list[str]] = {}
    for wav in sorted([root / "wav", *root.glob("*/wav")]):
        for speaker in _entries(wav):
            for video in _entries(speaker.path):
                for file in _entries(video.path):
                    stem, suffix = os.path.splitext(file.name)
                    if suffix.lower() in audio.SUFFIXES:
                        files.setdefault(f"{speaker.name}/{video.name}/{stem}", []).append(file.path)
    return files


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _utterance(release: _Release, clip: str) -> Utterance:
    speaker, video, _ = clip.split("/")
    return Utterance(
        id=clip,
        audio=release.files[clip][0],
        speaker=speaker,
        gender=release.gender_of[speaker],
        session=video,
        style="natural",
        split=release.split_of[clip],
        corpus="voxceleb1",
    )


def _speaker(clip: str) -> str:
    return clip.partition("/")[0]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


VOXCELEB1 = Corpus(
    name="voxceleb1",
    title="VoxCeleb1",
    licence="CC BY 4.0 (the videos remain their owners')",
    citation=(
        "Nagrani, A., Chung, J. S. and Zisserman, A. (2017). VoxCeleb: a large-scale speaker identification dataset. "
        "Interspeech 2017, 2616-2620. https://doi.org/10.21437/Interspeech.2017-950"
    ),
    parse=parse,
    expected=Expected(splits={"train": 138_361, "dev": 6_904, "test": 8_251}, num_speakers=1_251),
    remarks=remarks,
    missing=missing,
)

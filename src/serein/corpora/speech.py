"""Corpora without emotions: speakers (VoxCeleb1) and transcripts (LibriSpeech, the Free Spoken Digit Dataset)."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serein import audio
from serein.corpora.corpus import (
    Corpus,
    Expected,
    audio_files,
    name_parts,
    require_folder,
    require_one_file_each,
)
from serein.corpora.tables import text_lines
from serein.data.manifest import Gender, Utterance
from serein.errors import ManifestError, expected_one_of, first_of

_AGAIN = "Copy it again from the release."

# -- VoxCeleb1: interviews of 1,251 celebrities cut from videos, to identify speakers (Nagrani et al. 2017) ------------
#
# `wav/id10001/1zcIwhmdeo4/00001.wav` is speaker, video, clip; the two archives may also be unpacked side by side
# (`dev/wav`, `test/wav`). `iden_split.txt` divides the clips of every speaker for identification: 1 is train, 2 dev,
# 3 test. `vox1_meta.csv` describes the speakers.

SPLIT_LIST = "iden_split.txt"
SPEAKER_TABLE = "vox1_meta.csv"
VOXCELEB1_SPLITS = {"1": "train", "2": "dev", "3": "test"}
META_URL = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/"

_VOXCELEB1_CLIP = re.compile(r"id\d{5}/[\w-]+/\d{5}\.wav")


@dataclass(frozen=True)
class _VoxCeleb1:
    """The contents of the lists and the folder; a clip is `id10001/1zcIwhmdeo4/00001`, without its suffix.

    Attributes:
        split_of: Clip -> split, in the list's order.
        gender_of: Speaker -> gender.
        files: Clip -> its files, several if it is present more than once.
    """

    split_of: Mapping[str, str]
    gender_of: Mapping[str, Gender]
    files: Mapping[str, Sequence[str]]


def parse_voxceleb1(root: Path) -> list[Utterance]:
    """Return every clip that both the list and the folder contain, in the list's order, with its identification split.

    Raises:
        ManifestError: A list is missing or broken, the lists do not match, or a clip is present twice.
    """
    release = _read_voxceleb1(root)
    utterances = []
    for clip, split in release.split_of.items():
        if clip in release.files:
            speaker, video, _ = clip.split("/")
            utterances.append(
                Utterance(
                    id=clip,
                    audio=release.files[clip][0],
                    speaker=speaker,
                    gender=release.gender_of[speaker],
                    session=video,
                    style="natural",
                    split=split,
                    corpus="voxceleb1",
                )
            )
    if not utterances:
        example = next(iter(release.files), None) or ", ".join(sorted(os.listdir(root))[:8])
        raise ManifestError(
            f"contains none of the {len(release.split_of)} clips of {SPLIT_LIST}; found: {example}",
            where=root,
            remedy="Unpack the archives so that it contains wav/id10001/..., named as in release 1.1 or later.",
        )
    return utterances


def voxceleb1_remarks(root: Path) -> list[str]:
    """Return a note on the recordings that the list does not contain."""
    release = _read_voxceleb1(root)
    unnamed = [clip for clip in release.files if clip not in release.split_of]
    what = f"left out {len(unnamed)} recordings that {SPLIT_LIST} does not list: {first_of(unnamed, 3)}"
    return [what] if unnamed else []


def voxceleb1_missing(root: Path) -> list[str]:
    """Return the entries of the list that the folder lacks: whole speakers, then further clips."""
    release = _read_voxceleb1(root)
    clips = [clip for clip in release.split_of if clip not in release.files]
    there = {clip.partition("/")[0] for clip in release.files}
    gone = sorted({clip.partition("/")[0] for clip in clips} - there)
    single = [clip for clip in clips if clip.partition("/")[0] in there]
    said = [f"no folder of {len(gone)} speakers: {first_of(gone, 3)}"] if gone else []
    return said + ([f"no file of {len(single)} clips of other speakers: {first_of(single, 3)}"] if single else [])


def _read_voxceleb1(root: Path) -> _VoxCeleb1:
    require_folder(root)
    for name in (SPLIT_LIST, SPEAKER_TABLE):
        if not (root / name).is_file():
            raise ManifestError(f"contains no {name}", where=root, remedy=f"Download {META_URL}{name} into it.")
    split_of, gender_of = _identification_splits(root / SPLIT_LIST), _speaker_genders(root / SPEAKER_TABLE)
    unknown = sorted({clip.partition("/")[0] for clip in split_of} - gender_of.keys())
    if unknown:
        raise ManifestError(
            f"does not contain {len(unknown)} speakers of {SPLIT_LIST}: {first_of(unknown, 3)}",
            where=root / SPEAKER_TABLE,
            remedy="Copy both again from the same release.",
        )
    files: dict[str, list[str]] = {}  # folders are listed; files are not inspected individually
    for wav in sorted([root / "wav", *root.glob("*/wav")]):
        for speaker in _entries(wav):
            for video in _entries(speaker.path):
                for file in _entries(video.path):
                    stem, suffix = os.path.splitext(file.name)
                    if suffix.lower() in audio.SUFFIXES:
                        files.setdefault(f"{speaker.name}/{video.name}/{stem}", []).append(file.path)
    twice = [clip for clip, paths in files.items() if len(paths) > 1 and clip in split_of]
    if twice:
        pair = " and ".join(os.path.relpath(path, root) for path in files[twice[0]][:2])
        raise ManifestError(
            f"{len(twice)} clips are present twice, such as {pair}", where=root, remedy="Remove one copy of each."
        )
    return _VoxCeleb1(split_of, gender_of, files)


def _identification_splits(path: Path) -> dict[str, str]:
    """Read lines such as `1 id10001/1zcIwhmdeo4/00001.wav`: clip -> split."""
    splits: dict[str, str] = {}
    for number, line in text_lines(path):
        split, _, name = line.partition(" ")
        where, name = f"{path}:{number}", name.strip()
        if split not in VOXCELEB1_SPLITS:
            raise ManifestError(expected_one_of(split, VOXCELEB1_SPLITS, kind="split"), where=where, remedy=_AGAIN)
        if not _VOXCELEB1_CLIP.fullmatch(name):
            raise ManifestError(
                f"'{name}' does not match the clip names of VoxCeleb1, such as id10001/1zcIwhmdeo4/00001.wav",
                where=where,
                remedy=_AGAIN,
            )
        clip = name.removesuffix(".wav")
        if clip in splits:
            raise ManifestError(f"{clip}.wav is already listed in an earlier line", where=where, remedy=_AGAIN)
        splits[clip] = VOXCELEB1_SPLITS[split]
    if not splits:
        raise ManifestError("lists no clips", where=path, remedy=_AGAIN)
    return splits


def _speaker_genders(path: Path) -> dict[str, Gender]:
    """Read the tab-separated table: speaker -> gender."""
    rows = [(number, [cell.strip() for cell in line.split("\t")]) for number, line in text_lines(path)]
    header, columns = rows[0][1] if rows else [], ("VoxCeleb1 ID", "Gender")
    for column in columns:
        if column not in header:
            raise ManifestError(
                f"has no column '{column}'; its columns are: {', '.join(header) or 'none'}",
                where=path,
                remedy="Use the tab-separated table as published.",
            )
    genders: dict[str, Gender] = {}
    known: dict[str, Gender] = {"m": "male", "f": "female"}
    for number, cells in rows[1:]:
        where = f"{path}:{number}"
        if len(cells) != len(header):
            raise ManifestError(f"has {len(cells)} cells, but the header has {len(header)}", where=where, remedy=_AGAIN)
        speaker, gender = (cells[header.index(column)] for column in columns)
        if gender not in known:
            raise ManifestError(expected_one_of(gender, known, kind="Gender"), where=where, remedy=_AGAIN)
        if speaker in genders:
            raise ManifestError(f"{speaker} is already listed in an earlier line", where=where, remedy=_AGAIN)
        genders[speaker] = known[gender]
    return genders


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


VOXCELEB1 = Corpus(
    name="voxceleb1",
    title="VoxCeleb1",
    licence="CC BY 4.0 (the videos remain their owners')",
    citation=(
        "Nagrani, A., Chung, J. S. and Zisserman, A. (2017). VoxCeleb: a large-scale speaker identification dataset. "
        "Interspeech 2017, 2616-2620. https://doi.org/10.21437/Interspeech.2017-950"
    ),
    parse=parse_voxceleb1,
    expected=Expected(splits={"train": 138_361, "dev": 6_904, "test": 8_251}, num_speakers=1_251),
    remarks=voxceleb1_remarks,
    missing=voxceleb1_missing,
)

# -- LibriSpeech: 1,000 hours of English audio books, read by 2,484 speakers (Panayotov et al. 2015) -------------------
#
# `train-clean-100/19/198/19-198-0000.flac` is subset, speaker, chapter, clip, with the words of the chapter's clips in
# `19-198.trans.txt` next to them and the speakers' genders in `SPEAKERS.TXT`. The subsets are downloaded separately,
# and any of them is enough. A clip's name contains its speaker and chapter, so an excerpt without the inner folders can
# also be read.

# Subset -> (utterances, speakers). Speakers: the paper's table 1; utterances: as in the released archives.
LIBRISPEECH_SUBSETS = {
    "train-clean-100": (28_539, 251),
    "train-clean-360": (104_014, 921),
    "train-other-500": (148_688, 1_166),
    "dev-clean": (2_703, 40),
    "dev-other": (2_864, 33),
    "test-clean": (2_620, 40),
    "test-other": (2_939, 33),
}

_LIBRISPEECH_NAME = r"(?P<speaker>\d+)-(?P<chapter>\d+)-\d{4}"


def parse_librispeech(root: Path) -> list[Utterance]:
    """Return every clip below `root`, sorted by subset and name.

    Raises:
        ManifestError: There is no folder or no audio, a file name does not match, a clip is in two places, or a list is
            broken.
    """
    paths = audio_files(root)
    texts, genders = _librispeech_lists(root, paths)
    utterances = []
    for path in paths:
        parts = name_parts(
            path,
            _LIBRISPEECH_NAME,
            corpus="LibriSpeech",
            example="19-198-0000.flac",
            remedy="Move it out of the corpus's folder.",
        )
        subset = subset_of(path)
        utterances.append(
            Utterance(
                id=path.stem,
                audio=str(path),
                speaker=parts["speaker"],
                gender=genders.get(parts["speaker"]),
                session=parts["chapter"],
                transcript=texts.get(path.stem),
                style="scripted",
                split=None if subset is None else _split_of(subset),
                language="en",
                corpus="librispeech",
            )
        )
    require_one_file_each(utterances, root)
    return sorted(utterances, key=lambda u: ((u.split or "").partition("-")[0] != "train", u.split or "", u.audio))


def librispeech_remarks(root: Path) -> list[str]:
    """Return notes on clips without a transcript, without the speaker's gender, or outside the subsets."""
    utterances = parse_librispeech(root)
    lacking = {
        "transcript, because .trans.txt files are missing": sum(u.transcript is None for u in utterances),
        "gender, because SPEAKERS.TXT is missing": sum(u.gender is None for u in utterances),
        "split, because no folder is named after a subset": sum(u.split is None for u in utterances),
    }
    return [f"{count} of {len(utterances)} utterances have no {what}" for what, count in lacking.items() if count]


def librispeech_counts(utterances: Sequence[Utterance]) -> Expected:
    """Return the published counts of the subsets that are present."""
    subsets = {subset for u in utterances if (subset := subset_of(Path(u.audio)))}
    splits: Counter[str] = Counter()
    for subset in subsets:
        splits[_split_of(subset)] += LIBRISPEECH_SUBSETS[subset][0]
    return Expected(splits=dict(splits), num_speakers=sum(LIBRISPEECH_SUBSETS[subset][1] for subset in subsets))


def subset_of(path: Path) -> str | None:
    """Return the innermost folder of a path that is named as a subset of LibriSpeech.

    Example:
        >>> subset_of(Path("LibriSpeech/dev-clean/84/121123/84-121123-0000.flac"))
        'dev-clean'
    """
    return next((part for part in reversed(path.parts) if part in LIBRISPEECH_SUBSETS), None)


def _split_of(subset: str) -> str:
    """Return the split; the test subsets stay separate, since results are reported on each of them."""
    return subset if subset.startswith("test") else subset.partition("-")[0]


def _librispeech_lists(root: Path, paths: Sequence[Path]) -> tuple[dict[str, str], dict[str, Gender]]:
    """Read the lists: clip -> words, speaker -> gender.

    Lists next to the clips contain lines such as `19-198-0000 NORTHANGER ABBEY`. The table of speakers, in the folder
    or one level above or below, contains lines such as `14   | F | train-clean-360  | 25.03 | Kristin LeMoine`.
    """
    texts: dict[str, str] = {}
    for folder in dict.fromkeys(path.parent for path in paths):
        for name in sorted(name for name in os.listdir(folder) if name.endswith(".trans.txt")):
            for number, line in text_lines(folder / name):
                clip, _, text = line.strip().partition(" ")
                if not re.fullmatch(_LIBRISPEECH_NAME, clip) or not text.strip():
                    raise ManifestError(
                        f"is not a transcript: '{line[:40]}'", where=f"{folder / name}:{number}", remedy=_AGAIN
                    )
                texts[clip] = text.strip()
    folders = (root, *root.parents[:1], *sorted(root.iterdir()))
    tables = [folder / name for folder in folders for name in ("SPEAKERS.TXT", "SPEAKERS.txt")]
    table = next((path for path in tables if path.is_file()), None)
    known: dict[str, Gender] = {"F": "female", "M": "male"}
    genders: dict[str, Gender] = {}
    for number, line in text_lines(table) if table else ():
        if line.startswith(";"):
            continue
        speaker, gender, *_ = [*(cell.strip() for cell in line.split("|")), ""]
        if not speaker.isdecimal() or gender not in known:
            raise ManifestError(f"is not a speaker: '{line[:40]}'", where=f"{table}:{number}", remedy=_AGAIN)
        genders[speaker] = known[gender]
    return texts, genders


LIBRISPEECH = Corpus(
    name="librispeech",
    title="LibriSpeech",
    licence="CC BY 4.0",
    citation=(
        "Panayotov, V., Chen, G., Povey, D. and Khudanpur, S. (2015). Librispeech: An ASR corpus based on public "
        "domain audio books. ICASSP 2015, 5206-5210. https://doi.org/10.1109/ICASSP.2015.7178964"
    ),
    parse=parse_librispeech,
    expected=librispeech_counts,
    remarks=librispeech_remarks,
    languages=("en",),
)

# -- Free Spoken Digit Dataset: six speakers say each digit fifty times (Jackson et al. 2018) --------------------------

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUM_TESTED = 5  # recordings of each digit and speaker, 0 to 4, are the official test set


def parse_fsdd(root: Path) -> list[Utterance]:
    """Return every clip below `root`, sorted by speaker, digit and number.

    The file name contains all metadata: `7_jackson_32.wav` is Jackson's recording 32 of the digit 7.

    Raises:
        ManifestError: There is no folder or no audio, a file name does not match, or a clip is in two places.
    """
    found = []
    for path in audio_files(root):
        parts = name_parts(
            path,
            r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<number>\d+)",
            corpus="FSDD",
            example="7_jackson_32.wav",
            remedy="Specify the folder 'recordings' of the corpus, or move this file out of it.",
        )
        found.append((parts["speaker"], int(parts["digit"]), int(parts["number"]), str(path)))
    utterances = [
        Utterance(
            id=Path(path).stem,
            audio=path,
            speaker=speaker,
            gender="male",  # all six, according to the corpus's own list
            transcript=DIGITS[digit],
            style="scripted",
            split="test" if number < NUM_TESTED else "train",
            language="en",
            corpus="fsdd",
        )
        for speaker, digit, number, path in sorted(found)
    ]
    require_one_file_each(utterances, root)
    return utterances


FSDD = Corpus(
    name="fsdd",
    title="Free Spoken Digit Dataset",
    licence="CC BY-SA 4.0",
    citation=(
        "Jackson, Z. et al. (2018). Jakobovski/free-spoken-digit-dataset: v1.0.8. Zenodo. "
        "https://doi.org/10.5281/zenodo.1342401"
    ),
    parse=parse_fsdd,
    expected=Expected(splits={"train": 2700, "test": 300}, num_speakers=6),
    languages=("en",),
)

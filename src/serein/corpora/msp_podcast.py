"""The label tables of MSP-Podcast: consensus labels, and the ratings of every rater.

`labels_detailed.csv` has two forms. Release 2.0 has a column for each answer of a rater; releases up to 1.12 put them
into one cell as in `labels.txt`: `WORKER00000001; Other-confused; Concerned,Confused; A:3.0; V:3.0; D:4.0;`.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from pathlib import Path

from serein.corpora.corpus import Corpus, require_folder
from serein.data.manifest import Gender, Rating, Utterance
from serein.errors import ManifestError, expected_one_of, first_of

OTHER = "other"
# The choices of the second question (the release's readme.txt); "Other" allows free text.
SECONDARY = frozenset(
    [
        "angry",
        "sad",
        "happy",
        "amused",
        "neutral",
        "frustrated",
        "depressed",
        "surprise",
        "concerned",
        "disgust",
        "disappointed",
        "excited",
        "confused",
        "annoyed",
        "fear",
        "contempt",
        "other",
    ]
)
RATING_COLUMNS = ("FileName", "WorkerID", "EmoClass_Major", "EmoClass_Second")
DETAIL_COLUMNS = ("FileName", "EmoDetail")

_DETAIL = re.compile(r"(?P<rater>[^;]+);(?P<labels>.+);\s*A:[^;]*;\s*V:[^;]*;\s*D:[^;]*;?\s*", re.DOTALL)
_OTHER = re.compile(r"other(?![a-z])[\s\-_:]*", re.IGNORECASE)
_AGAIN = "Copy the table again from the release."
_SPELLING = {"dissapointed": "disappointed"}  # as several releases misspell it


def header(path: Path) -> list[str]:
    """Return the column names of a table.

    Raises:
        ManifestError: The file is empty or not text.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            names = next(csv.reader(file), [])
        except (csv.Error, UnicodeDecodeError) as error:
            raise _unreadable(f"{path}:1", error) from None
    if not any(names):
        raise ManifestError("the table is empty", where=path, remedy="Copy it again from the release.")
    return [name.strip() for name in names]


def rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the line number of every row below the header and its cells in `columns`, which are at least two.

    Raises:
        ManifestError: A column is missing, or a line is broken; names the line.
    """
    names = header(path)
    if missing := [column for column in columns if column not in names]:
        raise ManifestError(
            f"has no column {' and no column '.join(missing)}; its columns are: {', '.join(names)}",
            where=path,
            remedy="Use the unmodified table of release 1.10 or later.",
        )
    pick = itemgetter(*(names.index(column) for column in columns))
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            next(reader)
            for row in reader:
                if len(row) == len(names):
                    yield reader.line_num, pick(row)
                elif any(row):
                    raise ManifestError(
                        f"has {len(row)} cells, but the header has {len(names)}",
                        where=f"{path}:{reader.line_num}",
                        remedy=_AGAIN,
                    )
        except (csv.Error, UnicodeDecodeError) as error:
            raise _unreadable(f"{path}:{reader.line_num}", error) from None


def ratings(path: Path) -> dict[str, tuple[Rating, ...]]:
    """Return the ratings of every file in `labels_detailed.csv`, in its order.

    Raises:
        ManifestError: The table has neither of the two forms, or a row has no rater or no primary emotion.
    """
    said = cache(answer)  # raters give the same few answers a million times
    found: dict[str, list[Rating]] = defaultdict(list)
    is_one_cell = "EmoDetail" in header(path)
    for line, (name, *cells) in rows(path, DETAIL_COLUMNS if is_one_cell else RATING_COLUMNS):
        rater, primary, secondary = cells if not is_one_cell else ("", "", "")
        if is_one_cell and (parts := _DETAIL.fullmatch(cells[0])):
            rater, labels = parts["rater"], parts["labels"].strip()
            # the free text of the primary emotion may contain semicolons
            is_free_text = _OTHER.match(labels) and ";" in labels
            primary, _, secondary = labels.rpartition(";") if is_free_text else labels.partition(";")
        if not rater.strip() or not primary.strip():
            raise ManifestError(
                f"is not a rating: '{'; '.join(cells)}'",
                where=f"{path}:{line}",
                remedy="Copy the table again from the release: a rating has a rater and a primary emotion.",
            )
        labels_said, comment = said(primary.strip(), secondary)
        found[name.strip()].append(Rating(labels=labels_said, comment=comment, rater=rater.strip()))
    return {name: tuple(given) for name, given in found.items()}


def answer(primary: str, secondary: str) -> tuple[tuple[str, ...], str | None]:
    """Return one rater's distinct labels (the primary emotion, then the secondary ones), and the free text.

    Args:
        primary: One emotion, or "Other-" and free text.
        secondary: Emotions separated by commas, possibly none; the free text of "Other-" may also contain commas.

    Example:
        >>> answer("Angry", "Angry,Frustrated,Other-bored, really")
        (('angry', 'frustrated', 'other'), 'bored, really')
    """
    labels: list[str] = []
    comments: list[str] = []
    is_free_text = False
    for place, word in enumerate((primary, *filter(None, (word.strip() for word in secondary.split(","))))):
        label = OTHER if _OTHER.match(word) else _SPELLING.get(word.lower(), word.lower())
        goes_on = is_free_text and place > 1  # free text of the primary emotion does not
        is_free_text = label == OTHER or (goes_on and label not in SECONDARY)
        labels.append(OTHER if is_free_text else label)
        comments.append(_OTHER.sub("", word, count=1).strip() if is_free_text else "")
    return tuple(dict.fromkeys(labels)), ", ".join(dict.fromkeys(filter(None, comments))) or None


def _unreadable(where: str, error: Exception) -> ManifestError:
    what = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"is not a readable CSV ({error})"
    return ManifestError(what, where=where, remedy=_AGAIN)


EMOTIONS = {
    "N": "neutral",
    "H": "happy",
    "A": "angry",
    "S": "sad",
    "C": "contempt",
    "U": "surprise",
    "D": "disgust",
    "F": "fear",
}
NO_EMOTION = {"O": "Other", "X": "No agreement"}  # no plurality for any of the eight, but still rated
SPLITS = {"Train": "train", "Development": "dev", "Test1": "test1", "Test2": "test2", "Test3": "test3"}
GENDERS: dict[str, Gender | None] = {"Male": "male", "Female": "female", "Unknown": None, "": None}

# Release by its number of rows in labels_consensus.csv, which leaves out Test3. Sources: 1.11 and 1.12, corpus page and
# readme.txt (151,654 and 207,136 turns, Test3 2,347 and 3,200); the challenge's readme.txt; 2.0, Busso et al. 2025
# (267,905 turns, Test3 3,200); 1.10, its split sizes as published with results on it.
RELEASES = {
    104_267: "release 1.10",
    116_221: "the challenge release (Train, Development and Test3 only)",
    149_307: "release 1.11",
    203_936: "release 1.12",
    264_705: "release 2.0",
}

CONSENSUS = Path("Labels", "labels_consensus.csv")
DETAILED = Path("Labels", "labels_detailed.csv")

_ATTRIBUTES = ("EmoVal", "EmoAct", "EmoDom")
_COLUMNS = ("FileName", "EmoClass", "SpkrID", "Gender", "Split_Set", *_ATTRIBUTES)
_NAME = re.compile(r"MSP-PODCAST_\w+\.wav")
_TEST3_NAME = re.compile(r"MSP-PODCAST_test3_\w+\.wav")


@dataclass(frozen=True)
class _Row:
    """A row of the consensus table; `emotion` is `None` for 'Other', 'No agreement' and hidden labels."""

    name: str
    letter: str
    speaker: str | None
    gender: Gender | None
    split: str
    valence: float | None = None
    arousal: float | None = None
    dominance: float | None = None

    @property
    def emotion(self) -> str | None:
        return EMOTIONS.get(self.letter)


@dataclass(frozen=True)
class _Release:
    """The contents of a release's folder: the consensus table, and the names of audio files without a row in it."""

    root: Path
    rows: list[_Row]
    test3: list[str]  # audio without a row, because its labels are hidden
    unknown: list[str]  # audio without a row for no known reason

    @property
    def utterances(self) -> list[_Row]:
        """Rows of all utterances; those of Test3 that the table leaves out come last."""
        return [*self.rows, *(_Row(name, "", None, None, "test3") for name in self.test3)]

    def transcript(self, row: _Row) -> str | None:
        """Return the text of an utterance; `None` if its file is missing or empty."""
        path = self.root / "Transcripts" / f"{Path(row.name).stem}.txt"
        try:
            return path.read_text(encoding="utf-8-sig").strip() or None
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(
                f"cannot be read as UTF-8 text ({error})",
                where=path,
                remedy="Copy it again, or remove it: the utterance then has no transcript.",
            ) from None


def parse(root: Path) -> list[Utterance]:
    """Return every utterance in the table's order, then Test3.

    If raters did not agree on one of the eight emotions (`NO_EMOTION`), an utterance has ratings and dimensions, but no
    emotion. Test3 has no public labels: its utterances have no emotion, speaker or ratings, but can be predicted.

    Raises:
        ManifestError: A file or column is missing, a line is broken, or the two tables do not match.
    """
    release = _read(root)
    given = ratings(root / DETAILED)
    unrated = sorted({row.name for row in release.rows if row.split != "test3"} - given.keys())
    unlabelled = sorted(given.keys() - {row.name for row in release.rows})
    for names, what in (
        (unrated, f"contains no rating of {len(unrated)} files of {CONSENSUS.name}"),
        (unlabelled, f"rates {len(unlabelled)} files that {CONSENSUS.name} does not list"),
    ):
        if names:
            raise ManifestError(
                f"{what}, such as {names[0]}",
                where=root / DETAILED,
                remedy="Copy both tables again from the same release.",
            )
    if not any(row.emotion or row.split == "test3" for row in release.utterances):
        raise ManifestError(
            f"no row has one of the classes {', '.join(EMOTIONS)}", where=root / CONSENSUS, remedy=_AGAIN
        )
    return [
        Utterance(
            id=Path(row.name).stem,
            audio=str(root / "Audios" / row.name),
            speaker=row.speaker,
            gender=row.gender,
            emotion=row.emotion,
            valence=row.valence,
            arousal=row.arousal,
            dominance=row.dominance,
            ratings=given.get(row.name, ()),
            transcript=release.transcript(row),
            style="natural",
            split=row.split,
            language="en",
            corpus="msp-podcast",
        )
        for row in release.utterances
    ]


def remarks(root: Path) -> list[str]:
    """Return notes on which release this is, and on what `parse` leaves out or finds missing, with counts."""
    release = _read(root)
    num_rows = len(release.rows)
    known = ", ".join(f"{name} {number}" for number, name in RELEASES.items() if name.startswith("release"))
    which = RELEASES.get(num_rows)
    recognised = f"as many as in {which}" if which else f"unlike any known release ({known})"
    splits = Counter(row.split for row in release.rows) + Counter(test3=len(release.test3))
    by_split = _numbers(splits, SPLITS.values())
    notes = [f"{num_rows} rows in {CONSENSUS.name}, {recognised}; by split: {by_split}"]
    if letters := Counter(NO_EMOTION[row.letter] for row in release.rows if row.letter in NO_EMOTION):
        which_letters = _numbers(letters, NO_EMOTION.values())
        notes.append(f"{letters.total()} utterances have ratings but no emotion: {which_letters}")
    if others := [name or "(no name)" for name in header(root / CONSENSUS) if name not in _COLUMNS]:
        notes.append(f"left out {len(others)} unknown columns of {CONSENSUS.name}: {', '.join(others)}")
    if release.unknown:
        num_unknown = len(release.unknown)
        notes.append(f"left out {num_unknown} files in Audios/ that no row lists, such as {release.unknown[0]}")
    rated = [row for row in release.utterances if row.split != "test3"]
    speakers, genders = sum(row.speaker is None for row in rated), sum(row.gender is None for row in rated)
    if speakers or genders:
        notes.append(f"of {len(rated)} rated utterances, {speakers} have no speaker and {genders} no gender")
    if not (root / "Transcripts").is_dir():
        notes.append("no folder Transcripts/, so no utterance has a transcript; unpack Transcripts.zip to add them")
    elif lacking := [row for row in release.utterances if release.transcript(row) is None]:
        files = set(os.listdir(root / "Transcripts"))
        num_empty = sum(f"{Path(row.name).stem}.txt" in files for row in lacking)
        num_hidden = sum(row.split == "test3" for row in lacking)
        which_rows = f"({num_hidden} of test3); {num_empty} of the files are empty"
        notes.append(f"{len(lacking)} utterances have no transcript {which_rows}")
    return notes


def _read(root: Path) -> _Release:
    require_folder(root)
    for part in (Path("Audios"), CONSENSUS, DETAILED):
        if not (root / part).exists():
            folder = (root / part).parent if (root / part).parent.is_dir() else root
            names = sorted(os.listdir(folder))
            raise ManifestError(
                f"contains no {part.as_posix()}; found: {first_of(names, 12) or 'nothing'}",
                where=root,
                remedy="Specify the folder of release 1.10 or later, with its archives unpacked.",
            )
    table: list[_Row] = []
    line_of: dict[str, int] = {}
    for line, cells in rows(root / CONSENSUS, _COLUMNS):
        where = f"{root / CONSENSUS}:{line}"
        row = _row(cells, where=where)
        if (first := line_of.setdefault(row.name, line)) != line:
            raise ManifestError(
                f"{row.name} is listed in line {first} already",
                where=where,
                remedy="Copy the table again from the release, or remove one of the lines.",
            )
        table.append(row)
    if not table:
        raise ManifestError(
            "contains no rows below the header", where=root / CONSENSUS, remedy="Copy it again from the release."
        )
    unnamed = sorted(name for name in os.listdir(root / "Audios") if name not in line_of and not name.startswith("."))
    test3 = [name for name in unnamed if _TEST3_NAME.fullmatch(name)]
    return _Release(root, table, test3, [name for name in unnamed if not _TEST3_NAME.fullmatch(name)])


def _row(cells: Sequence[str], *, where: str) -> _Row:
    name, letter, speaker, gender, split, *attributes = (cell.strip() for cell in cells)
    if not _NAME.fullmatch(name):
        raise ManifestError(
            f"'{name}' does not match the file names of MSP-Podcast, such as MSP-PODCAST_0001_0008.wav",
            where=where,
            remedy="Use the unmodified table.",
        )
    letters = (*EMOTIONS, *NO_EMOTION) if letter or split != "Test3" else ("",)
    for value, known, column in (
        (split, SPLITS, "Split_Set"),
        (gender, GENDERS, "Gender"),
        (letter, letters, "EmoClass"),
    ):
        if value not in known:
            raise ManifestError(
                expected_one_of(value, [name for name in known if name], kind=column),
                where=where,
                remedy="Copy the table again from release 1.10 to 2.0; serein does not support others.",
            )
    numbers: list[float | None] = []
    for cell, column in zip(attributes, _ATTRIBUTES, strict=True):
        if cell and not re.fullmatch(r"\d+(\.\d+)?", cell):
            raise ManifestError(
                f"column {column} contains '{cell}', which is not a mean of answers from 1 to 7",
                where=where,
                remedy=_AGAIN,
            )
        numbers.append(float(cell) if cell else None)
    is_named = speaker not in ("", "Unknown")
    return _Row(name, letter, speaker if is_named else None, GENDERS[gender], SPLITS[split], *numbers)


def _numbers(counts: Mapping[str, int], order: Iterable[str]) -> str:
    return ", ".join(f"{name} {counts[name]}" for name in order if counts[name])


MSP_PODCAST = Corpus(
    name="msp-podcast",
    title="MSP-Podcast",
    licence="academic licence of UT Dallas, on request from its MSP Lab: for research, not to be passed on",
    citation=(
        "Lotfian, R. and Busso, C. (2019). Building Naturalistic Emotionally Balanced Speech Corpus by Retrieving "
        "Emotional Speech From Existing Podcast Recordings. IEEE Transactions on Affective Computing 10(4), 471-483. "
        "https://doi.org/10.1109/TAFFC.2017.2736999"
    ),
    parse=parse,
    remarks=remarks,
    languages=("en",),
)

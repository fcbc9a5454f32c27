"""The label tables of MSP-Podcast: their rows, and what every rater said.

`labels_detailed.csv` has two forms. Release 2.0 gives a rater's answers a column each; releases up to 1.12 put them
into one cell as in `labels.txt`: `WORKER00000001; Other-confused; Concerned,Confused; A:3.0; V:3.0; D:4.0;`.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from pathlib import Path

from serein.corpora.corpus import Corpus, require_folder
from serein.data.utterance import Gender, Rating, Utterance
from serein.errors import ManifestError, expected_one_of

OTHER = "other"
# What a rater may tick in the second question (the release's readme.txt); "Other" takes free text.
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
_SPELLING = {"dissapointed": "disappointed"}  # as several releases misspell it


def header(path: Path) -> list[str]:
    """Return the column names of a table.

    Raises:
        ManifestError: The file is empty or no text.
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
    """Yield the line number of every row below the header, and its cells of at least two `columns`.

    Raises:
        ManifestError: A column is missing, or a line is broken; names the line.
    """
    names = header(path)
    if missing := [column for column in columns if column not in names]:
        raise ManifestError(
            f"has no column {' and no column '.join(missing)}; its columns are: {', '.join(names)}",
            where=path,
            remedy="Use the table of release 1.10 or later as it was sent.",
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
                    raise _cut_off(f"{path}:{reader.line_num}", len(row), len(names))
        except (csv.Error, UnicodeDecodeError) as error:
            raise _unreadable(f"{path}:{reader.line_num}", error) from None


def ratings(path: Path) -> dict[str, tuple[Rating, ...]]:
    """Return the ratings of every file in `labels_detailed.csv`, in its order.

    Raises:
        ManifestError: The table has neither of the two forms, or a row has no rater or no primary emotion.
    """
    said = cache(_said)  # raters give the same few answers a million times
    found: dict[str, list[Rating]] = defaultdict(list)
    for name, rater, primary, secondary in _answers(path):
        labels, comment = said(primary, secondary)
        found[name].append(Rating(labels=labels, comment=comment, rater=rater))
    return {name: tuple(given) for name, given in found.items()}


def rating(rater: str, primary: str, secondary: str) -> Rating:
    """Return what one rater said: the primary emotion first, then the secondary ones, each once.

    Args:
        primary: One emotion, or "Other-" and free text.
        secondary: Emotions separated by commas, possibly none; the free text of "Other-" may hold commas, too.

    Example:
        >>> rating("WORKER00000001", "Angry", "Angry,Frustrated,Other-bored, really")
        Rating(labels=('angry', 'frustrated', 'other'), comment='bored, really', rater='WORKER00000001')
    """
    labels, comment = _said(primary, secondary)
    return Rating(labels=labels, comment=comment, rater=rater)


def _said(primary: str, secondary: str) -> tuple[tuple[str, ...], str | None]:
    """Return the labels and the free text of one answer."""
    labels, comments = [_label(primary)], [_free_text(primary) if _OTHER.match(primary) else ""]
    is_free_text = False
    for word in filter(None, (word.strip() for word in secondary.split(","))):
        label = _label(word)
        is_free_text = label == OTHER or (is_free_text and label not in SECONDARY)
        labels.append(OTHER if is_free_text else label)
        comments.append(_free_text(word) if is_free_text else "")
    return tuple(dict.fromkeys(labels)), ", ".join(dict.fromkeys(filter(None, comments))) or None


def _label(word: str) -> str:
    if _OTHER.match(word):
        return OTHER
    return _SPELLING.get(word.lower(), word.lower())


def _free_text(word: str) -> str:
    return _OTHER.sub("", word, count=1).strip()


def _answers(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield file name, rater, primary and secondary emotions of every row, whichever form the table has."""
    is_one_cell = "EmoDetail" in header(path)
    for line, (name, *cells) in rows(path, DETAIL_COLUMNS if is_one_cell else RATING_COLUMNS):
        rater, primary, secondary = _split(cells[0]) if is_one_cell else cells
        if not rater.strip() or not primary.strip():
            raise ManifestError(
                f"is no rating: '{'; '.join(cells)}'",
                where=f"{path}:{line}",
                remedy="Copy the table again from the release: a rating names its rater and a primary emotion.",
            )
        yield name.strip(), rater.strip(), primary.strip(), secondary


def _split(detail: str) -> tuple[str, str, str]:
    """Return rater, primary and secondary emotions of a cell `EmoDetail`; empty where they cannot be found."""
    parts = _DETAIL.fullmatch(detail)
    if parts is None:
        return "", "", ""
    labels = parts["labels"].strip()
    if _OTHER.match(labels) and ";" in labels:  # the free text of the primary emotion may hold semicolons
        primary, _, secondary = labels.rpartition(";")
    else:
        primary, _, secondary = labels.partition(";")
    return parts["rater"], primary, secondary


def _cut_off(where: str, num_cells: int, num_columns: int) -> ManifestError:
    return ManifestError(
        f"has {num_cells} cells, the header has {num_columns}",
        where=where,
        remedy="Copy the table again from the release.",
    )


def _unreadable(where: str, error: Exception) -> ManifestError:
    what = "is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else f"is no readable CSV ({error})"
    return ManifestError(what, where=where, remedy="Copy the table again from the release.")


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
NO_EMOTION = {"O": "Other", "X": "No agreement"}  # no plurality for one of the eight
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

    @property
    def is_kept(self) -> bool:
        return self.emotion is not None or self.split == "test3"


@dataclass(frozen=True)
class _Release:
    """What the folder of a release holds: the consensus table and the names of the audio files beside it."""

    root: Path
    rows: list[_Row]
    test3: list[str]  # audio without a row, because its labels are hidden
    unknown: list[str]  # audio without a row for no reason

    @property
    def kept(self) -> list[_Row]:
        """Rows that become utterances, Test3 last."""
        hidden = [_Row(name, "", None, None, "test3") for name in self.test3]
        return [row for row in self.rows if row.is_kept] + hidden

    def transcript(self, row: _Row) -> str | None:
        """Return the text of an utterance; `None` without a file, and for an empty one."""
        path = self.root / "Transcripts" / f"{Path(row.name).stem}.txt"
        try:
            return path.read_text(encoding="utf-8-sig").strip() or None
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(
                f"cannot be read as a text in UTF-8 ({error})",
                where=path,
                remedy="Copy it again, or remove it: the utterance then has no transcript.",
            ) from None


def parse(root: Path) -> list[Utterance]:
    """Return every utterance whose consensus is one of the eight emotions, in the table's order, then Test3.

    Test3 has no public labels: its utterances have no emotion, speaker or ratings, and can be predicted.

    Raises:
        ManifestError: A file or column is missing, a line is broken, or the two tables do not belong together.
    """
    release = _read(root)
    given = ratings(root / DETAILED)
    _require_same_files(release, given)
    utterances = [_utterance(release, row, given.get(row.name, ())) for row in release.kept]
    if not utterances:
        raise ManifestError(
            f"no row has one of the classes {', '.join(EMOTIONS)}",
            where=root / CONSENSUS,
            remedy="Copy the table again from the release.",
        )
    return utterances


def remarks(root: Path) -> list[str]:
    """Return notes on which release this is, and on what `parse` leaves out or finds missing, with counts."""
    release = _read(root)
    notes = [_found(release), _left_out(release), _columns(root), _unknown_audio(release)]
    return [note for note in (*notes, _unknown_people(release), _transcripts(release)) if note]


def _read(root: Path) -> _Release:
    require_folder(root)
    for part in (Path("Audios"), CONSENSUS, DETAILED):
        if not (root / part).exists():
            raise ManifestError(
                f"holds no {part.as_posix()}; found: {_contents(root, part)}",
                where=root,
                remedy="Name the folder of release 1.10 or later, with its archives unpacked.",
            )
    table = _consensus(root / CONSENSUS)
    named = {row.name for row in table}
    unnamed = sorted(name for name in os.listdir(root / "Audios") if name not in named and not name.startswith("."))
    test3 = [name for name in unnamed if _TEST3_NAME.fullmatch(name)]
    return _Release(root, table, test3, [name for name in unnamed if not _TEST3_NAME.fullmatch(name)])


def _contents(root: Path, part: Path) -> str:
    """List what lies where `part` should."""
    folder = (root / part).parent if (root / part).parent.is_dir() else root
    names = sorted(os.listdir(folder))
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "nothing"


def _consensus(path: Path) -> list[_Row]:
    table: list[_Row] = []
    line_of: dict[str, int] = {}
    for line, cells in rows(path, _COLUMNS):
        row = _row(cells, where=f"{path}:{line}")
        if (first := line_of.setdefault(row.name, line)) != line:
            raise ManifestError(
                f"{row.name} stands in line {first} already",
                where=f"{path}:{line}",
                remedy="Copy the table again from the release, or remove one of the lines.",
            )
        table.append(row)
    if not table:
        raise ManifestError("holds no rows below the header", where=path, remedy="Copy it again from the release.")
    return table


def _row(cells: Sequence[str], *, where: str) -> _Row:
    name, letter, speaker, gender, split, *attributes = (cell.strip() for cell in cells)
    if not _NAME.fullmatch(name):
        raise ManifestError(
            f"'{name}' is not named as MSP-Podcast names its files, such as MSP-PODCAST_0001_0008.wav",
            where=where,
            remedy="Use the table as it was sent.",
        )
    _require_known(split, SPLITS, "Split_Set", where)
    _require_known(gender, GENDERS, "Gender", where)
    if letter or split != "Test3":
        _require_known(letter, (*EMOTIONS, *NO_EMOTION), "EmoClass", where)
    is_named = speaker not in ("", "Unknown")
    numbers = [_number(cell, column, where) for cell, column in zip(attributes, _ATTRIBUTES, strict=True)]
    return _Row(name, letter, speaker if is_named else None, GENDERS[gender], SPLITS[split], *numbers)


def _number(cell: str, column: str, where: str) -> float | None:
    if not cell:
        return None
    if not re.fullmatch(r"\d+(\.\d+)?", cell):
        raise ManifestError(
            f"column {column} holds '{cell}', which is no mean of answers from 1 to 7",
            where=where,
            remedy="Copy the table again from the release.",
        )
    return float(cell)


def _require_known(value: str, known: Collection[str], column: str, where: str) -> None:
    if value not in known:
        raise ManifestError(
            expected_one_of(value, [name for name in known if name], kind=column),
            where=where,
            remedy="Copy the table again; if this is a newer release, serein does not know it yet.",
        )


def _require_same_files(release: _Release, given: Mapping[str, Sequence[Rating]]) -> None:
    """Raise ManifestError unless the detailed table rates the files of the consensus table, and no others."""
    labelled = {row.name for row in release.rows if row.split != "test3"}
    unrated = sorted(labelled - given.keys())
    unlabelled = sorted(given.keys() - {row.name for row in release.rows})
    if unrated:
        what = f"holds no rating of {len(unrated)} files of {CONSENSUS.name}, such as {unrated[0]}"
    elif unlabelled:
        what = f"rates {len(unlabelled)} files that {CONSENSUS.name} does not name, such as {unlabelled[0]}"
    else:
        return
    raise ManifestError(what, where=release.root / DETAILED, remedy="Copy both tables again, from one release.")


def _utterance(release: _Release, row: _Row, given: tuple[Rating, ...]) -> Utterance:
    return Utterance(
        id=Path(row.name).stem,
        audio=str(release.root / "Audios" / row.name),
        speaker=row.speaker,
        gender=row.gender,
        emotion=row.emotion,
        valence=row.valence,
        arousal=row.arousal,
        dominance=row.dominance,
        ratings=given,
        transcript=release.transcript(row),
        style="natural",
        split=row.split,
        language="en",
        corpus="msp-podcast",
    )


# -- notes: each returns "" when there is nothing to say ---------------------------------------------------------------


def _found(release: _Release) -> str:
    num_rows = len(release.rows)
    known = ", ".join(f"{name} {number}" for number, name in RELEASES.items() if name.startswith("release"))
    which = RELEASES.get(num_rows)
    recognised = f"as many as in {which}" if which else f"as in no release that serein knows ({known})"
    splits = Counter(row.split for row in release.rows) + Counter(test3=len(release.test3))
    return f"{num_rows} rows in {CONSENSUS.name}, {recognised}; by split: {_numbers(splits, SPLITS.values())}"


def _left_out(release: _Release) -> str:
    letters = Counter(NO_EMOTION[row.letter] for row in release.rows if not row.is_kept)
    if not letters:
        return ""
    return f"left out {letters.total()} utterances without an emotion: {_numbers(letters, NO_EMOTION.values())}"


def _columns(root: Path) -> str:
    others = [name or "(no name)" for name in header(root / CONSENSUS) if name not in _COLUMNS]
    if not others:
        return ""
    return f"left out {len(others)} unknown columns of {CONSENSUS.name}: {', '.join(others)}"


def _unknown_audio(release: _Release) -> str:
    if not release.unknown:
        return ""
    return f"left out {len(release.unknown)} files in Audios/ that no row names, such as {release.unknown[0]}"


def _unknown_people(release: _Release) -> str:
    kept = [row for row in release.kept if row.split != "test3"]
    speakers, genders = sum(row.speaker is None for row in kept), sum(row.gender is None for row in kept)
    if not speakers and not genders:
        return ""
    return f"of {len(kept)} labelled utterances, {speakers} have no speaker and {genders} no gender"


def _transcripts(release: _Release) -> str:
    if not (release.root / "Transcripts").is_dir():
        return "no folder Transcripts/, so no utterance has a transcript; unpack Transcripts.zip to have them"
    lacking = [row for row in release.kept if release.transcript(row) is None]
    if not lacking:
        return ""
    files = set(os.listdir(release.root / "Transcripts"))
    num_empty = sum(f"{Path(row.name).stem}.txt" in files for row in lacking)
    num_hidden = sum(row.split == "test3" for row in lacking)
    return f"{len(lacking)} utterances have no transcript ({num_hidden} of test3); {num_empty} of the files are empty"


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

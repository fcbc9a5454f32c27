"""MSP-Podcast: speaking turns cut from podcasts, each judged by five raters or more (Lotfian and Busso 2019).

Release 1.10 and later: `Audios/*.wav`, `Labels/labels_consensus.csv`, `Labels/labels_detailed.csv` and
`Transcripts/*.txt`. The emotions are the corpus's own words, and `ratings[i].labels[0]` is a rater's primary emotion in
the same words, so the share of raters who agree with the consensus can be counted. Valence, arousal and dominance are
the means of the raters' answers from 1 to 7.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serein.data.corpora.corpus import Corpus, require_folder
from serein.data.corpora.msp_podcast_tables import header, ratings, rows
from serein.data.utterance import Gender, Rating, Utterance
from serein.errors import ManifestError, expected_one_of

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
)

"""A user's own recordings: a folder per emotion, or a table.

Folders: `ROOT/<emotion>/FILE` or `ROOT/<emotion>/<speaker>/FILE`. `ROOT/<speaker>/<emotion>/FILE` is also supported, if
all lower folders are named after emotions and no upper one is. Tables: CSV with one row per utterance and columns named
like the fields of an `Utterance`.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from serein import audio
from serein.corpora import tables
from serein.corpora.corpus import Corpus, audio_files, require_one_file_each, summary_by_suffix
from serein.data.manifest import Utterance
from serein.errors import ManifestError, first_of

_WORDS = """
afraid amused amusement anger angry annoyed anxiety anxious bored boredom calm confused contempt disgust disgusted
excited excitement fear fearful frustrated frustration happiness happy joy joyful neutral other sad sadness
surprise surprised ang dis exc fea fru hap neu sur
"""
EMOTIONS = frozenset(_WORDS.split())

_LAYOUT = "Arrange them as ROOT/<emotion>/FILE or ROOT/<emotion>/<speaker>/FILE, or list them in a table ('csv')."
_SPLITS = frozenset({"train", "training", "dev", "devel", "val", "valid", "validation", "test", "testing", "eval"})
_SPEAKER = re.compile(r"(?:actor|speaker|spk|subject|session|ses|id|s|p|f|m)?[ _-]?\d+", re.IGNORECASE)
_SEPARATORS = (",", ";", "\t", "|")


def parse_folder(root: Path) -> list[Utterance]:
    """Return every audio file below `root`, sorted by path; the id is the path below `root` without its suffix.

    Raises:
        ManifestError: There is no audio, files are outside the layout, there are fewer than two emotions, folders look
            like speakers or splits, or two files have the same name.
    """
    utterances, _ = _in_folders(root)
    require_one_file_each(utterances, root)
    emotions = sorted({u.emotion or "" for u in utterances})
    speakers = sorted({u.speaker for u in utterances if u.speaker})
    if len(emotions) < 2:
        raise ManifestError(f"contains only one emotion: {emotions[0]}", where=root, remedy=_LAYOUT)
    shown = first_of(emotions, 8)
    if all(emotion.lower() in _SPLITS for emotion in emotions):
        raise ManifestError(
            f"the folders {shown} look like splits, not emotions",
            where=root,
            remedy="Prepare each of them separately, or list all files in a table with a column 'split'.",
        )
    if speakers and all(speaker.lower() in _SPLITS for speaker in speakers):
        raise ManifestError(
            f"the folders {first_of(speakers, 8)} below the emotions look like splits, not speakers",
            where=root,
            remedy="List all files in a table with a column 'split'.",
        )
    if all(_SPEAKER.fullmatch(emotion) for emotion in emotions):
        raise ManifestError(
            f"the folders {shown} look like speakers, not emotions",
            where=root,
            remedy=f"{_LAYOUT} If they are codes of emotions, name the folders after the emotions.",
        )
    return utterances


def folder_remarks(root: Path) -> list[str]:
    """Return notes on the folders used as emotions and speakers, which reveal others, and on what was left out."""
    utterances, is_exchanged = _in_folders(root)
    emotions = sorted({u.emotion or "" for u in utterances})
    speakers = sorted({u.speaker for u in utterances if u.speaker})
    notes = [f"used the names of {len(emotions)} folders as emotions: {first_of(emotions, 8)}"]
    if speakers:
        notes.append(f"used the names of {len(speakers)} folders as speakers: {first_of(speakers, 8)}")
    if is_exchanged:
        notes.append("used the upper folders as speakers, because those below them are named after emotions")
    if others := [path for path in audio.find_files(root) if path.suffix.lower() not in audio.SUFFIXES]:
        notes.append(f"left out files that are not audio: {summary_by_suffix(others)}")
    return notes


def _in_folders(root: Path) -> tuple[list[Utterance], bool]:
    """Return the utterances in folders of emotions, and whether the speakers are above the emotions."""
    paths = audio_files(root)
    below = [path.relative_to(root) for path in paths]
    for wrong, what in (
        ([path for path in below if len(path.parts) == 1], "are directly in the folder"),
        ([path for path in below if len(path.parts) > 3], "are deeper than <emotion>/<speaker>"),
    ):
        if wrong:
            raise ManifestError(
                f"{len(wrong)} of {len(paths)} files {what}, such as {wrong[0].as_posix()}",
                where=root,
                remedy=_LAYOUT,
            )
    # speakers are above emotions if all lower folders are named after emotions, and no upper one is
    upper = {path.parts[0].lower() for path in below}
    lower = {path.parts[1].lower() for path in below if len(path.parts) == 3}
    is_deep = all(len(path.parts) == 3 for path in below)
    is_exchanged = is_deep and lower <= EMOTIONS and not upper & (EMOTIONS | _SPLITS)
    utterances = []
    for path, short in zip(paths, below, strict=True):
        first, second = short.parts[0], short.parts[1] if len(short.parts) == 3 else None
        emotion, speaker = (second, first) if is_exchanged else (first, second)
        name = short.with_suffix("").as_posix()
        utterances.append(Utterance(id=name, audio=str(path), speaker=speaker, emotion=emotion))
    return utterances, is_exchanged


FOLDER = Corpus(
    name="folder",
    title="Folder per emotion",
    licence=None,
    citation=None,
    parse=parse_folder,
    remarks=folder_remarks,
)


@dataclass(frozen=True)
class _Csv:
    """A table: the field of each column, `None` if it matches no field; and line number and cells of each row."""

    path: Path
    header: list[str]
    fields: list[str | None]
    rows: list[tuple[int, list[str]]]


def parse_csv(root: Path) -> list[Utterance]:
    """Return the utterances of a CSV, row by row; audio paths are relative to the CSV.

    The separator (comma, semicolon, tab, bar) is the one that yields known columns. A cell that is empty, or marks a
    missing value (nan, NA, None, ?, -), is `None`. Times are seconds, `00:01.5` or `0 days 00:00:01.5`. Without a
    column `id`, the id is the path without its suffix, followed by `#start-end` if the row is a part of a file.

    Args:
        root: The CSV, or a folder with a `manifest.csv`.

    Raises:
        ManifestError: The table or its column of paths is missing, a column may contain the emotions but is not named
            so, one may contain times but is not named so, or a row is not an utterance; names the line.
    """
    table = _read_csv(root)
    # If no column is named 'emotion', one that may contain the emotions is an error; row numbers may lack a name.
    for position, (name, field) in enumerate(zip(table.header, table.fields, strict=True)):
        if "emotion" in table.fields or field or (name and name.lower() not in tables.MAYBE_EMOTION):
            continue
        values = dict.fromkeys(row[position] for _, row in table.rows if not tables.is_missing(row[position]))
        if name or not all(value.isdecimal() for value in values):
            which = f"column '{name}'" if name else "the column without a name"
            raise ManifestError(
                f"has no column 'emotion'; the emotions may be in {which} ({first_of(list(values), 5)})",
                where=table.path,
                remedy="If so, name that column 'emotion'; if not, remove it.",
            )
    tables.require_known_times(table.header, where=table.path)
    columns = {field: name for name, field in zip(table.header, table.fields, strict=True) if field}
    utterances = [
        tables.utterance(
            {field: cell for field, cell in zip(table.fields, row, strict=False) if field},
            table.path.parent,
            where=f"{table.path}:{line}",
            columns=columns,
        )
        for line, row in table.rows
    ]
    if not utterances:
        raise ManifestError("contains no rows below the header", where=table.path, remedy="Add one row per utterance.")
    return utterances


def csv_remarks(root: Path) -> list[str]:
    """Return notes on the columns that match no field of an utterance, and on the cells that were read as missing."""
    table = _read_csv(root)
    unknown = [name or "(no name)" for name, field in zip(table.header, table.fields, strict=True) if field is None]
    markers = Counter(
        (cell, name)
        for _, row in table.rows
        for cell, name, field in zip(row, table.header, table.fields, strict=False)
        if cell and field and field != "audio" and tables.is_missing(cell)
    )
    notes = [f"{count} cells '{cell}' of column '{name}' read as missing" for (cell, name), count in markers.items()]
    if unknown:
        known = ", ".join(tables.FIELDS)
        notes.append(f"left out {len(unknown)} unknown columns: {', '.join(unknown)} (known: {known})")
    return notes


def _read_csv(root: Path) -> _Csv:
    """Read a table of recordings: the CSV `root`, or the `manifest.csv` in it."""
    path = root / "manifest.csv" if root.is_dir() else root
    if not path.is_file():
        raise ManifestError("no such table", where=path, remedy="Specify a CSV file, or a folder with a manifest.csv.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ManifestError(
            "is not a UTF-8 text file", where=path, remedy="Save the table as 'CSV UTF-8', or specify the table."
        ) from None
    if text.lstrip().startswith("{"):
        raise ManifestError("contains JSON lines, not a table", where=path, remedy="A manifest needs no preparation.")
    headers = {separator: next(csv.reader(io.StringIO(text), delimiter=separator), []) for separator in _SEPARATORS}
    separator = max(_SEPARATORS, key=lambda candidate: sum(bool(tables.field_of(name)) for name in headers[candidate]))
    header = [name.strip() for name in headers[separator]]
    fields = [tables.field_of(name) for name in header]
    if "audio" not in fields:
        raise ManifestError(
            f"has no column of audio paths; its columns are: {', '.join(header) or '(none)'}",
            where=path,
            remedy=f"Name one column 'audio' or {', '.join(tables.ALIASES['audio'])}.",
        )
    if repeated := sorted({field for field in fields if field is not None and fields.count(field) > 1}):
        raise ManifestError(
            f"has several columns for {', '.join(repeated)}: "
            + ", ".join(name for name, field in zip(header, fields, strict=True) if field in repeated),
            where=path,
            remedy="Remove or rename all but one.",
        )
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    rows = []
    try:
        next(reader)
        for cells in reader:
            row = [cell.strip() for cell in cells]
            if any(row) and (len(row) < len(header) or any(row[len(header) :])):
                raise ManifestError(
                    f"has {len(row)} cells, but the header has {len(header)}",
                    where=f"{path}:{reader.line_num}",
                    remedy=f"Put cells that contain {separator!r} in double quotes.",
                )
            if any(row):
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise ManifestError(
            f"is not a readable CSV ({error})",
            where=f"{path}:{reader.line_num}",
            remedy="Close every double quote, and double those within a cell.",
        ) from None
    return _Csv(path, header, fields, rows)


CSV = Corpus(
    name="csv",
    title="Table of recordings",
    licence=None,
    citation=None,
    parse=parse_csv,
    remarks=csv_remarks,
)

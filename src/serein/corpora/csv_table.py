"""A table of recordings: CSV, one row an utterance, columns named like the fields of an `Utterance`."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serein.corpora import cells
from serein.corpora.corpus import Corpus
from serein.data.utterance import Utterance
from serein.errors import ManifestError

_SEPARATORS = (",", ";", "\t")


@dataclass(frozen=True)
class _Table:
    """The cells of a CSV; `fields` names the Utterance's field of each column, `None` where there is none."""

    path: Path
    separator: str
    header: list[str]
    fields: list[str | None]

    @property
    def columns(self) -> dict[str, str]:
        """Field -> name of its column."""
        return {field: name for name, field in zip(self.header, self.fields, strict=True) if field}


def parse(root: Path) -> list[Utterance]:
    """Return the utterances of a CSV, row by row; audio paths are relative to the CSV.

    The separator (comma, semicolon, tab) is the one that gives known columns. A cell that is empty, or says that its
    value is missing (nan, NA, None, ?, -), is `None`. Times are seconds, `00:01.5` or `0 days 00:00:01.5`. Without a
    column `id`, the id is the path without its suffix, and `#start-end` when the row is a part.

    Args:
        root: The CSV, or a folder with a `manifest.csv`.

    Raises:
        ManifestError: No such table, no column of paths, one that may be of emotions and is not named so, or a row that
            is not an utterance; names the line.
    """
    table = _open(_path(root))
    _require_emotions_named(table)
    columns = table.columns
    utterances = [
        cells.utterance(
            {field: cell for field, cell in zip(table.fields, row, strict=False) if field},
            table.path.parent,
            where=f"{table.path}:{line}",
            columns=columns,
        )
        for line, row in _rows(table)
    ]
    if not utterances:
        raise ManifestError("holds no rows below the header", where=table.path, remedy="Add one row an utterance.")
    return utterances


def remarks(root: Path) -> list[str]:
    """Return notes on the columns that are no field of an utterance, and on the cells that were read as missing."""
    table = _open(_path(root))
    unknown = [name or "(no name)" for name, field in zip(table.header, table.fields, strict=True) if field is None]
    markers = Counter(
        (cell, name)
        for _, row in _rows(table)
        for cell, name, field in zip(row, table.header, table.fields, strict=False)
        if cell and field and field != "audio" and cells.is_missing(cell)
    )
    notes = [f"{count} cells '{cell}' of column '{name}' read as missing" for (cell, name), count in markers.items()]
    if unknown:
        known = ", ".join(cells.FIELDS)
        notes.append(f"left out {len(unknown)} unknown columns: {', '.join(unknown)} (known: {known})")
    return notes


def _path(root: Path) -> Path:
    path = root / "manifest.csv" if root.is_dir() else root
    if not path.is_file():
        raise ManifestError("no such table", where=path, remedy="Name a CSV file, or a folder with a manifest.csv.")
    return path


def _open(path: Path) -> _Table:
    text = _text(path)
    headers = {separator: _header(text, separator) for separator in _SEPARATORS}
    separator = max(_SEPARATORS, key=lambda candidate: sum(field is not None for field in _fields(headers[candidate])))
    header = headers[separator]
    fields = _fields(header)
    repeated = sorted({field for field in fields if field is not None and fields.count(field) > 1})
    if "audio" not in fields:
        raise ManifestError(
            f"has no column of audio paths; its columns are: {', '.join(header) or '(none)'}",
            where=path,
            remedy=f"Name one column 'audio' or {', '.join(cells.ALIASES['audio'])}.",
        )
    if repeated:
        raise ManifestError(
            f"has several columns for {', '.join(repeated)}: {', '.join(header)}",
            where=path,
            remedy="Remove or rename all but one.",
        )
    return _Table(path, separator, header, fields)


def _require_emotions_named(table: _Table) -> None:
    """Ask about a column that may hold the emotions, when no column is named so; one of row numbers may go unnamed."""
    if "emotion" in table.fields:
        return
    for position, name in enumerate(table.header):
        if table.fields[position] is None and (not name or name.lower() in cells.MAYBE_EMOTION):
            values = dict.fromkeys(row[position] for _, row in _rows(table) if not cells.is_missing(row[position]))
            if name or not all(value.isdecimal() for value in values):
                which = f"column '{name}'" if name else "the column without a name"
                shown = ", ".join(list(values)[:5]) + (", ..." if len(values) > 5 else "")
                raise ManifestError(
                    f"has no column 'emotion', and may have it in {which} ({shown})",
                    where=table.path,
                    remedy="Are these the emotions? If so, name that column 'emotion'; if not, remove it.",
                )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ManifestError(
            "is not a text file in UTF-8",
            where=path,
            remedy="Save the table as 'CSV UTF-8', or name the table.",
        ) from None


def _header(text: str, separator: str) -> list[str]:
    return [name.strip() for name in next(csv.reader(io.StringIO(text), delimiter=separator), [])]


def _fields(header: list[str]) -> list[str | None]:
    return [cells.field_of(name) for name in header]


def _rows(table: _Table) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and stripped cells of each row below the header that is not empty."""
    reader = csv.reader(io.StringIO(_text(table.path)), delimiter=table.separator, strict=True)
    try:
        next(reader)
        for row in reader:
            stripped = [cell.strip() for cell in row]
            if any(stripped):
                _require_width(stripped, table, where=f"{table.path}:{reader.line_num}")
                yield reader.line_num, stripped
    except csv.Error as error:
        raise ManifestError(
            f"is not a readable CSV ({error})",
            where=f"{table.path}:{reader.line_num}",
            remedy="Close every double quote, and double those within a cell.",
        ) from None


def _require_width(row: list[str], table: _Table, *, where: str) -> None:
    if len(row) < len(table.header) or any(row[len(table.header) :]):
        raise ManifestError(
            f"has {len(row)} cells, the header has {len(table.header)}",
            where=where,
            remedy=f"Put cells that hold {table.separator!r} in double quotes.",
        )


CSV = Corpus(
    name="csv",
    title="Table of recordings",
    licence=None,
    citation=None,
    parse=parse,
    remarks=remarks,
)

"""A table of recordings: CSV, one row an utterance, columns named like the fields of an `Utterance`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from serein.corpora.corpus import Corpus
from serein.data.utterance import Utterance
from serein.errors import ManifestError

ALIASES = {
    "audio": (
        "path",
        "file",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "audio_path",
        "audio_file",
        "wav",
    ),
    "transcript": ("text", "sentence", "transcription"),
    "emotion": ("label", "category"),
    "arousal": ("activation",),
    "speaker": ("speaker_id", "spk"),
    "gender": ("sex",),
    "start_s": ("start", "begin", "onset"),
    "end_s": ("end",),
    "split": ("subset", "partition"),
    "language": ("lang",),
    "corpus": ("dataset",),
}
FIELDS = tuple(
    name for name in Utterance.model_fields if name not in ("ratings", "predicted")
)  # a cell cannot hold several
GENDERS = {"m": "male", "male": "male", "man": "male", "f": "female", "female": "female", "woman": "female"}

_FIELD_OF = {name: name for name in FIELDS} | {alias: name for name, aliases in ALIASES.items() for alias in aliases}
_NUMBERS = ("start_s", "end_s", "valence", "arousal", "dominance")
_SEPARATORS = (",", ";", "\t")


@dataclass(frozen=True)
class _Table:
    """The cells of a CSV; `fields` names the Utterance's field of each column, `None` where there is none."""

    path: Path
    separator: str
    header: list[str]
    fields: list[str | None]


def parse(root: Path) -> list[Utterance]:
    """Return the utterances of a CSV, row by row; audio paths are relative to the CSV.

    The separator (comma, semicolon, tab) is the one that gives known columns. An empty cell is `None`.
    Without a column `id`, the id is the path without its suffix, and `#start-end` when the row is a part.

    Args:
        root: The CSV, or a folder with a `manifest.csv`.

    Raises:
        ManifestError: No such table, no column of paths, or a row that is not an utterance; names the line.
    """
    table = _open(_path(root))
    utterances = [_utterance(table, cells, line) for line, cells in _rows(table)]
    if not utterances:
        raise ManifestError("holds no rows below the header", where=table.path, remedy="Add one row an utterance.")
    return utterances


def remarks(root: Path) -> list[str]:
    """Return a note on the columns that are no field of an utterance, which `parse` leaves out."""
    table = _open(_path(root))
    unknown = [name or "(no name)" for name, field in zip(table.header, table.fields, strict=True) if field is None]
    if not unknown:
        return []
    return [f"left out {len(unknown)} unknown columns: {', '.join(unknown)} (known: {', '.join(FIELDS)})"]


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
            remedy=f"Name one column 'audio' or {', '.join(ALIASES['audio'])}.",
        )
    if repeated:
        raise ManifestError(
            f"has several columns for {', '.join(repeated)}: {', '.join(header)}",
            where=path,
            remedy="Remove or rename all but one.",
        )
    return _Table(path, separator, header, fields)


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
    return [_FIELD_OF.get(name.lower().replace(" ", "_")) for name in header]


def _rows(table: _Table) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and stripped cells of each row below the header that is not empty."""
    reader = csv.reader(io.StringIO(_text(table.path)), delimiter=table.separator, strict=True)
    try:
        next(reader)
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                _require_width(cells, table, where=f"{table.path}:{reader.line_num}")
                yield reader.line_num, cells
    except csv.Error as error:
        raise ManifestError(
            f"is not a readable CSV ({error})",
            where=f"{table.path}:{reader.line_num}",
            remedy="Close every double quote, and double those within a cell.",
        ) from None


def _require_width(cells: list[str], table: _Table, *, where: str) -> None:
    if len(cells) < len(table.header) or any(cells[len(table.header) :]):
        raise ManifestError(
            f"has {len(cells)} cells, the header has {len(table.header)}",
            where=where,
            remedy=f"Put cells that hold {table.separator!r} in double quotes.",
        )


def _utterance(table: _Table, cells: list[str], line: int) -> Utterance:
    values = {field: cell for field, cell in zip(table.fields, cells, strict=False) if field and cell}
    where = f"{table.path}:{line}"
    if "audio" not in values:
        raise ManifestError("the audio path is empty", where=where, remedy="Fill it in, or remove the row.")
    if table.separator != ",":  # a decimal comma
        values |= {name: values[name].replace(",", ".") for name in _NUMBERS if name in values}
    audio = Path(values["audio"].replace("\\", "/"))
    values |= {"id": values.get("id") or _id(audio, values), "audio": str(table.path.parent / audio)}
    if "gender" in values:
        values["gender"] = GENDERS.get(values["gender"].lower(), values["gender"].lower())
    try:
        return Utterance.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        field = str(problem["loc"][0])
        what = f"column '{table.header[table.fields.index(field)]}' holds '{problem['input']}': {problem['msg']}"
        raise ManifestError(what, where=where, remedy="Correct the cell, or leave it empty.") from None


def _id(audio: Path, values: dict[str, str]) -> str:
    name = audio.as_posix().removesuffix(audio.suffix)
    if "start_s" in values or "end_s" in values:
        return f"{name}#{values.get('start_s', '0')}-{values.get('end_s', 'end')}"
    return name


CSV = Corpus(
    name="csv",
    title="Table of recordings",
    licence=None,
    citation=None,
    parse=parse,
    remarks=remarks,
)

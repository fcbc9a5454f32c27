"""audformat: databases as audEERING's package writes them, `db.yaml` beside `db.<table>.csv` or `.parquet`.

The files are read here and not by that package, whose loader runs whatever code a database brings: its tables may be
pickles, and its header any YAML. Pickled tables are left out.

Utterances are the rows of the tables with emotions, or of all tables when none has them. What a table says of a whole
file, such as its speaker, holds for every part of it; what the header says of a speaker (gender) for every utterance.
A table with a column of emotions for each rater gives ratings.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from serein.corpora import cells
from serein.corpora.corpus import Corpus
from serein.corpora.tables import decoded, parquet_rows
from serein.data.utterance import Rating, Utterance
from serein.errors import ManifestError

HEADER = "db.yaml"

_Segment = tuple[str, str, str]  # file, start, end; as they are written
_REMEDY = "Save the database again with audformat, or list the recordings in a table ('csv')."
_SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class _Table:
    """A table of the database.

    Attributes:
        fields: Column -> field of an utterance; other columns are left out.
        raters: Column -> its rater, of columns that share the field "emotion" with others.
        rows: Segment -> cells by column.
    """

    name: str
    path: Path
    split: str | None
    fields: Mapping[str, str]
    raters: Mapping[str, str]
    unknown: Sequence[str]
    rows: Mapping[_Segment, Mapping[str, str]]


@dataclass
class _Said:
    """What is said of a segment: field -> (value, table that says so), and ratings."""

    values: dict[str, tuple[str, _Table]] = field(default_factory=dict)
    ratings: list[Rating] = field(default_factory=list)


def parse(root: Path) -> list[Utterance]:
    """Return the utterances of a database, table by table.

    Args:
        root: Its folder; or one of its tables (`FOLDER/db.emotion.csv`), which alone says what is an utterance.

    Raises:
        ManifestError: No database, a table that is missing or pickled, or two that say different things of a segment.
        MissingExtraError: Its tables are Parquet, and pyarrow is not installed.
    """
    folder, header, tables = _open(root)
    said = _all_said(tables)
    main = [table for table in tables if "emotion" in table.fields.values()] or tables
    segments = dict.fromkeys(segment for table in main for segment in table.rows)
    languages = header.get("languages")
    language = str(languages[0]) if isinstance(languages, list) and len(languages) == 1 else ""
    common = {"corpus": str(header.get("name") or ""), "language": language}
    speakers = _speakers(header, folder)
    utterances = []
    for segment in segments:
        of_file, own = said.get((segment[0], "", ""), _Said()), said[segment]
        values = of_file.values | own.values
        known = common | speakers.get(values["speaker"][0], {}) if "speaker" in values else common
        row = known | {name: value for name, (value, _) in values.items()}
        row |= {"audio": segment[0], "start_s": segment[1], "end_s": segment[2]}
        where = f"{folder / HEADER}, {segment[0]}"
        utterance = cells.utterance(row, folder, where=where, columns={})
        utterances.append(utterance.model_copy(update={"ratings": tuple(own.ratings or of_file.ratings)}))
    if not utterances:
        raise ManifestError("its tables hold no rows", where=root, remedy=_REMEDY)
    return utterances


def remarks(root: Path) -> list[str]:
    """Return notes on the licence, on columns that are no field of an utterance, and on pickled tables."""
    folder, header, tables = _open(root)
    notes = [f"{table.name}: left out the columns {', '.join(table.unknown)}" for table in tables if table.unknown]
    if licence := header.get("license"):
        notes.append(f"the database names its licence: {licence}")
    if pickles := sorted(path.name for path in folder.glob("db.*.pkl")):
        notes.append(f"did not read pickled tables: {', '.join(pickles)}")
    return notes


def _open(root: Path) -> tuple[Path, dict[str, Any], list[_Table]]:
    """Return the folder, the header and the tables of a database; of a single table, it and those without emotions."""
    if not root.exists():
        raise ManifestError("no such folder", where=root, remedy="Name the folder of an audformat database.")
    folder = root if root.is_dir() else root.parent
    path = folder / HEADER
    if not path.is_file():
        raise ManifestError(f"holds no {HEADER}", where=folder, remedy="Name the folder of an audformat database.")
    try:
        header = yaml.safe_load(decoded(path, "utf-8"))
    except yaml.YAMLError as error:
        raise ManifestError(f"is no plain YAML ({error})", where=path, remedy=_REMEDY) from None
    if not isinstance(header, dict) or not isinstance(header.get("tables"), dict):
        raise ManifestError("names no tables", where=path, remedy=_REMEDY)
    tables = [_table(folder, header, name) for name in header["tables"]]
    if root.is_dir():
        return folder, header, tables
    name = root.name.removesuffix(root.suffix).removeprefix("db.")
    if root.name == HEADER:
        return folder, header, tables
    if name not in header["tables"]:
        raise ManifestError(
            f"is no table of the database, which has: {', '.join(header['tables'])}", where=root, remedy="Name one."
        )
    chosen = [table for table in tables if table.name == name or "emotion" not in table.fields.values()]
    return folder, header, sorted(chosen, key=lambda table: table.name != name)


def _table(folder: Path, header: Mapping[str, object], name: str) -> _Table:
    about = _mapping(_mapping(header, "tables"), name)
    columns = _mapping(about, "columns")
    schemes = {column: str(_mapping(columns, column).get("scheme_id") or "") for column in columns}
    found = {column: cells.field_of(column) or cells.field_of(scheme) for column, scheme in schemes.items()}
    of_emotions = [column for column, known in found.items() if known == "emotion"]
    raters = {column: str(_mapping(columns, column).get("rater_id") or column) for column in of_emotions}
    path, rows = _segments(folder, name)
    splits = _mapping(header, "splits")
    split = _mapping(splits, str(about["split_id"])).get("type") if about.get("split_id") else None
    return _Table(
        name,
        path,
        str(split) if split in _SPLITS else None,
        {column: known for column, known in found.items() if known},
        raters if len(of_emotions) > 1 else {},
        [column for column, known in found.items() if not known],
        rows,
    )


def _segments(folder: Path, name: str) -> tuple[Path, dict[_Segment, dict[str, str]]]:
    """Return the file of a table of recordings, and its cells by segment."""
    path, rows = _rows(folder, name)
    table: dict[_Segment, dict[str, str]] = {}
    for row in rows:
        if not row.get("file"):
            raise ManifestError("has a row without a file", where=path, remedy=_REMEDY)
        times = (row.pop("start", ""), row.pop("end", ""))
        start, end = ("" if cells.is_missing(time) else time for time in times)
        table[row.pop("file"), start, end] = row
    return path, table


def _rows(folder: Path, name: str) -> tuple[Path, list[dict[str, str]]]:
    """Return the file of a table, and its cells by column."""
    rows: Iterable[Mapping[str, object]]
    path = folder / f"db.{name}.csv"
    if path.is_file():
        rows = csv.DictReader(io.StringIO(decoded(path, "utf-8"), newline=""))
    elif (path := folder / f"db.{name}.parquet").is_file():
        rows = parquet_rows(path, "audformat")
    else:
        is_pickled = (folder / f"db.{name}.pkl").is_file()
        raise ManifestError(
            f"holds table '{name}' as a pickle only, which may run code" if is_pickled else f"holds no table '{name}'",
            where=folder,
            remedy="Save it as CSV: database.save(folder, storage_format='csv').",
        )
    return path, [{column: "" if cell is None else str(cell) for column, cell in row.items()} for row in rows]


def _all_said(tables: Sequence[_Table]) -> dict[_Segment, _Said]:
    said: dict[_Segment, _Said] = {}
    for table in tables:
        for segment, row in table.rows.items():
            own = said.setdefault(segment, _Said())
            if table.split:
                own.values["split"] = (table.split, table)
            for column, name in table.fields.items():
                cell = row.get(column, "").strip()
                if cells.is_missing(cell):
                    continue
                if column in table.raters:
                    own.ratings.append(Rating(labels=(cell,), rater=table.raters[column]))
                    continue
                before, by = own.values.setdefault(name, (cell, table))
                if before != cell:
                    raise ManifestError(
                        f"tables '{by.name}' and '{table.name}' give {segment[0]} the {name} '{before}' and '{cell}'",
                        where=table.path,
                        remedy=f"Name the table to take, such as {by.path}.",
                    )
    return said


def _speakers(header: Mapping[str, object], folder: Path) -> dict[str, dict[str, str]]:
    """Return what the header, or the table that it names, says of each speaker: gender and language."""
    labels = _mapping(_mapping(header, "schemes"), "speaker").get("labels")
    if isinstance(labels, str):
        _, rows = _rows(folder, labels)
        labels = {next(iter(row.values())): row for row in rows}  # the first column is the speaker
    if not isinstance(labels, dict):
        return {}
    return {
        str(speaker): {name: str(about[name]) for name in ("gender", "language") if about.get(name)}
        for speaker, about in labels.items()
        if isinstance(about, dict)
    }


def _mapping(header: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = header.get(key)
    return value if isinstance(value, dict) else {}


AUDFORMAT = Corpus(
    name="audformat",
    title="audformat database",
    licence=None,
    citation=None,
    parse=parse,
    remarks=remarks,
)

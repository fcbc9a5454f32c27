"""audformat: databases as written by audEERING's package, `db.yaml` with `db.<table>.csv` or `.parquet`.

The files are read here rather than with that package, whose loader runs any code that a database contains: its tables
may be pickles, and its header any YAML. Pickled tables are left out.

Utterances are the rows of the tables with emotions, or of all tables if none has them. Values that a table gives for a
whole file, such as its speaker, apply to every part of it; values that the header gives for a speaker (gender, age)
apply to every utterance of the speaker; codes of transcripts become the texts that it gives for them. A table with a
column of emotions for each rater provides ratings.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serein.corpora import tables
from serein.corpora.corpus import Corpus
from serein.data.manifest import Rating, Utterance
from serein.errors import ManifestError

HEADER = "db.yaml"

_Segment = tuple[str, str, str]  # file, start, end; as written
_REMEDY = "Save the database again with audformat, or list the recordings in a table ('csv')."
_SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class _Table:
    """A table of the database.

    Attributes:
        fields: Column -> field of an utterance; other columns are left out.
        raters: Column -> its rater, if several columns have the field "emotion".
        rows: Segment -> cells by column.
    """

    name: str
    path: Path
    split: str | None
    fields: Mapping[str, str]
    raters: Mapping[str, str]
    unknown: Sequence[str]
    rows: Mapping[_Segment, Mapping[str, str]]


def parse(root: Path) -> list[Utterance]:
    """Return the utterances of a database, table by table.

    Args:
        root: Its folder; or one of its tables (`FOLDER/db.emotion.csv`), which alone then defines the utterances.

    Raises:
        ManifestError: There is no database, a table is missing or pickled, or two tables contradict each other.
        MissingExtraError: Its tables are Parquet, and pyarrow is not installed.
    """
    folder, header, found = _open(root)
    said, ratings = _said(found)
    languages = header.get("languages")
    language = str(languages[0]) if isinstance(languages, list) and len(languages) == 1 else ""
    common = {"corpus": str(header.get("name") or ""), "language": language}
    about: dict[str, dict[str, str]] = {}
    for speaker, known in _labels(folder, header, "speaker").items():
        if isinstance(known, dict):
            about[speaker] = {name: str(known[name]) for name in ("gender", "age", "language") if known.get(name)}
    main = [table for table in found if "emotion" in table.fields.values()] or found
    utterances = []
    for segment in dict.fromkeys(segment for table in main for segment in table.rows):
        file, start, end = segment
        values = said[file, "", ""] | said[segment]  # values of a file apply to its parts
        row = common | about.get(values.get("speaker", ""), {}) | values
        row |= {"audio": file, "start_s": start, "end_s": end}
        utterance = tables.utterance(row, folder, where=f"{folder / HEADER}, {file}", columns={})
        given = ratings[segment] or ratings[file, "", ""]
        utterances.append(utterance.model_copy(update={"ratings": tuple(given)}))
    if not utterances:
        raise ManifestError("its tables contain no rows", where=root, remedy=_REMEDY)
    return utterances


def remarks(root: Path) -> list[str]:
    """Return notes on the licence, on columns that match no field of an utterance, and on pickled tables."""
    folder, header, found = _open(root)
    notes = [f"{table.name}: left out the columns {', '.join(table.unknown)}" for table in found if table.unknown]
    if licence := header.get("license"):
        notes.append(f"the database states its licence: {licence}")
    if pickles := sorted(path.name for path in folder.glob("db.*.pkl")):
        notes.append(f"did not read pickled tables: {', '.join(pickles)}")
    return notes


def _open(root: Path) -> tuple[Path, dict[str, Any], list[_Table]]:
    """Return folder, header and tables of a database; for a single table, that table and those without emotions."""
    if not root.exists():
        raise ManifestError("no such folder", where=root, remedy="Specify the folder of an audformat database.")
    folder = root if root.is_dir() else root.parent
    path = folder / HEADER
    if not path.is_file():
        raise ManifestError(
            f"contains no {HEADER}", where=folder, remedy="Specify the folder of an audformat database."
        )
    try:
        header = yaml.safe_load(tables.decoded(path, "utf-8"))
    except yaml.YAMLError as error:
        raise ManifestError(f"is not plain YAML ({error})", where=path, remedy=_REMEDY) from None
    if not isinstance(header, dict) or not isinstance(header.get("tables"), dict):
        raise ManifestError("lists no tables", where=path, remedy=_REMEDY)
    found = []
    for name in header["tables"]:
        about = _mapping(_mapping(header, "tables"), name)
        columns = _mapping(about, "columns")
        schemes = {column: str(_mapping(columns, column).get("scheme_id") or "") for column in columns}
        fields = {column: tables.field_of(column) or tables.field_of(scheme) for column, scheme in schemes.items()}
        of_emotions = [column for column, field in fields.items() if field == "emotion"]
        raters = {column: str(_mapping(columns, column).get("rater_id") or column) for column in of_emotions}
        splits = _mapping(header, "splits")
        split = _mapping(splits, str(about["split_id"])).get("type") if about.get("split_id") else None
        texts = {}  # column and label -> text, if the labels are codes of texts
        for column in (column for column, field in fields.items() if field == "transcript"):
            for label, known in _labels(folder, header, schemes[column]).items():
                values = known if isinstance(known, dict) else {"text": known}
                named = (text for key, text in values.items() if text and tables.field_of(str(key)) == "transcript")
                texts[column, label] = str(next(named, label))
        file, rows = _rows(folder, name)
        segments: dict[_Segment, dict[str, str]] = {}
        for row in rows:
            if not row.get("file"):
                raise ManifestError("has a row without a file", where=file, remedy=_REMEDY)
            times = (row.pop("start", ""), row.pop("end", ""))
            start, end = ("" if tables.is_missing(time) else time for time in times)
            segment = row.pop("file"), start, end
            segments[segment] = {column: texts.get((column, cell), cell) for column, cell in row.items()}
        table = _Table(
            name,
            file,
            str(split) if split in _SPLITS else None,
            {column: field for column, field in fields.items() if field},
            raters if len(of_emotions) > 1 else {},
            [column for column, field in fields.items() if not field],
            segments,
        )
        found.append(table)
    if root.is_dir() or root.name == HEADER:
        return folder, header, found
    name = root.name.removesuffix(root.suffix).removeprefix("db.")
    if name not in header["tables"]:
        raise ManifestError(
            f"is not a table of the database, which has: {', '.join(header['tables'])}",
            where=root,
            remedy="Specify one of these.",
        )
    chosen = [table for table in found if table.name == name or "emotion" not in table.fields.values()]
    return folder, header, sorted(chosen, key=lambda table: table.name != name)


def _labels(folder: Path, header: Mapping[str, object], scheme: str) -> dict[str, object]:
    """Return label -> what the header, or the table that it names, contains about it."""
    labels = _mapping(_mapping(header, "schemes"), scheme).get("labels")
    if isinstance(labels, str):
        return {row.pop(next(iter(row))): row for row in _rows(folder, labels)[1]}  # the first column names them
    return {str(label): known for label, known in labels.items()} if isinstance(labels, dict) else {}


def _rows(folder: Path, name: str) -> tuple[Path, list[dict[str, str]]]:
    """Return the file of a table, and its rows as column -> cell."""
    rows: Iterable[Mapping[str, object]]
    path = folder / f"db.{name}.csv"
    if path.is_file():
        rows = csv.DictReader(io.StringIO(tables.decoded(path, "utf-8"), newline=""))
    elif (path := folder / f"db.{name}.parquet").is_file():
        rows = tables.parquet_rows(path, "audformat")
    else:
        is_pickled = (folder / f"db.{name}.pkl").is_file()
        raise ManifestError(
            f"contains table '{name}' only as a pickle, which may run code"
            if is_pickled
            else f"contains no table '{name}'",
            where=folder,
            remedy="Save it as CSV: database.save(folder, storage_format='csv').",
        )
    return path, [{column: "" if cell is None else str(cell) for column, cell in row.items()} for row in rows]


def _said(
    found: Sequence[_Table],
) -> tuple[defaultdict[_Segment, dict[str, str]], defaultdict[_Segment, list[Rating]]]:
    """Return the values of each segment (field -> value) in all tables, and its ratings."""
    said: defaultdict[_Segment, dict[str, str]] = defaultdict(dict)
    ratings: defaultdict[_Segment, list[Rating]] = defaultdict(list)
    first: dict[tuple[_Segment, str], _Table] = {}  # the first table with the value
    for table in found:
        for segment, row in table.rows.items():
            if table.split:
                said[segment]["split"] = table.split
                first[segment, "split"] = table
            for column, name in table.fields.items():
                cell = row.get(column, "").strip()
                if tables.is_missing(cell):
                    continue
                if column in table.raters:
                    ratings[segment].append(Rating(labels=(cell,), rater=table.raters[column]))
                    continue
                before, by = said[segment].setdefault(name, cell), first.setdefault((segment, name), table)
                if before != cell:
                    raise ManifestError(
                        f"tables '{by.name}' and '{table.name}' give {segment[0]} the {name} '{before}' and '{cell}'",
                        where=table.path,
                        remedy=f"Specify the table to use, such as {by.path}.",
                    )
    return said, ratings


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

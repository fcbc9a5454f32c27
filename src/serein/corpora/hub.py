"""Datasets of the Hugging Face Hub: Parquet files, or a folder that `datasets` saved (`save_to_disk`).

Columns are named as in tables (`serein.corpora.tables`), labels are class names, and the split is taken from the file
(`data/train-00000-of-00001.parquet`) or the folder (`default/train/0000.parquet`). Recordings are stored inside the
files and written out unchanged; nothing is downloaded, and no code of a dataset is run.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serein.corpora import tables
from serein.corpora.corpus import Corpus
from serein.data.files import replacing
from serein.data.manifest import Utterance
from serein.errors import ManifestError, imported

if TYPE_CHECKING:
    from pyarrow import RecordBatch

ROWS_AT_ONCE = 64  # rows of recordings in memory

_SPLITS = {"train": "train", "validation": "dev", "valid": "dev", "val": "dev", "dev": "dev", "test": "test"}
_SHARD = re.compile(
    r"(?:partial-)?(?P<split>[a-z]+)(?:\.[\w.]+)?(?:[-_.]\d+(?:-of-\d+)?(?:-[0-9a-f]+)?)?", re.IGNORECASE
)
_SUFFIXES = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3", b"FORM": ".aiff"}
_TIMES = ("start_s", "end_s")
_REMEDY = "Specify a Parquet file, a folder of them, or a folder written by dataset.save_to_disk."


@dataclass(frozen=True)
class _Columns:
    """The roles of a dataset's columns.

    Attributes:
        audio: The column of recordings, or of their paths.
        fields: Column -> field of an utterance, for the other known columns.
        classes: Column -> its class names, for columns of class numbers.
        unknown: Columns that are left out.
    """

    audio: str
    fields: Mapping[str, str]
    classes: Mapping[str, Sequence[str]]
    unknown: Sequence[str]


def parse(root: Path, folder: Path | None = None) -> list[Utterance]:
    """Return the utterances of a dataset.

    Args:
        folder: Folder for recordings that are stored inside the dataset; without it, they must be separate files.

    Raises:
        ManifestError: There is no dataset or no column of recordings, a column may contain emotions or times but is not
            named so, a row is not an utterance, or recordings are inside the dataset and there is no `folder`.
        MissingExtraError: pyarrow is not installed.
    """
    utterances = []
    names: set[str] = set()
    for path, split in _shards(root):
        columns = _columns(path)
        rows = (row for batch in _batches(path) for row in batch.to_pylist())
        for number, row in enumerate(rows):
            where = f"{path}, row {number}"
            recording = row[columns.audio]
            # a unique name: that of the recording's file, if it has one
            file = recording.get("path") if isinstance(recording, dict) else recording
            number_name = f"{path.stem}-{number:06d}"
            stem = re.sub(r"[^\w.() -]", "_", Path(str(file or "").replace("\\", "/")).stem) or number_name
            name = f"{split}/{stem}" if split else stem
            if name in names:  # as in another folder, such as another language's
                name = (path.parent.relative_to(root if root.is_dir() else root.parent) / name).as_posix()
            name = name if name not in names else f"{name}-{number_name}"
            names.add(name)
            audio = _written(recording, name, folder, where) if isinstance(recording, dict) else str(recording or "")
            values = {"split": split or "", "id": name}
            for column, field in columns.fields.items():
                if field not in _TIMES or not _is_inside(recording):
                    values[field] = _text(row[column], columns.classes.get(column, ()))
            labels = {field: column for column, field in columns.fields.items()}
            utterances.append(tables.utterance(values | {"audio": audio}, path.parent, where=where, columns=labels))
    if not utterances:
        raise ManifestError("the dataset contains no rows", where=root, remedy=_REMEDY)
    return utterances


def remarks(root: Path) -> list[str]:
    """Return notes on the columns that are left out, on numbers of no class, and on files without a split."""
    shards = _shards(root)
    columns = _columns(shards[0][0])
    notes = []
    if columns.unknown:
        notes.append(f"left out {len(columns.unknown)} unknown columns: {', '.join(columns.unknown)}")
    times = [column for column, field in columns.fields.items() if field in _TIMES]
    first = next((row for batch in _batches(shards[0][0]) for row in batch.slice(0, 1).to_pylist()), None)
    if times and first and _is_inside(first[columns.audio]):
        notes.append(f"left out {', '.join(times)}: recordings inside a dataset are taken as cut already")
    if len(shards) > 1 and "split" not in columns.fields.values():
        lacking = [path.relative_to(root).as_posix() for path, split in shards if not split]
        notes += [f"{len(lacking)} of {len(shards)} files name no split, such as {lacking[0]}"] if lacking else []
    missing: Counter[tuple[int, str]] = Counter()
    for path, _ in shards:
        classes = {name: names for name, names in _columns(path).classes.items() if name in columns.fields}
        for batch in _batches(path, list(classes)) if classes else ():
            for name, names in classes.items():
                cells = (cell for cell in batch.column(name).to_pylist() if cell is not None)
                missing.update((cell, name) for cell in cells if not _text(cell, names))
    return notes + [
        f"{count} cells '{cell}' of column '{name}' read as missing" for (cell, name), count in missing.items()
    ]


def _shards(root: Path) -> list[tuple[Path, str | None]]:
    """Return the files of a dataset, with their splits."""
    if root.is_file():
        return [(root, _split_of(root.stem))]
    if not root.is_dir():
        raise ManifestError("no such folder", where=root, remedy=_REMEDY)
    shards: list[tuple[Path, str | None]] = []
    for state in sorted(root.rglob("state.json")):  # a folder that `datasets` saved; other Arrow files are its cache
        split = _split_of(state.parent.name) if state.parent != root else None
        for entry in _described(state.read_bytes(), state).get("_data_files") or ():
            shards.append((state.parent / Path(str(entry["filename"])).name, split))
    for path in () if shards else sorted(root.rglob("*.parquet")):
        names = reversed(path.relative_to(root).with_suffix("").parts)
        shards.append((path, next(filter(None, map(_split_of, names)), None)))
    if not shards:
        raise ManifestError("contains no dataset", where=root, remedy=_REMEDY)
    return shards


def _described(content: bytes, path: Path) -> dict[str, Any]:
    """Return the JSON description of a dataset."""
    try:
        about = json.loads(content)
    except ValueError as error:
        raise ManifestError(f"contains no valid JSON ({error})", where=path, remedy=_REMEDY) from None
    return about if isinstance(about, dict) else {}


def _split_of(name: str) -> str | None:
    parts = _SHARD.fullmatch(name)
    return _SPLITS.get(parts["split"].lower()) if parts else None


def _text(cell: object, classes: Sequence[str]) -> str:
    """Return a cell as text, a number of a class as its name; "" if it is missing, or -1, the number of no class."""
    if not classes or not isinstance(cell, int):
        return "" if cell is None else str(cell)
    return classes[cell] if 0 <= cell < len(classes) else ""


def _is_inside(recording: object) -> bool:
    """Return whether a recording is stored inside the dataset."""
    return isinstance(recording, dict) and any(recording.get(part) is not None for part in ("bytes", "array"))


def _batches(path: Path, columns: Sequence[str] | None = None, *, only_schema: bool = False) -> Iterator[RecordBatch]:
    """Yield the rows of a Parquet or Arrow file in batches, with some columns or all, or its schema as an empty one."""
    pyarrow = imported("pyarrow", "hub")
    from pyarrow import ipc, parquet

    try:
        if path.suffix == ".parquet":
            with parquet.ParquetFile(path) as file:
                if only_schema:
                    yield pyarrow.RecordBatch.from_pylist([], schema=file.schema_arrow)
                    return
                yield from file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns)
            return
        with pyarrow.memory_map(str(path)) as source, ipc.open_stream(source) as stream:
            if only_schema:
                yield pyarrow.RecordBatch.from_pylist([], schema=stream.schema)
                return
            for whole in stream:
                batch = whole.select(columns) if columns else whole
                yield from (batch.slice(start, ROWS_AT_ONCE) for start in range(0, len(batch), ROWS_AT_ONCE))
    except (OSError, pyarrow.ArrowException) as error:
        raise ManifestError(f"is not a readable dataset ({error})", where=path, remedy=_REMEDY) from None


def _columns(path: Path) -> _Columns:
    schema = next(_batches(path, only_schema=True)).schema
    about = _described((schema.metadata or {}).get(b"huggingface", b"{}"), path)
    features = (about.get("info") or {}).get("features") or {}
    classes = {
        name: list(kind["names"]) for name, kind in features.items() if isinstance(kind, dict) and kind.get("names")
    }
    fields = {name: field for name in schema.names if (field := tables.field_of(name))}
    recordings = []  # columns of {bytes, path} or {array, sampling_rate}
    for name in schema.names:
        kind = schema.field(name).type
        parts = {kind.field(index).name for index in range(kind.num_fields)} if hasattr(kind, "num_fields") else set()
        if {"bytes", "path"} <= parts or {"array", "sampling_rate"} <= parts:
            recordings.append(name)
    audio = next((name for name in (*recordings, *fields) if name in recordings or fields[name] == "audio"), None)
    if audio is None:
        raise ManifestError(
            f"has no column of recordings; its columns are: {', '.join(schema.names)}", where=path, remedy=_REMEDY
        )
    if audio not in recordings:
        tables.require_known_times(schema.names, where=path)
    others = {name: field for name, field in fields.items() if name != audio and field != "audio"}
    unknown = [name for name in schema.names if name != audio and name not in others]
    maybe = [name for name in unknown if name in classes or name.lower() in tables.MAYBE_EMOTION]
    if "emotion" not in others.values() and maybe:
        raise ManifestError(
            f"has no column 'emotion'; the emotions may be in column {' or '.join(repr(name) for name in maybe)}",
            where=path,
            remedy="If so, save the dataset again after dataset.rename_column(..., 'emotion').",
        )
    if len(set(others.values())) < len(others):
        raise ManifestError(
            f"has several columns for one field: {', '.join(others)}", where=path, remedy="Rename them."
        )
    return _Columns(audio, others, classes, unknown)


def _written(recording: Mapping[str, Any], name: str, folder: Path | None, where: str) -> str:
    """Return the path of a recording, which is written to a file if it is stored inside the dataset."""
    if not _is_inside(recording):
        return str(recording.get("path") or "")
    if folder is None:
        raise ManifestError("contains embedded recordings", where=where, remedy="Specify where to write them.")
    content, samples = recording.get("bytes"), recording.get("array")
    suffix = next((suffix for start, suffix in _SUFFIXES.items() if (content or b"").startswith(start)), None)
    suffix = suffix or Path(str(recording.get("path") or "")).suffix or ".wav"
    target = folder.absolute() / f"{name}{suffix}"
    with replacing(target) as partial:
        if content is not None:
            partial.write_bytes(content)
        else:
            import soundfile

            soundfile.write(partial, samples, int(recording["sampling_rate"]), subtype="FLOAT", format="WAV")
    return str(target)


HUB = Corpus(
    name="hub",
    title="Dataset of the Hugging Face Hub",
    licence=None,
    citation=None,
    parse=parse,
    unpack=parse,
    remarks=remarks,
)

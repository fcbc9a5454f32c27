"""Text that corpora ship beside their recordings: tables with a header, in whatever encoding."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from serein.errors import ManifestError, MissingExtraError

_REMEDY = "Copy it again from the release."


def rows(
    path: Path, columns: Sequence[str], *, separator: str = ",", otherwise: str = "utf-8"
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield file and line of every row of a table, and its cells by column, stripped.

    Args:
        columns: Those that it must have.
        separator: Of cells; a tab means that quotes are letters like others.
        otherwise: Its encoding when it is not UTF-8.

    Raises:
        ManifestError: It cannot be read, lacks a column, or a row is cut off.
    """
    text = io.StringIO(decoded(path, otherwise), newline="")
    reader = csv.DictReader(
        text, delimiter=separator, quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    )
    if lacking := [name for name in columns if name not in (reader.fieldnames or ())]:
        names = ", ".join(name or "(without a name)" for name in lacking)
        raise ManifestError(f"has no column {names}", where=path, remedy=_REMEDY)
    for row in reader:
        where = f"{path}:{reader.line_num}"
        if any(row[name] is None for name in columns):
            raise ManifestError("the row is cut off", where=where, remedy=_REMEDY)
        yield where, {name: row[name].strip() for name in columns}


def decoded(path: Path, otherwise: str) -> str:
    """Return a text in UTF-16 with its mark, in UTF-8, or else in the encoding that is named.

    Raises:
        ManifestError: It cannot be read, or is no text in any of them.
    """
    try:
        content = path.read_bytes()
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return content.decode("utf-16")
        with contextlib.suppress(UnicodeDecodeError):
            return content.decode("utf-8-sig")
        return content.decode(otherwise)
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"is no text ({error})", where=path, remedy=_REMEDY) from None


def parquet_rows(path: Path, extra: str) -> Iterator[dict[str, object]]:
    """Yield the rows of a Parquet file, cells by column.

    Args:
        extra: Of serein, that brings pyarrow.

    Raises:
        MissingExtraError: pyarrow is not installed.
        ManifestError: It is no Parquet file.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError:
        raise MissingExtraError("pyarrow", extra) from None
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except (OSError, ArrowException) as error:
        raise ManifestError(f"is no readable Parquet file ({error})", where=path, remedy=_REMEDY) from None

"""Embeddings in files: safetensors, NumPy, Parquet or CSV, by the suffix, with ids and times in each."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serein.data.files import replacing
from serein.errors import MissingExtraError, RunError, expected_one_of
from serein.inference.prediction import Prediction


def write_embeddings(predictions: Sequence[Prediction], path: Path, about: Mapping[str, str]) -> None:
    """Write the embeddings of predictions in the format that the suffix names; at least one.

    Args:
        about: What else is to be known of them: task and model; kept by safetensors, `.npz` and Parquet.

    Raises:
        RunError: See `require_suffix`.
        MissingExtraError: The format is Parquet, and pyarrow is not installed.
    """
    require_suffix(path)
    columns = {
        "id": np.array([each.id or each.file for each in predictions]),
        "file": np.array([each.file for each in predictions]),
        "start_s": np.array([each.start_s for each in predictions], np.float64),
        "end_s": np.array([each.end_s for each in predictions], np.float64),
    }
    vectors = np.stack([each.embedding for each in predictions])
    with replacing(path) as partial:
        EMBEDDING_WRITERS[path.suffix.lower()](partial, columns, vectors, about)


def require_suffix(path: Path) -> None:
    """Refuse a name whose suffix is that of no format.

    Raises:
        RunError: It is.
    """
    if path.suffix.lower() not in EMBEDDING_WRITERS:
        what = expected_one_of(path.suffix, EMBEDDING_WRITERS, kind="suffix of a file of embeddings")
        raise RunError(what, where=path, remedy="Name the file by its format.")


def _safetensors(path: Path, columns: Mapping[str, Any], vectors: Any, about: Mapping[str, str]) -> None:
    from safetensors.numpy import save_file

    names = {f"{key}s": json.dumps(columns[key].tolist(), ensure_ascii=False) for key in ("id", "file")}
    numbers = {key: columns[key] for key in ("start_s", "end_s")}
    save_file({"embeddings": vectors, **numbers}, path, metadata={**about, **names})


def _npz(path: Path, columns: Mapping[str, Any], vectors: Any, about: Mapping[str, str]) -> None:
    names: dict[str, Any] = {f"{key}s": columns[key] for key in ("id", "file")}  # `file` is savez's own argument
    names |= {key: np.array(value) for key, value in about.items()}
    with open(path, "wb") as file:
        np.savez(file, embeddings=vectors, start_s=columns["start_s"], end_s=columns["end_s"], **names)


def _npy(path: Path, columns: Mapping[str, Any], vectors: Any, about: Mapping[str, str]) -> None:
    kinds = [(key, values.dtype) for key, values in columns.items()]
    table = np.empty(len(vectors), np.dtype([*kinds, ("embedding", vectors.dtype, vectors.shape[1:])]))
    for key, values in columns.items():
        table[key] = values
    table["embedding"] = vectors
    with open(path, "wb") as file:
        np.save(file, table, allow_pickle=False)


def _csv(path: Path, columns: Mapping[str, Any], vectors: Any, about: Mapping[str, str]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, *(str(number) for number in range(vectors.shape[1]))])
        for *known, vector in zip(*(values.tolist() for values in columns.values()), vectors, strict=True):
            writer.writerow([*known, *(f"{value:.9g}" for value in vector)])  # nine digits are a float32, exactly


def _parquet(path: Path, columns: Mapping[str, Any], vectors: Any, about: Mapping[str, str]) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "hub") from None
    table = pyarrow.table({**{key: values.tolist() for key, values in columns.items()}, "embedding": list(vectors)})
    parquet.write_table(table.replace_schema_metadata(dict(about)), path)


Writer = Callable[[Path, Mapping[str, Any], Any, Mapping[str, str]], None]
EMBEDDING_WRITERS: dict[str, Writer] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".npy": _npy,
    ".parquet": _parquet,
    ".csv": _csv,
}

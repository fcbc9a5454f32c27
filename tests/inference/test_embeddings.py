"""Embeddings in every format: the same vectors, ids and times."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from serein.errors import RunError
from serein.inference.embeddings import EMBEDDING_WRITERS, write_embeddings
from serein.inference.prediction import Prediction

VECTORS = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
PREDICTIONS = [
    Prediction("sad", file="ä.wav", duration_s=1.5, embedding=VECTORS[0]),
    Prediction("sad", file="b.wav", id="part", start_s=0.25, duration_s=2.0, embedding=VECTORS[1]),
]
IDS, FILES, STARTS_S, ENDS_S = ["ä.wav", "part"], ["ä.wav", "b.wav"], [0.0, 0.25], [1.5, 2.25]


@pytest.mark.parametrize("suffix", [*EMBEDDING_WRITERS, ".NPZ"])
def test_vectors_ids_and_times_come_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"e{suffix}"
    if suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
    write_embeddings(PREDICTIONS, path, {"task": "emotion", "model": "m"})
    if suffix == ".safetensors":
        with safe_open(path, "numpy") as file:
            vectors, times = (
                file.get_tensor("embeddings"),
                [file.get_tensor(key).tolist() for key in ("start_s", "end_s")],
            )
            known = [json.loads(file.metadata()[key]) for key in ("ids", "files")] + times
            assert file.metadata()["task"] == "emotion"
    elif suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as page:
            head, *rows = csv.reader(page)
        assert head == ["id", "file", "start_s", "end_s", "0", "1", "2"]
        vectors = np.array([row[4:] for row in rows], np.float32)
        known = [[row[0] for row in rows], [row[1] for row in rows]]
        known += [[float(row[column]) for row in rows] for column in (2, 3)]
    elif suffix == ".parquet":
        table = parquet.read_table(path)
        assert table.schema.metadata[b"task"] == b"emotion"
        vectors = np.array(table["embedding"].to_pylist(), np.float32)
        known = [table[key].to_pylist() for key in ("id", "file", "start_s", "end_s")]
    else:
        content = np.load(path, allow_pickle=False)
        vectors = content["embedding" if suffix == ".npy" else "embeddings"]
        keys = ("id", "file") if suffix == ".npy" else ("ids", "files")
        known = [content[key].tolist() for key in (*keys, "start_s", "end_s")]
    np.testing.assert_array_equal(vectors, VECTORS)
    assert known == [IDS, FILES, STARTS_S, ENDS_S]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"unknown suffix of a file of embeddings '.mat', expected one of: .safetensors"):
        write_embeddings(PREDICTIONS, tmp_path / "e.mat", {})

"""What is heard again for a figure, what a sweep's lines are, and how long a row's model takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from serein.data import manifest
from serein.errors import ModelError
from serein.evaluation.predictions import read_predictions
from serein.reproduce.extras import time_tables
from serein.reproduce.figures import embedding_maps
from serein.reproduce.table import Picture, Row

ROW = Row.model_validate({"name": "tiny", "label": "Tiny", "published": {"values": {"3 s": 2.5}}})
BOTH = Picture(name="embeddings", colour_by=("prediction", "speaker"), splits=("train", "test"))


def test_every_side_and_colouring_is_a_panel(tiny_run: Path, tones: Path) -> None:
    maps = embedding_maps(ROW, [tiny_run], BOTH, tones)
    assert [each.title for each in maps] == [
        "Tiny\ntrain set, by predicted emotion",
        "Tiny\ntest set, by predicted emotion",
        "Tiny\ntrain set, by speaker",
        "Tiny\ntest set, by speaker",
    ]
    speakers = {u.speaker for u in manifest.read(tones)}
    assert not set(maps[2].names) & set(maps[3].names)
    assert set(maps[2].names) | set(maps[3].names) <= speakers
    assert np.array_equal(maps[1].embeddings, maps[3].embeddings)


def test_what_is_heard_again_is_what_the_run_heard(tiny_run: Path, tones: Path) -> None:
    said = {p.id: p.prediction for p in read_predictions(tiny_run / "fold-1" / "seed-0" / "predictions.jsonl")}
    (panel,) = embedding_maps(ROW, [tiny_run], Picture(name="embeddings", colour_by=("prediction",)), tones)
    assert list(panel.names) == list(said.values())


def test_a_vector_that_no_task_has(tiny_run: Path, tones: Path) -> None:
    with pytest.raises(ModelError, match="speaker"):
        embedding_maps(ROW, [tiny_run], Picture(name="embeddings", task="speaker"), tones)


def test_nothing_is_heard_of_a_row_without_runs(tones: Path) -> None:
    assert embedding_maps(ROW, [], BOTH, tones) == []


def test_times_stand_beside_the_published_ones(tiny_run: Path) -> None:
    (table,) = time_tables([(ROW, [tiny_run]), (Row(name="unfinished"), [])], num_repeats=1)
    (cells,) = table.rows
    assert cells[:2] == ["Tiny", "2.50"]
    assert cells[3::2] == ["–", "–", "–"]
    assert all(float(ours) > 0 for ours in cells[2::2])
    assert time_tables([(Row(name="unfinished"), [])]) == []


@pytest.mark.parametrize(
    "options",
    [
        {"name": "confusion", "colour_by": ["speaker"]},
        {"name": "sweep", "x": "b", "sides": ["train"]},
        {"name": "embeddings", "lines": "network"},
        {"name": "embeddings", "colour_by": []},
    ],
)
def test_pictures_that_cannot_be(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Picture.model_validate(options)

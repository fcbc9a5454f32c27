"""Inference time of a table's models for one clip, next to the published times (park2023, Table 7)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from serein.evaluation.predictions import natural_key
from serein.inference.timing import inference_time_s
from serein.models import folder as model_folder
from serein.reproduce.comparison import ExtraTable
from serein.reproduce.table import Row

DURATIONS_S = (3, 5, 10, 15)
MISSING = "–"


def time_table(rows: Sequence[tuple[Row, Sequence[Path]]], num_repeats: int = 5) -> list[ExtraTable]:
    """Return a table of milliseconds for clips of several lengths, of the rows that have a model, or no table.

    Args:
        rows: Each with its run folders, of which the first one's first model is timed.
        num_repeats: Repetitions for each length; the median counts.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    timed = [_cells(row, model, device, num_repeats) for row, places in rows if (model := _first_model(places))]
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads here"
    headings = [f"{seconds} s, {kind}" for seconds in DURATIONS_S for kind in ("published", "ours")]
    title = f"Inference time for one clip in milliseconds: published on an RTX 3090, ours on {where}"
    return [ExtraTable(title, ["network", *headings], timed)] if timed else []


def _first_model(places: Sequence[Path]) -> Path | None:
    models = [path for place in places[:1] for path in sorted(place.glob("fold-*/seed-*/model"), key=natural_key)]
    return models[0] if models else None


def _cells(row: Row, folder: Path, device: torch.device, num_repeats: int) -> list[str]:
    model, cells = model_folder.load(folder).model.to(device).eval(), [row.title]
    for seconds in DURATIONS_S:
        published = row.published.values.get(f"{seconds} s")
        ours_ms = 1000 * inference_time_s(model, seconds, num_repeats=num_repeats)
        cells += [MISSING if published is None else f"{published:.2f}", f"{ours_ms:.1f}"]
    return cells

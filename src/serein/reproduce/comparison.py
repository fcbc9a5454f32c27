"""Ours beside published: what the finished runs of each row come to, in per cent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from serein.data.corpora import licence_of
from serein.errors import RunError
from serein.evaluation.intervals import Bounds, Difference, paired_difference
from serein.evaluation.notices import notices
from serein.evaluation.predictions import Prediction, natural_key, read_predictions
from serein.evaluation.run_folder import read_json, read_recipe, run_classes
from serein.evaluation.scores import Scores, score_predictions
from serein.reproduce.table import Row, Table
from serein.reproduce.units import Data, Unit, is_finished

Side = Literal["test", "dev"]
_FILES: dict[Side, str] = {"test": "predictions.jsonl", "dev": "dev_predictions.jsonl"}


@dataclass(frozen=True)
class Against:
    """How much better a row is than the reference, in points of per cent, paired on the same utterances."""

    difference: float
    interval: Bounds | None
    share_above_zero: float | None


@dataclass(frozen=True)
class Measured:
    """A row and what its runs came to.

    Attributes:
        scores: Over all its finished seeds; `None` when none is finished.
        seeds: Those that are finished.
        folders: Their run folders.
        against: Compared with the reference row; `None` for that row, and where the two cannot be compared.
    """

    row: Row
    scores: Scores | None
    seeds: tuple[int, ...]
    folders: tuple[Path, ...]
    against: Against | None


@dataclass(frozen=True)
class Comparison:
    """A table measured again.

    Attributes:
        side: Whose predictions are scored.
        overrides: `--set`, the same for every row.
        notes: What a reader must know to read the numbers.
    """

    table: Table
    data: Data
    side: Side
    overrides: tuple[str, ...]
    rows: tuple[Measured, ...]
    notes: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the first measured row."""
        return next((row.scores.classes for row in self.rows if row.scores), ())


def compare(
    table: Table, units: Mapping[str, Sequence[Unit]], data: Data, *, side: Side, overrides: Sequence[str] = ()
) -> Comparison:
    """Score whatever is finished of every row.

    Args:
        units: Row name -> its units, one per seed.

    Raises:
        RunError: A run folder is broken, or has no dev predictions and those are asked for.
    """
    finished = {name: [unit for unit in own if is_finished(unit)] for name, own in units.items()}
    said = {name: _predictions(own, side) for name, own in finished.items() if own}
    reference = table.reference.name
    rows, notes = [], []
    for row in table.rows:
        own, against = finished.get(row.name, []), None
        scores = score_predictions(said[row.name], _classes(own)) if own else None
        if own and row.name != reference and reference in said:
            try:
                against = _against(table.metric, said[row.name], said[reference], _classes(own))
            except RunError as error:
                notes.append(f"'{row.title}' cannot be compared with '{table.reference.title}' in pairs: {error.what}.")
        folders = tuple(unit.folder for unit in own)
        rows.append(Measured(row, scores, tuple(unit.seed for unit in own), folders, against))
    notes = [*_provenance(table, data, side, overrides, rows), *notes, *_qualifications(rows)]
    return Comparison(table, data, side, tuple(overrides), tuple(rows), tuple(dict.fromkeys(notes)))


def _predictions(units: Sequence[Unit], side: Side) -> list[Prediction]:
    found: list[Prediction] = []
    for unit in units:
        paths = sorted(unit.folder.glob(f"fold-*/seed-{unit.seed}/{_FILES[side]}"), key=natural_key)
        if not paths:
            raise RunError(
                f"holds no {side} predictions",
                where=unit.folder,
                remedy="Choose --on test, or a recipe whose protocol.dev is not 'none'.",
            )
        for path in paths:
            fold = path.parts[-3].removeprefix("fold-")
            found += read_predictions(path, _classes(units), fold=fold, seed=unit.seed)
    return found


def _classes(units: Sequence[Unit]) -> tuple[str, ...]:
    return run_classes(units[0].folder) or ()


def _against(metric: str, a: list[Prediction], b: list[Prediction], classes: Sequence[str]) -> Against:
    found: Difference = paired_difference(a, b, classes, rng=np.random.default_rng(0))[metric]
    bounds = found.interval and (100 * found.interval[0], 100 * found.interval[1])
    return Against(100 * found.difference, bounds, found.share_above_zero)


# -- notes -----------------------------------------------------------------------------------------------------------


def _provenance(table: Table, data: Data, side: Side, overrides: Sequence[str], rows: Sequence[Measured]) -> list[str]:
    known = next((read_json(row.folders[0] / "data.json") for row in rows if row.folders), {})
    corpora = [f"{name} ({licence_of(name) or 'licence not stated'})" for name in known.get("corpora", ())]
    numbers = sorted({row.scores.num_utterances for row in rows if row.scores})
    part = f"{data.num_utterances} of the manifest's {data.num_available} utterances (--limit {data.limit}: at most "
    part += "so many of each speaker, session, split and emotion)"
    said = [
        f"Published: {table.paper}, Table {table.table}, {table.corpus}, {table.published_on} set."
        + (" The paper gives its best scores there." if table.published_on == "dev" else ""),
        f"Ours: {side} predictions of {' or '.join(map(str, numbers))} utterances of {', '.join(corpora)}, pooled over "
        "folds, averaged over seeds; 95 % intervals resample speakers. Other data than the paper's: the order of the "
        "rows may be compared, the numbers may not."
        if corpora
        else "Ours: nothing is finished.",
    ]
    if data.limit is not None:
        said.append(f"Ours used {part}.")
    if overrides:
        said.append(f"Every row was changed by: {', '.join(overrides)}.")
    if side == "dev":
        said.append("Ours is on dev, where each row's checkpoint was chosen: the numbers flatter, as the paper's do.")
    if len({row.seeds for row in rows if row.seeds}) > 1:
        said.append("Rows have different numbers of finished seeds.")
    return said


def _qualifications(rows: Sequence[Measured]) -> list[str]:
    """Return what qualifies the numbers of any row, warnings first, each once."""
    found = [
        notice
        for row in rows
        if row.scores is not None
        for notice in notices(
            row.scores,
            read_recipe(row.folders[0]),
            read_json(row.folders[0] / "data.json"),
            read_json(row.folders[0] / "folds.json"),
        )
    ]
    return [notice.text for level in ("warning", "note") for notice in found if notice.level == level]

"""Comparison of the finished runs of each row with the published scores, in per cent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serein.corpora import licence_of
from serein.errors import RunError
from serein.evaluation.intervals import Bounds, paired_difference
from serein.evaluation.predictions import Prediction, natural_key, read_json, read_predictions, read_recipe, run_classes
from serein.evaluation.scores import Scores, score_predictions
from serein.evaluation.systems import Split
from serein.evaluation.tables import notices
from serein.reproduce.extras import ExtraTable, extra_tables
from serein.reproduce.table import Published, Row, Table
from serein.reproduce.trials import (
    PREDICTIONS,
    Data,
    Trial,
    chosen_note,
    is_evaluated_with_knn,
    is_finished,
    row_recipe,
)

_FILES: dict[Split, str] = {"test": "predictions.jsonl", "dev": "dev_predictions.jsonl"}


@dataclass(frozen=True)
class RowDifference:
    """The difference between two rows in percentage points, paired on the same utterances.

    Attributes:
        row: The other row.
    """

    row: Row
    difference: float
    interval: Bounds | None
    probability_of_improvement: float | None


@dataclass(frozen=True)
class MeasuredRow:
    """A row and the scores of its runs.

    Attributes:
        scores: Over all its finished seeds; `None` if none is finished.
        seeds: The finished seeds.
        places: Their run folders; of an ensemble, its prediction files.
        against: Compared with `Table.compared_with`; `None` for the reference, and where the two cannot be compared.
    """

    row: Row
    scores: Scores | None
    seeds: tuple[int, ...]
    places: tuple[Path, ...]
    against: RowDifference | None


@dataclass(frozen=True)
class Comparison:
    """A reproduced table.

    Attributes:
        split: Whose predictions are scored.
        overrides: `--set`, the same for every row.
        notes: What a reader must know to read the numbers.
        extras: Further tables.
        picture: Path of the figure, or `None`.
    """

    table: Table
    data: Data
    split: Split
    overrides: tuple[str, ...]
    rows: tuple[MeasuredRow, ...]
    notes: tuple[str, ...]
    extras: tuple[ExtraTable, ...] = ()
    picture: Path | None = None

    @property
    def is_measured(self) -> bool:
        """Whether a row has scores, or the table needs no model."""
        return not self.table.is_trained or any(row.scores for row in self.rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the first measured row."""
        return next((row.scores.classes for row in self.rows if row.scores), ())


@dataclass(frozen=True)
class RowPredictions:
    """Predictions of a row's models.

    Attributes:
        places: Run folders, or prediction files of an ensemble.
    """

    predictions: list[Prediction]
    classes: tuple[str, ...]
    seeds: tuple[int, ...]
    places: tuple[Path, ...]


def compare(
    table: Table,
    trials: Mapping[str, Sequence[Trial]],
    ensemble: Mapping[int, Path],
    data: Data,
    *,
    split: Split,
    overrides: Sequence[str] = (),
) -> Comparison:
    """Score whatever is finished of every row.

    Args:
        trials: Row name -> its units, one per seed.
        ensemble: Seed -> predictions of the ensemble of all rows.

    Raises:
        RunError: A run folder is broken, or dev predictions are wanted and it has none.
    """
    trained = [row for row in table.rows if row.is_trained]
    finished = {
        row.name: [
            trial
            for trial in trials[row.name]
            if is_finished(trial) and (row.knn is None or is_evaluated_with_knn(trial, row.knn))
        ]
        for row in trained
    }
    by_row = {row.name: row_predictions(row, finished[row.name], split) for row in trained if finished[row.name]}
    for row in table.rows:
        if row.ensemble and ensemble and by_row:
            classes = next(iter(by_row.values())).classes
            predictions = [p for path in ensemble.values() for p in read_predictions(path, classes)]
            places = tuple(path.absolute() for path in ensemble.values())
            by_row[row.name] = RowPredictions(predictions, classes, tuple(ensemble), places)
    rows: list[MeasuredRow] = []
    notes: list[str] = []
    for row in table.rows:
        other = table.compared_with(row)
        own, reference = by_row.get(row.name), by_row.get(other.name)
        if own is None:
            rows.append(MeasuredRow(row, None, (), (), None))
            continue
        against = None
        if reference is not None and reference is not own:
            try:
                found = paired_difference(
                    own.predictions, reference.predictions, own.classes, rng=np.random.default_rng(0)
                )[table.metric]
            except RunError as error:
                notes.append(f"'{row.title}' cannot be compared with '{other.title}' in pairs: {error.what}.")
            else:
                bounds = found.interval and (100 * found.interval[0], 100 * found.interval[1])
                against = RowDifference(other, 100 * found.difference, bounds, found.probability_of_improvement)
        scores = score_predictions(own.predictions, own.classes)
        rows.append(MeasuredRow(row, scores, own.seeds, own.places, against))
    notes += [chosen_note(row, finished[row.name]) for row in trained if row.knn and row.name in by_row]
    notes = [*provenance(table, data, split, overrides, rows), *notes]
    qualifications = [
        notice
        for row in rows
        if row.scores is not None and not row.row.ensemble
        for notice in notices(
            row.scores,
            read_recipe(row.places[0]),
            read_json(row.places[0] / "data.json"),
            read_json(row.places[0] / "folds.json"),
        )
    ]
    notes += [notice.text for level in ("warning", "note") for notice in qualifications if notice.level == level]
    targets_only = [row_recipe(table, row, overrides) for row in table.rows if row.targets_only]
    measured = [(row.row, row.places) for row in rows]
    extras = extra_tables(table.measures, measured, data.manifest, targets_only)
    if table.neighbours:
        most = max(len(each.words) for each in table.neighbours)
        headings = ["of", "label", *(str(number + 1) for number in range(most))]
        published = [[each.of, each.label, *each.words] for each in table.neighbours]
        extras.insert(0, ExtraTable("Nearest words, as published", headings, published))
    return Comparison(table, data, split, tuple(overrides), tuple(rows), tuple(dict.fromkeys(notes)), tuple(extras))


def row_predictions(row: Row, trials: Sequence[Trial], split: Split) -> RowPredictions:
    """Read the predictions of a row's finished trials, all folds and seeds.

    Raises:
        RunError: A trial has no predictions of the split.
    """
    classes = run_classes(trials[0].folder) or ()
    name = _FILES[split] if row.knn is None else PREDICTIONS[row.knn]
    predictions = []
    for trial in trials:
        paths = sorted(trial.folder.glob(f"fold-*/seed-{trial.seed}/{name}"), key=natural_key)
        if not paths:
            raise RunError(
                f"holds no {split} predictions",
                where=trial.folder,
                remedy="Choose --split test, or a recipe whose protocol.dev is not 'none'.",
            )
        for path in paths:
            fold = path.parts[-3].removeprefix("fold-")
            predictions += read_predictions(path, classes, fold=fold, seed=trial.seed)
    seeds, places = tuple(trial.seed for trial in trials), tuple(trial.folder for trial in trials)
    return RowPredictions(predictions, classes, seeds, places)


def provenance(
    table: Table, data: Data, split: Split, overrides: Sequence[str], rows: Sequence[MeasuredRow]
) -> list[str]:
    """Return where the published scores and ours come from, and what was done differently."""
    is_published = bool(table.neighbours) or any(row.published != Published() for row in table.rows)
    notes = ["No scores were published to compare with."]
    if is_published:
        best = " The paper gives its best scores there." if table.published_on == "dev" else ""
        notes = [f"Published: {table.paper}, {table.title}, {table.corpus}, {table.published_on} set.{best}"]
    folder = next((row.places[0] for row in rows if row.places and not row.row.ensemble), None)
    if not table.is_trained:
        notes.append(f"Ours: the labels of {data.num_utterances} utterances; no model is needed.")
    elif folder is None:
        notes.append("Ours: nothing is finished.")
    else:
        corpora = read_json(folder / "data.json").get("corpora", ())
        numbers = sorted({row.scores.num_utterances for row in rows if row.scores})
        drawn = [row.scores.resampled for row in rows if row.scores]
        names = ", ".join(f"{name} ({licence_of(name) or 'licence not stated'})" for name in corpora)
        ours = (
            f"Ours: {split} predictions of {' or '.join(map(str, numbers))} utterances of {names}, pooled over folds, "
            f"averaged over seeds; 95 % intervals resample {' or '.join(dict.fromkeys(drawn))}."
        )
        if is_published and {plain_name(name) for name in corpora} != {plain_name(table.corpus)}:
            ours += " The data differs from the paper's: compare the order of the rows, not the numbers."
        notes.append(ours)
    if data.limit is not None:
        notes.append(
            f"Ours used {data.num_utterances} of the manifest's {data.num_available} utterances (--limit {data.limit}: "
            "at most so many of each speaker, session, split and emotion)."
        )
    if overrides:
        notes.append(f"Every row was changed by: {', '.join(overrides)}.")
    if split == "dev":
        notes.append("Ours is on dev, where each row's checkpoint was chosen: the numbers are optimistic.")
    if len({row.seeds for row in rows if row.seeds}) > 1:
        notes.append("Rows have different numbers of finished seeds.")
    if any(row.row.ensemble and row.scores for row in rows):
        notes.append(
            "Ensemble: a weight for each row and class, for each seed, fitted by COBYLA to the dev predictions of a "
            "fold or else to the other folds, and evaluated on the fold."
        )
    return notes


def plain_name(name: str) -> str:
    """Return the letters and digits of a corpus's name, in small letters."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())

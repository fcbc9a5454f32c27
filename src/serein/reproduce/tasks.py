"""Scores of every task of multi-task rows, and whether the tasks' gradients conflict (gao2023, Tables 2 and 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from serein.evaluation.predictions import Prediction
from serein.evaluation.run_folder import read_recipe, read_run_predictions, run_classes
from serein.evaluation.scores import score_predictions
from serein.evaluation.task_curves import mean_cosines, read_task_curves
from serein.evaluation.task_scores import TaskScore, chosen_tasks, score_task, task_scores
from serein.reproduce.comparison import ExtraTable
from serein.reproduce.table import Row

MISSING = "–"
_COLUMNS = (("gender", "UA gender", "ua gender"), ("style", "UA style", "ua style"), ("asr", "WER", "wer"))
Rows = Sequence[tuple[Row, Sequence[Path]]]


def task_table(rows: Rows) -> ExtraTable:
    """Return UA and WA, and the score of every other task; * where only an earlier stage learned it.

    Args:
        rows: Each with its run folders, one per seed.
    """
    measured = [(row, places) for row, places in rows if places]
    present = {name for _, places in measured for name in chosen_tasks(read_recipe(places[0]))}
    columns = [column for column in _COLUMNS if column[0] in present]
    titles = ["UA", "WA", *(title for _, title, _ in columns)]
    headings = ["row", *(f"{title} {kind}" for title in titles for kind in ("published", "ours"))]
    cells = [[row.title, *_emotion_cells(row, places), *_other_cells(row, places, columns)] for row, places in measured]
    return ExtraTable(
        "Every task, in per cent; * evaluated with the model of the stage that learned it last", headings, cells
    )


def conflict_table(rows: Rows) -> ExtraTable:
    """Return the mean cosines of the tasks' gradients on the layers they share, and how often they are below 0."""
    cells = []
    for row, places in rows:
        curves = [curve for place in places for curve in read_task_curves(place, read_recipe(place))]
        cells += [
            [row.title, stage, pair, f"{cosine:+.3f}".replace("-", "−"), f"{100 * fraction:.0f} %"]
            for stage, pair, cosine, fraction in mean_cosines(curves)
        ]
    title = "Cosines between the tasks' gradients on shared layers (first two batches of each epoch)"
    return ExtraTable(title, ["row", "stage", "gradients of", "mean", "epochs below 0"], cells)


TASK_MEASURES: dict[str, Callable[[Rows], ExtraTable]] = {"tasks": task_table, "conflicts": conflict_table}


def _emotion_cells(row: Row, places: Sequence[Path]) -> list[str]:
    predictions = [p for place in places for p in read_run_predictions(place, run_classes(place))]
    scores = score_predictions(predictions, run_classes(places[0]))
    cells = []
    for name in ("ua", "wa"):
        bounds = scores.intervals[name]
        cells += [_number(getattr(row.published, name)), _with_bounds(scores.pooled[name], bounds)]
    return cells


def _other_cells(row: Row, places: Sequence[Path], columns: Sequence[tuple[str, str, str]]) -> list[str]:
    by_seed = [{score.task: score for score in task_scores(place)} for place in places]
    cells = []
    for task, _, published in columns:
        scores = [scores[task] for scores in by_seed if task in scores]
        cells.append(_number(row.published.values.get(published)))
        cells.append(_pooled(task, scores, places) if scores else MISSING)
    return cells


def _pooled(task: str, scores: Sequence[TaskScore], places: Sequence[Path]) -> str:
    """Return the score over all seeds, marked if an earlier stage's model was evaluated."""
    predictions: list[Prediction] = [p for place in places for p in read_run_predictions(place, kind=task)]
    score = score_task(task, predictions)
    return _with_bounds(score.value, score.interval) + ("*" if scores[0].stage else "")


def _with_bounds(value: float, bounds: tuple[float, float] | None) -> str:
    return f"{value:.1f}" if bounds is None else f"{value:.1f} [{bounds[0]:.1f}, {bounds[1]:.1f}]"


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"

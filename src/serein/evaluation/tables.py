"""Scores as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from serein.evaluation.intervals import NUM_RESAMPLES
from serein.evaluation.scores import SCORE_TITLES, ClassScore, Scores

if TYPE_CHECKING:
    from rich.table import Table

    from serein.evaluation.task_scores import TaskScore

MOST_RECALLS = 40


def scores_table(scores: Scores) -> Table:
    """Return a table of scores: folds, their mean, the pooled scores with intervals, and the recalls below."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Scores in per cent", caption=Text(_caption(scores)), caption_justify="left")
    table.add_column("fold", no_wrap=True)
    for title in (*SCORE_TITLES.values(), "clips", "speakers"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in _fold_rows(scores):
        table.add_row(*map(Text, row))
    table.add_section()
    for row in _summary_rows(scores):
        table.add_row(*map(Text, row), style="bold")
    return table


def tasks_table(scores: Sequence[TaskScore]) -> Table:
    """Return a table of the scores of other tasks."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Tasks, in per cent")
    for title in ("task", "score", "pooled", "95 % interval", "clips", "evaluated after"):
        table.add_column(title, justify="left" if title in ("task", "score", "evaluated after") else "right")
    for row in scores:
        bounds = "–" if row.interval is None else f"[{number(row.interval[0])}, {number(row.interval[1])}]"
        after = "the last stage" if row.stage is None else f"stage '{row.stage}'"
        table.add_row(*map(Text, (row.task, row.name, number(row.value), bounds, str(row.num_utterances), after)))
    return table


def number(value: float | None) -> str:
    """Return a score as text: one decimal, and a dash where there is none."""
    return "–" if value is None else f"{value:.1f}"


def interval(scores: Scores, name: str) -> str:
    """Return a pooled score's interval as people read it: ``[60.1, 70.2]``, empty where there is none."""
    bounds = scores.intervals[name]
    return "" if bounds is None else f"[{number(bounds[0])}, {number(bounds[1])}]"


def deviation(scores: Scores, name: str) -> str:
    """Return the standard deviation over folds as people read it: ``± 3.1``, empty with one fold."""
    spread = scores.standard_deviation[name]
    return "" if spread is None else f"± {number(spread)}"


def _fold_rows(scores: Scores) -> list[list[str]]:
    is_one_seed = len(scores.seeds) == 1
    return [
        [
            fold.fold if is_one_seed else f"{fold.fold}, seed {fold.seed}",
            *(number(getattr(fold, name)) for name in SCORE_TITLES),
            str(fold.num_utterances),
            "–" if fold.num_speakers is None else str(fold.num_speakers),
        ]
        for fold in scores.folds
    ]


def _summary_rows(scores: Scores) -> list[list[str]]:
    means = [f"{number(scores.mean[name])} {deviation(scores, name)}".strip() for name in SCORE_TITLES]
    pooled = [number(scores.pooled[name]) for name in SCORE_TITLES]
    bounds = [interval(scores, name) or "–" for name in SCORE_TITLES]
    num_speakers = str(len(scores.speakers)) if scores.speakers else "–"
    return [
        ["mean ± sd", *means, "", ""],
        ["pooled", *pooled, str(scores.num_utterances), num_speakers],
        ["interval", *bounds, "", ""],
    ]


def _caption(scores: Scores) -> str:
    recalls = " · ".join(f"{score.name} {number(score.recall)}" for score in _recalls(scores))
    has_intervals = scores.intervals["ua"] is not None
    drawn = [f"95 % interval: {NUM_RESAMPLES} resamples of {scores.resampled}."] if has_intervals else []
    what = "Recall" if len(scores.by_class) <= MOST_RECALLS else f"Lowest recalls of {len(scores.by_class)} classes"
    return "\n".join([f"{what}: {recalls}", *drawn, *scores.notes])


def _recalls(scores: Scores) -> Sequence[ClassScore]:
    """Return every class, or the worst recognised ones if there are many, as with speakers."""
    if len(scores.by_class) <= MOST_RECALLS:
        return scores.by_class
    return sorted(scores.by_class, key=lambda score: 100.0 if score.recall is None else score.recall)[:6]

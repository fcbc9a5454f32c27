"""Notices that qualify a run's numbers, in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from serein.evaluation.intervals import NUM_RESAMPLES
from serein.evaluation.scores import SCORE_TITLES, ClassScore, Scores

if TYPE_CHECKING:
    from rich.table import Table

    from serein.evaluation.task_scores import TaskScore


NARROW_SPACE = "\u202f"
Level = Literal["warning", "note"]
_DEV_SETS = {
    "speakers": "held-out training speakers",
    "sessions": "a held-out training session",
    "dialogue-partner": "who speaks with the test speaker",
    "random": "a random part of the training data, which shares its speakers",
    "official": "the corpus's own dev set",
}


@dataclass(frozen=True)
class Notice:
    """One sentence or two that qualify the numbers.

    Attributes:
        level: A ``warning`` forbids the obvious reading of the score; a ``note`` adds to it.
    """

    level: Level
    text: str


def notices(
    scores: Scores | None,
    recipe: dict[str, Any],
    data: dict[str, Any],
    folds: dict[str, Any],
    missing: Sequence[str] = (),
) -> list[Notice]:
    """Collect everything that qualifies the numbers of a run, warnings first.

    Args:
        scores: With notes of its own: missing classes, predictions and speakers. `None`: no classes are predicted.
        recipe: ``recipe.yaml``; like the others, empty when the file is absent.
        data: ``data.json``.
        folds: ``folds.json``.
        missing: What `missing_predictions` found.
    """
    warnings = [_speaker_dependence(folds), _synthetic_speech(data), *missing]
    remarks = [*map(str, folds.get("notes") or ()), *(scores.notes if scores else ())]
    remarks.append(_selection(recipe, "UA" if scores else "score"))
    if scores is not None:
        remarks += [_few_speakers(scores), _several_seeds(scores)]
    levels: list[tuple[Level, list[str]]] = [("warning", warnings), ("note", remarks)]
    return [Notice(level, text) for level, texts in levels for text in texts if text]


def plain_reading(scores: Scores, folds: dict[str, Any]) -> str:
    """Say in plain language what the scores mean.

    Example:
        >>> from serein.evaluation.predictions import Prediction
        >>> from serein.evaluation.scores import score_predictions
        >>> predictions = [Prediction(id=name, truth=name, prediction="sad") for name in ("calm", "sad")]
        >>> plain_reading(score_predictions(predictions), {}).partition(". ")[0]
        'Of 100 utterances, 50 are recognised when every emotion is equally frequent (by chance: 50)'
    """
    chance, hits = 100.0 / len(scores.classes), scores.pooled["ua"]
    whose = _whose(folds.get("is_speaker_independent"))
    first = f"Of 100 utterances{whose}, {hits:.0f} are recognised when every emotion is equally frequent"
    sentences = (f"{first} (by chance: {chance:.3g}).", _range(scores, folds), _best_and_worst(scores))
    return " ".join(sentence for sentence in sentences if sentence)


def _whose(is_speaker_independent: bool | None) -> str:
    if is_speaker_independent is None:
        return ""
    return " of speakers unseen in training" if is_speaker_independent else " of speakers also seen in training"


def _range(scores: Scores, folds: dict[str, Any]) -> str:
    bounds = scores.intervals["ua"]
    if bounds is None or not scores.speakers or folds.get("is_speaker_independent") is False:
        return ""
    low, high = (f"{bound:.0f}" for bound in bounds)
    return f"Had other speakers been recorded, it might as well be {low} to {high} (95{NARROW_SPACE}% interval)."


def _best_and_worst(scores: Scores) -> str:
    known = sorted((score.recall, score.name) for score in scores.by_class if score.recall is not None)
    if len(known) < 2:
        return ""
    (low, worst), (high, best) = known[0], known[-1]
    first = f"Recognised best: {best} ({high:.0f}{NARROW_SPACE}%)."
    return f"{first} Worst: {worst} ({low:.0f}{NARROW_SPACE}%{_confused_with(scores, worst)})."


def _confused_with(scores: Scores, name: str) -> str:
    row = scores.classes.index(name)
    errors = scores.confusion[row] * (np.arange(len(scores.classes)) != row)
    return f", most often confused with {scores.classes[int(errors.argmax())]}" if errors.any() else ""


def _speaker_dependence(folds: dict[str, Any]) -> str:
    if folds.get("is_speaker_independent", True):
        return ""
    return (
        f"Speaker-dependent protocol ('{folds.get('protocol', 'unnamed')}'): test speakers were seen in "
        "training. Such scores are optimistic and cannot be compared with speaker-independent ones."
    )


def _synthetic_speech(data: dict[str, Any]) -> str:
    corpora = [str(name) for name in data.get("corpora") or ()]
    texts = [
        *corpora,
        *map(str, (data.get("licences") or {}).values()),
        *map(str, (data.get("citations") or {}).values()),
    ]
    if not any("synthetic" in text.casefold() for text in texts):
        return ""
    return (
        "Synthetic corpus: these voices were computed, not recorded. The scores show that the software "
        "works, and say nothing about how people sound."
    )


def _selection(recipe: dict[str, Any], default: str) -> str:
    stage: dict[str, Any] = (recipe.get("stages") or [{}])[-1]
    dev = (recipe.get("protocol") or {}).get("dev")
    if stage.get("checkpoint") == "last" or dev == "none":
        return "Checkpoint: the last epoch; nothing was chosen on test data."
    if stage.get("checkpoint") != "best":
        return ""
    which = f" ({_DEV_SETS[dev]})" if dev in _DEV_SETS else ""
    score = SCORE_TITLES.get(stage.get("monitor") or "", stage.get("monitor")) or default
    return f"Checkpoint: the epoch of the best {score} on dev{which}; nothing was chosen on test data."


def _few_speakers(scores: Scores) -> str:
    count = len(scores.speakers)
    return f"Only {count} speakers: a bootstrap interval of so few is too narrow." if 3 <= count < 10 else ""


def _several_seeds(scores: Scores) -> str:
    count = len(scores.seeds)
    return f"{count} seeds: scores are averaged over them, counts of the confusion matrix add up." if count > 1 else ""


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

    table = Table(title="Tasks")
    for title in ("task", "score", "pooled", "95 % interval", "clips", "evaluated after"):
        table.add_column(title, justify="left" if title in ("task", "score", "evaluated after") else "right")
    for row in scores:
        after = "the last stage" if row.stage is None else f"stage '{row.stage}'"
        for name, value, bounds in task_rows(row):
            table.add_row(*map(Text, (row.task, name, value, bounds, str(row.num_utterances), after)))
    return table


def task_rows(score: TaskScore) -> list[tuple[str, str, str]]:
    """Return name, value and interval of a task's score, and of its further scores, as text."""
    digits = 1 if score.unit else 3
    names = {name: f"{name}, {score.unit}" if score.unit else name for name in (score.name, *score.others)}
    bounds = "–" if score.interval is None else "[{:.{d}f}, {:.{d}f}]".format(*score.interval, d=digits)
    first = (names[score.name], f"{score.value:.{digits}f}", bounds)
    return [first, *((names[name], f"{value:.{digits}f}", "–") for name, value in score.others.items())]


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

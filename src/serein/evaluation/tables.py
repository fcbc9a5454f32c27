"""Notices that qualify a run's numbers in plain sentences, and tables of scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from serein.data.splits import NO_TEST_SET
from serein.evaluation.intervals import NUM_RESAMPLES, interval_text
from serein.evaluation.scores import SCORE_TITLES, Scores
from serein.metrics.titles import metric_of

if TYPE_CHECKING:
    from rich.table import Table

    from serein.evaluation.intervals import Difference
    from serein.evaluation.scores import TaskScore


MOST_RECALLS = 40
NARROW_SPACE = "\u202f"
Level = Literal["warning", "note"]
_DEV_SETS = {
    "speakers": "held-out training speakers",
    "sessions": "a held-out training session",
    "dialogue-partner": "the test speaker's dialogue partners",
    "random": "a random part of the training data, which shares its speakers",
    "official": "the corpus's own dev set",
}


@dataclass(frozen=True)
class Notice:
    """One or two sentences that qualify the numbers.

    Attributes:
        level: A ``warning`` rules out the obvious reading of the score; a ``note`` adds to it.
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
        scores: Scores, with their own notes on missing classes, predictions and speakers; `None` without classes.
        recipe: ``recipe.yaml``; like the others, empty when the file is absent.
        data: ``data.json``.
        folds: ``folds.json``.
        missing: The result of `missing_predictions`.
    """
    warnings = []
    if not folds.get("is_speaker_independent", True):
        warnings.append(
            f"Speaker-dependent protocol ('{folds.get('protocol', 'unnamed')}'): test speakers were seen in "
            "training. Such scores are optimistic and cannot be compared with speaker-independent ones."
        )
    stated = [*(data.get("licences") or {}).values(), *(data.get("citations") or {}).values()]
    if any("synthetic" in str(text).casefold() for text in (*(data.get("corpora") or ()), *stated)):
        warnings.append(
            "Synthetic corpus: these voices were computed, not recorded. The scores show that the software "
            "works, but are no evidence about human speech."
        )
    warnings += missing
    remarks = [*map(str, folds.get("notes") or ()), *(scores.notes if scores else ())]
    if is_dev_scored := NO_TEST_SET in remarks:
        warnings.append(NO_TEST_SET)
        remarks = [remark for remark in remarks if remark != NO_TEST_SET]
    of_test = "" if is_dev_scored else "; nothing was selected on test data"
    stage: dict[str, Any] = (recipe.get("stages") or [{}])[-1]
    protocol = recipe.get("protocol") or {}
    dev = protocol.get("dev")
    if protocol.get("name") == "random" and dev in ("speakers", "sessions", "dialogue-partner"):
        dev = "random"  # whole speakers would not be new
    if stage.get("checkpoint") == "last" or dev == "none":
        remarks.append(f"Checkpoint: the last epoch{of_test}.")
    elif stage.get("checkpoint") == "best":
        which = f" ({_DEV_SETS[dev]})" if dev in _DEV_SETS else ""
        monitor = stage.get("monitor") or ("ua" if scores else "score")
        remarks.append(f"Checkpoint: the epoch with the best {metric_of(monitor).title} on dev{which}{of_test}.")
    if scores is not None and (num_seeds := len(scores.seeds)) > 1:
        remarks.append(f"{num_seeds} seeds: scores are averaged over them, confusion matrix counts are summed.")
    levels: list[tuple[Level, list[str]]] = [("warning", warnings), ("note", remarks)]
    return [Notice(level, text) for level, texts in levels for text in texts if text]


def plain_reading(scores: Scores, folds: dict[str, Any]) -> str:
    """Explain the scores in plain language.

    Example:
        >>> from serein.evaluation.predictions import EvalPrediction
        >>> from serein.evaluation.scores import score_predictions
        >>> predictions = [EvalPrediction(id=name, truth=name, prediction="sad") for name in ("calm", "sad")]
        >>> plain_reading(score_predictions(predictions), {}).partition(". ")[0]
        'Of 100 utterances, 50 are recognised when every emotion is equally frequent (by chance: 50)'
    """
    chance, hits = 100.0 / len(scores.classes), scores.pooled["ua"]
    is_independent = folds.get("is_speaker_independent")
    whose = {None: "", True: " of speakers unseen in training"}.get(
        is_independent, " of speakers also seen in training"
    )
    sentences = [
        f"Of 100 utterances{whose}, {hits:.0f} are recognised when every emotion is equally frequent "
        f"(by chance: {chance:.3g})."
    ]
    bounds = scores.intervals["ua"]
    if bounds is not None and scores.resampled.endswith("speakers") and is_independent is not False:
        low, high = (f"{bound:.0f}" for bound in bounds)
        sentences.append(f"With other speakers, it might just as well be {low} to {high} (95{NARROW_SPACE}% interval).")
    known = sorted((score.recall, score.name) for score in scores.by_class if score.recall is not None)
    if len(known) >= 2:
        (lowest, worst), (highest, best) = known[0], known[-1]
        confused = ""
        if scores.confusion.size:
            row = scores.classes.index(worst)
            errors = scores.confusion[row] * (np.arange(len(scores.classes)) != row)
            confused = f", most often confused with {scores.classes[int(errors.argmax())]}" if errors.any() else ""
        sentences.append(f"Recognised best: {best} ({highest:.0f}{NARROW_SPACE}%).")
        sentences.append(f"Worst: {worst} ({lowest:.0f}{NARROW_SPACE}%{confused}).")
    return " ".join(sentences)


def scores_table(scores: Scores) -> Table:
    """Return a table of scores: folds, their mean, the pooled scores with intervals, and the recalls below."""
    from rich.table import Table
    from rich.text import Text

    by_class, what = list(scores.by_class), "Recall"
    if len(by_class) > MOST_RECALLS:  # the worst recognised ones
        what = f"Lowest recalls of {len(by_class)} classes"
        by_class = sorted(by_class, key=lambda score: 100.0 if score.recall is None else score.recall)[:6]
    caption = [f"{what}: {' · '.join(f'{score.name} {number(score.recall)}' for score in by_class)}"]
    if scores.intervals["ua"] is not None:
        caption.append(f"95 % interval: {NUM_RESAMPLES} resamples of {scores.resampled}.")
    table = Table(
        title="Scores in per cent", caption=Text("\n".join([*caption, *scores.notes])), caption_justify="left"
    )
    table.add_column("fold", no_wrap=True)
    for title in (*SCORE_TITLES.values(), "clips", "speakers"):
        table.add_column(title, justify="right", no_wrap=True)
    for fold in scores.folds:
        cells = [fold.fold if len(scores.seeds) == 1 else f"{fold.fold}, seed {fold.seed}"]
        cells += [number(getattr(fold, name)) for name in SCORE_TITLES]
        cells += [str(fold.num_utterances), "–" if fold.num_speakers is None else str(fold.num_speakers)]
        table.add_row(*map(Text, cells))
    table.add_section()
    means = [f"{number(scores.mean[name])} {deviation(scores, name)}".strip() for name in SCORE_TITLES]
    pooled = [number(scores.pooled[name]) for name in SCORE_TITLES]
    bounds = [interval_text(scores.intervals[name]) or "–" for name in SCORE_TITLES]
    num_speakers = str(len(scores.speakers)) if scores.speakers else "–"
    for cells in (
        ["mean ± sd", *means, "", ""],
        ["pooled", *pooled, str(scores.num_utterances), num_speakers],
        ["interval", *bounds, "", ""],
    ):
        table.add_row(*map(Text, cells), style="bold")
    return table


def table_of(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table of texts, with all but the first column aligned to the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title)
    for position, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if position else "left")
    for cells in rows:
        table.add_row(*map(Text, cells))
    return table


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts in Markdown, with all but the first column aligned to the right.

    Example:
        >>> print(markdown_table(["corpus", "UA"], [["a|b", "71.8"]]))
        | corpus | UA |
        | --- | ---: |
        | a\\|b | 71.8 |
    """
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines)


def differences_table(differences: Mapping[str, Difference], titles: tuple[str, str], task: str) -> Table:
    """Return a table of the scores of two systems and their paired differences, with the notes on them below."""
    from rich.text import Text

    rows = []
    for name, found in differences.items():
        bounds = interval_text(found.interval, ".3f") or "–"
        won = "–" if found.probability_of_improvement is None else f"{100 * found.probability_of_improvement:.0f} %"
        numbers = ("–" if np.isnan(value) else f"{value:.3f}" for value in (found.a, found.b, found.difference))
        rows.append((name, *numbers, bounds, won))
    headings = ("score", *titles, "difference", "95 % interval", "better in")
    table = table_of(f"{task}: paired on the same utterances, fractions of 1", headings, rows)
    drawn = dict.fromkeys(each.resampled for each in differences.values() if each.interval is not None)
    lines = [f"95 % interval: {NUM_RESAMPLES} resamples of {' or '.join(drawn)}."] if drawn else []
    lines += dict.fromkeys(note for each in differences.values() for note in each.notes)
    table.caption, table.caption_justify = Text("\n".join(lines)), "left"
    return table


def tasks_table(scores: Sequence[TaskScore]) -> Table:
    """Return a table of the scores of other tasks, with the scales of their numbers and notes below."""
    from rich.table import Table
    from rich.text import Text

    lines = [f"The numbers of {row.task} are on a scale of {row.scale}." for row in scores if row.scale]
    lines += dict.fromkeys(note for row in scores for note in row.notes)
    table = Table(title="Tasks", caption=Text("\n".join(lines)) if lines else None, caption_justify="left")
    for title in ("task", "score", "pooled", "95 % interval", "clips", "evaluated after"):
        table.add_column(title, justify="left" if title in ("task", "score", "evaluated after") else "right")
    for row in scores:
        after = "the last stage" if row.stage is None else f"stage '{row.stage}'"
        for name, value, bounds in task_rows(row):
            table.add_row(*map(Text, (row.task, name, value, bounds, str(row.num_utterances), after)))
    return table


def task_rows(score: TaskScore) -> list[tuple[str, str, str]]:
    """Return the name, value and interval of a task's score and its further scores, as text."""
    digits = 1 if score.unit else 3
    names = {name: f"{name}, {score.unit}" if score.unit else name for name in (score.name, *score.others)}
    of_all = [(score.name, score.value, score.interval)]
    of_all += [(name, value, score.intervals.get(name)) for name, value in score.others.items()]
    form = f".{digits}f"
    return [
        (names[name], "–" if np.isnan(value) else f"{value:{form}}", interval_text(bounds, form) or "–")
        for name, value, bounds in of_all
    ]


def number(value: float | None, digits: int = 1) -> str:
    """Return a score as text; a dash if there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def deviation(scores: Scores, name: str) -> str:
    """Return the standard deviation over folds as text, ``± 3.1``; empty with one fold."""
    spread = scores.standard_deviation[name]
    return "" if spread is None else f"± {number(spread)}"

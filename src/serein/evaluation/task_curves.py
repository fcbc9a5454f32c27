"""Learning curves of each task and cosines between the tasks' gradients, epoch by epoch."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serein.evaluation.style import MUTED, PAGE_WIDTH_IN, SPARE_COLOURS, new_figure
from serein.evaluation.task_scores import chosen_tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = dict[int, list[float]]  # epoch -> values of the trainings
_SCORES = {"asr": "word_accuracy"}
_TITLES = {"asr": "word accuracy"}


@dataclass(frozen=True)
class StageCurves:
    """One stage.

    Attributes:
        scores: Task -> dev score by epoch: unweighted accuracy; of transcripts 1 - word error rate.
        cosines: "a and b" -> cosine of the two tasks' gradients on what they share, by epoch.
    """

    stage: str
    scores: Mapping[str, Series]
    cosines: Mapping[str, Series]


def read_task_curves(run: Path, recipe: Mapping[str, Any]) -> list[StageCurves]:
    """Read the curves of a run that learned several tasks; an empty list for other runs."""
    names = chosen_tasks(dict(recipe))
    stages = recipe.get("stages") or []
    if len(names) < 2:
        return []
    curves = [_stage_curves(run, f"{i}-{stage['name']}", stage.get("tasks") or names) for i, stage in enumerate(stages)]
    return [each for each in curves if each.scores or each.cosines]


def _stage_curves(run: Path, folder: str, tasks: Sequence[str]) -> StageCurves:
    scores: dict[str, Series] = defaultdict(lambda: defaultdict(list))
    cosines: dict[str, Series] = defaultdict(lambda: defaultdict(list))
    columns = {
        ("dev_" if number == 0 else f"dev_{task}_") + _SCORES.get(task, "ua"): _TITLES.get(task, task)
        for number, task in enumerate(tasks)
    }
    pairs = {f"cosine_{one}_{other}": f"{one} and {other}" for one in tasks for other in tasks if one != other}
    for path in sorted(run.glob(f"fold-*/seed-*/{folder}/metrics.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            metrics = json.loads(line)
            for titles, series in ((columns, scores), (pairs, cosines)):
                for column, title in titles.items():
                    if column in metrics:
                        series[title][int(metrics["epoch"])].append(float(metrics[column]))
    return StageCurves(folder.partition("-")[2], dict(scores), dict(cosines))


def mean_cosines(curves: Sequence[StageCurves]) -> list[tuple[str, str, float, float]]:
    """Return stage, pair, mean cosine over all epochs and trainings, and the fraction of epochs with one below 0."""
    rows = []
    for each in curves:
        for pair, series in each.cosines.items():
            values = [value for epoch in series.values() for value in epoch]
            rows.append((each.stage, pair, float(np.mean(values)), float(np.mean([value < 0 for value in values]))))
    return rows


def task_curves_picture(curves: Sequence[StageCurves]) -> Figure:
    """Draw each stage's dev scores of all its tasks, and beside them the cosines between their gradients."""
    with new_figure((PAGE_WIDTH_IN, 2.9 * len(curves))) as figure:
        panels = figure.subplots(len(curves), 2, squeeze=False)
        for (left, right), stage in zip(panels, curves, strict=True):
            title = f"{stage.stage}: " if len(curves) > 1 else ""
            _draw(left, stage.scores, f"{title}dev score of each task, per cent", scale=100.0)
            _draw(right, stage.cosines, f"{title}cosine of gradients", scale=1.0)
            if stage.cosines:
                right.axhline(0.0, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    return figure


def _draw(axes: Axes, series: Mapping[str, Series], title: str, *, scale: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title)
    if not series:
        axes.text(0.0, 0.9, "one task alone, or nothing below the heads learns", transform=axes.transAxes, color=MUTED)
        axes.set_axis_off()
        return
    for number, (name, values) in enumerate(series.items()):
        epochs = sorted(values)
        means = [scale * float(np.mean(values[epoch])) for epoch in epochs]
        axes.plot(epochs, means, color=SPARE_COLOURS[number % len(SPARE_COLOURS)], linewidth=1.8, label=name)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(length=0)
    axes.legend()

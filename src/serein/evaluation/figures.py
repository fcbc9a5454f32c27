"""Pictures of several systems side by side: one panel each, or one point each. As `plots`, without a display."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serein.evaluation.intervals import Bounds
from serein.evaluation.plots import (
    MUTED,
    PAGE_WIDTH_IN,
    RIGHT,
    SPARE_COLOURS,
    draw_confusion,
    draw_map,
    new_figure,
    thinned,
    tsne,
)
from serein.evaluation.predictions import read_recipe, read_specs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MOST_ACROSS = 3
ASIDE = 0.04  # of a place, or of the axis


@dataclass(frozen=True)
class Map:
    """Embeddings of one model and what colours them.

    Attributes:
        title: Above the panel.
        embeddings: ``(utterances, features)``, finite, at least `FEWEST_EMBEDDINGS` of them distinct.
        names: What colours each: its emotion, or its speaker.
    """

    title: str
    embeddings: NDArray[Any]
    names: Sequence[str]


def confusion_panels(panels: Sequence[tuple[str, NDArray[Any]]], classes: Sequence[str]) -> Figure:
    """Draw titled confusion matrices of the same classes, each (true class, predicted class)."""
    across = min(MOST_ACROSS, len(panels))
    size = 1.3 + 0.6 * len(classes)
    down = -(-len(panels) // across)
    with new_figure((size * across, size * down)) as figure:
        for number, (title, confusion) in enumerate(panels, start=1):
            axes = figure.add_subplot(down, across, number)
            draw_confusion(axes, confusion, classes)
            axes.set_title(title)
    return figure


def map_panels(panels: Sequence[Map], colours: Mapping[str, str], across: int = MOST_ACROSS) -> Figure:
    """Draw embeddings in two dimensions (t-SNE), each panel's by itself: places of two panels do not compare.

    Args:
        colours: Name -> colour, for all panels.
        across: Most panels side by side.
    """
    across = min(across, len(panels))
    down = -(-len(panels) // max(across, 1))
    width = PAGE_WIDTH_IN / 2 if across < MOST_ACROSS else PAGE_WIDTH_IN / across
    with new_figure((width * across, (width + 0.4) * down)) as figure:
        for number, panel in enumerate(panels, start=1):
            chosen = thinned(len(panel.embeddings))
            places = tsne(np.asarray(panel.embeddings, np.float64)[chosen])
            names = [panel.names[i] for i in chosen]
            draw_map(figure.add_subplot(down, across, number), places, names, dict(colours), panel.title)
    return figure


@dataclass(frozen=True)
class Line:
    """A score over a setting.

    Attributes:
        name: In the legend.
        x: The setting's values.
        y: The score at each.
        bounds: Interval of each score, in its unit, or `None`.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    bounds: Sequence[Bounds | None]
    colour: str = RIGHT


def lines_picture(
    lines: Sequence[Line],
    titles: tuple[str, str],
    *,
    level: tuple[str, float, str] | None = None,
    is_logarithmic: bool = False,
) -> Figure:
    """Draw scores, with their intervals, over a setting.

    Args:
        titles: Of both axes.
        level: Name, height and colour of a line across, to compare with.
        is_logarithmic: Whether the setting's axis is; its values are then marked as they are.
    """
    with new_figure((5.6, 3.6)) as figure:
        axes = figure.add_subplot()
        if is_logarithmic:
            axes.set_xscale("log")
        for number, line in enumerate(lines):
            order = np.argsort(line.x)
            places, values = np.asarray(line.x, float)[order], np.asarray(line.y, float)[order]
            # Each line stands a little aside, so that the intervals of several are told apart.
            aside = number - (len(lines) - 1) / 2
            places = places * (1 + ASIDE) ** aside if is_logarithmic else places + ASIDE * np.ptp(places) * aside
            axes.plot(places, values, color=line.colour, marker="o", linewidth=1.4, label=line.name)
            for place, index in zip(places, order, strict=True):
                if (own := line.bounds[index]) is not None:
                    axes.vlines(place, *own, color=line.colour, linewidth=1.2, alpha=0.6)
        if level is not None:
            axes.axhline(level[1], color=level[2], linewidth=1.0, linestyle=(0, (4, 3)), label=level[0])
        axes.set(xlabel=titles[0], ylabel=titles[1])
        if is_logarithmic:
            axes.set_xticks(sorted({x for line in lines for x in line.x}), minor=False)
            axes.set_xticks([], minor=True)
            axes.xaxis.set_major_formatter("{x:g}")
        axes.tick_params(length=0)
        if len(lines) > 1 or level is not None:
            axes.legend()
    return figure


Series = dict[int, list[float]]  # epoch -> values of the trainings


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


def read_task_curves(run: Path) -> list[StageCurves]:
    """Read the curves of a run that learned several tasks; an empty list for other runs."""
    specs = {spec.name: spec for spec in read_specs(run)}
    stages = read_recipe(run).get("stages") or []
    if len(specs) < 2:
        return []
    curves = []
    for place, stage in enumerate(stages):
        learned = [specs[name] for name in stage.get("tasks") or specs]
        columns = {
            ("dev_" if number == 0 else f"dev_{spec.name}_") + spec.monitor: spec.name
            if spec.has_classes
            else f"{spec.name}: {spec.monitor.replace('_', ' ')}"
            for number, spec in enumerate(learned)
        }
        tasks = [spec.name for spec in learned]
        pairs = {f"cosine_{one}_{other}": f"{one} and {other}" for one in tasks for other in tasks if one != other}
        scores: dict[str, Series] = defaultdict(lambda: defaultdict(list))
        cosines: dict[str, Series] = defaultdict(lambda: defaultdict(list))
        for path in sorted(run.glob(f"fold-*/seed-*/{place}-{stage['name']}/metrics.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                metrics = json.loads(line)
                for titles, series in ((columns, scores), (pairs, cosines)):
                    for column, title in titles.items():
                        if column in metrics:
                            series[title][int(metrics["epoch"])].append(float(metrics[column]))
        if scores or cosines:
            curves.append(StageCurves(stage["name"], dict(scores), dict(cosines)))
    return curves


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

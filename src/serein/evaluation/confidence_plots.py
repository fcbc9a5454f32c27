"""Plots of calibration: reliability diagrams, and accuracy against coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serein.evaluation.calibration import CoveragePoint
from serein.evaluation.style import MUTED, PAGE_WIDTH_IN, RIGHT, new_figure
from serein.metrics import FloatArray, calibration_error, reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Confidences = tuple[FloatArray, NDArray[np.bool_]]  # (predictions,) confidence, 0 to 1, and whether it is correct


def reliability_picture(confidences: Mapping[str, Confidences]) -> Figure:
    """Draw accuracy at each level of confidence, and a histogram of confidences.

    Args:
        confidences: Title -> confidence and correctness, one panel each, for instance before and after calibration.
    """
    size = (min(PAGE_WIDTH_IN, 0.4 + 4.6 * len(confidences)), 4.4)
    with new_figure(size) as figure:
        panels = figure.subplots(2, len(confidences), sharex=True, sharey="row", height_ratios=(3.4, 1), squeeze=False)
        for (axes, below), (title, (confidence, is_correct)) in zip(panels.T, confidences.items(), strict=True):
            _draw_reliability(axes, below, confidence, is_correct)
            error = 100 * calibration_error(confidence, is_correct)
            axes.set_title(f"{title}: error {error:.1f} points" if title else f"Calibration error {error:.1f} points")
            below.set(xlabel="confidence, per cent")
        panels[0, 0].set(ylabel="correct, per cent")
        panels[1, 0].set(ylabel="of all, %")
    return figure


def coverage_picture(curve: Sequence[CoveragePoint]) -> Figure:
    """Draw the accuracy of the most confident predictions against their coverage."""
    with new_figure((5.6, 3.4)) as figure:
        axes = figure.add_subplot()
        coverage, accuracy = [point.coverage for point in curve], [point.accuracy for point in curve]
        axes.plot(coverage, accuracy, color=RIGHT, linewidth=2.0, marker="o", markersize=3.5, clip_on=False)
        axes.axhline(accuracy[-1], color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set(xlim=(0, 100), ylim=(max(0.0, 10 * np.floor(min(accuracy) / 10 - 0.2)), 100))
        axes.set(xlabel="coverage, per cent of all", ylabel="accuracy, per cent of covered")
        for point in curve[4:-1:5]:
            axes.annotate(
                f"--min-confidence {point.min_confidence:.2f}",
                (point.coverage, point.accuracy),
                (4, 5),
                textcoords="offset points",
                fontsize=7,
                color=MUTED,
            )
    return figure


def _draw_reliability(axes: Axes, below: Axes, confidence: FloatArray, is_correct: NDArray[np.bool_]) -> None:
    expected, observed, count = reliability(confidence, is_correct)
    axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.plot(100 * expected, 100 * observed, color=RIGHT, linewidth=1.4)
    sizes = 12.0 + 240.0 * count / count.sum()
    axes.scatter(100 * expected, 100 * observed, s=sizes, color=RIGHT, linewidths=0, clip_on=False, zorder=3)
    axes.set(xlim=(0, 100), ylim=(0, 100))
    below.bar(np.arange(5, 100, 10), 100 * count / count.sum(), width=9, color=RIGHT, alpha=0.4)

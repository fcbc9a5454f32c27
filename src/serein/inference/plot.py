"""A plot of a recording: its waveform coloured by predicted emotion, and the model's confidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from serein.data.files import replacing
from serein.evaluation.plots import LINE, MUTED, PAGE_WIDTH_IN, emotion_colours, new_figure
from serein.inference.prediction import Prediction, Segment
from serein.inference.recording import PEAK_S
from serein.inference.writers import clock
from serein.metrics import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_MOST_COLUMNS = 1800


def prediction_figure(prediction: Prediction) -> Figure:
    """Draw the waveform, coloured where there is speech, and below it the confidence of each segment."""
    classes = list(prediction.probabilities)
    colours = emotion_colours(classes)
    segments = prediction.segments
    with new_figure((PAGE_WIDTH_IN, 3.6)) as figure:
        wave, sure = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
        times_s, peaks = _columns(prediction)
        wave.fill_between(times_s, -peaks, peaks, color=LINE, linewidth=0)
        for segment in segments:
            _paint(wave, times_s, peaks, segment, colours[segment.label] if segment.label else MUTED)
        _draw_confidence(sure, segments, colours)
        _label(
            wave,
            sure,
            prediction,
            [name for name in classes if any(segment.label == name for segment in segments)],
            colours,
        )
    return figure


def save_picture(prediction: Prediction, path: str | Path) -> None:
    """Write the picture on white paper, in the format that the suffix names (png, svg, pdf)."""
    with replacing(path) as partial:
        prediction_figure(prediction).savefig(partial, dpi=150, facecolor="white", bbox_inches="tight")


def _columns(prediction: Prediction) -> tuple[FloatArray, FloatArray]:
    """Return times and peaks, no more of them than a page has columns."""
    peaks = np.asarray(prediction.peaks, np.float64)
    size = -(-len(peaks) // _MOST_COLUMNS)
    padded = np.pad(peaks, (0, -len(peaks) % size)).reshape(-1, size).max(axis=1)
    times_s = prediction.start_s + (np.arange(len(padded), dtype=np.float64) + 0.5) * size * PEAK_S
    heights: FloatArray = (padded / max(float(padded.max()), 1e-6)) ** 0.6  # quiet speech is seen beside shouts
    return times_s, heights


def _paint(axes: Axes, times_s: FloatArray, peaks: FloatArray, segment: Segment, colour: str) -> None:
    inside = (times_s >= segment.start_s) & (times_s <= segment.end_s)
    if inside.any():
        axes.fill_between(times_s[inside], -peaks[inside], peaks[inside], color=colour, linewidth=0)
    axes.axvspan(segment.start_s, segment.end_s, ymax=0.035, color=colour, linewidth=0)


def _draw_confidence(axes: Axes, segments: tuple[Segment, ...], colours: dict[str, str]) -> None:
    for segment in segments:
        colour = colours[segment.label] if segment.label else MUTED
        percent = 100 * (segment.confidence or 0.0)
        axes.fill_between([segment.start_s, segment.end_s], 0, percent, color=colour, alpha=0.35, linewidth=0)
        axes.plot(
            [segment.start_s, segment.end_s], [percent, percent], color=colour, linewidth=1.6, solid_capstyle="butt"
        )


def _label(wave: Axes, sure: Axes, prediction: Prediction, present: list[str], colours: dict[str, str]) -> None:
    from matplotlib.patches import Patch

    wave.set(ylim=(-1.08, 1.08), yticks=[], xlim=(prediction.start_s, prediction.end_s))
    wave.set_title(f"{Path(prediction.file).name}  {clock(prediction.duration_s)}, speech {clock(prediction.speech_s)}")
    wave.grid(visible=False)
    sure.set(ylim=(0, 100), ylabel="confidence, %")
    sure.xaxis.set_major_formatter(lambda seconds, _: clock(seconds).removesuffix(".0"))
    handles = [Patch(color=colours[name], label=name) for name in present]
    if any(each.rejected for each in prediction.segments):
        handles.append(Patch(color=MUTED, label="rejected"))
    handles.append(Patch(color=LINE, label="no speech"))
    wave.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=10, handlelength=1.0)

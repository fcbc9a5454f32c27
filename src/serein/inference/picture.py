"""A recording as a picture: its waveform, coloured by the prediction, and the confidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from serein.evaluation.plots import LINE, MUTED, PAGE_WIDTH_IN, SPARE_COLOURS, emotion_colours, new_figure, save_figure
from serein.inference.prediction import Prediction
from serein.inference.recording import PEAK_S
from serein.inference.writers import clock

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_COLUMNS = 1800  # of a page


def save_picture(prediction: Prediction, path: str | Path) -> None:
    """Draw a recording on a white background, in the format of the suffix (png, svg, pdf).

    The waveform is at the top, coloured by label where there is speech. The confidence of each segment and the
    dimensions over time are below it, and the position in the valence-arousal plane is on the right.
    """
    from matplotlib.patches import Patch

    classes, segments = list(prediction.probabilities), prediction.segments
    colours = emotion_colours(classes)
    peaks = np.asarray(prediction.peaks, np.float64)
    size = -(-len(peaks) // _MOST_COLUMNS)  # no more peaks than a page has columns
    columns = np.pad(peaks, (0, -len(peaks) % size)).reshape(-1, size).max(axis=1)
    times_s = prediction.start_s + (np.arange(len(columns), dtype=np.float64) + 0.5) * size * PEAK_S
    heights = (columns / max(float(columns.max()), 1e-6)) ** 0.6  # quiet speech is visible next to shouts
    rows = {"wave": 2.2, **({"sure": 1.0} if classes or not prediction.dimensions else {})}
    rows |= {"curve": 1.4} if prediction.dimensions else {}
    has_plane = {"valence", "arousal"} <= prediction.dimensions.keys()
    with new_figure((PAGE_WIDTH_IN, 0.4 + sum(rows.values()))) as figure:
        panels = figure.subplot_mosaic(
            [[name, "plane"] if has_plane else [name] for name in rows],
            height_ratios=list(rows.values()),
            width_ratios=(3.0, 1.0) if has_plane else None,
        )
        wave, *below = (panels[name] for name in rows)
        wave.fill_between(times_s, -heights, heights, color=LINE, linewidth=0)
        for segment in segments:
            colour = colours[segment.label] if segment.label else MUTED
            inside = (times_s >= segment.start_s) & (times_s <= segment.end_s)
            if inside.any():
                wave.fill_between(times_s[inside], -heights[inside], heights[inside], color=colour, linewidth=0)
            wave.axvspan(segment.start_s, segment.end_s, ymax=0.035, color=colour, linewidth=0)
            ends_s, percent = [segment.start_s, segment.end_s], 100 * (segment.confidence or 0.0)
            if "sure" in panels:
                panels["sure"].fill_between(ends_s, 0, percent, color=colour, alpha=0.35, linewidth=0)
                panels["sure"].plot(ends_s, [percent, percent], color=colour, linewidth=1.6, solid_capstyle="butt")
        lengths = f"{clock(prediction.duration_s)}, speech {clock(prediction.speech_s)}"
        wave.set(ylim=(-1.08, 1.08), yticks=[])
        wave.set_title(f"{Path(prediction.file).name}  {lengths}")
        wave.grid(visible=False)
        if "sure" in panels:
            panels["sure"].set(ylim=(0, 100), ylabel="confidence, %")
        if "curve" in panels:
            draw_curves(panels["curve"], prediction)
        if has_plane:
            draw_plane(panels["plane"], prediction)
        for axes in (wave, *below):
            axes.set_xlim(prediction.start_s, prediction.end_s)
            axes.xaxis.set_major_formatter(lambda seconds, _: clock(seconds).removesuffix(".0"))
            axes.tick_params(labelbottom=axes is below[-1])
        present = [name for name in classes if any(segment.label == name for segment in segments)]
        handles = [Patch(color=colours[name], label=name) for name in present]
        if any(segment.rejected for segment in segments):
            handles.append(Patch(color=MUTED, label="rejected"))
        handles.append(Patch(color=LINE, label="no speech"))
        wave.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=10, handlelength=1.0)
    save_figure(figure, path)


def draw_curves(axes: Axes, prediction: Prediction) -> None:
    """Draw each dimension over time, with a step for every moment of speech and a gap where there is none."""
    for name, colour in zip(prediction.dimensions, SPARE_COLOURS, strict=False):
        times_s: list[float] = []
        numbers: list[float] = []
        for moment in prediction.curve:
            if times_s and moment.start_s > times_s[-1] + 1e-6:
                times_s.append(moment.start_s)
                numbers.append(np.nan)
            times_s += [moment.start_s, moment.end_s]
            numbers += [moment.dimensions[name]] * 2
        axes.plot(times_s, numbers, color=colour, linewidth=1.4, label=name)
    if all(0.0 <= number <= 1.0 for number in prediction.dimensions.values()):
        axes.set(ylim=(0.0, 1.0), yticks=[0.0, 0.5, 1.0])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=4, handlelength=1.0)


def draw_plane(axes: Axes, prediction: Prediction) -> None:
    """Draw the position of a recording in the valence-arousal plane (Russell 1980), and its path over time."""
    way = [(moment.dimensions["valence"], moment.dimensions["arousal"]) for moment in prediction.curve]
    axes.plot(*zip(*way, strict=True), color=MUTED, linewidth=0.8, marker=".", markersize=3)
    axes.plot(prediction.dimensions["valence"], prediction.dimensions["arousal"], "o", color=SPARE_COLOURS[0])
    axes.axhline(0.5, color=LINE, linewidth=0.8)
    axes.axvline(0.5, color=LINE, linewidth=0.8)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 1], yticks=[0, 1], xlabel="valence", ylabel="arousal", aspect="equal")
    axes.grid(visible=False)

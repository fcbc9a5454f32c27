"""Plots: the colour of each emotion, common settings, and inline SVG.

The colours of the eight most common emotions are distinguishable with protanopia, deuteranopia and tritanopia, on
white and dark backgrounds (tested).
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from serein.data.files import replacing
from serein.evaluation.calibration import CoveragePoint
from serein.evaluation.scores import ClassScore, SpeakerScore
from serein.metrics import FloatArray, expected_calibration_error, mean_of_known, reliability
from serein.metrics.titles import metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


INK, MUTED, LINE = "#1f2329", "#69707a", "#dfe3e8"
RIGHT, WRONG = "#2b5fc7", "#d9652b"
PAGE_WIDTH_IN = 9.0
PX_PER_POINT = 100.0 / 72.0  # on the page an inch of figure takes 100 CSS pixels
MOST_NAMED_SPEAKERS = 60
FEWEST_EMBEDDINGS = 5  # distinct ones: t-SNE crashes on equal ones
MOST_EMBEDDINGS = 2000
MOST_NAMED_CLASSES = 40
LONGEST_NAME = 18

EMOTION_COLOURS = {
    "angry": "#cc2f1f",
    "happy": "#f49c14",
    "sad": "#2b60ea",
    "neutral": "#a9abae",
    "fearful": "#8b4a99",
    "disgust": "#6aac53",
    "surprised": "#49a4f3",
    "calm": "#237661",
    "bored": "#8a6d4b",
    "excited": "#e76fa6",
    "frustrated": "#7d2340",
    "contempt": "#565d6b",
}
SPEAKER_COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#bbbbbb",
)  # Tol 2021, bright
SPARE_COLOURS = ("#b8a10a", "#5c4fc4", "#00939c", "#c25fb0", "#94a33c", "#a0522d")
_SAME_EMOTION = {
    "angry": ("anger", "ang"),
    "happy": ("happiness", "hap", "joy", "joyful"),
    "sad": ("sadness",),
    "neutral": ("neu",),
    "fearful": ("fear", "anxiety", "anxious", "fea"),
    "disgust": ("disgusted", "dis"),
    "surprised": ("surprise", "sur"),
    "bored": ("boredom",),
    "excited": ("excitement", "exc"),
    "frustrated": ("frustration", "fru"),
    "contempt": ("contemptuous",),
}
_GENDER_STYLE = {"female": ("#b1449b", "o"), "male": ("#1f8a84", "s")}
_USUAL_NAME = {name: usual for usual, names in _SAME_EMOTION.items() for name in names}
_STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
}


def emotion_colours(classes: Sequence[str]) -> dict[str, str]:
    """Return a colour for every class: the fixed one of a well-known emotion, or the next spare one.

    Example:
        >>> emotion_colours(["anger", "happy", "nostalgic"])
        {'anger': '#cc2f1f', 'happy': '#f49c14', 'nostalgic': '#b8a10a'}
    """
    usual = {name: _USUAL_NAME.get(name.casefold(), name.casefold()) for name in classes}
    others = [name for name in classes if usual[name] not in EMOTION_COLOURS]
    spare = {name: SPARE_COLOURS[i % len(SPARE_COLOURS)] for i, name in enumerate(others)}
    return {name: spare.get(name) or EMOTION_COLOURS[usual[name]] for name in classes}


def speaker_colours(speakers: Sequence[str]) -> dict[str, str]:
    """Return a colour for every speaker, in the order of their names; colours repeat."""
    return {name: SPEAKER_COLOURS[i % len(SPEAKER_COLOURS)] for i, name in enumerate(sorted(set(speakers)))}


@contextmanager
def new_figure(size_in: tuple[float, float]) -> Iterator[Figure]:
    """Yield an empty figure, to be filled inside the block, where the common style applies."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=size_in, layout="constrained")


PICTURE_SUFFIXES = (".png", ".svg", ".pdf")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure on a white background, in the format of the suffix (png, svg, pdf)."""
    import matplotlib

    with replacing(path) as partial, matplotlib.rc_context(_STYLE):
        figure.savefig(
            partial, format=Path(path).suffix.removeprefix("."), dpi=150, facecolor="white", bbox_inches="tight"
        )


def figure_svg(figure: Figure, *, name: str) -> Markup:
    """Return a figure as an ``<svg>`` element to embed in a page.

    Ink, muted ink and lines use the page's ``currentColor``, ``--muted`` and ``--line``. The same figure and
    name give the same bytes.
    """
    import matplotlib

    page, metadata = io.StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # Names in any script stay text in SVG, so the font that Matplotlib measures with need not contain them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(page, format="svg", dpi=180, metadata=metadata, bbox_inches="tight", pad_inches=0.02)
    svg = page.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    size = r'width="([\d.]+)pt" height="[\d.]+pt"'
    if (found := re.search(size, svg)) is not None:
        # A picture shrinks with the page, until its text would be too small; then it scrolls.
        widest_px = round(float(found[1]) * PX_PER_POINT)
        style = f'style="width:100%;max-width:{widest_px}px;min-width:{min(round(0.7 * widest_px), 620)}px"'
        svg = svg.replace(found[0], style, 1)
    for colour, variable in ((INK, "currentColor"), (MUTED, "var(--muted)"), (LINE, "var(--line)")):
        svg = svg.replace(colour, variable)
    return Markup(svg.strip())  # noqa: S704  (Matplotlib escapes every text that it draws)


@dataclass(frozen=True)
class Curve:
    """The curves of one training of one stage, by epoch; a missing value is NaN.

    Attributes:
        run: The training, for example "fold 1, seed 0".
        stage: The stage of the training.
        dev_score: The score that is monitored on dev, 0 to 1.
        score: The name of that score.
    """

    run: str
    stage: str
    epoch: tuple[int, ...]
    train_loss: tuple[float, ...]
    dev_loss: tuple[float, ...]
    dev_score: tuple[float, ...]
    score: str = "ua"


Series = dict[int, list[float]]  # epoch -> values of all trainings


@dataclass(frozen=True)
class StageCurves:
    """The curves of one stage.

    Attributes:
        scores: Task -> dev score by epoch: unweighted accuracy, or 1 - word error rate for transcripts.
        cosines: "a and b" -> cosine of the two tasks' gradients on the layers that they share, by epoch.
    """

    stage: str
    scores: Mapping[str, Series]
    cosines: Mapping[str, Series]


def confusion_picture(confusion: NDArray[Any], classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix: per cent of each true class, and counts.

    Args:
        confusion: ``(classes, classes)`` counts, rows truth and columns prediction.
        classes: Class names; with more than 40, names and numbers are left out.
    """
    if len(classes) > MOST_NAMED_CLASSES:
        fractions = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        with new_figure((PAGE_WIDTH_IN, PAGE_WIDTH_IN * 0.92)) as figure:
            axes = figure.add_subplot()
            axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xlabel=f"predicted, of {len(fractions)} classes", ylabel="true")
            axes.grid(visible=False)
        return figure
    size = min(PAGE_WIDTH_IN, 1.7 + 0.66 * len(classes))
    with new_figure((size, size * 0.92)) as figure:
        draw_confusion(figure.add_subplot(), confusion, classes)
    return figure


def draw_confusion(axes: Axes, confusion: NDArray[Any], classes: Sequence[str]) -> None:
    """Fill axes with a confusion matrix, (true class, predicted class)."""
    from matplotlib.patches import Rectangle

    support = confusion.sum(axis=1)
    fractions = np.nan_to_num(confusion / np.maximum(support[:, None], 1))
    for row, column in np.ndindex(*confusion.shape):
        count, fraction = int(confusion[row, column]), float(fractions[row, column])
        colour = RIGHT if row == column else WRONG
        strength = 0.04 + 0.96 * fraction if count else 0.03
        axes.add_patch(Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, color=colour, alpha=strength, linewidth=0))
        ink = "white" if strength > 0.68 else (INK if count else MUTED)
        axes.text(column, row - 0.1, f"{100 * fraction:.0f}" if count else "·", ha="center", va="center", color=ink)
        if count:
            axes.text(column, row + 0.24, str(count), ha="center", va="center", color=ink, fontsize=6.5, alpha=0.8)
    limits, ticks = (-0.5, len(classes) - 0.5), range(len(classes))
    rotation = 40 if max(map(len, classes)) * len(classes) > 50 else 0
    axes.set(xlim=limits, ylim=limits[::-1], xlabel="predicted", ylabel="true", aspect="equal")
    axes.set_xticks(ticks, classes, rotation=rotation, ha="right" if rotation else "center", rotation_mode="anchor")
    axes.set_yticks(ticks, [f"{name}  ({count})" for name, count in zip(classes, support, strict=True)])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def class_picture(by_class: Sequence[ClassScore]) -> Figure:
    """Draw recall and F1 of every class, in per cent."""
    colours = emotion_colours([score.name for score in by_class])
    with new_figure((5.6, 0.7 + 0.36 * len(by_class))) as figure:
        axes = figure.add_subplot()
        for row, score in enumerate(by_class):
            bars = ((row - 0.19, score.recall, 1.0, 7.5), (row + 0.19, score.f1, 0.42, 6.5))
            for place, value, alpha, font_size in bars:
                axes.barh(place, value or 0.0, height=0.34, color=colours[score.name], alpha=alpha, linewidth=0)
                is_long = value is not None and value > 94  # its label is inside the bar
                axes.text(
                    (value or 0.0) + (-0.6 if is_long else 0.6),
                    place,
                    "–" if value is None else f"{value:.1f}",
                    va="center_baseline",
                    ha="right" if is_long else "left",
                    fontsize=font_size,
                    color="white" if is_long else MUTED,
                )
        axes.set(xlim=(0, 100), ylim=(len(by_class) - 0.4, -0.6), xlabel="per cent")
        axes.set_title("Recall (full colour) and F1 (pale)")
        axes.set_yticks(range(len(by_class)), [score.name for score in by_class])
        axes.grid(visible=False, axis="y")
        axes.tick_params(length=0)
    return figure


def speaker_picture(speakers: Sequence[SpeakerScore], overall: float) -> Figure:
    """Draw the UA of every speaker from best to worst, and the pooled UA as a line; all in per cent."""
    ordered = sorted(speakers, key=lambda speaker: -speaker.ua)
    with new_figure((PAGE_WIDTH_IN, 3.3)) as figure:
        axes = figure.add_subplot()
        axes.vlines(range(len(ordered)), overall, [s.ua for s in ordered], color=LINE, linewidth=1.2)
        axes.axhline(overall, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
        for gender in dict.fromkeys(sorted((s.gender for s in ordered), key=str)):
            colour, marker = _GENDER_STYLE.get(gender or "", (MUTED, "D"))
            places = [i for i, speaker in enumerate(ordered) if speaker.gender == gender]
            scores = [ordered[i].ua for i in places]
            label = gender or "gender unknown"
            axes.scatter(places, scores, s=34, color=colour, marker=marker, linewidths=0, label=label, zorder=3)
        lowest = max(0.0, 10.0 * np.floor(min(s.ua for s in ordered) / 10.0 - 0.3))
        axes.set(ylim=(lowest, 102.0), xlim=(-0.8, len(ordered) - 0.2), ylabel="UA, per cent")
        pooled = (1, overall)
        axes.annotate(f" pooled {overall:.1f}", pooled, xycoords=("axes fraction", "data"), va="center", color=MUTED)
        names = [s.name for s in ordered] if len(ordered) <= MOST_NAMED_SPEAKERS else []
        names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in names]
        rotation = 90 if len(names) * (max(map(len, names), default=0) + 1) > 110 else 0
        axes.set_xticks(range(len(names)), names, rotation=rotation, fontsize=8 if len(names) <= 32 else 6)
        axes.set_xlabel("speaker" if names else f"{len(ordered)} speakers")
        axes.grid(visible=False, axis="x")
        axes.tick_params(length=0)
        axes.legend(loc="lower left", ncols=3, handletextpad=0.1)
    return figure


def curves_picture(curves: Sequence[Curve]) -> Figure:
    """Draw loss and monitored dev score over the epochs of each stage: thin lines for trainings, thick for their mean.

    The mean is drawn for epochs that at least half of the trainings have.
    """
    stages = list(dict.fromkeys(curve.stage for curve in curves))
    with new_figure((PAGE_WIDTH_IN, 2.9 * len(stages))) as figure:
        panels = figure.subplots(len(stages), 2, squeeze=False)
        for (loss_axes, score_axes), stage in zip(panels, stages, strict=True):
            inside = [curve for curve in curves if curve.stage == stage]
            title = f"{stage}: " if len(stages) > 1 else ""
            _draw_curves(loss_axes, inside, "train_loss", MUTED, "train")
            _draw_curves(loss_axes, inside, "dev_loss", WRONG, "dev")
            metric = metric_of(inside[0].score)
            _draw_curves(score_axes, inside, "dev_score", RIGHT, "dev", scale=100.0 if metric.is_per_cent else 1.0)
            _curve_axes(loss_axes, f"{title}loss")
            _curve_axes(score_axes, f"{title}dev {metric.title}{', per cent' if metric.is_per_cent else ''}")
    return figure


def task_curves_picture(curves: Sequence[StageCurves]) -> Figure:
    """Draw each stage's dev scores of all its tasks and, next to them, the cosines between their gradients."""
    with new_figure((PAGE_WIDTH_IN, 2.9 * len(curves))) as figure:
        panels = figure.subplots(len(curves), 2, squeeze=False)
        for (left, right), stage in zip(panels, curves, strict=True):
            title = f"{stage.stage}: " if len(curves) > 1 else ""
            _draw_tasks(left, stage.scores, f"{title}dev score of each task, per cent", scale=100.0)
            _draw_tasks(right, stage.cosines, f"{title}cosine of gradients", scale=1.0)
            if stage.cosines:
                right.axhline(0.0, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    return figure


def embedding_picture(
    embeddings: NDArray[Any], emotions: Sequence[str], speakers: Sequence[str] | None, classes: Sequence[str]
) -> Figure:
    """Draw embeddings of one model in two dimensions (t-SNE), coloured by emotion and by speaker.

    Of more than 2000 utterances, a random subset is drawn; the picture of the same embeddings is always the same.

    Args:
        embeddings: ``(utterances, features)``, finite, at least `FEWEST_EMBEDDINGS` of them distinct.
        emotions: True class of each utterance.
        speakers: Speaker of each utterance, or `None` for only the left panel.
        classes: Class names, in the order of the legend.
    """
    chosen = thinned(len(embeddings))
    places = tsne(np.asarray(embeddings, np.float64)[chosen])
    width, height = np.ptp(places, axis=0)  # the figure has the proportions of the points, within limits
    height_in = 0.9 + float(np.clip(4.3 * height / max(width, 1e-9), 2.0, 4.6))
    colours = emotion_colours(classes)
    with new_figure((PAGE_WIDTH_IN, height_in)) as figure:
        panels = figure.subplots(1, 1 if speakers is None else 2, squeeze=False)[0]
        draw_map(panels[0], places, [emotions[i] for i in chosen], colours, "Emotion")
        if speakers is not None:
            draw_map(panels[1], places, [speakers[i] for i in chosen], speaker_colours(speakers), "Speaker")
    return figure


def _draw_curves(axes: Axes, curves: Sequence[Curve], values: str, colour: str, label: str, scale: float = 1.0) -> None:
    epochs = sorted({epoch for curve in curves for epoch in curve.epoch})
    table = np.full((len(curves), len(epochs)), np.nan)
    for row, curve in enumerate(curves):
        table[row, np.searchsorted(epochs, curve.epoch)] = scale * np.array(getattr(curve, values), float)
    if np.isnan(table).all():
        return
    for line in table if len(table) > 1 else ():
        axes.plot(epochs, line, color=colour, linewidth=0.8, alpha=0.4)
    mean = np.where(2 * (~np.isnan(table)).sum(axis=0) >= len(table), mean_of_known(table.T), np.nan)
    axes.plot(epochs, mean, color=colour, linewidth=2.2, label=label, marker="o" if len(epochs) == 1 else None)


def _draw_tasks(axes: Axes, series: Mapping[str, Series], title: str, *, scale: float) -> None:
    for place, (name, values) in enumerate(series.items()):
        epochs = sorted(values)
        means = [scale * float(np.mean(values[epoch])) for epoch in epochs]
        axes.plot(epochs, means, color=SPARE_COLOURS[place % len(SPARE_COLOURS)], linewidth=1.8, label=name)
    _curve_axes(axes, title, "only one task, or no trained layers below the heads")
    if series:
        axes.legend()  # a single curve also has a name


def _curve_axes(axes: Axes, title: str, why_empty: str = "not recorded") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title)
    if not axes.lines:
        axes.text(0.0, 0.9, why_empty, transform=axes.transAxes, color=MUTED)
        axes.set_axis_off()
        return
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(length=0)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend()


def thinned(count: int) -> NDArray[np.int64]:
    """Return the positions of the utterances to draw, always the same."""
    if count <= MOST_EMBEDDINGS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, MOST_EMBEDDINGS, replace=False))


def tsne(embeddings: FloatArray) -> FloatArray:
    """Return points in two dimensions, (utterance, 2), that are close where embeddings, (utterance, feature), are."""
    from sklearn.manifold import TSNE

    embeddings = (embeddings - embeddings.mean(axis=0)) / embeddings.std()
    perplexity = min(30.0, (len(embeddings) - 1) / 3.0)
    reduction = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=0)
    places: FloatArray = reduction.fit_transform(embeddings)
    return places


def draw_map(axes: Axes, places: FloatArray, names: Sequence[str], colours: dict[str, str], title: str) -> None:
    """Fill axes with points, (utterance, 2), in the colours of their names."""
    x, y = places.T
    size = float(np.clip(6000 / len(names), 8, 24))
    axes.scatter(x, y, c=[colours[name] for name in names], s=size, alpha=0.8, linewidths=0, rasterized=True)
    present = [name for name in colours if name in set(names)]
    axes.set_title(title if len(present) <= 12 else f"{title} ({len(present)}; colours repeat)")
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.set_adjustable("datalim")
    axes.spines[:].set_visible(False)
    if len(present) <= 12:
        handles = [axes.scatter([], [], s=24, color=colours[name], linewidths=0, label=name) for name in present]
        axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4, handletextpad=0.1)


Confidences = tuple[FloatArray, NDArray[np.bool_]]  # (predictions,) confidence, 0 to 1, and whether it is correct


def reliability_picture(confidences: Mapping[str, Confidences]) -> Figure:
    """Draw accuracy at each level of confidence, and a histogram of confidences.

    Args:
        confidences: Title -> confidence and correctness, one panel each, such as before and after calibration.
    """
    size = (min(PAGE_WIDTH_IN, 0.4 + 4.6 * len(confidences)), 4.4)
    with new_figure(size) as figure:
        panels = figure.subplots(2, len(confidences), sharex=True, sharey="row", height_ratios=(3.4, 1), squeeze=False)
        for (axes, below), (title, (confidence, is_correct)) in zip(panels.T, confidences.items(), strict=True):
            expected, observed, count = reliability(confidence, is_correct)
            axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
            axes.plot(100 * expected, 100 * observed, color=RIGHT, linewidth=1.4)
            sizes = 12.0 + 240.0 * count / count.sum()
            axes.scatter(100 * expected, 100 * observed, s=sizes, color=RIGHT, linewidths=0, clip_on=False, zorder=3)
            axes.set(xlim=(0, 100), ylim=(0, 100))
            error = 100 * expected_calibration_error(confidence, is_correct)
            axes.set_title(f"{title}: error {error:.1f} points" if title else f"Calibration error {error:.1f} points")
            below.bar(np.arange(5, 100, 10), 100 * count / count.sum(), width=9, color=RIGHT, alpha=0.4)
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

"""The style of plots: the colour of each emotion, common settings, and inline SVG.

The colours of the eight most usual emotions are distinguishable under protanopia, deuteranopia and tritanopia, on
white and on dark paper (tested).
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, LINE = "#1f2329", "#69707a", "#dfe3e8"
RIGHT, WRONG = "#2b5fc7", "#d9652b"
PAGE_WIDTH_IN = 9.0
PX_PER_POINT = 100.0 / 72.0  # on the page an inch of figure takes 100 CSS pixels

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
    """Return a colour for every class: the fixed one of a well-known emotion, else the next spare one.

    Example:
        >>> emotion_colours(["anger", "happy", "nostalgic"])
        {'anger': '#cc2f1f', 'happy': '#f49c14', 'nostalgic': '#b8a10a'}
    """
    usual = {name: _USUAL_NAME.get(name.casefold(), name.casefold()) for name in classes}
    others = [name for name in classes if usual[name] not in EMOTION_COLOURS]
    spare = {name: SPARE_COLOURS[i % len(SPARE_COLOURS)] for i, name in enumerate(others)}
    return {name: spare.get(name) or EMOTION_COLOURS[usual[name]] for name in classes}


def speaker_colours(speakers: Sequence[str]) -> dict[str, str]:
    """Return a colour for every speaker, in the order of their names; they repeat."""
    return {name: SPEAKER_COLOURS[i % len(SPEAKER_COLOURS)] for i, name in enumerate(sorted(set(speakers)))}


@contextmanager
def new_figure(size_in: tuple[float, float]) -> Iterator[Figure]:
    """Yield an empty figure, to be filled inside the block, where the common style holds."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=size_in, layout="constrained")


def figure_svg(figure: Figure, *, name: str) -> str:
    """Return a figure as an ``<svg>`` element for the inside of a page.

    Ink, muted ink and lines take the page's ``currentColor``, ``--muted`` and ``--line``. The same figure and
    name give the same bytes.
    """
    import matplotlib

    page, metadata = io.StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), _no_glyph_warnings():
        figure.savefig(page, format="svg", dpi=180, metadata=metadata, bbox_inches="tight", pad_inches=0.02)
    svg = page.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'width="([\d.]+)pt" height="[\d.]+pt"', _width_style, svg, count=1)
    for colour, variable in ((INK, "currentColor"), (MUTED, "var(--muted)"), (LINE, "var(--line)")):
        svg = svg.replace(colour, variable)
    return svg.strip()


@contextmanager
def _no_glyph_warnings() -> Iterator[None]:
    """Names in any script stay text in SVG, so that the font matplotlib measures with need not have them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _width_style(size: re.Match[str]) -> str:
    """Let a picture shrink with the page, until its text would be too small; then it scrolls."""
    widest_px = round(float(size[1]) * PX_PER_POINT)
    return f'style="width:100%;max-width:{widest_px}px;min-width:{min(round(0.7 * widest_px), 620)}px"'

"""Pictures: every function draws, colours can be told apart, SVG is safe and the same twice."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from serein.evaluation import plots
from serein.evaluation import plots as confidence_plots
from serein.evaluation import plots as style
from serein.evaluation.calibration import coverage_curve
from serein.evaluation.scores import ClassScore, SpeakerScore

CLASSES = ["angry", "calm", "sad"]

# Machado et al. 2009, severity 1.0, on linear RGB.
COLOUR_VISION = {
    "trichromacy": np.eye(3),
    "protanopia": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "deuteranopia": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "tritanopia": np.array([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one: str, other: str) -> float:
    dark, light = sorted(float(TO_XYZ[1] @ linear(colour)) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("vision", COLOUR_VISION)
def test_the_usual_emotions_are_told_apart_by_everyone(vision: str) -> None:
    usual = list(style.EMOTION_COLOURS.values())[:8]
    seen = [lab(COLOUR_VISION[vision] @ linear(colour)) for colour in usual]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


@pytest.mark.parametrize("paper", ["#ffffff", "#16181c"])
def test_emotions_stand_out_from_the_paper(paper: str) -> None:
    assert min(contrast(colour, paper) for colour in style.EMOTION_COLOURS.values()) > 1.8


def test_an_emotion_keeps_its_colour_in_every_corpus_and_company() -> None:
    assert style.emotion_colours(["Anger"])["Anger"] == style.emotion_colours(["x", "angry"])["angry"]
    assert len(set(style.emotion_colours(["x", "y", "z", "sad"]).values())) == 4


def class_scores() -> list[ClassScore]:
    return [
        ClassScore("angry", 99.0, 80.0, 88.0, 10),
        ClassScore("sad", 0.0, None, 0.0, 3),
        ClassScore("x", *[None] * 3, 0),
    ]


def speakers(count: int) -> list[SpeakerScore]:
    genders = ("female", "male", None)
    return [SpeakerScore(f"speaker {i}", genders[i % 3], 40.0 + i % 50, 50.0, 50.0, 9) for i in range(count)]


def curve(run: str, stage: str, length: int, **changes: tuple[float, ...]) -> plots.Curve:
    values = {"train_loss": (1.0,) * length, "dev_loss": (2.0,) * length, "dev_score": (0.5,) * length, **changes}
    return plots.Curve(run, stage, tuple(range(1, length + 1)), **values)


def embeddings(count: int = 30) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)


JUDGED = (np.array([0.5, 0.9, 1.0]), np.array([False, True, True]))
FIGURES = {
    "confusion": lambda: plots.confusion_picture(np.array([[3, 1, 0], [0, 5, 0], [0, 0, 0]]), CLASSES),
    "classes": lambda: plots.class_picture(class_scores()),
    "speakers": lambda: plots.speaker_picture(speakers(24), 60.0),
    "crowd": lambda: plots.speaker_picture(speakers(200), 60.0),
    "curves": lambda: plots.curves_picture([curve("a", "one", 3), curve("b", "one", 1), curve("a", "two", 2)]),
    "embedding": lambda: plots.embedding_picture(embeddings(), ["sad", "calm"] * 15, ["s"] * 30, CLASSES),
    "anonymous": lambda: plots.embedding_picture(embeddings(6), ["sad"] * 6, None, CLASSES),
    "reliability": lambda: confidence_plots.reliability_picture({"": JUDGED}),
    "two reliabilities": lambda: confidence_plots.reliability_picture({"before": JUDGED, "after": JUDGED}),
    "coverage": lambda: confidence_plots.coverage_picture(coverage_curve(*JUDGED)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_every_picture_is_valid_svg_and_the_same_twice(name: str) -> None:
    first, second = (style.figure_svg(FIGURES[name](), name=name) for _ in range(2))
    assert first == second
    assert ElementTree.fromstring(first).tag.endswith("svg")
    assert style.INK not in first


def texts(svg: str) -> set[str]:
    return {
        "".join(element.itertext()).strip() for element in ElementTree.fromstring(svg).iter() if "text" in element.tag
    }


def test_confusion_shows_probabilities_of_the_true_class_and_counts() -> None:
    shown = texts(style.figure_svg(FIGURES["confusion"](), name="c"))
    assert {"75", "25", "3", "1", "100", "5", "angry  (4)", "sad  (0)"} <= shown


@pytest.mark.parametrize("name", ["<script>", "$x$", "$\\frac{", "a&b", "日本"])
def test_names_are_drawn_as_they_are_written(name: str) -> None:
    svg = style.figure_svg(plots.confusion_picture(np.eye(2, dtype=int), [name, "sad"]), name="c")
    assert name in texts(svg)
    assert "<script" not in svg


def test_pictures_leave_the_users_matplotlib_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    FIGURES["confusion"]()
    assert dict(matplotlib.rcParams) == before


def test_missing_dev_scores_are_said_to_be_missing() -> None:
    nothing = (float("nan"),) * 2
    svg = style.figure_svg(plots.curves_picture([curve("a", "one", 2, dev_score=nothing, dev_loss=nothing)]), name="c")
    assert "not recorded" in texts(svg)

"""Predictions: segments worked out by hand, what is rejected, one dictionary, one table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from serein.errors import RecipeError
from serein.inference.prediction import (
    NO_REJECT_OPTION,
    Prediction,
    RejectOption,
    Segment,
    merged_segments,
    segment_of,
)
from serein.tasks.task import TaskPrediction, most_probable


def window(start_s: float, end_s: float, sad: float) -> Segment:
    return segment_of(most_probable({"calm": 1.0 - sad, "sad": sad}), start_s, end_s)


def rows(segments: tuple[Segment, ...]) -> list[tuple[float, float, str, float]]:
    return [(each.start_s, each.end_s, each.text, round(each.confidence or 0.0, 3)) for each in segments]


def merged(*windows: Segment, reject_option: RejectOption = NO_REJECT_OPTION) -> tuple[Segment, ...]:
    return merged_segments(windows, reject_option)


# -- segments ----------------------------------------------------------------------------------------------------------


def test_windows_that_overlap_are_averaged_where_they_do() -> None:
    found = merged(window(0, 4, 0.9), window(2, 6, 0.4), window(4, 8, 0.1))
    # 0-2: 0.9 sad; 2-4: 0.65 sad; 4-6: 0.25 sad; 6-8: 0.1 sad
    assert rows(found) == [(0, 4, "sad", 0.775), (4, 8, "calm", 0.825)]


def test_segments_end_where_speech_does() -> None:
    assert rows(merged(window(0, 2, 0.9), window(5, 6, 0.8))) == [(0, 2, "sad", 0.9), (5, 6, "sad", 0.8)]


def test_rejected_stretches_are_segments_without_a_label() -> None:
    windows = window(0, 1, 0.9), window(1, 2, 0.55), window(2, 3, 0.5)
    found = merged(*windows, reject_option=RejectOption(min_confidence=0.6))
    assert rows(found) == [(0, 1, "sad", 0.9), (1, 3, "low confidence", 0.525)]
    assert [each.label for each in found] == ["sad", None]


def test_segments_of_short_windows_are_rejected() -> None:
    option = RejectOption(min_duration_s=2.0)
    short = [segment_of(most_probable({"calm": 0.2, "sad": 0.8}), start, start + 1.0, "too short") for start in (0, 1)]
    found = merged(*short, window(3, 6, 0.9), reject_option=option)
    assert rows(found) == [(0, 2, "too short", 0.8), (3, 6, "sad", 0.9)]
    assert [(each.label, each.rejected) for each in found] == [(None, "too short"), ("sad", None)]
    assert rows(merged(window(0, 3, 0.9), short[0], reject_option=option)) == [(0, 3, "sad", 0.883)]


def test_segments_of_many_windows_tile_the_speech() -> None:
    rng = np.random.default_rng(0)
    found = merged(*(window(start, start + 3.0, rng.uniform()) for start in np.arange(0, 300, 1.5)))
    assert (found[0].start_s, found[-1].end_s) == (0.0, 301.5)
    assert all(a.end_s == b.start_s and a.label != b.label for a, b in zip(found, found[1:], strict=False))


def test_numbers_are_not_joined() -> None:
    """Of a task of regression every stretch keeps its own value."""
    windows = [
        segment_of(TaskPrediction(None, value=value), start, start + 2.0) for start, value in ((0, 1.0), (1, 2.0))
    ]
    found = merged(*windows)
    assert [(each.start_s, each.end_s, each.value, each.text) for each in found] == [
        (0, 1, 1.0, "1.00"),
        (1, 2, 1.5, "1.50"),
        (2, 3, 2.0, "2.00"),
    ]


# -- the reject option -------------------------------------------------------------------------------------------------


def test_the_length_is_asked_first() -> None:
    option = RejectOption(min_confidence=0.5, min_duration_s=0.3)
    assert option.reason(0.4, duration_s=0.2) == "too short"
    assert option.reason(0.5, duration_s=0.3) is None
    assert option.reason(None) is None  # a number has no confidence


@pytest.mark.parametrize(
    ("name", "value"), [("min_confidence", 1.1), ("min_confidence", -0.1), ("min_duration_s", -1.0)]
)
def test_a_reject_option_that_makes_no_sense_is_refused(name: str, value: float) -> None:
    with pytest.raises(RecipeError, match=f"^{name}: "):
        RejectOption(**{name: value})


# -- one dictionary, one table, one line -------------------------------------------------------------------------------

SEGMENTS = (window(0.0, 1.00049, 0.75), segment_of(most_probable({"calm": 0.5, "sad": 0.5}), 2, 3, "low confidence"))
PREDICTION = Prediction(
    "sad",
    2 / 3,
    {"calm": 1 / 3, "sad": 2 / 3},
    file="call.wav",
    segments=SEGMENTS,
    tasks={"gender": most_probable({"female": 0.9, "male": 0.1}), "asr": TaskPrediction("well then")},
    model={"name": "default", "sha256": "abc"},
    id="u1",
    start_s=4.0,
    duration_s=3.5,
)


def test_a_prediction_as_a_dictionary() -> None:
    content = PREDICTION.to_dict()
    assert json.loads(json.dumps(content)) == content
    assert content == {
        "file": "call.wav",
        "id": "u1",
        "start_s": 4.0,
        "end_s": 7.5,
        "task": "emotion",
        "label": "sad",
        "confidence": 0.666667,
        "probabilities": {"calm": 0.333333, "sad": 0.666667},
        "rejected": None,
        "segments": [
            {
                "start_s": 0,
                "end_s": 1.0,
                "label": "sad",
                "confidence": 0.75,
                "probabilities": {"calm": 0.25, "sad": 0.75},
                "rejected": None,
            },
            {
                "start_s": 2,
                "end_s": 3,
                "label": None,
                "confidence": 0.5,
                "probabilities": {"calm": 0.5, "sad": 0.5},
                "rejected": "low confidence",
            },
        ],
        "tasks": {
            "gender": {"label": "female", "confidence": 0.9, "probabilities": {"female": 0.9, "male": 0.1}},
            "asr": {"label": "well then", "confidence": None, "probabilities": {}},
        },
        "model": {"name": "default", "sha256": "abc"},
    }


def test_what_holds_no_speech_has_the_same_keys() -> None:
    silent = Prediction(None, rejected="no speech", file="rain.wav").to_dict()
    assert set(silent) == set(PREDICTION.to_dict())
    nothing = {name: silent[name] for name in ("label", "confidence", "probabilities", "segments", "rejected")}
    assert nothing == {
        "label": None,
        "confidence": None,
        "probabilities": {},
        "segments": [],
        "rejected": "no speech",
    }


def test_a_table_has_a_row_for_each_segment() -> None:
    frame = PREDICTION.to_frame()
    assert list(frame.columns) == ["file", "start_s", "end_s", "label", "confidence", "rejected", "calm", "sad"]
    assert (frame["label"].dropna().tolist(), frame["rejected"].dropna().tolist()) == (["sad"], ["low confidence"])
    assert frame["sad"].tolist() == [0.75, 0.5]
    empty = Prediction(None, rejected="no speech").to_frame()
    assert (len(empty), list(empty.columns)[:3]) == (0, ["file", "start_s", "end_s"])


def test_it_is_shown_on_one_line() -> None:
    many = Prediction("sad", 0.75, {"sad": 0.75}, file="a.wav", segments=SEGMENTS * 1000, peaks=np.ones(10**5))
    assert repr(many) == "Prediction(file='a.wav', emotion='sad', confidence=0.750, segments=2000)"
    rejected = Prediction(None, rejected="no speech", file="a.wav")
    assert repr(rejected) == "Prediction(file='a.wav', emotion=None, rejected='no speech', segments=0)"
    assert (many.text, rejected.text) == ("sad", "no speech")

"""Emotions over time: segments worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from serein.inference.segments import NO_REJECT_OPTION, RejectOption, Segment, Timeline


def heard(start_s: float, end_s: float, sad: float) -> Segment:
    return Segment(start_s, end_s, {"calm": 1.0 - sad, "sad": sad})


def timeline(*windows: Segment, reject_option: RejectOption = NO_REJECT_OPTION) -> Timeline:
    return Timeline(
        "a.wav",
        60.0,
        10.0,
        windows,
        np.zeros(1, np.float32),
        np.zeros(1, np.float32),
        0.05,
        reject_option=reject_option,
    )


def rows(found: Timeline) -> list[tuple[float, float, str, float]]:
    return [(each.start_s, each.end_s, each.label_or_rejection, round(each.confidence, 3)) for each in found.segments]


def test_windows_that_overlap_are_averaged_where_they_do() -> None:
    found = timeline(heard(0, 4, 0.9), heard(2, 6, 0.4), heard(4, 8, 0.1))
    # 0-2: 0.9 sad; 2-4: 0.65 sad; 4-6: 0.25 sad; 6-8: 0.1 sad
    assert rows(found) == [(0, 4, "sad", 0.775), (4, 8, "calm", 0.825)]


def test_passages_end_where_speech_does() -> None:
    assert rows(timeline(heard(0, 2, 0.9), heard(5, 6, 0.8))) == [(0, 2, "sad", 0.9), (5, 6, "sad", 0.8)]


def test_probabilities_of_the_whole_are_weighted_by_length() -> None:
    assert timeline(heard(0, 3, 1.0), heard(4, 5, 0.0)).probabilities == pytest.approx({"calm": 0.25, "sad": 0.75})


def test_passages_without_an_answer() -> None:
    found = timeline(
        heard(0, 1, 0.9), heard(1, 2, 0.55), heard(2, 3, 0.5), reject_option=RejectOption(min_confidence=0.6)
    )
    assert rows(found) == [(0, 1, "sad", 0.9), (1, 3, "low confidence", 0.525)]


def test_passages_of_many_windows_tile_the_speech() -> None:
    rng = np.random.default_rng(0)
    windows = [heard(start, start + 3.0, rng.uniform()) for start in np.arange(0, 300, 1.5)]
    segments = timeline(*windows).segments
    assert (segments[0].start_s, segments[-1].end_s) == (0.0, 301.5)
    assert all(a.end_s == b.start_s and a.label != b.label for a, b in zip(segments, segments[1:], strict=False))


def test_json() -> None:
    assert heard(0, 1.00049, 0.75).to_json() == {
        "start_s": 0,
        "end_s": 1.0,
        "label": "sad",
        "rejected": None,
        "confidence": 0.75,
        "probabilities": {"calm": 0.25, "sad": 0.75},
    }
    rejected = Segment(0, 1, {"calm": 0.5, "sad": 0.5}, "low confidence").to_json()
    assert (rejected["label"], rejected["rejected"]) == (None, "low confidence")

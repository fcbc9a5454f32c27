"""What the page shows: every text escaped, tables only where there is something, files that hold the answer."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from serein.inference.segments import RejectOption, Segment, Timeline
from serein.server import page_parts as parts
from serein.server.neighbours import Neighbours
from serein.server.schemas import NearestWord, Neighbour, PredictionResponse, prediction_response

EVIL = '<script>alert("1")</script>'


@pytest.fixture
def timeline() -> Timeline:
    windows = (
        Segment(0.5, 2.0, {"happy": 0.75, "sad": 0.25}, None),
        Segment(3.0, 4.0, {"happy": 0.5, "sad": 0.5}, "low confidence"),
    )
    sound = (np.zeros(3, np.float32), np.full(90, 0.3, np.float32), 0.05)
    return Timeline(EVIL, 4.5, 2.5, windows, *sound, "emotion", RejectOption(min_confidence=0.6))


def reply(**changes: Any) -> PredictionResponse:
    probabilities = {"happy": 0.25, EVIL: 0.75}
    fields = {
        "file": EVIL,
        "task": "emotion",
        "duration_s": 1.0,
        "label": EVIL,
        "confidence": 0.75,
        "probabilities": probabilities,
    }
    return PredictionResponse(**{**fields, **changes})


def files(html: str) -> dict[str, str]:
    """Return what the links of a page carry."""
    found = re.findall(r'download="([^"]+)" href="data:[^;]+;base64,([^"]+)"', html)
    return {name: base64.b64decode(content).decode() for name, content in found}


def test_everything_is_escaped(timeline: Timeline) -> None:
    body = reply(words=[NearestWord(word=EVIL, cosine=0.5)], neighbours=[Neighbour(id=EVIL, label=EVIL, distance=0.5)])
    html = (parts.picture(timeline, EVIL), parts.probabilities(body), parts.nearest(body), parts.complaint(EVIL))
    for each in html:
        assert "<script" not in each
        assert "&lt;script" in each


def test_probabilities_are_bars_in_order() -> None:
    html = parts.probabilities(reply())
    assert re.findall(r"width:([\d.]+)%", html) == ["75.0", "25.0"]
    assert re.findall(r"(\d+) %</td>", html) == ["75", "25"]


def test_what_is_withheld_is_said() -> None:
    html = parts.probabilities(reply(label=None, rejected="too short"))
    assert "<h2>too short, 75 %</h2>" in html


def test_passages_are_a_table_where_there_are_some(timeline: Timeline) -> None:
    cells = re.findall(r"<td>([^<]*)</td>", parts.segments(prediction_response(timeline, Neighbours())))
    assert cells == ["0:00.5", "0:02.0", "happy", "75 %", "0:03.0", "0:04.0", "don&#x27;t know", "50 %"]
    assert parts.segments(reply()) == ""


def test_nearest_words_and_clips_are_tables_where_there_are_some() -> None:
    assert parts.nearest(reply()) == ""
    clip = Neighbour(id="a-1", label="sad", speaker="anna", corpus="tones", distance=0.25)
    html = parts.nearest(reply(words=[NearestWord(word="gloomy", cosine=0.5)], neighbours=[clip]))
    assert re.findall(r"<td>([^<]*)</td>", html) == ["gloomy", "0.50", "sad", "a-1", "anna", "tones", "0.25"]


def test_downloads_hold_the_answer(timeline: Timeline) -> None:
    body = prediction_response(timeline, Neighbours())
    kept = files(parts.downloads(body))
    assert PredictionResponse.model_validate(json.loads(kept["serein.json"])) == body
    rows = list(csv.DictReader(io.StringIO(kept["serein.csv"])))
    assert [(row["start_s"], row["end_s"], row["label"], row["happy"]) for row in rows] == [
        ("0.5", "2.0", "happy", "0.75"),
        ("3.0", "4.0", "low confidence", "0.5"),
    ]
    whole = list(csv.DictReader(io.StringIO(files(parts.downloads(reply()))["serein.csv"])))
    assert [(row["start_s"], row["end_s"], row["confidence"]) for row in whole] == [("0.0", "1.0", "0.75")]

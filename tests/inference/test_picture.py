"""A recording as a picture."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from serein.inference.picture import save_picture
from serein.inference.prediction import Prediction, Segment


def test_text_stays_text_in_svg(tmp_path: Path) -> None:
    probabilities = {"happy": 0.8, "sad": 0.2}
    segment = Segment("happy", 0.8, probabilities, start_s=0.0, end_s=2.0)
    prediction = Prediction(
        "happy", 0.8, probabilities, file="a/call.wav", segments=(segment,), duration_s=2.0, speech_s=2.0,
        peaks=np.ones(40, np.float32),
    )  # fmt: skip
    save_picture(prediction, tmp_path / "call.svg")
    page = ElementTree.parse(tmp_path / "call.svg")
    texts = {"".join(element.itertext()).strip() for element in page.iter() if element.tag.endswith("text")}
    assert {"call.wav  0:02.0, speech 0:02.0", "confidence, %", "happy", "no speech"} <= texts

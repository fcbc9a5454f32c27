"""Label files, to the letter, and read back by rules of the formats."""

from __future__ import annotations

import re

import numpy as np

from serein.inference.segments import RejectOption, Segment, Timeline
from serein.inference.writers import audacity, textgrid


def heard(start_s: float, end_s: float, sad: float) -> Segment:
    return Segment(start_s, end_s, {"calm": 1.0 - sad, "sad": sad})


def timeline(duration_s: float, *windows: Segment, min_confidence: float = 0.0) -> Timeline:
    nothing = np.zeros(1, np.float32)
    return Timeline(
        "a.wav", duration_s, 3.0, windows, nothing, nothing, 0.05, reject_option=RejectOption(min_confidence)
    )


SMALL = timeline(5.0, heard(1.0, 2.0, 0.9), heard(2.0, 3.0, 0.25), heard(4.0, 5.0, 0.6), min_confidence=0.7)


def test_audacity() -> None:
    assert audacity(SMALL) == (
        "1.000000\t2.000000\tsad 0.90\n2.000000\t3.000000\tcalm 0.75\n4.000000\t5.000000\tlow confidence 0.60\n"
    )


def test_textgrid() -> None:
    lines = textgrid(SMALL).splitlines()
    assert lines[:8] == [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        "xmax = 5.000000",
        "tiers? <exists>",
        "size = 2",
        "item []:",
    ]
    tier = "\n".join(lines[8 : lines.index("    item [2]:")])
    texts = re.findall(r"xmin = ([\d.]+)\n\s+xmax = ([\d.]+)\n\s+text = \"(.*)\"", tier)
    assert texts == [
        ("0.000000", "1.000000", ""),
        ("1.000000", "2.000000", "sad"),
        ("2.000000", "3.000000", "calm"),
        ("3.000000", "4.000000", ""),
        ("4.000000", "5.000000", "low confidence"),
    ]
    assert "intervals: size = 5" in tier


def test_textgrids_have_no_gaps_even_after_rounding() -> None:
    rng = np.random.default_rng(1)
    starts = np.cumsum(rng.uniform(0.5, 2.0, 50))
    windows = [heard(start, start + rng.uniform(0.3, 3.0), rng.uniform()) for start in starts]
    text = textgrid(timeline(float(starts[-1]) + 1.0, *sorted(windows, key=lambda each: each.start_s)))
    for tier in text.split("    item [")[1:]:
        bounds = re.findall(r"intervals \[\d+\]:\n\s+xmin = ([\d.]+)\n\s+xmax = ([\d.]+)", tier)
        assert bounds[0][0] == "0.000000"
        assert all(before[1] == after[0] for before, after in zip(bounds, bounds[1:], strict=False))
        assert all(float(low) < float(high) for low, high in bounds)


def test_quotes_are_doubled() -> None:
    strange = timeline(1.0, Segment(0.0, 1.0, {'so "sad"': 1.0}))
    assert 'text = "so ""sad"""' in textgrid(strange)

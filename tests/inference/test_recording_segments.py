"""Windows: they cover the speech and nothing else, wherever the blocks end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serein.errors import RecipeError
from serein.inference import recording as module
from serein.inference.recording import SlidingWindow, Window, WindowCutter
from serein.inference.vad import FRAME, SpeechDetector
from speech_sounds import RATE_HZ, voiced

RNG = np.random.default_rng(0)
SECOND = np.zeros(RATE_HZ, np.float32)
FRAME_S = FRAME / RATE_HZ


class Told:
    """A detector that says what a test tells it, frame by frame."""

    def __init__(self, likely: np.ndarray) -> None:
        self.likely = np.asarray(likely, np.float32)
        self.num_samples = 0
        self.said = 0

    def feed(self, waveform: np.ndarray) -> np.ndarray:
        self.num_samples += len(waveform)
        return self._up_to(self.num_samples // FRAME)

    def finish(self) -> np.ndarray:
        return self._up_to(-(-self.num_samples // FRAME))

    def _up_to(self, frame: int) -> np.ndarray:
        start, self.said = self.said, frame
        return self.likely[start:frame]


def sound(likely: np.ndarray) -> np.ndarray:
    """Return noise, loud in the frames that are likely speech at all."""
    noise = np.random.default_rng(0).standard_normal(len(likely) * FRAME)
    return (noise * np.repeat(np.where(likely > 0, 0.1, 1e-4), FRAME)).astype(np.float32)


def cut(
    likely: np.ndarray, sliding_window: SlidingWindow, block: int = 10**9, samples: np.ndarray | None = None
) -> list[Window]:
    """Cut samples, `sound` unless they are given, whose frames are as likely speech as told."""
    cutter = WindowCutter(sliding_window)
    cutter.detector = Told(likely)  # type: ignore[assignment]
    samples = sound(likely) if samples is None else samples
    found = []
    for start in range(0, len(samples), block):
        found += cutter.feed(samples[start : start + block])
    return found + cutter.finish()


def frames(*runs: tuple[int, float]) -> np.ndarray:
    return np.concatenate([np.full(count, likely) for count, likely in runs])


def places(found: list[Window]) -> list[tuple[float, float]]:
    return [(window.start_s, window.end_s) for window in found]


def near(*expected: tuple[float, float]) -> list[Any]:
    """Return places that are met within 13 ms: levels are taken over 25 ms."""
    return [pytest.approx(place, abs=0.0131) for place in expected]


PLAIN = SlidingWindow(window_s=1.024, step_s=0.512, min_silence_s=0.32, min_speech_s=0.256, speech_pad_s=0.0)


def test_a_short_stretch_is_one_window() -> None:
    found = cut(frames((10, 0), (20, 1), (30, 0)), PLAIN)
    assert places(found) == near((0.32, 0.96))
    samples = sound(frames((10, 0), (20, 1), (30, 0)))
    end = found[0].start + len(found[0].waveform)
    np.testing.assert_array_equal(found[0].waveform, samples[found[0].start : end])


def test_a_long_stretch_is_windows_that_overlap_and_the_last_ends_with_it() -> None:
    found = cut(frames((70, 1), (30, 0)), PLAIN)  # 2.24 s
    assert places(found) == near((0.0, 1.024), (0.512, 1.536), (1.024, 2.048))
    found = cut(frames((75, 1), (30, 0)), PLAIN)  # 2.4 s: what is left is as long as the shortest speech
    assert places(found)[-1:] == near((2.4 - 1.024, 2.4))


def test_speech_up_to_the_end_is_heard() -> None:
    assert places(cut(frames((5, 0), (20, 1)), PLAIN)) == near((0.16, 0.8))


def test_pauses_do_not_end_a_stretch_and_longer_silence_does() -> None:
    assert places(cut(frames((10, 1), (9, 0), (10, 1)), PLAIN)) == near((0.0, 29 * FRAME_S))
    assert places(cut(frames((10, 1), (10, 0), (10, 1)), PLAIN)) == near((0.0, 0.32), (0.64, 0.96))


def test_hysteresis() -> None:
    """Speech begins at 0.5, goes on down to 0.35, and after a drop begins at 0.5 again."""
    assert cut(frames((20, 0.45)), PLAIN) == []
    assert places(cut(frames((5, 0.6), (10, 0.4)), PLAIN)) == near((0.0, 0.48))
    assert places(cut(frames((10, 0.6), (5, 0.0), (30, 0.4)), PLAIN)) == near((0.0, 0.32))


def test_margins() -> None:
    sliding_window = SlidingWindow(window_s=1.0, step_s=0.5, min_silence_s=0.32, min_speech_s=0.25, speech_pad_s=0.1)
    assert places(cut(frames((10, 0), (20, 1), (30, 0)), sliding_window)) == near((0.22, 1.06))  # 0.84 s: one window
    assert places(cut(frames((10, 1), (1, 0)), sliding_window)) == near((0.0, 0.352))  # no further than the recording


def test_what_is_too_short_is_passed_over() -> None:
    assert cut(frames((7, 1), (30, 0)), PLAIN) == []
    assert len(cut(frames((8, 1), (30, 0)), PLAIN)) == 1


def test_the_level_moves_an_edge_and_the_detector_does_not() -> None:
    """The detector may find quiet speech late, and lose it early; a knock apart from it is no part of it."""
    loud = np.where((np.arange(60) >= 20) & (np.arange(60) < 45), 0.1, 1e-4)
    samples = sound(np.ones(60)) / np.float32(0.1) * np.repeat(loud, FRAME).astype(np.float32)
    expected = near((20 * FRAME_S, 45 * FRAME_S))
    for first, last in ((20, 45), (26, 45), (20, 40), (18, 47), (30, 35)):
        likely = frames((first, 0), (last - first, 1), (60 - last, 0))
        assert places(cut(likely, PLAIN, samples=samples)) == expected, (first, last)
        knocking = samples.copy()
        knocking[12 * FRAME : 12 * FRAME + 80] = 0.9
        assert places(cut(likely, PLAIN, samples=knocking)) == expected, (first, last)
    quiet, offset = samples * np.float32(0.03), samples + np.float32(0.005)
    assert places(cut(likely, PLAIN, samples=quiet)) == expected
    assert places(cut(likely, PLAIN, samples=offset)) == expected


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from([0.0, 0.4, 1.0])), min_size=1, max_size=8),
    st.integers(1, 20_000),
    st.sampled_from(
        [PLAIN, SlidingWindow(), SlidingWindow(window_s=0.5, step_s=0.5), SlidingWindow(window_s=2.0, step_s=0.1)]
    ),
)
def test_the_same_windows_wherever_blocks_end(
    runs: list[tuple[int, float]], block: int, sliding_window: SlidingWindow
) -> None:
    likely = frames(*runs)
    whole, pieces = cut(likely, sliding_window), cut(likely, sliding_window, block=block)
    assert places(pieces) == places(whole)
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(one.waveform, other.waveform)
        np.testing.assert_array_equal(one.waveform, sound(likely)[one.start : one.start + len(one.waveform)])
        assert len(one.waveform) <= round(sliding_window.window_s * RATE_HZ)


@pytest.mark.parametrize("faded", [8, 14, 24])
def test_speech_that_fades_before_the_detector_lets_go_keeps_its_last_window(faded: int) -> None:
    likely = frames((170, 1.0))
    samples = sound(likely)
    samples[(170 - faded) * FRAME :] *= 0.03  # 30 dB, which no edge counts as speech
    for block in (FRAME, 4096, 10**9):
        found = cut(likely, SlidingWindow(), block, samples)
        assert found[-1].end_s == pytest.approx((170 - faded) * FRAME_S + 0.1, abs=0.0131)
        for window in found:
            np.testing.assert_array_equal(window.waveform, samples[window.start : window.start + 3 * RATE_HZ])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_recording() -> None:
    cutter = WindowCutter(SlidingWindow())
    for _ in range(40):
        cutter.feed(np.concatenate([voiced(1.5, RNG), SECOND]))
        assert len(cutter.kept) < 7 * RATE_HZ


def test_speech_is_found_among_silence() -> None:
    cutter = WindowCutter(SlidingWindow())
    found = cutter.feed(np.concatenate([SECOND, voiced(5.0, RNG), SECOND, voiced(1.0, RNG), SECOND])) + cutter.finish()
    starts = [window.start_s for window in found]
    assert starts[0] == pytest.approx(0.9, abs=0.1)
    assert found[-2].end_s == pytest.approx(6.1, abs=0.1)
    assert (found[-1].start_s, found[-1].end_s) == (pytest.approx(6.9, abs=0.1), pytest.approx(8.1, abs=0.1))
    assert cutter.num_speech_samples / RATE_HZ == pytest.approx(6.4, abs=0.3)


@pytest.mark.parametrize(
    "lengths",
    [
        {"window_s": 1.0, "step_s": 2.0},
        {"step_s": 0.0},
        {"window_s": 100.0},
        {"speech_pad_s": 0.3},
        {"min_speech_s": 0.0},
    ],
)
def test_lengths_that_do_not_fit_are_refused(lengths: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=r"^sliding window: .* (Choose|min_silence_s is) "):
        SlidingWindow(**lengths)


def test_the_detector_is_silero() -> None:
    assert isinstance(WindowCutter(SlidingWindow()).detector, SpeechDetector)
    assert (module.ONSET, module.OFFSET) == (0.5, 0.35)

"""A recording on its way: windows out, predictions in, and what is said when there are none."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from serein.errors import RecipeError
from serein.inference.prediction import ClipPrediction, RejectOption
from serein.inference.recording import PEAK_S, PredictOptions, Recording, SlidingWindow, Window
from serein.inference.vad import FRAME
from serein.tasks.task import TaskPrediction, most_probable
from speech_sounds import RATE_HZ, voiced

RNG = np.random.default_rng(3)
SILENCE = np.zeros(RATE_HZ, np.float32)
SPEECH = np.concatenate([SILENCE, voiced(5.0, RNG), SILENCE, voiced(0.8, RNG, 210.0), SILENCE])


def says(sad: float, feature: float = 0.0, text: str = "") -> ClipPrediction:
    """Return what a model says of a clip: an emotion, and words beside it."""
    main = most_probable({"calm": 1.0 - sad, "sad": sad})
    return ClipPrediction(main, {"asr": TaskPrediction(text)}, np.array([feature, 1.0], np.float32))


def read(options: PredictOptions | None = None, block: int = 1600, **how: object) -> tuple[Recording, list[Window]]:
    """Feed the speech in blocks."""
    recording = Recording("emotion", options or PredictOptions(), **how)  # type: ignore[arg-type]
    windows = [w for start in range(0, len(SPEECH), block) for w in recording.feed(SPEECH[start : start + block])]
    return recording, windows + recording.finish()


def test_the_whole_is_the_mean_of_its_windows_by_their_lengths() -> None:
    recording, windows = read()
    assert [round(w.end_s - w.start_s, 1) for w in windows] == [3.0, 3.0, 3.0, 1.0]
    for window, sad in zip(windows, (1.0, 1.0, 0.0, 0.0), strict=True):
        assert not recording.is_complete
        recording.add(window, says(sad, feature=10 * sad, text="" if sad else "well"))
    assert recording.is_complete
    prediction = recording.prediction("call.wav", "u1", {"name": "m", "sha256": "0"})
    lengths = [len(window.waveform) for window in windows]
    sad = sum(lengths[:2]) / sum(lengths)
    assert prediction.probabilities == pytest.approx({"calm": 1 - sad, "sad": sad})
    assert prediction.embedding.tolist() == pytest.approx([10 * sad, 1.0])
    assert prediction.tasks["asr"].label == "well well"
    assert (prediction.label, prediction.file, prediction.id) == ("sad", "call.wav", "u1")
    assert prediction.duration_s == prediction.end_s == pytest.approx(8.8)
    assert prediction.speech_s == pytest.approx(6.3, abs=0.2)
    assert [each.label for each in prediction.segments] == ["sad", "calm", "calm"]


def test_a_whole_recording_is_one_segment() -> None:
    recording, windows = read(is_whole=True, start_s=2.0)
    assert [(w.start_s, w.end_s) for w in windows] == [(0.0, pytest.approx(8.8))]
    np.testing.assert_array_equal(windows[0].waveform, SPEECH)
    recording.add(windows[0], says(0.9))
    prediction = recording.prediction()
    (segment,) = prediction.segments
    assert (segment.start_s, segment.end_s) == (prediction.start_s, prediction.end_s) == (2.0, pytest.approx(10.8))
    assert prediction.speech_s == prediction.duration_s


def test_times_are_those_of_the_file() -> None:
    here, there = read(), read(start_s=5.0)
    for recording, windows in (here, there):
        for window in windows:
            recording.add(window, says(0.9))
    for one, other in zip(here[0].prediction().segments, there[0].prediction().segments, strict=True):
        assert (one.start_s + 5.0, one.end_s + 5.0) == pytest.approx((other.start_s, other.end_s))


def test_peaks_of_long_streams_take_little_memory() -> None:
    recording = Recording("emotion", PredictOptions(), is_live=True)
    block, speech = np.zeros(3 * FRAME, np.float32), np.zeros(3, np.float32)
    tracemalloc.start()
    for _ in range(4000):
        recording.feed(block, speech)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(recording.prediction().peaks) == pytest.approx(4000 * 0.096 / 0.05, abs=1)
    assert taken < 200_000


def test_peaks_draw_the_recording() -> None:
    peaks = read(block=777)[0].prediction().peaks
    assert len(peaks) == round(8.8 / PEAK_S)
    assert peaks[:18].max() == 0.0
    assert peaks.max() == np.abs(SPEECH).max()
    np.testing.assert_array_equal(peaks, read(block=10**6)[0].prediction().peaks)


@pytest.mark.parametrize(("seconds", "rejected"), [(5.0, "no speech"), (0.2, "too short")])
def test_what_holds_no_speech_has_no_label(seconds: float, rejected: str) -> None:
    recording = Recording("emotion", PredictOptions())
    noise = (0.01 * RNG.standard_normal(round(seconds * RATE_HZ))).astype(np.float32)
    assert recording.feed(noise) + recording.finish() == []
    prediction = recording.prediction("rain.wav")
    assert (prediction.label, prediction.rejected, prediction.confidence) == (None, rejected, None)
    assert (dict(prediction.probabilities), prediction.segments, len(prediction.embedding)) == ({}, (), 0)
    assert prediction.duration_s == seconds


def test_windows_and_the_whole_are_rejected_each_by_itself() -> None:
    recording, windows = read(PredictOptions(reject_option=RejectOption(min_confidence=0.8, min_duration_s=2.0)))
    segments = [recording.add(window, says(sad)) for window, sad in zip(windows, (0.9, 0.7, 0.9, 0.9), strict=True)]
    assert [each.rejected for each in segments] == [None, "low confidence", None, "too short"]
    assert [each.label for each in segments] == ["sad", None, "sad", None]
    prediction = recording.prediction()
    assert (prediction.label, prediction.rejected) == ("sad", None)  # 0.84 of 6 s
    option = PredictOptions(reject_option=RejectOption(min_duration_s=10.0))
    recording, windows = read(option)
    for window in windows:
        recording.add(window, says(0.9))
    assert (recording.prediction().label, recording.prediction().rejected) == (None, "too short")
    assert recording.prediction().probabilities["sad"] == pytest.approx(0.9)  # what was rejected stays to be seen


def test_sliding_windows_are_as_asked_for() -> None:
    _, windows = read(PredictOptions(sliding_window=SlidingWindow(window_s=1.0, step_s=1.0)))
    assert [round(w.end_s - w.start_s, 1) for w in windows] == [1.0] * 6


def test_an_unknown_way_to_cut_is_refused() -> None:
    with pytest.raises(RecipeError, match="segments: unknown value 'sometimes', expected one of: auto, always, never"):
        PredictOptions(segments="sometimes")  # type: ignore[arg-type]

"""A stream, a file and the windows by themselves: one answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

import serein
from serein.errors import AudioError
from serein.inference import streams as module
from serein.inference.predictor import Predictor
from serein.inference.segments import RejectOption, Segment, SlidingWindow, WindowCutter
from serein.inference.streams import Stream, pcm16, predict_recording
from speech_sounds import RATE_HZ, voiced

RNG = np.random.default_rng(3)
SILENCE = np.zeros(RATE_HZ, np.float32)
SPEECH = np.concatenate([SILENCE, voiced(5.0, RNG), SILENCE, voiced(0.8, RNG, 210.0), SILENCE])


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Predictor:
    return serein.load(tiny_run / "fold-1" / "seed-0" / "model")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "call.wav"
    soundfile.write(path, SPEECH, RATE_HZ, subtype="FLOAT")
    return path


def assert_alike(some: list[Segment], others: list[Segment]) -> None:
    assert [(each.start_s, each.end_s) for each in some] == [(each.start_s, each.end_s) for each in others]
    for one, other in zip(some, others, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_a_stream_hears_what_a_file_has(model: Predictor, recording: Path) -> None:
    whole = predict_recording(model, recording)
    stream, heard = Stream(model), []
    for start in range(0, len(SPEECH), 1600):
        heard += stream.feed(SPEECH[start : start + 1600])
    assert_alike(heard + stream.finish(), list(whole.windows))
    assert stream.position_s == whole.duration_s == pytest.approx(8.8)
    assert len(whole.windows) == 4


def test_each_window_is_answered_as_by_itself(model: Predictor, recording: Path) -> None:
    cutter = WindowCutter(SlidingWindow())
    windows = cutter.feed(SPEECH) + cutter.finish()
    alone = [model.predict_waveforms([window.waveform], ["a"])[0].probabilities for window in windows]
    found = predict_recording(model, recording)
    for heard, probabilities in zip(found.windows, alone, strict=True):
        assert heard.probabilities == pytest.approx(probabilities, abs=1e-5)
    weights = [len(window.waveform) for window in windows]
    mean = np.average([list(probabilities.values()) for probabilities in alone], axis=0, weights=weights)
    assert list(found.probabilities.values()) == pytest.approx(mean, abs=1e-5)


def test_batches_change_nothing(model: Predictor, recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = predict_recording(model, recording)
    monkeypatch.setattr(module, "BATCH_S", 1.0)
    pieces = predict_recording(model, recording)
    assert_alike(list(pieces.windows), list(whole.windows))
    np.testing.assert_allclose(pieces.embedding, whole.embedding, atol=1e-5)


def test_other_rates(model: Predictor) -> None:
    stream = Stream(model, rate_hz=8000)
    heard = stream.feed(SPEECH[::2]) + stream.finish()
    assert [round(each.start_s, 1) for each in heard][:1] == [0.9]
    assert stream.position_s == pytest.approx(8.8, abs=0.01)


def test_a_part_of_a_recording(model: Predictor, recording: Path) -> None:
    part = predict_recording(model, recording, 6.0, 8.8)
    assert part.duration_s == pytest.approx(2.8)
    (heard,) = part.windows
    assert (heard.start_s, heard.end_s) == (pytest.approx(0.9, abs=0.1), pytest.approx(1.9, abs=0.15))


def test_peaks_draw_the_recording(model: Predictor, recording: Path) -> None:
    found = predict_recording(model, recording)
    assert len(found.peaks) == round(8.8 / found.peak_s)
    assert found.peaks[:18].max() == 0.0
    assert found.peaks.max() == pytest.approx(np.abs(SPEECH).max())


def test_progress_is_told_in_seconds(model: Predictor, recording: Path) -> None:
    told: list[tuple[float, float]] = []
    predict_recording(model, recording, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(pytest.approx(8.8), pytest.approx(8.8))]  # shorter than a block


def test_no_speech_is_an_error_that_says_so(model: Predictor, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 0.01 * RNG.standard_normal(5 * RATE_HZ), RATE_HZ)
    with pytest.raises(AudioError, match=r"a\.wav: no speech was found\. Predict it whole"):
        predict_recording(model, tmp_path / "a.wav")


def test_answers_are_withheld(model: Predictor, recording: Path) -> None:
    found = predict_recording(model, recording, reject_option=RejectOption(min_confidence=0.999, min_duration_s=2.0))
    assert [each.rejected for each in found.windows] == ["low confidence"] * 3 + ["too short"]
    assert {each.rejected for each in found.segments} == {"low confidence"}


def test_pcm16_is_what_soundfile_reads(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", SPEECH, RATE_HZ, subtype="PCM_16")
    raw = (tmp_path / "a.wav").read_bytes()[44:]
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    np.testing.assert_array_equal(pcm16(raw), samples)
    np.testing.assert_array_equal(pcm16(raw + b"\x01"), samples)

"""A stream, a file and its windows by themselves: one prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

import serein
from serein.errors import AudioError
from serein.inference.prediction import RejectOption, Segment
from serein.inference.predictor import Predictor
from serein.inference.recording import PredictOptions, SlidingWindow, WindowCutter
from serein.inference.streams import cut_all, pcm16
from speech_sounds import RATE_HZ, voiced

RNG = np.random.default_rng(3)
SILENCE = np.zeros(RATE_HZ, np.float32)
SPEECH = np.concatenate([SILENCE, voiced(5.0, RNG), SILENCE, voiced(0.8, RNG, 210.0), SILENCE])


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Predictor:
    return serein.load(tiny_run / "fold-1" / "seed-0" / "model", device="cpu")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "call.wav"
    soundfile.write(path, SPEECH, RATE_HZ, subtype="FLOAT")
    return path


def assert_alike(some: Sequence[Segment], others: Sequence[Segment]) -> None:
    assert [(each.start_s, each.end_s, each.label) for each in some] == [
        (each.start_s, each.end_s, each.label) for each in others
    ]
    for one, other in zip(some, others, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_a_stream_is_predicted_as_its_file(model: Predictor, recording: Path) -> None:
    expected = model.predict(recording)
    stream, windows = model.stream(), []
    for start in range(0, len(SPEECH), 1600):
        windows += stream.feed(SPEECH[start : start + 1600])
    windows += stream.finish()
    assert len(windows) == 4
    assert stream.position_s == expected.duration_s == pytest.approx(8.8)
    assert stream.prediction.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    assert stream.prediction.model == expected.model
    assert_alike(stream.prediction.segments, expected.segments)
    np.testing.assert_allclose(stream.prediction.embedding, expected.embedding, atol=1e-5)


def test_each_window_is_predicted_as_by_itself(model: Predictor) -> None:
    cutter = WindowCutter(SlidingWindow())
    cut = cutter.feed(SPEECH) + cutter.finish()
    alone = [model.predict_clips([window.waveform])[0].main for window in cut]
    stream = model.stream()
    for segment, expected in zip(stream.feed(SPEECH) + stream.finish(), alone, strict=True):
        assert segment.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    weights = [len(window.waveform) for window in cut]
    mean = np.average([list(each.probabilities.values()) for each in alone], axis=0, weights=weights)
    assert list(stream.prediction.probabilities.values()) == pytest.approx(mean, abs=1e-5)


def test_many_streams_are_cut_as_each_alone(model: Predictor) -> None:
    sounds = [SPEECH, SPEECH[RATE_HZ:], np.zeros(3 * RATE_HZ, np.float32)]
    streams = [model.stream() for _ in sounds]
    together = [len(windows) for windows in cut_all(streams, sounds)]
    assert together == [len(model.stream().cut(sound)) for sound in sounds]
    assert together[2] == 0


def test_speech_of_a_short_stream_is_returned_once(model: Predictor, tmp_path: Path) -> None:
    word = voiced(0.9, RNG)
    samples = np.concatenate([SILENCE, word, SILENCE, word, SILENCE])
    stream = model.stream()
    segments = stream.feed(samples) + stream.finish()
    assert len(segments) == 2
    assert segments[0].end_s <= segments[1].start_s
    soundfile.write(tmp_path / "words.wav", samples, RATE_HZ, subtype="FLOAT")
    assert_alike(stream.prediction.segments, model.predict(tmp_path / "words.wav").segments)
    assert len(stream.prediction.segments) == 1  # both words at once


def test_one_segment_as_a_prediction(model: Predictor) -> None:
    stream = model.stream()
    first = stream.feed(SPEECH)[0]
    prediction = stream.prediction_of(first)
    assert (prediction.label, prediction.probabilities) == (first.label, first.probabilities)
    assert (prediction.start_s, prediction.end_s) == (first.start_s, first.end_s)
    assert prediction.segments == (first,)
    assert prediction.model == model.identity


def test_other_rates(model: Predictor) -> None:
    stream = model.stream(sampling_rate=8000)
    segments = stream.feed(SPEECH[::2]) + stream.finish()
    assert segments[0].start_s == pytest.approx(0.9, abs=0.1)
    assert stream.position_s == pytest.approx(8.8, abs=0.01)


def test_samples_of_other_types_and_channels(model: Predictor) -> None:
    stereo = np.stack([SPEECH, SPEECH], axis=1)
    integers = np.round(SPEECH * 32767).astype(np.int16)
    expected = [each.start_s for each in model.stream().feed(SPEECH)]
    for samples in (stereo, integers, SPEECH.astype(np.float64)):
        assert [each.start_s for each in model.stream().feed(samples)] == pytest.approx(expected, abs=0.04)
    with pytest.raises(AudioError):
        model.stream().feed(["no", "samples"])


def test_a_rate_that_speech_has_not_and_a_block_of_nothing(model: Predictor) -> None:
    for rate in (0, "8000"):
        with pytest.raises(AudioError, match="not a whole number of Hz"):
            model.stream(rate)  # type: ignore[arg-type]
    stream = model.stream()
    assert stream.feed(np.zeros(0, np.float32)) == stream.feed([]) == []
    assert stream.position_s == 0
    with pytest.raises(AudioError, match="are bytes, not samples"):
        stream.feed(b"12")


def test_windows_are_rejected(model: Predictor) -> None:
    options = PredictOptions(reject_option=RejectOption(min_confidence=0.999, min_duration_s=2.0))
    stream = model.stream(options=options)
    segments = stream.feed(SPEECH) + stream.finish()
    assert [each.rejected for each in segments] == ["low confidence"] * 3 + ["too short"]
    assert [each.label for each in segments] == [None] * 4
    assert {each.rejected for each in stream.prediction.segments} == {"low confidence", "too short"}


def test_a_stream_without_speech(model: Predictor) -> None:
    stream = model.stream()
    assert stream.feed(SILENCE) + stream.finish() == []
    assert (stream.prediction.label, stream.prediction.rejected) == (None, "no speech")


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 44_100])
def test_a_finished_stream_takes_no_samples(model: Predictor, rate_hz: int) -> None:
    stream = model.stream(rate_hz)
    stream.feed(SPEECH)
    stream.finish()
    with pytest.raises(AudioError, match="stream: is finished. Open another one"):
        stream.feed(SPEECH)


def test_pcm16_is_what_soundfile_reads(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", SPEECH, RATE_HZ, subtype="PCM_16")
    raw = (tmp_path / "a.wav").read_bytes()[44:]
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    np.testing.assert_array_equal(pcm16(raw), samples)
    np.testing.assert_array_equal(pcm16(raw + b"\x01"), samples)

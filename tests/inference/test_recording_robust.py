"""What a listener would not hear does not move a prediction: silence, offsets, level and pauses around or in speech."""

from __future__ import annotations

import numpy as np
import pytest

from serein.audio import SAMPLE_RATE_HZ
from serein.inference.recording import PredictOptions, Recording
from serein.inference.vad import CONTEXT, FRAME, QUIET_RMS, SILENCE_RMS, SpeechDetector
from speech_sounds import voiced


def windows_of(waveform: np.ndarray, *, is_live: bool = False) -> list[tuple[float, float, int]]:
    recording = Recording("emotion", PredictOptions(), is_live=is_live)
    windows = [*recording.feed(waveform.astype(np.float32)), *recording.finish()]
    return [(window.start_s, window.end_s, len(window.waveform)) for window in windows]


def silence(duration_s: float) -> np.ndarray:
    return np.zeros(round(duration_s * SAMPLE_RATE_HZ), np.float32)


def test_a_short_recording_is_one_window_whatever_pauses_are_in_it() -> None:
    speech = voiced(1.0, np.random.default_rng(1))
    whole = windows_of(np.concatenate([silence(1.0), speech, silence(2.0), speech, silence(1.0)]))
    assert len(whole) == 1
    start_s, end_s, num_samples = whole[0]
    assert 0.7 < start_s < 1.3
    assert 4.7 < end_s < 5.4
    assert num_samples < 3.0 * SAMPLE_RATE_HZ  # the pause is left out


def test_a_stream_has_the_parts_at_once_and_the_whole_at_its_end() -> None:
    speech = voiced(1.0, np.random.default_rng(1))
    waveform = np.concatenate([silence(1.0), speech, silence(2.0), speech, silence(1.0)])
    *parts, joined = windows_of(waveform, is_live=True)
    assert len(parts) == 2
    assert [joined] == windows_of(waveform)


def test_a_long_recording_has_windows_of_its_own_for_each_stretch() -> None:
    speech = voiced(2.5, np.random.default_rng(1))
    assert len(windows_of(np.concatenate([speech, silence(1.0), speech, silence(0.5)]))) >= 2


@pytest.mark.parametrize("level_db", [-20.0, -30.0])
def test_quiet_speech_is_found(level_db: float) -> None:
    loud = np.concatenate([silence(0.5), voiced(2.0, np.random.default_rng(1)), silence(0.5)])
    (found,), (quiet,) = windows_of(loud), windows_of(loud * 10 ** (level_db / 20))
    assert quiet[:2] == pytest.approx(found[:2], abs=0.3)


def noise_frames(rms: list[float]) -> np.ndarray:
    """Return a frame of noise for each level."""
    noise = np.random.default_rng(0).standard_normal((len(rms), CONTEXT + FRAME)).astype(np.float32)
    return noise / noise[:, CONTEXT:].std(axis=1, keepdims=True) * np.float32(rms)[:, None]


def test_a_knock_switches_amplification_off_for_a_second() -> None:
    quiet = QUIET_RMS / 4
    gains = SpeechDetector().gains(noise_frames([quiet] * 40 + [0.1] * 6 + [quiet] * 100))
    np.testing.assert_allclose(gains[:40], 4.0, rtol=1e-3)
    np.testing.assert_allclose(gains[40 : 46 + 32], 1.0)
    np.testing.assert_allclose(gains[46 + 32 :], 4.0, rtol=1e-3)


def test_speech_switches_amplification_off_for_good() -> None:
    gains = SpeechDetector().gains(noise_frames([10 * QUIET_RMS] * 60 + [QUIET_RMS / 10] * 1000))
    np.testing.assert_allclose(gains, 1.0)


@pytest.mark.parametrize("num_samples", [80, 3000])
def test_quiet_speech_after_a_click_is_found(num_samples: int) -> None:
    click = silence(2.0)
    click[8000 : 8000 + num_samples] = 0.1 * np.random.default_rng(0).standard_normal(num_samples)
    quiet = 0.003 * voiced(2.0, np.random.default_rng(1))
    ((start_s, end_s, _),) = windows_of(np.concatenate([click, quiet, silence(0.5)]))
    assert (start_s, end_s) == pytest.approx((2.0, 4.0), abs=0.3)


def test_loud_and_silent_frames_are_taken_as_they_are() -> None:
    for rms, gain in ((10 * QUIET_RMS, 1.0), (0.1 * SILENCE_RMS, 1.0), (QUIET_RMS / 4, 4.0)):
        np.testing.assert_allclose(SpeechDetector().gains(noise_frames([rms] * 3)), gain, rtol=1e-3)

"""Voice activity: the network is the one that its package holds, and frames do not hang on how samples come."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from serein.errors import ModelError
from serein.inference import vad as voice
from serein.inference.vad import CONTEXT, FRAME, SpeechDetector, SpeechNetwork, speech_network

RNG = np.random.default_rng(0)
SOUND = (0.1 * RNG.standard_normal(20 * FRAME) * np.sin(np.arange(20 * FRAME) / 900)).astype(np.float32)


def silero_script() -> torch.jit.ScriptModule:
    """Return the package's own program, an independent implementation with newer weights."""
    found = find_spec("silero_vad")
    assert found is not None
    return torch.jit.load(Path(found.submodule_search_locations[0]) / "data" / "silero_vad.jit").eval()


def with_weights_of(script: torch.jit.ScriptModule) -> SpeechNetwork:
    weights = script._model.state_dict()
    names = {}
    for part in ("weight", "bias"):
        names[f"final_conv.{part}"] = f"decoder.decoder.2.{part}"
        for number in range(4):
            names[f"conv{number + 1}.{part}"] = f"encoder.{number}.reparam_conv.{part}"
        for side in ("ih", "hh"):
            names[f"lstm_cell.{part}_{side}"] = f"decoder.rnn.{part}_{side}"
    return SpeechNetwork({name: weights[theirs] for name, theirs in names.items()}).eval()


def test_the_network_is_the_packages_own() -> None:
    script, detector = silero_script(), SpeechDetector()
    detector.network = with_weights_of(script)
    with torch.no_grad():
        theirs = [script(torch.from_numpy(frame), 16_000).item() for frame in SOUND.reshape(-1, FRAME)]
    np.testing.assert_allclose(detector.feed(SOUND), theirs, atol=1e-4)


AMPLIFIED = np.concatenate([SOUND[: 3 * FRAME], 0.005 * np.tile(SOUND, 4)])


@pytest.mark.parametrize(("sound", "tolerance"), [(SOUND, 1e-6), (AMPLIFIED, 5e-6)])
def test_frames_do_not_hang_on_how_samples_come(sound: np.ndarray, tolerance: float) -> None:
    whole = SpeechDetector().feed(sound)
    assert whole.shape == (len(sound) // FRAME,)
    for size in (1000, FRAME, CONTEXT, 77):
        detector = SpeechDetector()
        pieces = [detector.feed(sound[start : start + size]) for start in range(0, len(sound), size)]
        np.testing.assert_allclose(np.concatenate(pieces), whole, atol=tolerance)


def test_many_sounds_at_once_are_as_each_alone() -> None:
    sounds = [SOUND, -0.5 * SOUND[:7000], SOUND[3000:3100], SOUND[500:9000]]
    alone = [SpeechDetector().feed(sound) for sound in sounds]
    detectors = [SpeechDetector() for _ in sounds]
    together: list[list[np.ndarray]] = [[] for _ in sounds]
    for start in range(0, len(SOUND), 1300):
        for heard, likely in zip(
            together, voice.feed_all(detectors, [sound[start : start + 1300] for sound in sounds]), strict=True
        ):
            heard.append(likely)
    assert [len(each) for each in alone] == [20, 13, 0, 16]
    for heard, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(np.concatenate(heard), expected, atol=1e-6)


def test_many_sounds_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SpeechDetector().feed(SOUND)
    monkeypatch.setattr(voice, "_MOST_FRAMES", 9)
    for likely in voice.feed_all([SpeechDetector() for _ in range(3)], [SOUND] * 3):
        np.testing.assert_allclose(likely, whole, atol=1e-6)


def test_the_last_frame_is_followed_by_silence() -> None:
    detector = SpeechDetector()
    heard = np.concatenate([detector.feed(SOUND[: FRAME + 100]), detector.finish()])
    padded = np.concatenate([SOUND[: FRAME + 100], np.zeros(FRAME - 100, np.float32)])
    np.testing.assert_allclose(heard, SpeechDetector().feed(padded), atol=1e-6)
    assert len(SpeechDetector().finish()) == 0


def test_silence_and_noise_are_no_speech() -> None:
    assert SpeechDetector().feed(np.zeros(32_000, np.float32)).max() < 0.2
    assert SpeechDetector().feed((0.05 * RNG.standard_normal(64_000)).astype(np.float32)).max() < 0.5


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    speech_network.cache_clear()
    monkeypatch.setattr(voice, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"silero-vad: the weights .* are missing.*pip install 'silero-vad"):
        speech_network()
    speech_network.cache_clear()


@pytest.mark.slow
def test_the_package_is_never_imported() -> None:
    """Importing it would set the threads of the whole process."""
    script = """
import sys, torch
before = torch.get_num_threads()
from serein.inference.vad import speech_network
speech_network()
assert "silero_vad" not in sys.modules and torch.get_num_threads() == before
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

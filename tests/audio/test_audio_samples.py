"""Samples of any type, shape and rate become one waveform, or an error that says what to do."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from audio_files import encoded, voice
from serein import audio
from serein.errors import AudioError

VOICE = voice(16_000)
INT16 = np.round(VOICE * 32_767).astype(np.int16)
TYPES: dict[str, tuple[Callable[[], Any], float]] = {  # samples, and the step of their type
    "float32": (lambda: VOICE, 0.0),
    "float64": (lambda: VOICE.astype(np.float64), 0.0),
    "float16": (lambda: VOICE.astype(np.float16), 2**-12),
    "int16": (lambda: INT16, 2**-14),
    "int16, big-endian": (lambda: INT16.astype(">i2"), 2**-14),
    "int32": (lambda: INT16.astype(np.int32) << 16, 2**-14),
    "int8": (lambda: (INT16 >> 8).astype(np.int8), 2**-7),
    "uint8": (lambda: ((INT16 >> 8) + 128).astype(np.uint8), 2**-7),
    "list": (lambda: VOICE.tolist(), 0.0),
    "list of numpy's numbers": (lambda: list(VOICE), 0.0),
    "list of channels": (lambda: [VOICE.tolist(), VOICE.tolist()], 0.0),
    "torch float32": (lambda: torch.tensor(VOICE, requires_grad=True), 0.0),
    "torch bfloat16": (lambda: torch.tensor(VOICE).bfloat16(), 2**-9),
    "torch int16": (lambda: torch.tensor(INT16), 2**-14),
    "(1, sample)": (lambda: VOICE[None], 0.0),
    "(sample, 1)": (lambda: VOICE[:, None], 0.0),
    "(channel, sample)": (lambda: np.stack([2 * VOICE, 0 * VOICE]), 0.0),
    "(sample, channel)": (lambda: np.stack([2 * VOICE, 0 * VOICE], axis=1), 0.0),
    "mapping": (lambda: {"array": VOICE, "sampling_rate": 16_000}, 0.0),
}


@pytest.mark.parametrize(("samples", "step"), TYPES.values(), ids=TYPES)
def test_every_type_and_shape_is_the_same_waveform(samples: Callable[[], Any], step: float) -> None:
    waveform = audio.as_waveform(samples(), 16_000)
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, VOICE, atol=step, rtol=0)


def test_integers_are_as_a_file_stores_them() -> None:
    for name, samples in {"wav": INT16, "wav-float": VOICE}.items():
        np.testing.assert_allclose(audio.as_mono(samples), audio.decode(encoded(name)), atol=2**-15)
    assert audio.as_mono(np.array([0, 128, 255], np.uint8)).tolist() == [-1.0, 0.0, 127 / 128]
    assert audio.as_mono(np.array([-(2**31), 2**30], np.int32)).tolist() == [-1.0, 0.5]


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, np.int64(48_000), 22_050.0, torch.tensor(16_000)])
def test_samples_of_every_rate_are_read_as_a_file_of_that_rate(rate_hz: Any) -> None:
    samples = voice(int(rate_hz))
    waveform = audio.as_waveform(samples, rate_hz)
    assert waveform.shape == (16_000,)
    np.testing.assert_allclose(waveform[500:-500], VOICE[500:-500], atol=2e-3)
    np.testing.assert_array_equal(waveform, audio.load(samples, sampling_rate=rate_hz))


def test_a_part_of_samples_and_their_blocks() -> None:
    np.testing.assert_array_equal(audio.load(VOICE, 0.25, 0.5, sampling_rate=16_000), VOICE[4_000:8_000])
    with audio.open(VOICE, sampling_rate=16_000) as recording:
        assert [len(block) for block in recording.blocks(block_s=0.3)] == [4_800, 4_800, 4_800, 1_600, 0]
        assert recording.info() == audio.AudioInfo(1.0, 16_000, 1)


def test_a_lossy_decoder_may_overshoot() -> None:
    assert audio.as_mono([1.2, -1.4]).tolist() == pytest.approx([1.2, -1.4])


NO_SAMPLES: dict[str, tuple[Any, str]] = {
    "int16 values as float": (INT16.astype(np.float32), "reach .*, but full scale is 1.* divide them by 32768"),
    "huge": ([1e300], "full scale"),
    "NaN": ([0.1, np.nan], "NaN or infinite"),
    "infinite": ([0.1, -np.inf], "NaN or infinite"),
    "empty": ([], "no samples"),
    "no channels": (np.zeros((0, 2)), "no samples"),
    "int64": (INT16.astype(np.int64), "of type int64 have no defined full scale"),
    "uint16": (INT16.astype(np.uint16), "full scale"),
    "list of int": ([0, 100, -100], "full scale"),
    "complex": (VOICE + 0j, "complex numbers"),
    "bool": (VOICE > 0, "truth values"),
    "names": (["a.wav", "b.wav"], "text, not samples. Name files"),
    "nothing": (None, "objects"),
    "ragged": ([[0.1, 0.2], [0.3]], "not an array of numbers"),
    "one number": (np.float32(0.5), "which axis is time"),
    "three axes": (VOICE[None, None], r"of shape \(1, 1, 16000\)"),
    "few of both": (np.zeros((5, 6)), "which axis is time"),
    "recordings of one length": ([VOICE, VOICE], "a list of 2 arrays, not one recording. Give recordings one at a"),
    "recordings of two lengths": ((VOICE, VOICE[:5]), "a list of 2 arrays"),
    "tensors": ([torch.tensor(VOICE)], "a list of 1 arrays"),
    "opposite polarity": (np.stack([VOICE, -VOICE]), "channels cancel each other .* Keep one channel: samples"),
    "a batch": (np.zeros((20, 16_000)), "which axis is time"),
    "sparse": (torch.zeros(2, 100).to_sparse(), "not an array of numbers"),
    "without storage": (torch.empty(16_000, device="meta"), "not an array of numbers"),
}


@pytest.mark.parametrize(("samples", "complaint"), NO_SAMPLES.values(), ids=NO_SAMPLES)
def test_what_is_ambiguous_or_no_sound_is_refused_with_the_remedy(samples: Any, complaint: str) -> None:
    for read in (audio.as_waveform, lambda samples, rate: audio.load(samples, sampling_rate=rate)):
        with pytest.raises(AudioError, match=complaint) as error:
            read(samples, 16_000)
        assert error.value.where == "samples"
        assert error.value.remedy


@pytest.mark.parametrize("rate", [0, -16_000, 1, 16_000.5, np.nan, np.inf, 10**9, True, "16000", [16_000], 2j])
def test_a_rate_is_a_whole_number_that_speech_is_recorded_at(rate: Any) -> None:
    with pytest.raises(AudioError, match="not a whole number of Hz"):
        audio.as_waveform(VOICE, rate)


def test_samples_without_a_rate_are_refused() -> None:
    for samples in (VOICE, {"array": VOICE}, [0.1], torch.zeros(100)):
        with pytest.raises(AudioError, match="without a sampling rate. Give it: sampling_rate=16000"):
            audio.as_waveform(samples)


def test_a_mapping_states_one_rate_and_samples() -> None:
    with pytest.raises(AudioError, match="of 8000 and 16000 Hz"):
        audio.as_waveform({"array": VOICE, "sampling_rate": 8_000}, 16_000)
    with pytest.raises(AudioError, match="without 'array'"):
        audio.as_waveform({"sampling_rate": 8_000})


def test_a_pair_is_samples_and_their_rate_in_any_order() -> None:
    expected = audio.as_waveform(VOICE, 8_000)
    for pair in ((VOICE, 8_000), (8_000, VOICE), (torch.from_numpy(VOICE)[None], 8_000), (np.int64(8_000), VOICE)):
        np.testing.assert_allclose(audio.as_waveform(pair), expected, atol=1e-6)
    with pytest.raises(AudioError, match="come without a sampling rate"):
        audio.as_waveform((0.25, -0.25))  # two samples


def test_a_stream_at_its_end_is_no_empty_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", VOICE, 16_000)
    file = io.BytesIO()
    file.write((tmp_path / "a.wav").read_bytes())
    with pytest.raises(AudioError, match=r"is at its end. Go back to its start: seek\(0\)"):
        audio.load(file)
    file.seek(0)
    assert len(audio.load(file)) == len(VOICE)

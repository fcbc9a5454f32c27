"""Recordings in memory are read as files are, and what their headers say costs nothing."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serein import audio
from serein.audio import TooLongAudioError, Upload
from serein.errors import AudioError

SOUND = (0.1 * np.random.default_rng(0).standard_normal(8_000)).astype(np.float32)


def encoded(samples: np.ndarray, rate_hz: int = 16_000, form: str = "WAV") -> bytes:
    page = io.BytesIO()
    soundfile.write(page, samples, rate_hz, format=form)
    return page.getvalue()


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_bytes_are_read_as_a_file_is(tmp_path: Path, form: str, rate_hz: int) -> None:
    content = encoded(SOUND, rate_hz, form)
    path = tmp_path / f"a.{form.lower()}"
    path.write_bytes(content)
    assert audio.info(Upload(content)) == audio.info(path)
    assert np.array_equal(audio.load(Upload(content)), audio.load(path))
    joined = audio.load_at_most(Upload(content), 10.0)
    assert len(joined) == len(audio.load(path))
    assert np.allclose(joined, audio.load(path), atol=1e-4)


def test_complaints_name_the_upload() -> None:
    with pytest.raises(AudioError, match=r"^call\.wav: the file is empty"):
        audio.load(Upload(b"", "call.wav"))


def changed(place_of: bytes, off: int, number: int, form: str = "<I") -> bytes:
    """Return a WAV of 1 kB with one number of its header changed."""
    content = bytearray(encoded(SOUND[:500]))
    place = content.index(place_of) + off
    content[place : place + struct.calcsize(form)] = struct.pack(form, number)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (changed(b"data", 4, 0x7000_0000), "truncated"),
        (changed(b"fmt ", 12, 1), "at most 30 s"),
        (changed(b"fmt ", 12, 1000), "1 channels at 1000 Hz, which is no recording of speech"),
        (changed(b"fmt ", 12, 0x7FFF_FFFF), "no recording of speech"),
        (encoded(np.tile(SOUND[:100, None], (1, 9))), "9 channels"),
    ],
    ids=["gigabytes", "one sample a second", "slow", "fast", "channels"],
)
def test_strange_headers_are_refused(content: bytes, complaint: str) -> None:
    with pytest.raises(AudioError, match=complaint):
        audio.load_at_most(Upload(content), 30.0)


def test_too_long_by_its_header() -> None:
    with pytest.raises(TooLongAudioError, match="is 60 s long, and at most 30 s"):
        audio.load_at_most(Upload(encoded(np.zeros(60 * 8000, np.int16), 8000, "FLAC")), 30.0)


def test_flac_that_does_not_say_its_length() -> None:
    content = bytearray(encoded(SOUND, form="FLAC"))
    content[21] &= 0xF0  # the lower 36 bits from here on are the number of samples
    content[22:26] = bytes(4)
    with pytest.raises(TooLongAudioError, match="does not say how long it is"):
        audio.load_at_most(Upload(bytes(content)), 30.0)


def test_silence_is_refused() -> None:
    with pytest.raises(AudioError, match="silent"):
        audio.load_at_most(Upload(encoded(0 * SOUND)), 30.0)

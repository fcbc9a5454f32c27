"""Lengths that headers leave out or state falsely, and recordings that are joined end to end."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio_files import encoded
from serein import audio
from serein.audio.source import Mp3, _xing_frame, mp3_parts
from serein.errors import AudioError

REAL = Path(os.environ.get("SEREIN_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
needs_native = pytest.mark.skipif(not (REAL / "ravdess").is_dir(), reason=f"no RAVDESS in {REAL}")

TO_ITS_END = ("the header states no length or a wrong one: the file is read to its end",)


def changed(name: str, marker: bytes, offset: int, form: str, *values: int) -> bytes:
    content = bytearray(encoded(name))
    struct.pack_into(form, content, content.index(marker) + offset, *values)
    return bytes(content)


UNSTATED = {
    "wav 0": changed("wav", b"data", 4, "<I", 0),
    "wav 0, RIFF 0": struct.pack("<4sI", b"RIFF", 0) + changed("wav", b"data", 4, "<I", 0)[8:],
    **{f"wav {length:x}": changed("wav", b"data", 4, "<I", length) for length in (0x7FFFF000, 0x80000000, 0xFFFFFFFF)},
    "wav, updated 0.25 s in": struct.pack("<4sI", b"RIFF", 8_036) + changed("wav", b"data", 4, "<I", 8_000)[8:],
    "rf64 0": changed("rf64", b"ds64", 8, "<qqq", 0, 0, 0),
    "rf64 -1": changed("rf64", b"ds64", 8, "<qqq", -1, -1, -1),
    "caf 0": changed("caf", b"data", 4, ">q", 0),
    "caf -1": changed("caf", b"data", 4, ">q", -1),
    "au 0": changed("au", b".snd", 8, ">I", 0),
    "aiff 0": changed("aiff", b"SSND", 4, ">I", 0),
    "flac 0": encoded("flac")[:21] + bytes([encoded("flac")[21] & 0xF0]) + bytes(4) + encoded("flac")[26:],
}


@pytest.mark.parametrize("content", UNSTATED.values(), ids=UNSTATED)
def test_a_recording_whose_header_was_never_closed_is_read_to_its_end(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    whole = audio.decode(encoded("flac" if content.startswith(b"fLaC") else "wav"))
    for source in (content, tmp_path / "a"):
        np.testing.assert_array_equal(audio.decode(source), whole)
        np.testing.assert_array_equal(audio.decode(source, 0.5, 0.75), whole[8_000:12_000])
        assert audio.info(source) == audio.AudioInfo(1.0, 16_000, 1, TO_ITS_END)


def test_au_has_a_word_for_an_unknown_length() -> None:
    assert audio.info(changed("au", b".snd", 8, ">I", 0xFFFFFFFF)).duration_s == 1.0


@pytest.mark.parametrize("rest", [b"LIST\x04\0\0\0INFO", bytes(100), b"ID3\x03" + bytes(range(100)), b""])
def test_what_follows_the_samples_is_not_sound(rest: bytes) -> None:
    assert audio.info(encoded("wav") + rest) == audio.AudioInfo(1.0, 16_000, 1)


def test_a_wav_without_samples_has_none_whatever_follows() -> None:
    with pytest.raises(AudioError, match="contains no samples"):
        audio.info(changed("wav", b"data", 4, "<I", 0)[:44] + b"LIST\x04\0\0\0INFO")


def test_chunks_without_end_are_not_walked_for_ever() -> None:
    with pytest.raises(AudioError):
        audio.info(b"RIFF\0\0\0\0WAVE" + 100_000 * b"junk\0\0\0\0")


# -- joined end to end


@pytest.mark.parametrize("name", ["ogg", "opus", "mp3"])
def test_what_is_joined_is_read_whole(tmp_path: Path, name: str) -> None:
    one = audio.decode(encoded(name))
    (tmp_path / "a").write_bytes(3 * encoded(name))
    for source in (3 * encoded(name), tmp_path / "a"):
        np.testing.assert_array_equal(audio.decode(source), np.tile(one, 3))
        part = audio.decode(source, 1.5, 2.25)  # libmpg123 needs a few frames until it is in step
        np.testing.assert_allclose(part[2_000:], np.tile(one, 3)[26_000:36_000], atol=1e-3)
        assert audio.info(source).duration_s == 3.0
        assert audio.info(source).remarks == ("the file joins 3 recordings: all of them are read",)


def test_mp3s_are_joined_with_their_tags() -> None:
    tags = b"ID3\x03\0\0\0\0\x02\x00" + bytes(256)
    tagged = tags + encoded("mp3") + b"TAG" + bytes(125)
    assert audio.info(tagged) == audio.AudioInfo(1.0, 16_000, 1)
    np.testing.assert_array_equal(audio.decode(tagged + tagged), np.tile(audio.decode(encoded("mp3")), 2))


@pytest.mark.parametrize("name", ["ogg", "opus"])
def test_a_joined_part_that_is_cut_is_noticed(name: str) -> None:
    with pytest.raises(AudioError, match="cut off"):
        audio.decode(encoded(name)[:-500] + encoded(name))


def test_recordings_of_two_rates_are_not_joined() -> None:
    other = io.BytesIO()
    soundfile.write(other, np.zeros(8_000), 8_000, format="OGG")
    with pytest.raises(AudioError, match=r"joins recordings of \[8000, 16000\] Hz"):
        audio.decode(encoded("ogg") + other.getvalue())


# -- MP3 whose length libsndfile guesses

CRESCENDO = np.linspace(0, 0.5, 88_200) * np.random.default_rng(1).normal(0.0, 0.5, 88_200)


def without_length(samples: np.ndarray, mode: str) -> bytes:
    """Return an MP3 without its first frame, which states the length; libsndfile then guesses it."""
    content = io.BytesIO()
    soundfile.write(
        content, samples, 44_100, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode, compression_level=0.5
    )
    (part,) = mp3_parts(content)
    assert part.num_stated >= len(samples)
    return content.getvalue()[part.sound :]


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("end", [b"", b"TAG" + bytes(125)])
def test_an_mp3_that_states_no_length_is_whole(mode: str, end: bytes) -> None:
    content = without_length(CRESCENDO, mode) + end
    whole = audio.decode(content)
    assert len(whole) == pytest.approx(32_000, abs=1_700)  # the encoder pads with up to four frames
    assert audio.info(content).duration_s == pytest.approx(2.0, abs=0.11)
    assert np.abs(whole[-4_000:]).max() > 0.2  # the loud end


def test_libsndfile_alone_would_lose_the_end() -> None:
    assert soundfile.info(io.BytesIO(without_length(CRESCENDO, "VARIABLE"))).frames < 44_100


@needs_native
def test_an_mp3_that_states_no_length_is_whole_when_the_guess_is_too_high() -> None:
    speech = np.concatenate([audio.decode(path) for path in audio.find(REAL / "ravdess" / "Actor_01")[:4]])
    content = without_length(speech, "VARIABLE")  # starts with silence
    assert soundfile.info(io.BytesIO(content)).frames > 1.2 * len(speech)
    assert len(audio.decode(content)) == pytest.approx(len(speech) * 16_000 / 44_100, abs=1_700)


def test_the_frame_that_states_a_length() -> None:
    head = bytes([0xFF, 0xFB, 0x90, 0xC4])  # MPEG-1, layer III, 128 kbit/s, 44.1 kHz, mono
    frame = _xing_frame(head, 1152 * 77)
    assert len(frame) == 144 * 128_000 // 44_100 == 417
    assert frame[4 + 17 :][:12] == b"Xing\0\0\0\x01\0\0\0\x4d"
    assert mp3_parts(io.BytesIO(frame + frame[:4] + bytes(413))) == [Mp3(0, 1152 * 77, 417, 1152)]

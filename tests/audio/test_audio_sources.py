"""Recordings from bytes, streams and pipes are read as files are, and what their headers say costs nothing."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from serein import audio
from serein.audio import TooLongAudioError, Upload, source
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
    for form_of_it in (
        Upload(content),
        content,
        bytearray(content),
        memoryview(content),
        io.BytesIO(content),
        str(path),
    ):
        assert np.array_equal(audio.load(form_of_it), audio.load(path))
    with path.open("rb") as file, audio.open(file) as recording:
        assert np.array_equal(recording.waveform(), audio.load(path))
        assert np.array_equal(np.concatenate(list(recording.blocks())), audio.load(path))
    joined = audio.load(Upload(content), most_s=10.0)
    assert np.array_equal(joined, audio.load(path))


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
        (changed(b"fmt ", 12, 1), "a sampling rate of 1 Hz, which is not a recording of speech"),
        (changed(b"fmt ", 12, 1000), "a sampling rate of 1000 Hz, .*Give 4000 to 192000 Hz"),
        (changed(b"fmt ", 12, 0x7FFF_FFFF), "not a recording of speech"),
        (
            encoded(np.tile(SOUND[:100, None], (1, 9))),
            "has 9 channels, which is not a recording of speech. Give at most 8",
        ),
    ],
    ids=["gigabytes", "one sample a second", "slow", "fast", "channels"],
)
def test_strange_headers_are_refused(content: bytes, complaint: str) -> None:
    with pytest.raises(AudioError, match=complaint):
        audio.load(Upload(content), most_s=30.0)


def test_too_long_by_its_header() -> None:
    with pytest.raises(TooLongAudioError, match="is 60 s long, but at most 30 s"):
        audio.load(Upload(encoded(np.zeros(60 * 8000, np.int16), 8000, "FLAC")), most_s=30.0)


def test_flac_that_does_not_say_its_length_is_measured() -> None:
    content = bytearray(encoded(SOUND, form="FLAC"))
    content[21] &= 0xF0  # the lower 36 bits from here on are the number of samples
    content[22:26] = bytes(4)
    assert len(audio.load(Upload(bytes(content)), most_s=30.0)) == 8_000
    assert audio.info(Upload(bytes(content)), most_s=0.5).duration_s == 0.5
    for read in (audio.info, audio.load):
        with pytest.raises(TooLongAudioError, match="at most 0.4 s"):
            read(Upload(bytes(content)), most_s=0.4)


def test_silence_is_refused() -> None:
    with pytest.raises(AudioError, match="silent"):
        audio.load(Upload(encoded(0 * SOUND)), most_s=30.0)


# -- streams and pipes


class Trickle(io.RawIOBase):
    """A stream that gives a little at a time and cannot seek."""

    def __init__(self, content: bytes) -> None:
        self.rest = content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:
        chunk, self.rest = self.rest[:7], self.rest[7:]
        buffer[: len(chunk)] = chunk
        return len(chunk)


def test_a_stream_that_cannot_seek_is_read_twice() -> None:
    content = encoded(SOUND, form="FLAC")
    with audio.open(Trickle(content)) as recording:
        assert recording.info().duration_s == 0.5
        assert np.array_equal(recording.waveform(), audio.load(content))


def test_a_stream_is_read_from_where_it_is() -> None:
    stream = io.BytesIO(b"12345" + encoded(SOUND))
    stream.seek(5)
    assert len(audio.load(stream)) == 8_000


def piped(content: bytes) -> tuple[int, Thread]:
    """Write to a pipe from a thread; return its end for reading."""
    end, start = os.pipe()

    def write() -> None:
        with open(start, "wb") as pipe:
            pipe.write(content)

    thread = Thread(target=write)
    thread.start()
    return end, thread


def test_process_substitution_and_fifos(tmp_path: Path) -> None:
    content = encoded(SOUND)
    end, thread = piped(content)
    assert np.array_equal(audio.load(f"/dev/fd/{end}"), audio.load(content))
    thread.join()
    os.close(end)
    os.mkfifo(tmp_path / "fifo.wav")
    thread = Thread(target=(tmp_path / "fifo.wav").write_bytes, args=[content])
    thread.start()
    with audio.open(tmp_path / "fifo.wav") as recording:
        assert recording.info().duration_s == 0.5
        assert np.array_equal(recording.waveform(), audio.load(content))
    thread.join()


@pytest.mark.slow
def test_a_long_stream_is_kept_in_a_file_and_a_longer_one_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    long = encoded(np.tile(SOUND, 2_200))
    assert len(long) > 2**25
    assert audio.decode(io.BytesIO(long)).shape == (2_200 * 8_000,)
    monkeypatch.setattr(source, "MOST_BYTES_PIPED", 10_000)
    with pytest.raises(TooLongAudioError, match="returns more than"):
        audio.decode(io.BytesIO(encoded(SOUND)))


def closed_stream() -> io.BytesIO:
    stream = io.BytesIO(b"RIFF")
    stream.close()
    return stream


@pytest.mark.parametrize(
    ("stream", "complaint"),
    [
        (io.StringIO("words"), "returns text, not bytes. Open it in binary mode"),
        (io.BytesIO(), "is empty"),
        (closed_stream(), "cannot be read"),
        (b"", "is empty"),
        ("/dev/zero", "is a device"),
        ("/dev/null", "is a device"),
        ("/proc/self/status", "cannot be read"),
        ("", "no such file"),
    ],
)
def test_streams_that_are_no_recordings(stream: object, complaint: str) -> None:
    with pytest.raises(AudioError, match=complaint):
        audio.info(stream)


def test_datasets_hold_bytes_or_a_path(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encoded(SOUND))
    for mapping in ({"bytes": encoded(SOUND), "path": None}, {"bytes": None, "path": str(tmp_path / "a.wav")}):
        assert np.array_equal(audio.load(mapping), audio.load(encoded(SOUND)))


def test_datasets_hold_a_decoder() -> None:
    decoded = SimpleNamespace(data=torch.tensor(SOUND)[None], sample_rate=16_000)
    decoder = SimpleNamespace(get_all_samples=lambda: decoded)
    assert np.array_equal(audio.load(decoder), SOUND)
    assert np.array_equal(audio.as_waveform(decoder), SOUND)


def test_encoded_sound_states_its_own_rate() -> None:
    for given in (encoded(SOUND), {"bytes": encoded(SOUND)}):
        with pytest.raises(AudioError, match="states its own sampling rate"):
            audio.load(given, sampling_rate=16_000)


# -- raw PCM

PCM = np.round(SOUND * 32_767).astype("<i2").tobytes()


@pytest.mark.parametrize("name", ["a.raw", "a.pcm", "a.PCM"])
def test_raw_pcm_is_read_with_its_rate_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PCM)
    with pytest.raises(AudioError, match="does not state its sampling rate. Give it: --raw-rate 16000"):
        audio.load(tmp_path / name)
    waveform = audio.load(tmp_path / name, raw_rate_hz=8_000)
    assert np.array_equal(waveform, audio.as_waveform(np.frombuffer(PCM, "<i2"), 8_000))


def test_raw_pcm_from_a_pipe_and_beside_files(tmp_path: Path) -> None:
    assert sum(map(len, audio.blocks(io.BytesIO(PCM), raw_rate_hz=8_000))) == 16_000
    assert audio.info(io.BytesIO(PCM), raw_rate_hz=8_000) == audio.AudioInfo(1.0, 8_000, 1)
    with pytest.raises(AudioError, match="Headerless PCM needs its rate: --raw-rate 16000"):
        audio.info(io.BytesIO(PCM))
    for form in ("WAV", "FLAC"):  # which state their own
        assert audio.info(encoded(SOUND, form=form), raw_rate_hz=8_000).sample_rate_hz == 16_000
    (tmp_path / "a.raw").write_bytes(encoded(SOUND))
    assert audio.info(tmp_path / "a.raw").duration_s == 0.5
    (tmp_path / "a.wav").write_bytes(PCM)
    with pytest.raises(AudioError):
        audio.info(tmp_path / "a.wav", raw_rate_hz=8_000)


@pytest.mark.parametrize("rate_hz", [-1, 0, 1, 10**10, 2.5])
def test_a_raw_rate_is_a_rate_of_speech(rate_hz: int) -> None:
    with pytest.raises(AudioError):
        audio.info(PCM, raw_rate_hz=rate_hz)

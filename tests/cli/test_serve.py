"""`serein stream`: pipes and microphones, one window a line, with its delay."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from cli_fixtures import Call, without_runtime
from serein.errors import AudioError
from serein.inference.streams import Arrivals, delay_summary, open_pcm
from speech_sounds import RATE_HZ, voiced

RNG = np.random.default_rng(11)
SOUND = np.concatenate([np.zeros(RATE_HZ, np.float32), voiced(4.0, RNG), np.zeros(RATE_HZ, np.float32)])


def in_16_bits(samples: np.ndarray) -> np.ndarray:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2")


@pytest.fixture(scope="session")
def model(tiny_run: Path) -> Path:
    """A model folder; read only."""
    return tiny_run / "fold-1" / "seed-0" / "model"


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[np.ndarray], None]:
    """Put samples on stdin as 16-bit ones."""

    def put(samples: np.ndarray) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(in_16_bits(samples).tobytes())))

    return put


@pytest.mark.parametrize(
    ("option", "value"),
    [("--max-mb", "0"), ("--max-mb", "nan"), ("--max-mb", "inf"), ("--max-seconds", "inf"), ("--max-requests", "0")],
)
def test_limits_of_a_service_are_finite_and_positive(option: str, value: str, serein: Call) -> None:
    outcome = serein("serve", option, value)
    assert outcome.status == 2
    assert f"Invalid value for '{option}': {value} is not a finite number above 0" in outcome.err


def test_a_recording_is_smaller_than_all_uploads_together(serein: Call) -> None:
    outcome = serein("serve", "--max-mb", "250", "--host", "192.0.2.1")  # where it could not listen
    assert outcome.status == 2
    assert "Invalid value for '--max-mb': 250 is not below 250" in outcome.err


@pytest.mark.slow
def test_a_pipe_is_predicted_as_its_file(
    model: Path, tmp_path: Path, pipe: Callable[[np.ndarray], None], serein: Call
) -> None:
    soundfile.write(tmp_path / "a.wav", in_16_bits(SOUND), RATE_HZ)
    call = ("predict", "--model", model, tmp_path / "a.wav", "--window", 3, "--step", 3, "--json")
    (expected,) = [json.loads(line) for line in serein(*call).out.splitlines()]
    pipe(SOUND)
    outcome = serein("stream", "--model", model, "--stdin-pcm", "--window", 3, "--step", 3, "--json")
    windows = [json.loads(line) for line in outcome.out.splitlines()]
    assert len(windows) == 2
    assert {*windows[0]} == {*expected, "delay_s"}
    lengths_s = [window["end_s"] - window["start_s"] for window in windows]
    for name, probability in expected["probabilities"].items():
        mean = np.average([window["probabilities"][name] for window in windows], weights=lengths_s)
        assert mean == pytest.approx(probability, abs=1e-4)
    for window in windows:
        assert (window["file"], window["task"], window["model"]) == ("-", "emotion", expected["model"])
        (segment,) = window["segments"]
        assert {name: window[name] for name in segment} == segment
        assert window["delay_s"] >= 0
    assert (windows[0]["start_s"], windows[-1]["end_s"]) == (
        expected["segments"][0]["start_s"],
        expected["segments"][-1]["end_s"],
    )
    assert (outcome.status, outcome.err.splitlines()[-1][:10]) == (0, "2 windows;")


def test_other_rates_windows_and_reject_option(model: Path, pipe: Callable[[np.ndarray], None], serein: Call) -> None:
    pipe(np.repeat(SOUND, 2))
    outcome = serein("stream", "--model", model, "--stdin-pcm", "--rate", 32_000, "--window", 2, "--min-confidence", 1)
    lines = outcome.out.splitlines()
    assert len(lines) == 3
    assert all("low confidence" in line and " after " in line for line in lines)
    assert lines[0].startswith("  0:00.")


def wav(samples: np.ndarray, rate_hz: int = RATE_HZ, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, subtype, format="WAV")
    return file.getvalue()


@pytest.mark.parametrize(
    "header", [wav(np.zeros(0), 8000), wav(np.zeros(0), 8000).replace(b"fmt ", b"LIST\3\0\0\0abc\0fmt ")]
)
def test_a_wav_in_a_pipe_states_its_rate(header: bytes) -> None:
    samples = in_16_bits(SOUND[::2])
    rate_hz, blocks = open_pcm(io.BytesIO(header + samples.tobytes()), None, 0.1)
    assert rate_hz == 8000
    np.testing.assert_array_equal(np.concatenate(list(blocks)), samples / np.float32(32768))


@pytest.mark.parametrize(
    ("content", "rate_hz", "says"),
    [
        (wav(SOUND[:100], 44_100), 16_000, "states 44100 Hz, not 16000 Hz. Leave --rate out"),
        (wav(SOUND[:100], subtype="FLOAT"), None, "WAV file of 32 bits and channels: 1, not 16-bit mono samples"),
        (wav(SOUND[:100, None].repeat(2, 1)), None, "WAV file of 16 bits and channels: 2, not 16-bit mono samples"),
        (b"fLaC" + bytes(100), None, "FLAC file, not samples. Predict it with: serein predict -"),
        (b"RIFX" + bytes(100), None, "WAV file, not samples"),
        (wav(SOUND[:100], 384_000), None, "384000 is not a whole number of Hz from 4000 to 192000"),
        (bytes(100), 384_000, "384000 is not a whole number of Hz from 4000 to 192000"),
    ],
)
def test_other_files_in_a_pipe_are_refused(content: bytes, rate_hz: int | None, says: str) -> None:
    with pytest.raises(AudioError, match=says):
        open_pcm(io.BytesIO(content), rate_hz, 0.1)


def test_it_stops_after_the_time_asked_for(model: Path, pipe: Callable[[np.ndarray], None], serein: Call) -> None:
    pipe(np.concatenate([SOUND] * 3))
    segments = [
        json.loads(line)
        for line in serein("stream", "--model", model, "--stdin-pcm", "--json", "--seconds", 5).out.split("\n")
        if line
    ]
    assert segments[-1]["end_s"] <= 5.2


def test_silence_is_said_to_be_silence(model: Path, pipe: Callable[[np.ndarray], None], serein: Call) -> None:
    pipe(np.zeros(RATE_HZ))
    outcome = serein("stream", "--model", model, "--stdin-pcm")
    assert (outcome.status, outcome.out, without_runtime(outcome.err)) == (0, "", "no speech was found\n")


class Microphone:
    """What `sounddevice` is to the command: it hands over blocks, then the listener presses Ctrl-C."""

    PortAudioError = RuntimeError

    def __init__(self, **options: Any) -> None:
        self.options = options

    def __enter__(self) -> None:
        size = self.options["blocksize"]
        for start in range(0, len(SOUND), size):
            self.options["callback"](SOUND[start : start + size, None], size, None, None)

    def __exit__(self, *error: object) -> None:
        pass


def test_a_microphone(model: Path, serein: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[dict[str, Any]] = []

    def stream(**options: Any) -> Microphone:
        opened.append(options)
        return Microphone(**options)

    package = SimpleNamespace(InputStream=stream, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", package)
    outcome = serein("stream", "--model", model, "--microphone", "3", "--json", "--seconds", 5.9)
    assert [round(json.loads(line)["start_s"], 1) for line in outcome.out.splitlines()] == pytest.approx(
        [0.9, 2.0], abs=0.2
    )
    assert (opened[0]["device"], opened[0]["samplerate"], opened[0]["channels"]) == (3, 16_000, 1)
    assert without_runtime(outcome.err).startswith("recording; press Ctrl-C to stop\n")


def test_a_microphone_that_cannot_be_opened(model: Path, serein: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(**options: Any) -> Microphone:
        raise RuntimeError("Invalid device")

    package = SimpleNamespace(InputStream=stream, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", package)
    outcome = serein("stream", "--model", model)
    assert outcome.status == 1
    assert outcome.complaint.startswith("error: microphone: cannot be opened (Invalid device). Choose another")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ImportError("none"), "pip install 'serein[stream]'"),
        (OSError("PortAudio library not found"), "PortAudio is not installed. Install it (Debian: apt install"),
    ],
)
def test_what_is_missing_is_named(
    error: Exception, says: str, model: Path, serein: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finder:
        def find_spec(self, name: str, *rest: object) -> None:
            if name == "sounddevice":
                raise error

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    outcome = serein("stream", "--model", model)
    assert outcome.status == 1
    assert says in outcome.complaint


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rate", "8000"], "'--rate': it is that of stdin; add --stdin-pcm"),
        (["--stdin-pcm", "--microphone", "3"], "'--microphone': the audio comes from stdin"),
        (["--stdin-pcm", "--seconds", "-5"], "'--seconds': -5 is not a finite number above 0"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options: list[str], says: str, model: Path, serein: Call) -> None:
    outcome = serein("stream", "--model", model, *options)
    assert (outcome.status, outcome.out) == (2, "")
    assert says in " ".join(outcome.err.replace("│", " ").split())


def test_delays_by_hand() -> None:
    arrivals = Arrivals(longest_s=2.0)
    for second in range(1, 6):
        arrivals.record(float(second), at_s=100.0 + second)
    assert arrivals.delay_s(3.5, now_s=105.5) == 1.5  # came with the fourth second
    assert arrivals.delay_s(9.0, now_s=105.5) == 0.0
    assert [place for place, _ in arrivals.places] == [3.0, 4.0, 5.0]
    assert delay_summary([0.3, 0.1, 0.2]) == "3 windows; delay: median 0.20 s, 95th percentile 0.30 s, maximum 0.30 s"

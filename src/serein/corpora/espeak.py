"""espeak-ng through its C interface, with output that does not depend on earlier utterances.

espeak-ng keeps state between utterances: flutter and roughness continue where the last utterance left
them, breath noise comes from the C library's `rand`, and parameters persist. Every utterance therefore
has its own voice file, which sets all relevant parameters and omits flutter, roughness and breath;
`serein.corpora.synth` adds jitter and breath from its own generator.

Interface: https://github.com/espeak-ng/espeak-ng/blob/master/src/include/espeak-ng/speak_lib.h
Voice files: https://github.com/espeak-ng/espeak-ng/blob/master/docs/voices.md
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
import threading
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.ndimage import map_coordinates
from scipy.signal import fftconvolve

from serein.audio import SAMPLE_RATE_HZ
from serein.data.files import replacing
from serein.errors import SereinError, imported

_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: samples go to a callback, in the calling thread
_DO_NOT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: report errors instead of ending the process
_UTF8 = 1  # espeakCHARS_UTF8
_FROM_START = 1  # espeak_POSITION_TYPE: characters, from 0
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4  # espeak_PARAMETER
_ENGLISH_DATA = ("phondata", "phonindex", "phontab", "intonations", "en_dict")
_VOICE_NAME = "utterance"

_Samples = NDArray[np.int16]
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_one_at_a_time = threading.Lock()  # the C library has one global state per process


@dataclass(frozen=True)
class Voice:
    """A voice of espeak-ng's formant synthesiser, as its voice files describe it.

    Attributes:
        low_hz: F0 at the bottom of the intonation range.
        high_hz: F0 at the top of the intonation range.
        words_per_minute: Speech rate.
        word_gap: Extra pause between words, in steps of 10 ms at the normal rate.
        formant_percent: Frequency of formants 0 to 8, in percent of the standard male voice.
        height_percent: Amplitude of formants 0 to 8, in percent of the standard male voice.
    """

    low_hz: float
    high_hz: float
    words_per_minute: float
    word_gap: float
    formant_percent: tuple[float, ...]
    height_percent: tuple[float, ...]

    def lines(self) -> str:
        """Return the attributes in the syntax of a voice file."""
        formants = zip(self.formant_percent, self.height_percent, strict=True)
        return "\n".join(
            (
                f"pitch {self.low_hz:.0f} {self.high_hz:.0f}",
                f"words {self.word_gap:.0f}",
                *(f"formant {i} {freq:.0f} {height:.0f} 100" for i, (freq, height) in enumerate(formants)),
                "flutter 0",
                "roughness 0",
                "",
            )
        )


class Espeak:
    """A running instance of espeak-ng, created by `running`."""

    def __init__(self, library: ctypes.CDLL, data_folder: Path, english: str) -> None:
        self._library, self._english = library, english
        self._voice_file = data_folder / "voices" / _VOICE_NAME
        self._chunks: list[_Samples] = []
        self._callback = _Callback(self._keep)  # a reference, or it would be garbage-collected while C still calls it
        self.sample_rate_hz = int(library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data_folder), _DO_NOT_EXIT))
        if self.sample_rate_hz <= 0:
            raise SereinError(
                "espeak-ng cannot be started with its data",
                where=data_folder,
                remedy="Reinstall it with: pip install --force-reinstall espeakng-loader.",
            )
        library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: Voice) -> NDArray[np.float32]:
        """Return `text` spoken by `voice`: (sample,) in [-1, 1] at `sample_rate_hz`."""
        self._voice_file.write_text(f"{self._english}\n{voice.lines()}", encoding="utf-8")
        self._call("espeak_SetVoiceByName", _VOICE_NAME.encode())
        for parameter, value in (
            (_RATE, round(voice.words_per_minute)),
            (_VOLUME, 100),
            (_PITCH, 50),
            (_RANGE, 50),
        ):
            self._call("espeak_SetParameter", parameter, value, 0)
        self._chunks.clear()
        encoded = text.encode() + b"\0"
        self._call("espeak_Synth", encoded, ctypes.c_size_t(len(encoded)), 0, _FROM_START, 0, _UTF8, None, None)
        return np.concatenate([np.zeros(0, np.int16), *self._chunks]).astype(np.float32) / 32_768.0

    def _keep(self, samples: ctypes._Pointer[ctypes.c_short], num_samples: int, _events: int | None) -> int:
        if samples and num_samples > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        return 0

    def _call(self, function: str, *arguments: object) -> None:
        call: Callable[..., int] = getattr(self._library, function)
        if status := call(*arguments):
            raise SereinError(f"espeak-ng failed in {function} (status {status})", remedy="Reinstall espeakng-loader.")


@contextmanager
def running() -> Iterator[Espeak]:
    """Start espeak-ng with a private data folder; stop it and delete the folder afterwards.

    The folder contains the English data and the current voice: a voice among the
    installed ones would outlive the run, and espeak-ng has little room for long paths.

    Raises:
        MissingExtraError: espeakng-loader is not installed.
    """
    loader = imported("espeakng_loader", "synth")
    installed = Path(loader.get_data_path())
    english = (installed / "lang" / "gmw" / "en-US").read_text(encoding="utf-8")
    with _one_at_a_time, tempfile.TemporaryDirectory(prefix="serein-espeak-") as name:
        (Path(name) / "voices").mkdir()
        for file in _ENGLISH_DATA:
            shutil.copyfile(installed / file, Path(name) / file)
        library = ctypes.CDLL(loader.get_library_path())
        try:
            yield Espeak(library, Path(name), english)
        finally:
            library.espeak_Terminate()


Signal = NDArray[np.float64]


def bend(speech: Signal, rise_st: float, jitter_percent: float, rng: np.random.Generator, rate_hz: int) -> Signal:
    """Vary F0 by playing faster or slower: `rise_st` from start to end, jitter at 50 random points per second.

    Durations and formants change by the same few percent.
    """
    time = np.linspace(-0.5, 0.5, len(speech))
    num_points = 2 + len(speech) * 50 // rate_hz
    jitter = np.interp(time, np.linspace(-0.5, 0.5, num_points), rng.standard_normal(num_points))
    speed = 2 ** (rise_st * time / 12) * (1 + jitter * max(0.1, jitter_percent) / 100)
    positions = np.cumsum(speed * len(speech) / speed.sum())
    bent: Signal = map_coordinates(speech, positions[None], order=3, mode="nearest")
    return bent


def breathe(speech: Signal, breath_db: float, rng: np.random.Generator) -> Signal:
    """Add aspiration noise at `breath_db` relative to the speech, following the envelope of the speech."""
    frame = np.ones(320) / 320  # 20 ms
    envelope = np.sqrt(np.maximum(fftconvolve(speech**2, frame, mode="same"), 0.0))
    noise = np.diff(rng.standard_normal(len(speech) + 1)) * envelope  # differencing adds 6 dB per octave
    scale = rms(speech) / rms(noise) * 10 ** (breath_db / 20)
    breathy: Signal = speech + noise * scale
    return breathy


def tilt(speech: Signal, db_per_octave: float) -> Signal:
    """Tilt the spectrum around 1 kHz by `db_per_octave`; flat below 200 Hz."""
    num_points = next_fast_len(len(speech), real=True)
    hz = np.fft.rfftfreq(num_points, 1 / SAMPLE_RATE_HZ)
    gain = (np.maximum(hz, 200.0) / 1000.0) ** (db_per_octave / (20 * np.log10(2)))
    tilted: Signal = np.fft.irfft(np.fft.rfft(speech, num_points) * gain, num_points)[: len(speech)]
    return tilted


def in_room(speech: Signal, rng: np.random.Generator, room: np.random.Generator) -> Signal:
    """Add the session's room: a decaying tail and a noise floor, both drawn from `room`."""
    decay_s = room.uniform(0.15, 0.4)
    tail_db, floor_db = room.uniform(-20.0, -12.0), room.uniform(-72.0, -62.0)
    time_s = np.arange(1, int(decay_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tail = room.standard_normal(len(time_s)) * 10 ** (-3 * time_s / decay_s)  # -60 dB after decay_s
    response = np.concatenate([[1.0], tail * 10 ** (tail_db / 20) / np.linalg.norm(tail)])
    wet: Signal = fftconvolve(speech, response)[: len(speech)]
    return wet + rng.standard_normal(len(speech)) * 10 ** (floor_db / 20)


def limit(speech: Signal, ceiling: float = 0.9) -> Signal:
    """Limit peaks softly to at most `ceiling` of full scale."""
    limited: Signal = ceiling * np.tanh(speech / ceiling)
    return limited


def rms(signal: Signal) -> float:
    return float(np.sqrt(np.mean(signal**2)))


def write_wav(path: Path, speech: Signal) -> None:
    with replacing(path) as partial, wave.open(str(partial), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(np.round(speech * 32_767).astype("<i2").tobytes())

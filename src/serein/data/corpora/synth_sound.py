"""From espeak-ng's speech to a voice in a room: contour, jitter, breath, tilt, reverberation, level."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.ndimage import map_coordinates
from scipy.signal import fftconvolve

from serein.data.audio import SAMPLE_RATE_HZ
from serein.data.files import replacing

Signal = NDArray[np.float64]


def bend(speech: Signal, rise_st: float, jitter_percent: float, rng: np.random.Generator, rate_hz: int) -> Signal:
    """Bend F0 by playing faster or slower: `rise_st` from start to end, jitter at 50 random points a second.

    Durations and formants bend along by the same few percent.
    """
    time = np.linspace(-0.5, 0.5, len(speech))
    num_points = 2 + len(speech) * 50 // rate_hz
    jitter = np.interp(time, np.linspace(-0.5, 0.5, num_points), rng.standard_normal(num_points))
    speed = 2 ** (rise_st * time / 12) * (1 + jitter * max(0.1, jitter_percent) / 100)
    positions = np.cumsum(speed * len(speech) / speed.sum())
    bent: Signal = map_coordinates(speech, positions[None], order=3, mode="nearest")
    return bent


def breathe(speech: Signal, breath_db: float, rng: np.random.Generator) -> Signal:
    """Add aspiration noise, `breath_db` against the speech and as loud as the speech is at each moment."""
    frame = np.ones(320) / 320  # 20 ms
    envelope = np.sqrt(np.maximum(fftconvolve(speech**2, frame, mode="same"), 0.0))
    noise = np.diff(rng.standard_normal(len(speech) + 1)) * envelope  # the difference lifts 6 dB per octave
    scale = rms(speech) / rms(noise) * 10 ** (breath_db / 20)
    breathy: Signal = speech + noise * scale
    return breathy


def tilt(speech: Signal, db_per_octave: float) -> Signal:
    """Tilt the spectrum around 1 kHz, by the exponent that makes `db_per_octave`; flat below 200 Hz."""
    num_points = next_fast_len(len(speech), real=True)
    hz = np.fft.rfftfreq(num_points, 1 / SAMPLE_RATE_HZ)
    gain = (np.maximum(hz, 200.0) / 1000.0) ** (db_per_octave / (20 * np.log10(2)))
    tilted: Signal = np.fft.irfft(np.fft.rfft(speech, num_points) * gain, num_points)[: len(speech)]
    return tilted


def in_room(speech: Signal, rng: np.random.Generator, room: np.random.Generator) -> Signal:
    """Add the session's room: a decaying tail and a noise floor, both as `room` draws them."""
    decay_s = room.uniform(0.15, 0.4)
    tail_db, floor_db = room.uniform(-20.0, -12.0), room.uniform(-72.0, -62.0)
    time_s = np.arange(1, int(decay_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tail = room.standard_normal(len(time_s)) * 10 ** (-3 * time_s / decay_s)  # -60 dB after decay_s
    response = np.concatenate([[1.0], tail * 10 ** (tail_db / 20) / np.linalg.norm(tail)])
    wet: Signal = fftconvolve(speech, response)[: len(speech)]
    return wet + rng.standard_normal(len(speech)) * 10 ** (floor_db / 20)


def limit(speech: Signal, ceiling: float = 0.9) -> Signal:
    """Bend peaks softly so that none exceeds `ceiling` of full scale."""
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

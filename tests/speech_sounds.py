"""Sounds that a voice activity detector takes for speech, made on the spot, for tests without recordings of people."""

from __future__ import annotations

import numpy as np

RATE_HZ = 16_000


def voiced(seconds: float, rng: np.random.Generator, pitch_hz: float = 140.0) -> np.ndarray:
    """Return (sample,) float32 of a buzz through three moving formants, four syllables a second."""
    times_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    pitch = pitch_hz * (
        1 + 0.15 * np.sin(2 * np.pi * 0.7 * times_s) + 0.01 * rng.standard_normal(len(times_s)).cumsum() / 200
    )
    phase = 2 * np.pi * np.cumsum(pitch) / RATE_HZ
    harmonics = np.arange(1, 26)
    drift = np.sin(2 * np.pi * 2.1 * times_s)
    formants_hz = np.stack([500 + 250 * drift, 1500 - 500 * drift, 2500 + 0 * drift])
    wave = np.zeros(len(times_s))
    for harmonic in harmonics:
        gains = 1 / (1 + ((harmonic * pitch - formants_hz) / 120.0) ** 2)
        wave += gains.sum(axis=0) * np.sin(harmonic * phase) / harmonic**0.5
    syllables = np.clip(1.4 * np.sin(np.pi * 4 * times_s) ** 2, 0.05, 1)
    wave *= syllables / np.abs(wave).max()
    return (0.3 * wave + 0.001 * rng.standard_normal(len(wave))).astype(np.float32)

"""Recordings that are none: fuzzed headers, cut and shuffled files, noise; the same ones from the same seed."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from server.ingredients import encoded

FORMS = ("WAV", "FLAC", "OGG", "MP3", "AIFF", "W64", "CAF", "AU", "VOC", "RF64")
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)


def broken(count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield `count` malformed uploads."""
    rng = np.random.default_rng(seed)
    sound = (0.1 * rng.standard_normal(4000)).astype(np.float32)
    whole = [encoded(sound, 16_000, form) for form in FORMS]
    ways = (_noise, _cut, _header_changed, _numbers_changed, _spliced, _noise_after_magic)
    for number in range(count):
        yield ways[number % len(ways)](whole[int(rng.integers(len(whole)))], rng)


def _noise(_: bytes, rng: np.random.Generator) -> bytes:
    return rng.bytes(int(rng.integers(0, 3000)))


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(0, len(content) // 2))]


def _header_changed(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 12))):
        changed[int(rng.integers(0, 64))] = int(rng.integers(256))
    return bytes(changed)


def _numbers_changed(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(4, 60))
        changed[place : place + 4] = struct.pack(str(rng.choice(["<I", ">I"])), int(rng.choice(_EXTREMES)))
    return bytes(changed)


def _spliced(content: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(12, len(content)))
    return content[:place] + rng.bytes(int(rng.integers(1, 500))) + content[int(rng.integers(0, len(content))) :]


def _noise_after_magic(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(4, 40))] + rng.bytes(1000)

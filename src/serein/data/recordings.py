"""The audio of a list of utterances: how long each is, and its samples, decoded once when memory allows."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from serein.data import audio
from serein.data.audio import SAMPLE_RATE_HZ, Waveform
from serein.data.utterance import Utterance

BEGINNING_S = 0.5
MEMORY_S = 36_000.0  # ten hours of float32 at 16 kHz are 2.3 GB

Progress = Callable[[int, int], None]


class Recordings:
    """Waveforms of utterances by position; kept in memory after the first reading when they all fit.

    Args:
        utterances: In the order of the positions.
        trim_db: Cut silence this far below the loudest frame off both ends; `None` keeps it.
        memory_s: Most seconds of audio to keep.

    Attributes:
        durations_s: (utterance,) seconds; before trimming where the audio is not in memory.
    """

    def __init__(
        self, utterances: Sequence[Utterance], *, trim_db: float | None = None, memory_s: float = MEMORY_S
    ) -> None:
        self.utterances = list(utterances)
        self.trim_db = trim_db
        self.durations_s = durations(utterances)
        self.fits_memory = float(self.durations_s.sum()) <= memory_s
        self._waveforms: dict[int, Waveform] = {}

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, position: int) -> Waveform:
        """Return (sample,) float32 at 16 kHz; raises AudioError."""
        waveform = self._waveforms.get(position)
        if waveform is None:
            utterance = self.utterances[position]
            whole = audio.load(utterance.audio, utterance.start_s, utterance.end_s)
            waveform = audio.trimmed(whole, self.trim_db)
            if self.fits_memory:
                self._waveforms[position] = waveform
                self.durations_s[position] = len(waveform) / SAMPLE_RATE_HZ
        return waveform

    def prefetch(self, on_progress: Progress | None = None) -> None:
        """Decode everything into memory with two threads, or do nothing when it does not fit."""
        if not self.fits_memory:
            return
        with ThreadPoolExecutor(2) as pool:
            for done, _ in enumerate(pool.map(self.__getitem__, range(len(self))), start=1):
                if on_progress:
                    on_progress(done, len(self))


def durations(utterances: Sequence[Utterance]) -> np.ndarray:
    """Return (utterance,) float64 seconds, from the file headers.

    Raises:
        AudioError: A file is missing or no audio, or a part lies outside its file.
    """

    def duration(utterance: Utterance) -> float:
        return audio.info(utterance.audio, utterance.start_s, utterance.end_s).duration_s

    with ThreadPoolExecutor(4) as pool:
        return np.fromiter(pool.map(duration, utterances), np.float64, count=len(utterances))


def duplicates(recordings: Recordings) -> Mapping[str, str]:
    """Find utterances with identical audio.

    Only recordings of one length can be twins, so only those are hashed; where they do not fit into memory, only those
    of them that begin alike.

    Returns:
        Id -> least of the ids with the same samples, for every utterance that has a twin.
    """
    same_length: dict[int, list[int]] = defaultdict(list)
    for position, duration_s in enumerate(recordings.durations_s):
        same_length[round(duration_s * SAMPLE_RATE_HZ)].append(position)
    found: dict[str, str] = {}
    for positions in same_length.values():
        if len(positions) > 1:
            found.update(_twins_among(recordings, positions))
    return found


def _twins_among(recordings: Recordings, positions: Sequence[int]) -> dict[str, str]:
    by_hash: dict[bytes, list[str]] = defaultdict(list)
    for position in _alike_at_first(recordings, positions):
        digest = _fingerprint(recordings[position])
        by_hash[digest].append(recordings.utterances[position].id)
    return {name: min(names) for names in by_hash.values() if len(names) > 1 for name in names}


def _alike_at_first(recordings: Recordings, positions: Sequence[int]) -> list[int]:
    """Return those that begin alike, where each would have to be read whole for nothing else.

    VoxCeleb1's 350 hours are nearly all of a length that another clip has.
    """
    if recordings.fits_memory or recordings.trim_db is not None:  # what is in memory, or trimmed, is read whole anyway
        return list(positions)
    by_start: dict[bytes, list[int]] = defaultdict(list)
    for position in positions:
        by_start[_fingerprint(_beginning(recordings, position))].append(position)
    return sorted(position for some in by_start.values() if len(some) > 1 for position in some)


def _beginning(recordings: Recordings, position: int) -> Waveform:
    utterance = recordings.utterances[position]
    end_s = utterance.start_s + min(BEGINNING_S, float(recordings.durations_s[position]))
    return audio.decode(utterance.audio, utterance.start_s, end_s)


def _fingerprint(waveform: Waveform) -> bytes:
    return hashlib.blake2b(waveform.tobytes(), digest_size=16).digest()

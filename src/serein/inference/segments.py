"""Recordings of any length: speech is detected as samples arrive, and cut into overlapping windows.

The windows do not depend on the size of the blocks, so a file and a stream of the same audio give the same windows.
Only the speech of the last seconds is kept in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serein.audio import SAMPLE_RATE_HZ, Waveform
from serein.errors import RecipeError
from serein.inference.vad import FRAME, SpeechDetector

EDGE_DB = (
    20.0  # speech begins and ends where it is this far below its loudest: noise, level and silence do not move that
)
EDGE_WINDOW = 400  # samples that a level is taken over, 25 ms
EDGE_SEARCH_S = (
    1.0  # so much before the detector found it speech may have begun: of quiet speech it finds the start late
)
EDGE_GAP = 1600  # samples, 0.1 s: what lies farther from the speech that the detector found is something else, a knock

ONSET = 0.5  # speech begins at this probability, and ends below OFFSET: Silero's own hysteresis
OFFSET = 0.35


@dataclass(frozen=True)
class SlidingWindow:
    """How speech is cut into windows; the last three are the options of Silero's detector.

    Attributes:
        window_s: Length of a window; shorter stretches of speech are one window.
        step_s: From the start of one window to the start of the next.
        min_silence_s: Only a silence of this length ends a stretch of speech.
        min_speech_s: Shorter stretches of speech are dropped.
        speech_pad_s: Is kept before and after each stretch of speech.

    Raises:
        RecipeError: The lengths do not fit together.
    """

    window_s: float = 3.0
    step_s: float = 1.5
    min_silence_s: float = 0.4
    min_speech_s: float = 0.25
    speech_pad_s: float = 0.1

    def __post_init__(self) -> None:
        if not 0.1 <= self.step_s <= self.window_s <= 60.0:
            raise RecipeError(
                f"windows of {self.window_s:g} s every {self.step_s:g} s",
                where="sliding window",
                remedy="Choose windows of at most 60 s and a step from 0.1 s to the length of a window.",
            )
        if not (0.0 <= 2 * self.speech_pad_s <= self.min_silence_s and 0.0 < self.min_speech_s <= self.window_s):
            raise RecipeError(
                f"min_silence_s {self.min_silence_s:g}, speech_pad_s {self.speech_pad_s:g}, "
                f"min_speech_s {self.min_speech_s:g}",
                where="sliding window",
                remedy="min_silence_s is at least twice speech_pad_s, and min_speech_s at most a window.",
            )


SLIDING_WINDOW = SlidingWindow()


@dataclass(frozen=True)
class Window:
    """A part of a recording in which there is speech.

    Attributes:
        start: First sample, at 16 kHz, counted from the recording's start.
        waveform: (sample,) float32; pauses in it may be left out.
        end: Sample after the last one; `None`: where the waveform ends.
        padding: Samples before and after the speech.
    """

    start: int
    waveform: Waveform
    end: int | None = None
    padding: tuple[int, int] = (0, 0)

    @property
    def start_s(self) -> float:
        """Where it starts, in seconds."""
        return self.start / SAMPLE_RATE_HZ

    @property
    def end_s(self) -> float:
        """Where it ends, in seconds."""
        return (self.start + len(self.waveform) if self.end is None else self.end) / SAMPLE_RATE_HZ


class WindowCutter:
    """Cuts a recording into windows as its samples arrive.

    Example:
        >>> cutter = WindowCutter(SlidingWindow())
        >>> cutter.feed(np.zeros(16000, np.float32)), cutter.finish()
        ([], [])
    """

    def __init__(self, sliding_window: SlidingWindow) -> None:
        self.sliding_window = sliding_window
        self.detector = SpeechDetector()
        self.kept: Waveform = np.zeros(0, np.float32)
        self.kept_from = 0  # the sample that `kept` starts with
        self.num_frames = 0  # that the detector has seen
        self.stretch: int | None = None  # the current stretch of speech began no earlier
        self.onset = 0  # where the detector found it
        self.edge = 0  # first sample of its speech, once it is known
        self.speech_end = 0  # last sample of it that is certain
        self.next_start: int | None = None  # of the next window; unknown until the stretch is as long as one, or ends
        self.covered = 0  # up to here windows were cut
        self.num_speech_samples = 0

    @property
    def position(self) -> int:
        """Samples that have arrived."""
        return self.kept_from + len(self.kept)

    def feed(self, waveform: Waveform, speech: NDArray[np.float32] | None = None) -> list[Window]:
        """Return the windows that (sample,) more complete.

        Args:
            speech: (frame,) speech probabilities, where the detector has run on the samples already.
        """
        speech = self.detector.feed(waveform) if speech is None else speech
        self.kept = np.concatenate([self.kept, waveform])
        windows = [window for probability in speech for window in self._add_frame(float(probability))]
        # drop the samples that no window will need
        needed = self.num_frames * FRAME - _samples(EDGE_SEARCH_S)
        if self.stretch is not None:
            of_last_window = self.speech_end - _samples(self.sliding_window.window_s + self.sliding_window.speech_pad_s)
            needed = max(self.stretch, min(of_last_window, self.next_start or 0))
        drop = max(0, needed - self.kept_from)
        self.kept, self.kept_from = self.kept[drop:].copy(), self.kept_from + drop
        return windows

    def finish(self) -> list[Window]:
        """Return the last windows, once all samples have arrived."""
        windows = [window for probability in self.detector.finish() for window in self._add_frame(float(probability))]
        return windows if self.stretch is None else windows + self._cut(is_end=True)

    def _add_frame(self, probability: float) -> list[Window]:
        """Add the speech probability of the next frame."""
        start, end = self.num_frames * FRAME, min((self.num_frames + 1) * FRAME, self.position)
        self.num_frames += 1
        if self.stretch is None and probability >= ONSET:
            self.stretch = max(start - _samples(EDGE_SEARCH_S), self.covered, 0)
            self.onset = self.speech_end = start
            self.next_start = None
        if self.stretch is None:
            return []
        if probability >= (ONSET if self.speech_end < start else OFFSET):
            self.speech_end = end
        elif end - self.speech_end >= _samples(self.sliding_window.min_silence_s):
            return self._cut(is_end=True)
        return self._cut()

    def _cut(self, *, is_end: bool = False) -> list[Window]:
        """Cut the complete windows of the current stretch of speech; at its end also the rest, which ends with it."""
        if self.stretch is None:
            return []
        length, shortest = _samples(self.sliding_window.window_s), _samples(self.sliding_window.min_speech_s)
        pad = _samples(self.sliding_window.speech_pad_s)
        if self.next_start is None:
            if not is_end and self.speech_end < self.onset + length:
                return []
            self.edge, _ = self._edges(self.stretch, self.onset, self.speech_end)
            self.next_start = self.covered = max(self.stretch, self.edge - pad)
            self.stretch = self.next_start
        places = []
        while self.next_start + length <= self.speech_end:
            places.append((self.next_start, self.next_start + length))
            self.next_start += _samples(self.sliding_window.step_s)
        self.covered = places[-1][1] if places else self.covered
        last = self.speech_end
        if is_end:
            start, heard = self.stretch, min(self.num_frames * FRAME, self.position)
            _, last = self._edges(
                max(start, self.speech_end - length), max(self.onset, self.speech_end - length), heard
            )
            end = max(min(last + pad, heard), self.covered)
            self.stretch = None
            if end - start >= shortest:
                self.num_speech_samples += end - start
                if end - self.covered >= shortest:
                    places.append((max(start, end - length), end))
                    self.covered = end
        return [
            Window(
                start,
                self.kept[start - self.kept_from : end - self.kept_from].copy(),
                padding=(max(0, self.edge - start), max(0, end - last)),
            )
            for start, end in places
        ]

    def _edges(self, start: int, onset: int, end: int) -> tuple[int, int]:
        """Return where speech begins and ends between two samples.

        That is where it rises to `EDGE_DB` below the loudest of what the detector found, from `onset` to `speech_end`;
        what lies apart from that does not count.
        """
        samples = self.kept[start - self.kept_from : end - self.kept_from].astype(np.float64)
        if len(samples) <= EDGE_WINDOW:
            return start, end
        sums = np.concatenate([[0.0], np.cumsum(np.square(samples - samples.mean()))])
        power = sums[EDGE_WINDOW:] - sums[:-EDGE_WINDOW]  # of the window that begins at each sample
        begin, finish = (min(max(place - start, 0), len(power) - 1) for place in (onset, self.speech_end - EDGE_WINDOW))
        for _ in range(2):  # the loudest of what was found; then of what belongs to it
            loudest = power[begin : max(finish, begin) + 1].max()
            loud = np.flatnonzero(power >= loudest * 10.0 ** (-EDGE_DB / 10.0))
            is_apart = np.diff(loud) > EDGE_GAP
            before = np.flatnonzero(is_apart & (loud[:-1] < begin))
            after = np.flatnonzero(is_apart & (loud[1:] > finish))
            begin = int(loud[before[-1] + 1] if len(before) else loud[0])
            finish = int(loud[after[0]] if len(after) else loud[-1])
        centre = EDGE_WINDOW // 2
        is_loud_to_the_end = finish == len(power) - 1
        return start + (begin + centre if begin else 0), end if is_loud_to_the_end else start + finish + centre


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE_HZ)

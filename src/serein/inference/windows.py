"""Recordings of any length: speech is found as samples come, and cut into windows that overlap.

What is cut does not hang on how the samples are handed over, so that a file and a stream of the same sound give the
same windows, and only the speech of the last seconds is kept in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serein.data.audio import SAMPLE_RATE_HZ, Waveform
from serein.errors import RecipeError
from serein.inference import voice
from serein.inference.voice import FRAME, SpeechDetector

ONSET = 0.5  # speech begins where it is this likely, and ends below OFFSET: Silero's own hysteresis
OFFSET = 0.35


@dataclass(frozen=True)
class SlidingWindow:
    """How speech is cut.

    Attributes:
        window_s: Length of a window; a stretch of speech that is shorter is one window.
        step_s: From the start of a window to the start of the next.
        min_silence_s: Silence up to this length does not end a stretch of speech.
        min_speech_s: A stretch of speech that is shorter is passed over.
        speech_pad_s: Is heard before and after a stretch.

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
                where="windows",
                remedy="Take windows of at most 60 s, every 0.1 s to their own length.",
            )
        if not (0.0 <= 2 * self.speech_pad_s <= self.min_silence_s and 0.0 < self.min_speech_s <= self.window_s):
            raise RecipeError(
                f"pauses of {self.min_silence_s:g} s, margins of {self.speech_pad_s:g} s, speech from {self.min_speech_s:g} s on",
                where="windows",
                remedy="Pauses are at least two margins long, and the shortest speech is no longer than a window.",
            )


SLIDING_WINDOW = SlidingWindow()


@dataclass(frozen=True)
class Window:
    """A part of a recording in which there is speech.

    Attributes:
        start: First sample, at 16 kHz, counted from the recording's start.
        waveform: (sample,) float32.
    """

    start: int
    waveform: Waveform

    @property
    def start_s(self) -> float:
        """Where it starts, in seconds."""
        return self.start / SAMPLE_RATE_HZ

    @property
    def end_s(self) -> float:
        """Where it ends, in seconds."""
        return (self.start + len(self.waveform)) / SAMPLE_RATE_HZ


class WindowCutter:
    """Cuts a recording into windows as its samples come.

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
        self.num_frames = 0  # that were judged
        self.stretch: int | None = None  # first sample of the speech that is heard now, with its margin
        self.speech_end = 0  # last sample of it that is certain
        self.next_start = 0  # of the next window
        self.covered = 0  # up to here windows were cut
        self.num_speech_samples = 0

    @property
    def position(self) -> int:
        """Samples that have come."""
        return self.kept_from + len(self.kept)

    def feed(self, waveform: Waveform) -> list[Window]:
        """Return the windows that (sample,) more complete."""
        return self.cut(waveform, self.detector.feed(waveform))

    def cut(self, waveform: Waveform, speech: NDArray[np.float32]) -> list[Window]:
        """Return the windows that (sample,) more complete, where the detector has said (frame,) how likely they are."""
        self.kept = np.concatenate([self.kept, waveform])
        windows = [window for likely in speech for window in self._judge(float(likely))]
        self._forget()
        return windows

    def finish(self) -> list[Window]:
        """Return the windows of the end, once all samples have come."""
        windows = [window for likely in self.detector.finish() for window in self._judge(float(likely))]
        return windows + self._end_stretch()

    def _judge(self, likely: float) -> list[Window]:
        """Take in how likely the next frame is speech."""
        start, end = self.num_frames * FRAME, min((self.num_frames + 1) * FRAME, self.position)
        self.num_frames += 1
        if self.stretch is None and likely >= ONSET:
            self._begin_stretch(start)
        if self.stretch is None:
            return []
        if likely >= (ONSET if self.speech_end < start else OFFSET):
            self.speech_end = end
        elif end - self.speech_end >= _samples(self.sliding_window.min_silence_s):
            return self._end_stretch()
        return self._whole_windows()

    def _begin_stretch(self, start: int) -> None:
        self.stretch = self.next_start = max(start - _samples(self.sliding_window.speech_pad_s), self.covered, 0)
        self.speech_end = start
        self.covered = self.stretch

    def _whole_windows(self) -> list[Window]:
        windows = []
        while self.next_start + _samples(self.sliding_window.window_s) <= self.speech_end:
            windows.append(self._cut(self.next_start, self.next_start + _samples(self.sliding_window.window_s)))
            self.next_start += _samples(self.sliding_window.step_s)
        return windows

    def _end_stretch(self) -> list[Window]:
        """Cut what is left of a stretch; the last window ends with it."""
        if self.stretch is None:
            return []
        windows = self._whole_windows()
        start, end = self.stretch, min(self.speech_end + _samples(self.sliding_window.speech_pad_s), self.position)
        self.stretch = None
        if end - start < _samples(self.sliding_window.min_speech_s):
            return windows
        self.num_speech_samples += end - start
        if end - self.covered >= _samples(self.sliding_window.min_speech_s):
            windows.append(self._cut(max(start, end - _samples(self.sliding_window.window_s)), end))
        return windows

    def _cut(self, start: int, end: int) -> Window:
        self.covered = end
        return Window(start, self.kept[start - self.kept_from : end - self.kept_from].copy())

    def _forget(self) -> None:
        """Let go of the samples that no window will need."""
        judged = self.num_frames * FRAME - _samples(self.sliding_window.speech_pad_s)
        needed = judged if self.stretch is None else self.speech_end - _samples(self.sliding_window.window_s)
        if self.stretch is not None:
            needed = max(self.stretch, min(needed, self.next_start))
        drop = max(0, needed - self.kept_from)
        self.kept, self.kept_from = self.kept[drop:].copy(), self.kept_from + drop


def feed_all(cutters: Sequence[WindowCutter], waveforms: Sequence[Waveform]) -> list[list[Window]]:
    """Feed many cutters at once, which takes a fraction of the time of one after the other."""
    speech = voice.feed_all([cutter.detector for cutter in cutters], waveforms)
    return [cutter.cut(*each) for cutter, *each in zip(cutters, waveforms, speech, strict=True)]


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE_HZ)

"""Cut files into windows of speech, in threads that read ahead while the model predicts earlier windows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from serein import audio
from serein.audio import SAMPLE_RATE_HZ, Upload, Waveform
from serein.data.manifest import Utterance
from serein.errors import AudioError, SereinError
from serein.inference.recording import Recording, Window
from serein.inference.vad import FRAME, feed_all

STEP_S = 30.0  # of speech that a thread collects in one step
SHORT_S = 10.0  # a recording up to this length is kept until speech is detected in several at once


@dataclass(eq=False)
class Item:
    """A recording that is being predicted.

    Attributes:
        utterance: Its metadata.
        content: Its path, or the file itself.
        recording: The state of its reading and prediction.
        error: Why it cannot be read.
        duration_s: Its length, once known.
    """

    utterance: Utterance
    content: str | Upload
    recording: Recording
    error: SereinError | None = None
    duration_s: float | None = None

    @property
    def is_pipe(self) -> bool:
        """Whether it comes from another program, whose next samples may take long to arrive."""
        return not isinstance(self.content, Upload) and not Path(self.content).is_file()

    def windows(self, *, measure: bool) -> Iterator[list[Window] | Waveform]:
        """Read the recording and yield its windows as they are completed, or the samples of a short recording.

        Args:
            measure: Whether to determine `duration_s` first.

        Raises:
            AudioError: It cannot be read.
        """
        part, raw_rate_hz = (self.utterance.start_s, self.utterance.end_s), self.recording.options.raw_rate_hz
        if self.recording.cutter is None:
            self.recording.feed(audio.load(self.content, *part, raw_rate_hz=raw_rate_hz))
            yield self.recording.finish()
            return
        with audio.open(self.content, raw_rate_hz=raw_rate_hz) as sound:  # once: a pipe cannot be opened again
            self.duration_s = sound.info(*part).duration_s if measure else None
            start: Waveform | None = np.zeros(0, np.float32)
            for block in sound.blocks(*part):
                if start is not None:
                    start = block = np.concatenate([start, block])
                    if len(block) <= SHORT_S * SAMPLE_RATE_HZ:
                        continue
                    start = None
                yield self.recording.feed(block)
        yield self.recording.finish() if start is None else start


Windows = list[tuple[Item, Window]]
_Steps = Iterator[tuple[Windows, bool]]


def length_s(windows: Windows) -> float:
    """Return the seconds of speech in windows."""
    return sum(len(window.waveform) for _, window in windows) / SAMPLE_RATE_HZ


def read_ahead(
    groups: Iterator[Sequence[Item]], threads: Executor | None, num_groups: int, *, measure: bool
) -> Iterator[Windows]:
    """Read groups of recordings, several groups at a time, and yield their windows.

    Args:
        groups: Groups of recordings; those of one group are read one after the other.
        threads: Executor that reads the next windows of each group while the previous ones are predicted, if any.
        num_groups: Number of groups that are read at a time.
        measure: Whether to determine the durations of recordings.
    """
    running: deque[tuple[_Steps, Executor | None, Callable[[], tuple[Windows, bool]]]] = deque()

    def go_on(steps: _Steps, own: Executor | None) -> None:
        running.append((steps, own, own.submit(next, steps).result if own else partial(next, steps)))

    def begin(num: int) -> None:
        for group in islice(groups, num):  # a thread waiting for a pipe would prevent Python from exiting
            go_on(_steps_of(group, measure=measure), None if any(item.is_pipe for item in group) else threads)

    begin(num_groups)
    while running:
        steps, own, result = running.popleft()
        windows, is_last = result()
        if is_last:
            begin(1)
        else:
            go_on(steps, own)
        yield windows


def _steps_of(items: Sequence[Item], *, measure: bool) -> _Steps:
    """Read recordings one after the other; yield windows of about `STEP_S` in all, and whether they are the last."""
    windows: Windows = []
    short: list[tuple[Item, Waveform]] = []
    for item in items:
        try:
            for found in item.windows(measure=measure):
                if isinstance(found, np.ndarray):
                    short.append((item, found))
                else:
                    windows += [(item, window) for window in found]
                if length_s(windows) >= STEP_S:
                    yield windows, False
                    windows = []
        except AudioError as error:
            utterance = item.utterance
            own = f"'{utterance.id}': " if utterance.id != utterance.audio else ""  # which part of a file it is
            item.error = AudioError(f"{own}{error.what}", where=error.where, remedy=error.remedy)
    yield windows + _windows_of_short(short), True


def _windows_of_short(short: Sequence[tuple[Item, Waveform]]) -> Windows:
    """Detect the speech of short recordings in one batch."""
    heard = [(item, item.recording.cutter, samples) for item, samples in short]
    parts = [(item, cutter, samples) for item, cutter, samples in heard if cutter is not None]
    whole = [np.concatenate([samples, np.zeros(-len(samples) % FRAME, np.float32)]) for _, _, samples in parts]
    found = feed_all([cutter.detector for _, cutter, _ in parts], whole)
    windows: Windows = []
    for (item, _, samples), speech in zip(parts, found, strict=True):
        windows += [(item, window) for window in item.recording.feed(samples, speech) + item.recording.finish()]
    return windows

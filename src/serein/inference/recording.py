"""Cut a recording into windows as its samples arrive, and combine the predictions for the windows into one.

Files, uploads and streams all take this path, so that a recording always gets the same prediction. Speech is detected
as samples arrive, and cut into overlapping windows. The windows do not depend on the size of the blocks, so a file and
a stream of the same audio give the same windows. Only the speech of the last seconds is kept in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from serein.audio import SAMPLE_RATE_HZ, Waveform
from serein.errors import RecipeError, expected_one_of
from serein.inference.prediction import (
    NO_REJECT_OPTION,
    NO_SPEECH,
    TOO_SHORT,
    ClipPrediction,
    Prediction,
    RejectOption,
    Segment,
    dimensions_of,
    merged_segments,
    moments,
    segment_of,
)
from serein.inference.vad import FRAME, SpeechDetector
from serein.tasks.task import mean_of

PEAK_S = 0.05
EDGE_DB = 20.0  # speech begins and ends this far below its loudest, independently of noise, level and silence
EDGE_WINDOW = 400  # samples over which a level is measured, 25 ms
EDGE_SEARCH = 16000  # samples by which speech may begin before it is detected: quiet speech is detected late
EDGE_GAP = 1600  # samples, 0.1 s: sounds farther from the detected speech are something else, such as a knock

ONSET = 0.5  # speech begins at this probability, and ends below OFFSET: Silero's own hysteresis
OFFSET = 0.35


@dataclass(frozen=True)
class SlidingWindow:
    """How speech is cut into windows; the last three attributes are options of Silero's detector.

    Attributes:
        window_s: Length of a window; shorter stretches of speech are one window.
        step_s: Time from the start of one window to the start of the next.
        min_silence_s: Minimum silence that ends a stretch of speech.
        min_speech_s: Shorter stretches of speech are dropped.
        speech_pad_s: Padding kept before and after each stretch of speech.

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
                remedy="Choose min_silence_s of at least twice speech_pad_s, and min_speech_s of at most a window.",
            )


SLIDING_WINDOW = SlidingWindow()


@dataclass(frozen=True)
class Window:
    """A part of a recording that contains speech.

    Attributes:
        start: First sample, at 16 kHz, counted from the recording's start.
        waveform: (sample,) float32; pauses may be left out.
        end: Sample after the last one; `None`: the end of the waveform.
        padding: Samples before and after the speech.
    """

    start: int
    waveform: Waveform
    end: int | None = None
    padding: tuple[int, int] = (0, 0)

    @property
    def start_s(self) -> float:
        """Start, in seconds."""
        return self.start / SAMPLE_RATE_HZ

    @property
    def end_s(self) -> float:
        """End, in seconds."""
        return (self.start + len(self.waveform) if self.end is None else self.end) / SAMPLE_RATE_HZ


class WindowCutter:
    """Cuts a recording into windows as its samples arrive.

    Example:
        >>> cutter = WindowCutter(SlidingWindow())
        >>> cutter.feed(np.zeros(16000, np.float32)), cutter.finish()
        ([], [])
    """

    def __init__(self, sliding_window: SlidingWindow) -> None:
        self.length, self.step = _samples(sliding_window.window_s), _samples(sliding_window.step_s)
        self.min_silence, self.pad = _samples(sliding_window.min_silence_s), _samples(sliding_window.speech_pad_s)
        self.min_speech = _samples(sliding_window.min_speech_s)
        self.detector = SpeechDetector()
        self.kept: Waveform = np.zeros(0, np.float32)
        self.kept_from = 0  # the sample that `kept` starts with
        self.position = 0  # samples that have arrived
        self.num_frames = 0  # that the detector has processed
        self.stretch: int | None = None  # the earliest start of the current stretch of speech
        self.onset = 0  # where the detector found it
        self.edge = 0  # first sample of its speech, once known
        self.speech_end = 0  # last sample of it that is certain
        self.next_start: int | None = None  # of the next window; unknown until the stretch is as long as one, or ends
        self.covered = 0  # end of the windows that were cut
        self.num_speech_samples = 0

    def feed(self, waveform: Waveform, speech: NDArray[np.float32] | None = None) -> list[Window]:
        """Return the windows completed by these samples, (sample,).

        Args:
            speech: (frame,) speech probabilities, if the detector has already run on the samples.
        """
        speech = self.detector.feed(waveform) if speech is None else speech
        self.kept = np.concatenate([self.kept, waveform])
        self.position += len(waveform)
        windows = [window for probability in speech for window in self._add_frame(float(probability))]
        # drop the samples that no window will need
        needed = self.num_frames * FRAME - EDGE_SEARCH
        if self.stretch is not None:  # the last window ends with the speech, but not before the previous window
            needed = max(self.stretch, self.covered - self.length)
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
            self.stretch = max(start - EDGE_SEARCH, self.covered, 0)
            self.onset = self.speech_end = start
            self.next_start = None
        if self.stretch is None:
            return []
        if probability >= (ONSET if self.speech_end < start else OFFSET):
            self.speech_end = end
        elif end - self.speech_end >= self.min_silence:
            return self._cut(is_end=True)
        start = self.onset if self.next_start is None else self.next_start
        return self._cut() if self.speech_end >= start + self.length else []

    def _cut(self, *, is_end: bool = False) -> list[Window]:
        """Cut the complete windows of the current stretch of speech; at its end, also a window that ends with it."""
        if self.stretch is None:
            return []
        length, shortest, pad = self.length, self.min_speech, self.pad
        if self.next_start is None:
            self.edge, _ = self._edges(self.stretch, self.onset, self.speech_end)
            self.next_start = self.covered = max(self.stretch, self.edge - pad)
            self.stretch = self.next_start
        places = []
        while self.next_start + length <= self.speech_end:
            places.append((self.next_start, self.next_start + length))
            self.next_start += self.step
        self.covered = places[-1][1] if places else self.covered
        last = self.speech_end
        if is_end:
            start, arrived = self.stretch, min(self.num_frames * FRAME, self.position)
            _, last = self._edges(
                max(start, self.speech_end - length), max(self.onset, self.speech_end - length), arrived
            )
            end = max(min(last + pad, arrived), self.covered)
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

        These are the places where it rises to `EDGE_DB` below the loudest of the detected speech, from `onset` to
        `speech_end`; sounds apart from that speech do not count.
        """
        samples = self.kept[start - self.kept_from : end - self.kept_from].astype(np.float64)
        if len(samples) <= EDGE_WINDOW:
            return start, end
        samples -= samples.mean()
        sums = np.zeros(len(samples) + 1)
        np.cumsum(np.square(samples, out=samples), out=sums[1:])
        power = sums[EDGE_WINDOW:] - sums[:-EDGE_WINDOW]  # of the window that begins at each sample
        is_loud = np.zeros(len(power) + 2, bool)  # false before and after
        begin, finish = (min(max(place - start, 0), len(power) - 1) for place in (onset, self.speech_end - EDGE_WINDOW))
        loudest = -1.0
        for _ in range(2):  # the loudest of the detected speech; then of all that belongs to it
            before_that, loudest = loudest, power[begin : max(finish, begin) + 1].max()
            if loudest == before_that:
                break
            np.greater_equal(power, loudest * 10.0 ** (-EDGE_DB / 10.0), out=is_loud[1:-1])
            changes = np.flatnonzero(is_loud[1:] != is_loud[:-1])  # start of a loud part, end of it, ...
            first, last = changes[::2], changes[1::2] - 1
            is_apart = first[1:] - last[:-1] > EDGE_GAP
            before = np.flatnonzero(is_apart & (last[:-1] < begin))
            after = np.flatnonzero(is_apart & (first[1:] > finish))
            begin = int(first[before[-1] + 1] if len(before) else first[0])
            finish = int(last[after[0]] if len(after) else last[-1])
        centre = EDGE_WINDOW // 2
        is_loud_to_the_end = finish == len(power) - 1
        return start + (begin + centre if begin else 0), end if is_loud_to_the_end else start + finish + centre


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE_HZ)


Segments = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class PredictOptions:
    """How recordings are predicted.

    Attributes:
        segments: Which recordings are cut into segments of speech first: `always`; `never`: none are cut; `auto`: all
            except the utterances of a manifest, which their corpus has already cut.
        sliding_window: How speech is cut into windows.
        reject_option: When a prediction is rejected.
        raw_rate_hz: Sampling rate of headerless PCM (16-bit, little-endian, mono); `None` refuses such files.

    Raises:
        RecipeError: `segments` is none of these.
    """

    segments: Segments = "auto"
    sliding_window: SlidingWindow = SLIDING_WINDOW
    reject_option: RejectOption = NO_REJECT_OPTION
    raw_rate_hz: int | None = None

    def __post_init__(self) -> None:
        if self.segments not in get_args(Segments):
            what = expected_one_of(self.segments, get_args(Segments), kind="value")
            raise RecipeError(what, where="segments", remedy="Name one of these.")


class Recording:
    """A recording that is cut into segments of speech, or taken whole.

    Args:
        task: The model's main task.
        options: How it is cut, and when its prediction is rejected.
        is_whole: Whether it is already an utterance, or must not be cut.
        is_live: Whether its windows are needed as soon as they are complete, each with a segment.
        start_s: Its start in its file, in seconds.
    """

    def __init__(
        self,
        task: str,
        options: PredictOptions,
        *,
        is_whole: bool = False,
        is_live: bool = False,
        start_s: float = 0.0,
    ) -> None:
        self.task, self.options, self.start_s = task, options, start_s
        self.cutter = None if is_whole else WindowCutter(options.sliding_window)
        self.is_live = is_live
        self.num_samples = 0
        self.num_cut = self.num_predicted = 0  # windows; one thread may read while another predicts
        self.is_read = False
        self._windows: list[Segment] = []
        self._predictions: list[ClipPrediction] = []
        self._pieces: list[Waveform] = []  # of a recording that is taken whole
        self._stretches: list[Window] | None = []  # all speech so far, while it fits into one window
        self._joined: Window | None = None
        self._peaks = bytearray()  # of float32: arrays of a few values would take more memory than the values
        self._rest = np.zeros(0, np.float32)

    @property
    def is_complete(self) -> bool:
        """Whether all of it has been read and predicted."""
        return self.is_read and self.num_predicted == self.num_cut

    @property
    def duration_s(self) -> float:
        """Length of the audio that has arrived, in seconds."""
        return self.num_samples / SAMPLE_RATE_HZ

    def feed(self, samples: Waveform, speech: NDArray[np.float32] | None = None) -> list[Window]:
        """Return the windows completed by these samples, (sample,) float32 at 16 kHz.

        Args:
            speech: (frame,) speech probabilities, if the detector of `cutter` has already run on the samples.
        """
        self.num_samples += len(samples)
        size = round(PEAK_S * SAMPLE_RATE_HZ)
        joined = np.concatenate([self._rest, samples])
        whole = len(joined) // size * size
        self._peaks += np.abs(joined[:whole].reshape(-1, size)).max(axis=1).astype(np.float32).tobytes()
        self._rest = joined[whole:].copy()
        if self.cutter is None:
            self._pieces.append(samples)
            return []
        return self._released(self.cutter.feed(samples, speech))

    def finish(self) -> list[Window]:
        """Return the last windows, after the last sample."""
        if self.cutter is None:
            windows = [Window(0, np.concatenate(self._pieces))] if self.num_samples else []
            self._pieces = []
            self.num_cut, self.is_read = len(windows), True
            return windows
        windows = self._released(self.cutter.finish())
        stretches, self._stretches = self._stretches or [], None
        if len(stretches) > 1:  # a short recording is one window, whatever pauses it contains
            first, last = stretches[0], stretches[-1]
            end = last.start + len(last.waveform)
            spoken = [
                each.waveform[
                    0 if each is first else each.padding[0] : None
                    if each is last
                    else len(each.waveform) - each.padding[1]
                ]
                for each in stretches
            ]
            self._joined = Window(first.start, np.concatenate(spoken), end)
            stretches = [self._joined]
        elif self.is_live:
            stretches = []
        self.num_cut, self.is_read = self.num_cut + len(stretches), True
        return windows + stretches

    def _released(self, windows: list[Window]) -> list[Window]:
        """Return the windows that can be predicted now: none while the recording's speech may fit into one window."""
        if self._stretches is None or self.cutter is None:
            self.num_cut += len(windows)
            return windows
        self._stretches += windows
        length = round(self.options.sliding_window.window_s * SAMPLE_RATE_HZ)
        if sum(len(window.waveform) for window in self._stretches) > length:
            windows = windows if self.is_live else self._stretches
            self._stretches = None
        elif not self.is_live:
            windows = []
        self.num_cut += len(windows)
        return windows

    def add(self, window: Window, predicted: ClipPrediction) -> Segment | None:
        """Add the prediction for a window, in the order of the windows.

        Returns:
            Its segment; `None` for the speech of several windows of a live recording, each of which had a segment.
        """
        length_s = len(window.waveform) / SAMPLE_RATE_HZ
        rejected = self.options.reject_option.reason(predicted.main.confidence, length_s)
        main = replace(predicted.main, dimensions=dimensions_of({self.task: predicted.main, **predicted.tasks}))
        segment = segment_of(main, self.start_s + window.start_s, self.start_s + window.end_s, rejected)
        if window is self._joined:  # in place of its parts
            self._windows, self._predictions = [], []
        self._windows.append(segment)
        self._predictions.append(predicted)
        self.num_predicted += 1
        return None if self.is_live and window is self._joined else segment

    def prediction(self, file: str = "-", id: str | None = None, model: Mapping[str, str] | None = None) -> Prediction:
        """Return the prediction for all windows that were added: their mean, weighted by their lengths."""
        last = np.abs(self._rest).max(keepdims=True) if len(self._rest) else self._rest
        place = {
            "file": file,
            "id": id,
            "task": self.task,
            "start_s": self.start_s,
            "duration_s": self.duration_s,
            "model": model or {},
            "peaks": np.append(np.frombuffer(bytes(self._peaks), np.float32), last),
        }
        if not self._windows:
            is_short = self.duration_s < self.options.sliding_window.min_speech_s
            return Prediction(None, rejected=TOO_SHORT if is_short else NO_SPEECH, **place)  # type: ignore[arg-type]
        weights = [window.duration_s for window in self._windows]
        main = mean_of([predicted.main for predicted in self._predictions], weights)
        speech_s = self.duration_s if self.cutter is None else self.cutter.num_speech_samples / SAMPLE_RATE_HZ
        rejected = self.options.reject_option.reason(main.confidence, speech_s)
        tasks = {
            name: mean_of([predicted.tasks[name] for predicted in self._predictions], weights)
            for name in self._predictions[0].tasks
        }
        dimensions = dimensions_of({self.task: main, **tasks})
        vectors = [predicted.embedding.astype(np.float64) for predicted in self._predictions]
        return Prediction(
            None if rejected else main.label,
            main.confidence,
            main.probabilities,
            main.value,
            dimensions,
            rejected=rejected,
            segments=merged_segments(self._windows, self.options.reject_option),
            curve=tuple(moments(self._windows, self.options.reject_option)) if dimensions else (),
            tasks=tasks,
            speech_s=speech_s,
            neighbours=self._predictions[0].neighbours if len(self._predictions) == 1 else (),
            embedding=np.average(vectors, axis=0, weights=weights).astype(np.float32),
            **place,  # type: ignore[arg-type]
        )

"""A recording on its way through a model: cut into windows as its samples arrive, put together from predictions.

Files, uploads and streams take this one road, so that a recording gets the same prediction wherever it is asked for.
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
from serein.inference.segments import SLIDING_WINDOW, SlidingWindow, Window, WindowCutter
from serein.tasks.task import mean_of

PEAK_S = 0.05

Segments = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class PredictOptions:
    """How recordings are predicted.

    Attributes:
        segments: Which recordings are cut into segments of speech first: `always`; `never`: they are taken whole;
            `auto`: all but the utterances of a manifest, which their corpus has cut.
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
        is_whole: It is an utterance already, or must not be cut.
        is_live: Its windows are wanted as soon as they are complete.
        start_s: Where it starts in its file.
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
        self.num_waiting = 0  # windows without a prediction
        self.is_read = False
        self._windows: list[Segment] = []
        self._predictions: list[ClipPrediction] = []
        self._pieces: list[Waveform] = []  # of a recording that is taken whole
        self._stretches: list[Window] | None = []  # all speech so far, while it fits into one window
        self._joined: Window | None = None
        self._peaks: list[NDArray[np.float32]] = []
        self._rest = np.zeros(0, np.float32)

    @property
    def is_complete(self) -> bool:
        """Whether all of it has been read and predicted."""
        return self.is_read and self.num_waiting == 0

    @property
    def duration_s(self) -> float:
        """Length of what has arrived."""
        return self.num_samples / SAMPLE_RATE_HZ

    def feed(self, samples: Waveform, speech: NDArray[np.float32] | None = None) -> list[Window]:
        """Return the windows that (sample,) float32 at 16 kHz more complete.

        Args:
            speech: (frame,) speech probabilities, where the detector of `cutter` has run on the samples already.
        """
        self.num_samples += len(samples)
        size = round(PEAK_S * SAMPLE_RATE_HZ)
        joined = np.concatenate([self._rest, samples])
        whole = len(joined) // size * size
        self._peaks.append(np.abs(joined[:whole].reshape(-1, size)).max(axis=1))
        self._rest = joined[whole:].copy()
        if self.cutter is None:
            self._pieces.append(samples)
            return []
        return self._released(self.cutter.feed(samples, speech))

    def finish(self) -> list[Window]:
        """Return the last windows, after the last sample."""
        self.is_read = True
        if self.cutter is None:
            windows = [Window(0, np.concatenate(self._pieces))] if self.num_samples else []
            self._pieces = []
            self.num_waiting += len(windows)
            return windows
        windows = self._released(self.cutter.finish())
        stretches, self._stretches = self._stretches or [], None
        if len(stretches) > 1:  # a short recording is one window, whatever pauses are in it
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
        self.num_waiting += len(stretches)
        return windows + stretches

    def _released(self, windows: list[Window]) -> list[Window]:
        """Return the windows that can be predicted now: none of a recording whose speech may fit into one window."""
        if self._stretches is None or self.cutter is None:
            self.num_waiting += len(windows)
            return windows
        self._stretches += windows
        length = round(self.options.sliding_window.window_s * SAMPLE_RATE_HZ)
        if sum(len(window.waveform) for window in self._stretches) > length:
            windows = windows if self.is_live else self._stretches
            self._stretches = None
        elif not self.is_live:
            windows = []
        self.num_waiting += len(windows)
        return windows

    def add(self, window: Window, predicted: ClipPrediction) -> Segment:
        """Take in what the model says of a window; in the order of the windows."""
        length_s = len(window.waveform) / SAMPLE_RATE_HZ
        rejected = self.options.reject_option.reason(predicted.main.confidence, length_s)
        main = replace(predicted.main, dimensions=dimensions_of({self.task: predicted.main, **predicted.tasks}))
        segment = segment_of(main, self.start_s + window.start_s, self.start_s + window.end_s, rejected)
        if window is self._joined:  # in place of its parts
            self._windows, self._predictions = [], []
        self._windows.append(segment)
        self._predictions.append(predicted)
        self.num_waiting -= 1
        return segment

    def prediction(self, file: str = "-", id: str | None = None, model: Mapping[str, str] | None = None) -> Prediction:
        """Return the prediction of all that has been added: the windows' mean, weighted by their lengths."""
        peaks = [*self._peaks, np.abs(self._rest).max(keepdims=True)] if len(self._rest) else self._peaks
        place = {
            "file": file,
            "id": id,
            "task": self.task,
            "start_s": self.start_s,
            "duration_s": self.duration_s,
            "model": model or {},
            "peaks": np.concatenate(peaks) if peaks else np.zeros(0, np.float32),
        }
        if not self._windows:
            is_short = self.duration_s < self.options.sliding_window.min_speech_s
            return Prediction(None, rejected=TOO_SHORT if is_short else NO_SPEECH, **place)  # type: ignore[arg-type]
        weights = [window.duration_s for window in self._windows]
        said = mean_of([predicted.main for predicted in self._predictions], weights)
        speech_s = self.duration_s if self.cutter is None else self.cutter.num_speech_samples / SAMPLE_RATE_HZ
        rejected = self.options.reject_option.reason(said.confidence, speech_s)
        tasks = {
            name: mean_of([predicted.tasks[name] for predicted in self._predictions], weights)
            for name in self._predictions[0].tasks
        }
        dimensions = dimensions_of({self.task: said, **tasks})
        vectors = [predicted.embedding.astype(np.float64) for predicted in self._predictions]
        return Prediction(
            None if rejected else said.label,
            said.confidence,
            said.probabilities,
            said.value,
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

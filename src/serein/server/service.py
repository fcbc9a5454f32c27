"""A model that serves concurrent requests: recordings and windows in, predictions out, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from threading import Event
from typing import Literal, TypeVar

from serein import audio
from serein.audio import SAMPLE_RATE_HZ, Upload, Waveform
from serein.inference.parallel import PredictOptions
from serein.inference.predictor import Prediction, Predictor
from serein.inference.segments import RejectOption, Segment, Timeline, Window
from serein.inference.streams import Stream, predict_recording
from serein.server.batching import BATCH_S, Answers, BatchedVad, Batcher, FullError
from serein.server.limits import ConcurrencyLimiter, Limits
from serein.server.metrics import Metrics
from serein.server.neighbours import Neighbours
from serein.server.problems import busy

_DECODERS = 2
_LONG_AT_ONCE = 2  # recordings of minutes; each waits for the model most of its time
_VAD_THREADS = 2

T = TypeVar("T")


class _CancelledError(Exception):
    """The client is gone."""


@dataclass(frozen=True)
class ServiceInfo:
    """What a service says about itself.

    Attributes:
        name: The model's name: of its folder or on the Hub, not a path.
        version: The version of serein.
    """

    name: str
    version: str = ""


class Service:
    """One model, its thread, and the threads that decode audio and detect speech for it."""

    def __init__(
        self,
        predictor: Predictor,
        about: ServiceInfo,
        limits: Limits | None = None,
        options: PredictOptions | None = None,
        neighbours: Neighbours | None = None,
    ) -> None:
        self.predictor = predictor
        self.about = about
        self.limits = limits or Limits()
        self.options = options or PredictOptions()
        self.neighbours = neighbours or Neighbours()
        self.metrics = Metrics()
        self.limiter = ConcurrencyLimiter(self.limits, self._retry_after_s)
        most_waiting = self.limits.at_once * self.limits.num_files + self.limits.streams + _LONG_AT_ONCE
        self.batcher = Batcher(predictor.predict_waveforms, most_waiting, self.metrics.batch)
        self._decoding = ThreadPoolExecutor(_DECODERS, "decoding")
        self._long = ThreadPoolExecutor(_LONG_AT_ONCE, "long")
        self._vad_pool = ThreadPoolExecutor(_VAD_THREADS, "cutting")
        self._vad = BatchedVad(self._vad_pool)
        self._observe_gauges()

    @property
    def reject_option(self) -> RejectOption:
        """When predictions are rejected."""
        return self.options.reject_option

    @property
    def is_ready(self) -> bool:
        """Whether the service accepts requests."""
        return self.batcher.is_alive and not self.limiter.is_closed

    async def predict(
        self, upload: Upload, segments: Literal["auto", "always", "never"] | None = None
    ) -> Prediction | Timeline:
        """Predict one recording as `serein predict` does; cancelling this stops the work.

        Args:
            segments: Overrides the service's own setting.

        Raises:
            AudioError: The recording cannot be decoded, is silent, too long, or holds no speech.
            HTTPProblem: The queue is full.
        """
        options = replace(self.options, segments=segments) if segments else self.options
        waveform = await self._in(self._decoding, self._load_unless_segmented, upload, options)
        if waveform is None:
            return await self._predict_segments(upload)
        return self.reject_option.applied_to(replace((await self._submit([waveform]))[0], audio=upload.name))

    async def predict_windows(self, windows: Sequence[Window]) -> list[Segment]:
        """Predict the windows of a stream."""
        predictions = await self._submit([window.waveform for window in windows])
        return [
            Segment(
                w.start_s, w.end_s, p.probabilities, self.reject_option.reason(p.probabilities, w.end_s - w.start_s)
            )
            for w, p in zip(windows, predictions, strict=True)
        ]

    async def cut(self, stream: Stream, samples: Waveform) -> list[Window]:
        """Find speech in the samples that a stream received, batched with other streams."""
        return await self._vad.cut(stream, samples)

    async def cut_end(self, stream: Stream) -> list[Window]:
        """Find speech in the rest of a stream."""
        return await self._in(self._vad_pool, stream.cut_end)

    async def run_in_thread(self, work: Callable[[], T]) -> T:
        """Run blocking work in a thread."""
        return await self._in(self._decoding, work)

    def close(self) -> None:
        """Finish accepted work and stop the threads."""
        for pool in (self._decoding, self._long, self._vad_pool):
            pool.shutdown(wait=True)
        self.batcher.close()

    def _load_unless_segmented(self, upload: Upload, options: PredictOptions) -> Waveform | None:
        length_s = audio.require_at_most(upload, self.limits.recording_s).duration_s
        is_long = length_s > self.predictor.checkpoint.options.clips.window_s
        if options.segments == "always" or (options.segments == "auto" and is_long):
            return None
        return audio.load_at_most(upload, self.limits.recording_s)

    async def _predict_segments(self, upload: Upload) -> Timeline:
        is_cancelled = Event()
        predictor = _BatcherPredictor(self.batcher, self.predictor.task, is_cancelled)
        predict = partial(
            predict_recording,
            predictor,
            upload,
            sliding_window=self.options.sliding_window,
            reject_option=self.reject_option,
        )
        try:
            return await self._in(
                self._long, partial(predict, on_progress=lambda *_: predictor.require_not_cancelled())
            )
        except FullError:
            raise busy("The model's queue is full.", self._retry_after_s()) from None
        finally:
            is_cancelled.set()

    async def _submit(self, waveforms: Sequence[Waveform]) -> list[Prediction]:
        try:
            return await asyncio.wrap_future(self.batcher.submit(waveforms))
        except FullError:
            raise busy("The model's queue is full.", self._retry_after_s()) from None

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)

    def _retry_after_s(self) -> float:
        return self.batcher.expected_s

    def _observe_gauges(self) -> None:
        metrics, limiter = self.metrics, self.limiter
        metrics.observe(metrics.in_progress, lambda: limiter.num_requests)
        metrics.observe(metrics.streams, lambda: limiter.num_streams)
        metrics.observe(metrics.upload_bytes, lambda: limiter.num_bytes)
        metrics.observe(metrics.waiting, lambda: self.batcher.num_waiting)


class _BatcherPredictor:
    """Predicts through the batcher from another thread, in small parts, until the request is cancelled."""

    def __init__(self, batcher: Batcher, task: str, is_cancelled: Event) -> None:
        self.batcher = batcher
        self.task = task
        self.is_cancelled = is_cancelled

    def predict_waveforms(self, waveforms: Sequence[Waveform], names: Sequence[str]) -> list[Prediction]:
        predictions: list[Prediction] = []
        for part in _parts(waveforms):
            self.require_not_cancelled()
            submitted: Answers = self.batcher.submit(part)
            predictions += submitted.result()
        return predictions

    def require_not_cancelled(self) -> None:
        if self.is_cancelled.is_set():
            raise _CancelledError


def _parts(waveforms: Sequence[Waveform]) -> list[list[Waveform]]:
    """Divide waveforms into parts of at most half a batch, so that other requests come in between."""
    parts: list[list[Waveform]] = []
    room = 0.0
    for waveform in waveforms:
        room -= len(waveform) / SAMPLE_RATE_HZ
        if room < 0:
            parts.append([])
            room = BATCH_S / 2
        parts[-1].append(waveform)
    return parts

"""A model that serves concurrent requests: recordings and windows in, predictions out, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from serein import audio
from serein.audio import SAMPLE_RATE_HZ, Upload, Waveform
from serein.inference.prediction import ClipPrediction, Prediction, Segment
from serein.inference.predictor import Predictor
from serein.inference.recording import PredictOptions, Recording, Segments
from serein.inference.segments import Window
from serein.inference.streams import Stream
from serein.server.batching import BATCH_S, BatchedVad, Batcher, FullError
from serein.server.limits import ConcurrencyLimiter, Limits
from serein.server.metrics import Metrics
from serein.server.neighbours import Neighbours
from serein.server.problems import busy

_DECODERS = 2  # threads that decode recordings and detect speech in them
_VAD_THREADS = 2  # those that detect speech in streams

T = TypeVar("T")


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
        most_waiting = self.limits.at_once * self.limits.num_files + self.limits.streams
        self.batcher = Batcher(predictor.predict_clips, most_waiting, self.metrics.batch)
        self._decoding = ThreadPoolExecutor(_DECODERS, "decoding")
        self._vad_pool = ThreadPoolExecutor(_VAD_THREADS, "cutting")
        self._vad = BatchedVad(self._vad_pool)
        self._observe_gauges()

    @property
    def is_ready(self) -> bool:
        """Whether the service accepts requests."""
        return self.batcher.is_alive and not self.limiter.is_closed

    async def predict(self, upload: Upload, segments: Segments | None = None) -> Prediction:
        """Predict one recording as `Predictor.predict` does; cancelling this stops the work.

        Args:
            segments: Overrides the service's own setting.

        Raises:
            AudioError: The recording cannot be decoded, or is too long.
            HTTPProblem: The queue is full.
        """
        options = replace(self.options, segments=segments) if segments else self.options
        recording, windows = await self._in(self._decoding, self._cut, upload, options)
        for part in _parts(windows):
            for window, predicted in zip(part, await self._submit(part), strict=True):
                recording.add(window, predicted)
        return recording.prediction(upload.name, model=self.predictor.identity)

    async def predict_windows(self, stream: Stream, windows: Sequence[Window]) -> list[Segment]:
        """Predict the windows of a stream."""
        predicted = await self._submit(windows)
        return [stream.recording.add(window, each) for window, each in zip(windows, predicted, strict=True)]

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
        for pool in (self._decoding, self._vad_pool):
            pool.shutdown(wait=True)
        self.batcher.close()

    def _cut(self, upload: Upload, options: PredictOptions) -> tuple[Recording, list[Window]]:
        """Decode a recording and cut it into windows."""
        audio.info(upload, most_s=self.limits.recording_s)
        recording = Recording(self.predictor.task, options, is_whole=options.segments == "never")
        windows: list[Window] = []
        for block in audio.blocks(upload):
            windows += recording.feed(block)
            if recording.duration_s > self.limits.recording_s:  # the header said less
                audio.load(upload, most_s=self.limits.recording_s)
        return recording, windows + recording.finish()

    async def _submit(self, windows: Sequence[Window]) -> list[ClipPrediction]:
        try:
            return await asyncio.wrap_future(self.batcher.submit([window.waveform for window in windows]))
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


def _parts(windows: Sequence[Window]) -> list[list[Window]]:
    """Divide windows into parts of at most half a batch, so that other requests come in between."""
    parts: list[list[Window]] = []
    room = 0.0
    for window in windows:
        room -= len(window.waveform) / SAMPLE_RATE_HZ
        if room < 0:
            parts.append([])
            room = BATCH_S / 2
        parts[-1].append(window)
    return parts

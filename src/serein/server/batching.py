"""Dynamic batching: one thread owns the model and takes what has arrived from a bounded queue."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from threading import Condition, Thread

from serein.audio import SAMPLE_RATE_HZ, Waveform
from serein.inference.prediction import ClipPrediction
from serein.inference.segments import Window
from serein.inference.streams import Stream, cut_all

BATCH_S = 60.0  # of audio in one batch; more would keep streams waiting
_SMOOTHED = 0.9

Predict = Callable[[Sequence[Waveform]], list[ClipPrediction]]
Answers = Future[list[ClipPrediction]]


class FullError(Exception):
    """The queue is full."""


@dataclass(frozen=True)
class _Job:
    waveforms: Sequence[Waveform]
    audio_s: float
    result: Answers


class Batcher:
    """Runs the model on submitted jobs in order, in batches of whatever has arrived.

    Args:
        predict: Returns predictions of waveforms; batching does not change them.
        most_waiting: Jobs that may wait.
        on_batch: Called after each batch with its number of waveforms, their seconds, and the seconds it took.
    """

    def __init__(
        self, predict: Predict, most_waiting: int, on_batch: Callable[[int, float, float], None] = lambda *_: None
    ) -> None:
        self.predict = predict
        self.most_waiting = most_waiting
        self.on_batch = on_batch
        self.load = 0.02  # recent seconds of work per second of audio
        self._waiting: deque[_Job] = deque()
        self._changed = Condition()
        self._is_closed = False
        self._thread = Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether submitted jobs will be run."""
        return self._thread.is_alive() and not self._is_closed

    @property
    def num_waiting(self) -> int:
        """Number of waiting jobs."""
        return len(self._waiting)

    @property
    def expected_s(self) -> float:
        """Seconds until the jobs that wait now will be done."""
        with self._changed:
            return self.load * sum(job.audio_s for job in self._waiting)

    def submit(self, waveforms: Sequence[Waveform]) -> Answers:
        """Queue waveforms; a future that is cancelled before its turn costs nothing.

        Raises:
            FullError: Too many wait already, or the batcher is closed.
        """
        job = _Job(waveforms, sum(map(len, waveforms)) / SAMPLE_RATE_HZ, Future())
        with self._changed:
            if self._is_closed or len(self._waiting) >= self.most_waiting:
                raise FullError
            self._waiting.append(job)
            self._changed.notify()
        return job.result

    def close(self) -> None:
        """Run the waiting jobs, then stop."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                taken: list[_Job] = []
                audio_s = 0.0
                while self._waiting and (not taken or audio_s + self._waiting[0].audio_s <= BATCH_S):
                    taken.append(self._waiting.popleft())
                    audio_s += taken[-1].audio_s
            if not taken:
                return  # closed, and all done
            jobs = [job for job in taken if job.result.set_running_or_notify_cancel()]
            if not jobs:
                continue
            started_s = time.perf_counter()
            self._run(jobs)
            took_s, audio_s = time.perf_counter() - started_s, sum(job.audio_s for job in jobs)
            self.load = _SMOOTHED * self.load + (1 - _SMOOTHED) * took_s / max(audio_s, 1e-3)
            self.on_batch(sum(len(job.waveforms) for job in jobs), audio_s, took_s)

    def _run(self, jobs: Sequence[_Job]) -> None:
        """Run jobs as one batch; if that fails, each alone, so that one bad job does not fail the others."""
        waveforms = [waveform for job in jobs for waveform in job.waveforms]
        try:
            predictions = iter(self.predict(waveforms))
            for job in jobs:
                job.result.set_result([next(predictions) for _ in job.waveforms])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].result.set_exception(error)
                return
            for job in jobs:
                self._run([job])


@dataclass(frozen=True)
class _Piece:
    stream: Stream
    samples: Waveform
    windows: asyncio.Future[list[Window]]


class BatchedVad:
    """Takes chunks of streams on the event loop and runs voice activity detection in a thread."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self._waiting: list[_Piece] = []
        self._working: asyncio.Task[None] | None = None

    async def cut(self, stream: Stream, samples: Waveform) -> list[Window]:
        """Return the windows completed by (sample,) float32 more; a stream awaits them before its next chunk."""
        piece = _Piece(stream, samples, asyncio.get_running_loop().create_future())
        self._waiting.append(piece)
        if self._working is None:
            self._working = asyncio.ensure_future(self._work())
        return await piece.windows

    async def _work(self) -> None:
        try:
            while self._waiting:
                pieces, self._waiting = self._waiting, []
                pieces = [piece for piece in pieces if not piece.windows.cancelled()]
                streams, samples = [piece.stream for piece in pieces], [piece.samples for piece in pieces]
                try:
                    cut = await asyncio.get_running_loop().run_in_executor(self.executor, cut_all, streams, samples)
                except Exception as error:
                    for piece in pieces:
                        if not piece.windows.cancelled():
                            piece.windows.set_exception(error)
                    continue
                for piece, windows in zip(pieces, cut, strict=True):
                    if not piece.windows.cancelled():
                        piece.windows.set_result(windows)
        finally:
            self._working = None

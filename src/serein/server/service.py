"""A model that serves concurrent requests: recordings and windows in, predictions out, within limits.

Batching is dynamic: one thread owns the model and takes what has arrived from a bounded queue.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Condition, Thread
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from serein import audio
from serein.audio import SAMPLE_RATE_HZ, Upload, Waveform
from serein.errors import ModelError
from serein.inference.prediction import ClipPrediction, Prediction, Segment
from serein.inference.predictor import Predictor
from serein.inference.recording import PredictOptions, Recording, Segments, Window
from serein.inference.streams import Stream, cut_all
from serein.knn.datastore import Datastore, open_datastore
from serein.server.limits import ConcurrencyLimiter, Limits, Metrics, busy
from serein.text.word_vectors import Vocabulary

_DECODERS = 2  # threads that decode recordings and detect speech in them
_MOST_DECODED = 16  # parts of recordings that wait for the model, or are in it
_VAD_THREADS = 2  # threads that detect speech in streams
NUM_NEAREST = 5
BATCH_S = 60.0  # of audio in one batch; more would keep streams waiting
_SMOOTHED = 0.9  # of the rate of work, from batch to batch

Predict = Callable[[Sequence[Waveform]], list[ClipPrediction]]
FuturePredictions = Future[list[ClipPrediction]]
T = TypeVar("T")


class FullError(Exception):
    """The queue is full."""


@dataclass(frozen=True)
class _Job:
    waveforms: Sequence[Waveform]
    audio_s: float
    result: FuturePredictions


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
        self.waiting: deque[_Job] = deque()
        self._changed = Condition()
        self._is_closed = False
        self._thread = Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether submitted jobs will be run."""
        return self._thread.is_alive() and not self._is_closed

    @property
    def expected_s(self) -> float:
        """Seconds until the jobs that wait now will be done."""
        with self._changed:
            return self.load * sum(job.audio_s for job in self.waiting)

    def submit(self, waveforms: Sequence[Waveform]) -> FuturePredictions:
        """Queue waveforms; a future that is cancelled before its turn costs nothing.

        Raises:
            FullError: Too many wait already, or the batcher is closed.
        """
        job = _Job(waveforms, sum(map(len, waveforms)) / SAMPLE_RATE_HZ, Future())
        with self._changed:
            if self._is_closed or len(self.waiting) >= self.most_waiting:
                raise FullError
            self.waiting.append(job)
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
                self._changed.wait_for(lambda: self.waiting or self._is_closed)
                taken: list[_Job] = []
                audio_s = 0.0
                while self.waiting and (not taken or audio_s + self.waiting[0].audio_s <= BATCH_S):
                    taken.append(self.waiting.popleft())
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
        """Run jobs as one batch; if that fails, run each separately, so that one bad job does not fail the others."""
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


@dataclass(eq=False)
class BatchedVad:
    """Takes chunks of streams on the event loop and runs voice activity detection in a thread."""

    executor: Executor
    _waiting: list[_Piece] = field(default_factory=list, init=False)
    _working: asyncio.Task[None] | None = field(default=None, init=False)

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


@dataclass(frozen=True)
class ServiceInfo:
    """Information about a service.

    Attributes:
        name: The model's name: of its folder or on the Hub, not a path.
        version: The version of serein.
    """

    name: str
    version: str = ""


@dataclass(frozen=True)
class Neighbours:
    """The data in which the nearest neighbours of a recording's embedding are searched.

    Attributes:
        vocabulary: Vocabulary of a model that predicts word vectors; else `None`.
        datastore: Labelled clips, embedded by this model.
        classes: The model's classes.
    """

    vocabulary: Vocabulary | None = None
    datastore: Datastore | None = None
    classes: tuple[str, ...] = ()

    def nearest(self, embedding: NDArray[np.float32]) -> dict[str, list[dict[str, object]]]:
        """Return the nearest `words` and the nearest clips (`neighbours`, without their paths), nearest first."""
        found: dict[str, list[dict[str, object]]] = {}
        if self.vocabulary is not None:
            words, cosines = self.vocabulary.nearest(embedding[None], NUM_NEAREST)
            pairs = zip(words[0], cosines[0], strict=True)
            found["words"] = [{"word": word, "cosine": round(float(cosine), 6)} for word, cosine in pairs]
        if self.datastore is not None:
            embeddings = self.datastore.embeddings
            nearest = embeddings.nearest(embedding[None], min(NUM_NEAREST, len(embeddings)))
            clips = self.datastore.clips_at(nearest.rows[0].tolist())
            labels, distances = nearest.labels[0].tolist(), nearest.distances[0].tolist()
            found["neighbours"] = [
                {
                    "id": clip.id,
                    "label": self.classes[label],
                    "speaker": clip.speaker,
                    "corpus": clip.corpus,
                    "distance": round(distance, 6),
                }
                for clip, label, distance in zip(clips, labels, distances, strict=True)
            ]
        return found


def open_neighbours(predictor: Predictor, datastore: Path | None) -> Neighbours:
    """Open a model's vocabulary, if it has one, and a datastore.

    Args:
        datastore: Folder of a datastore of labelled clips.

    Raises:
        ModelError: The datastore belongs to another model, or the model's vocabulary has changed.
    """
    vocabulary = predictor.checkpoint.tasks[predictor.task].vocabulary
    if datastore is None:
        return Neighbours(vocabulary, None, predictor.classes)
    opened = open_datastore(datastore)
    opened.require_model(predictor.checkpoint.digest, predictor.checkpoint.name)
    if not len(opened.embeddings):
        raise ModelError("contains no clips", where=datastore, remedy="Add some: serein knn add --help.")
    return Neighbours(vocabulary, opened, predictor.classes)


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
        self.limiter = limiter = ConcurrencyLimiter(self.limits, lambda: self.batcher.expected_s)
        most_waiting = self.limits.at_once * self.limits.num_files + self.limits.streams
        self.batcher = batcher = Batcher(predictor.predict_clips, most_waiting, self.metrics.batch)
        self._decoding = ThreadPoolExecutor(_DECODERS, "decoding")
        self._decoded = asyncio.Semaphore(_MOST_DECODED)
        self._vad_pool = ThreadPoolExecutor(_VAD_THREADS, "cutting")
        self.vad = BatchedVad(self._vad_pool)
        self.metrics.in_progress.set_function(lambda: limiter.of_kind["request"])
        self.metrics.streams.set_function(lambda: limiter.of_kind["stream"])
        self.metrics.upload_bytes.set_function(lambda: limiter.num_bytes)
        self.metrics.waiting.set_function(lambda: len(batcher.waiting))

    async def predict(self, upload: Upload, segments: Segments | None = None) -> Prediction:
        """Predict one recording as `Predictor.predict` does; cancelling this stops the work.

        Args:
            segments: Overrides the service's own setting.

        Raises:
            AudioError: The recording cannot be decoded, or is too long.
            HTTPProblem: The queue is full.
        """
        options = replace(self.options, segments=segments) if segments else self.options
        recording = Recording(self.predictor.task, options, is_whole=options.segments == "never")
        parts = self._parts(upload, recording)
        part: list[Window] | None = []
        while part is not None:
            async with self._decoded:  # again for each part: a short recording does not wait for long ones
                if (part := await self.in_thread(lambda: next(parts, None))) is not None:
                    await self.predict_windows(recording, part)
        return recording.prediction(upload.name, model=self.predictor.identity)

    async def predict_windows(self, recording: Recording, windows: Sequence[Window]) -> list[Segment]:
        """Predict windows of a recording or a stream, and add the predictions to it.

        Raises:
            HTTPProblem: The queue is full.
        """
        try:
            future = self.batcher.submit([window.waveform for window in windows])
        except FullError:
            raise busy("The model's queue is full.", self.batcher.expected_s) from None
        predicted = await asyncio.wrap_future(future)
        segments = [recording.add(window, each) for window, each in zip(windows, predicted, strict=True)]
        return [segment for segment in segments if segment is not None]

    async def cut_end(self, stream: Stream) -> list[Window]:
        """Find speech in the rest of a stream."""
        return await asyncio.get_running_loop().run_in_executor(self._vad_pool, stream.cut_end)

    async def in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        """Run blocking work in one of the threads that decode recordings."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, work, *arguments)

    def close(self) -> None:
        """Finish accepted work and stop the threads."""
        for pool in (self._decoding, self._vad_pool):
            pool.shutdown(wait=True)
        self.batcher.close()

    def _parts(self, upload: Upload, recording: Recording) -> Iterator[list[Window]]:
        """Decode a recording and yield its windows, at most half a batch at once: other requests run in between."""
        part: list[Window] = []
        for window in self._windows(upload, recording):
            if part and sum(len(each.waveform) for each in (*part, window)) > BATCH_S / 2 * SAMPLE_RATE_HZ:
                yield part
                part = []
            part.append(window)
        if part:
            yield part

    def _windows(self, upload: Upload, recording: Recording) -> Iterator[Window]:
        most_s = self.limits.recording_s
        audio.info(upload, most_s=most_s)
        for block in audio.blocks(upload) if recording.cutter else [audio.load(upload, most_s=most_s)]:
            yield from recording.feed(block)
            if recording.duration_s > most_s:  # the header stated less
                audio.load(upload, most_s=most_s)
        yield from recording.finish()

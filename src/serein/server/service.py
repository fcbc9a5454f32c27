"""A model that serves concurrent requests: recordings and windows in, predictions out, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from serein import audio
from serein.audio import SAMPLE_RATE_HZ, Upload
from serein.errors import ModelError
from serein.inference.prediction import Prediction, Segment
from serein.inference.predictor import Predictor
from serein.inference.recording import PredictOptions, Recording, Segments
from serein.inference.segments import Window
from serein.inference.streams import Stream
from serein.knn.datastore import Datastore, open_datastore
from serein.server.batching import BATCH_S, BatchedVad, Batcher, FullError
from serein.server.limits import ConcurrencyLimiter, Limits, Metrics
from serein.server.schemas import busy
from serein.text.word_vectors import Vocabulary

_DECODERS = 2  # threads that decode recordings and detect speech in them
_VAD_THREADS = 2  # those that detect speech in streams
NUM_NEAREST = 5

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


@dataclass(frozen=True)
class Neighbours:
    """Where the nearest neighbours of a recording's embedding are searched.

    Attributes:
        vocabulary: Of a model of words; else `None`.
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
        raise ModelError("holds no clips", where=datastore, remedy="Add some: serein knn add --help.")
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
        self._vad_pool = ThreadPoolExecutor(_VAD_THREADS, "cutting")
        self.vad = BatchedVad(self._vad_pool)
        self.metrics.in_progress.set_function(lambda: limiter.num_requests)
        self.metrics.streams.set_function(lambda: limiter.num_streams)
        self.metrics.upload_bytes.set_function(lambda: limiter.num_bytes)
        self.metrics.waiting.set_function(lambda: batcher.num_waiting)

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
        recording, windows = await self.in_thread(self._cut, upload, options)
        parts: list[list[Window]] = []  # of at most half a batch, so that other requests come in between
        room_s = 0.0
        for window in windows:
            room_s -= len(window.waveform) / SAMPLE_RATE_HZ
            if room_s < 0:
                parts.append([])
                room_s = BATCH_S / 2
            parts[-1].append(window)
        for part in parts:
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
        return [recording.add(window, each) for window, each in zip(windows, predicted, strict=True)]

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

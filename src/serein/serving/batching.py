"""Requests that come together are heard together: one thread owns the model, and a bounded queue leads to it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Thread

from serein.data.audio import SAMPLE_RATE_HZ, Waveform
from serein.inference.predictor import Prediction

BATCH_S = 60.0  # of sound that is heard together; more would keep streams waiting
_SMOOTHED = 0.9

Predict = Callable[[Sequence[Waveform], Sequence[str]], list[Prediction]]
Answers = Future[list[Prediction]]


class FullError(Exception):
    """No more can wait."""


@dataclass(frozen=True)
class _Job:
    waveforms: Sequence[Waveform]
    answers: Answers

    @property
    def audio_s(self) -> float:
        return sum(map(len, self.waveforms)) / SAMPLE_RATE_HZ


class Batcher:
    """Hears what is submitted, in order, as much at once as has come meanwhile.

    Args:
        hear: Answers for waveforms, alike in any batch.
        most_waiting: Jobs that may wait.
        on_batch: Told of each batch how many waveforms it had, their seconds, and the seconds it took.
    """

    def __init__(
        self, hear: Predict, most_waiting: int, on_batch: Callable[[int, float, float], None] = lambda *_: None
    ) -> None:
        self.hear = hear
        self.most_waiting = most_waiting
        self.on_batch = on_batch
        self.load = 0.02  # seconds that a second of sound takes, as of late
        self._waiting: deque[_Job] = deque()
        self._changed = Condition()
        self._is_closed = False
        self._thread = Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether what is submitted will be heard."""
        return self._thread.is_alive() and not self._is_closed

    @property
    def num_waiting(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    @property
    def expected_s(self) -> float:
        """Seconds until what waits now will have been heard."""
        with self._changed:
            return self.load * sum(job.audio_s for job in self._waiting)

    def submit(self, waveforms: Sequence[Waveform]) -> Answers:
        """Take waveforms; a future that is cancelled before its turn costs nothing.

        Raises:
            FullError: Too many wait already, or the batcher is closed.
        """
        job = _Job(waveforms, Future())
        with self._changed:
            if self._is_closed or len(self._waiting) >= self.most_waiting:
                raise FullError
            self._waiting.append(job)
            self._changed.notify()
        return job.answers

    def close(self) -> None:
        """Hear what waits, then end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            started_s = time.perf_counter()
            self._answer(jobs)
            took_s, audio_s = time.perf_counter() - started_s, sum(job.audio_s for job in jobs)
            self.load = _SMOOTHED * self.load + (1 - _SMOOTHED) * took_s / max(audio_s, 1e-3)
            self.on_batch(sum(len(job.waveforms) for job in jobs), audio_s, took_s)

    def _next(self) -> list[_Job]:
        """Wait for work, and take as much as is heard together; nothing once all is done."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                taken: list[_Job] = []
                while self._waiting and (not taken or _sound_s(taken) + self._waiting[0].audio_s <= BATCH_S):
                    taken.append(self._waiting.popleft())
            wanted = [job for job in taken if job.answers.set_running_or_notify_cancel()]
            if wanted or not taken:
                return wanted

    def _answer(self, jobs: Sequence[_Job]) -> None:
        """Answer jobs together; when that fails each alone, so that one does not spoil the others."""
        waveforms = [waveform for job in jobs for waveform in job.waveforms]
        try:
            answers = iter(self.hear(waveforms, ["-"] * len(waveforms)))
            for job in jobs:
                job.answers.set_result([next(answers) for _ in job.waveforms])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].answers.set_exception(error)
                return
            for job in jobs:
                self._answer([job])


def _sound_s(jobs: Sequence[_Job]) -> float:
    return sum(job.audio_s for job in jobs)

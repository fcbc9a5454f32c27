"""What the tests of the service share: recordings as bytes, and a model that waits for a sign."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
import soundfile

from serein.inference.prediction import ClipPrediction
from serein.inference.predictor import Predictor

RATE_HZ = 16_000
MakeService = Callable[..., Any]


def encoded(samples: np.ndarray, rate_hz: int = RATE_HZ, form: str = "WAV") -> bytes:
    """Return a recording as the bytes of a file."""
    page = io.BytesIO()
    soundfile.write(page, samples, rate_hz, format=form)
    return page.getvalue()


@dataclass(frozen=True)
class Live:
    """A service that really listens."""

    service: Any
    place: tuple[str, int]

    @property
    def address(self) -> str:
        return f"http://{self.place[0]}:{self.place[1]}"

    def counted(self, status: int) -> float:
        """Return how many requests ended with a status."""
        samples = [sample for metric in self.service.metrics.requests.collect() for sample in metric.samples]
        return sum(s.value for s in samples if s.name.endswith("_total") and s.labels["status"] == str(status))


class Waiting(Predictor):
    """A model that hears nothing before it is told to, and says which batches it heard."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(predictor.checkpoint)
        self.has_started, self.may_predict = Event(), Event()
        self.batches: list[int] = []

    def predict_clips(self, waveforms: Sequence[Any], *options: Any) -> list[ClipPrediction]:
        self.has_started.set()
        assert self.may_predict.wait(20)
        self.batches.append(len(waveforms))
        return super().predict_clips(waveforms, *options)

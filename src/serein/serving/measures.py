"""What a service tells Prometheus of itself."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = self._counter("requests", "Requests that were answered.", ["route", "status"])
        self.request_s = Histogram(
            "serein_request_seconds",
            "From a request's first byte to its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.audio_s = self._counter("sound_seconds", "Sound that the model heard.")
        self.model_s = self._counter("model_seconds", "Time that the model took.")
        self.batch_clips = Histogram(
            "serein_batch_clips",
            "Clips that were heard together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.under_way = self._gauge("requests_under_way", "Requests that are taken in or heard.")
        self.streams = self._gauge("streams", "Streams that are open.")
        self.upload_bytes = self._gauge("upload_bytes", "Uploads that are in memory.")
        self.waiting = self._gauge("jobs_waiting", "Jobs that wait for the model.")

    def batch(self, num_clips: int, audio_s: float, took_s: float) -> None:
        """Take in one batch."""
        self.batch_clips.observe(num_clips)
        self.audio_s.inc(audio_s)
        self.model_s.inc(took_s)

    def watch(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Let a gauge say what it is asked for."""
        gauge.set_function(value)

    def text(self) -> bytes:
        """Return everything as Prometheus reads it."""
        return generate_latest(self.registry)

    def _counter(self, name: str, what: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"serein_{name}", what, labels or [], registry=self.registry)

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(f"serein_{name}", what, registry=self.registry)

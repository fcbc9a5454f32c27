"""Prometheus metrics of a service."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters, gauges and histograms of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = self._counter("requests", "Requests by route and status.", ["route", "status"])
        self.request_s = Histogram(
            "serein_request_seconds",
            "Seconds from a request's first byte to its response.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.audio_s = self._counter("audio_seconds", "Seconds of audio that the model processed.")
        self.model_s = self._counter("model_seconds", "Seconds that the model took.")
        self.batch_clips = Histogram(
            "serein_batch_clips",
            "Clips in one batch of the model.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.in_progress = self._gauge("requests_in_progress", "Requests in progress.")
        self.streams = self._gauge("streams", "Open streams.")
        self.upload_bytes = self._gauge("upload_bytes", "Bytes of uploads in memory.")
        self.waiting = self._gauge("jobs_waiting", "Jobs waiting for the model.")

    def batch(self, num_clips: int, audio_s: float, took_s: float) -> None:
        """Record one batch."""
        self.batch_clips.observe(num_clips)
        self.audio_s.inc(audio_s)
        self.model_s.inc(took_s)

    def observe(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Let a gauge call a function for its value."""
        gauge.set_function(value)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, what: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"serein_{name}", what, labels or [], registry=self.registry)

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(f"serein_{name}", what, registry=self.registry)

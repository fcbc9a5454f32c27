"""Latency of streaming: from the arrival of a window's last sample to its prediction."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class Arrivals:
    """When the samples of a stream arrived.

    Example:
        >>> arrivals = Arrivals()
        >>> arrivals.record(0.5, at_s=100.0)
        >>> arrivals.record(1.0, at_s=100.5)
        >>> arrivals.delay_s(0.8, now_s=100.75)
        0.25
    """

    def __init__(self, longest_s: float = 120.0) -> None:
        self.longest_s = longest_s
        self.places: deque[tuple[float, float]] = deque()

    def record(self, position_s: float, at_s: float) -> None:
        """Record when all samples up to a position had arrived; old records are dropped."""
        self.places.append((position_s, at_s))
        while self.places[0][0] < position_s - self.longest_s:
            self.places.popleft()

    def delay_s(self, end_s: float, now_s: float) -> float:
        """Return the seconds since the sample at `end_s` arrived; 0 when it has not."""
        return next((now_s - at_s for position_s, at_s in self.places if position_s >= end_s), 0.0)


def delay_summary(delays_s: Sequence[float]) -> str:
    """Return the median delay, its 95th percentile and the maximum.

    Example:
        >>> delay_summary([0.1] * 95 + [0.9] * 5)
        '100 windows; delay: median 0.10 s, 95th percentile 0.10 s, maximum 0.90 s'
    """
    if not delays_s:
        return "no speech was found"
    ordered = sorted(delays_s)
    median, high = (ordered[min(len(ordered) - 1, int(level * len(ordered) - 1e-9))] for level in (0.5, 0.95))
    return (
        f"{len(ordered)} windows; delay: median {median:.2f} s, 95th percentile {high:.2f} s, "
        f"maximum {ordered[-1]:.2f} s"
    )

"""How long answers take: from the moment that a window's last sample came to the moment that it is answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class Arrivals:
    """When the samples of a stream came.

    Example:
        >>> arrivals = Arrivals()
        >>> arrivals.came(0.5, at_s=100.0)
        >>> arrivals.came(1.0, at_s=100.5)
        >>> arrivals.delay_s(0.8, now_s=100.75)
        0.25
    """

    def __init__(self, longest_s: float = 120.0) -> None:
        self.longest_s = longest_s
        self.places: deque[tuple[float, float]] = deque()

    def came(self, position_s: float, at_s: float) -> None:
        """Note that all samples up to a place have come at a time; what is long past is forgotten."""
        self.places.append((position_s, at_s))
        while self.places[0][0] < position_s - self.longest_s:
            self.places.popleft()

    def delay_s(self, end_s: float, now_s: float) -> float:
        """Return the seconds since the sample at `end_s` came; 0 when it has not."""
        return next((now_s - at_s for position_s, at_s in self.places if position_s >= end_s), 0.0)


def described(delays_s: Sequence[float]) -> str:
    """Return the middle delay and that which 95 of 100 stay below.

    Example:
        >>> described([0.1] * 95 + [0.9] * 5)
        '100 windows; delay 0.10 s in the middle, 0.10 s for 95 of 100, at most 0.90 s'
    """
    if not delays_s:
        return "no speech was heard"
    ordered = sorted(delays_s)
    middle, high = (ordered[min(len(ordered) - 1, int(share * len(ordered) - 1e-9))] for share in (0.5, 0.95))
    return (
        f"{len(ordered)} windows; delay {middle:.2f} s in the middle, {high:.2f} s for 95 of 100, "
        f"at most {ordered[-1]:.2f} s"
    )

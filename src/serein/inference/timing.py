"""How long a model takes for a clip."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from serein.models.hidden import Backbone
from serein.models.speech import SpeechModel


def inference_time_s(model: SpeechModel, duration_s: float, *, num_repeats: int = 5, num_warm: int = 1) -> float:
    """Return the seconds that a model takes for one clip of noise: the median of several passes, after warm-up.

    Args:
        model: On the device that is to be timed, in evaluation mode.
        duration_s: Length of the clip.
        num_repeats: How many are timed.
        num_warm: Passes before the timed ones.
    """
    device = next(model.parameters()).device
    num_samples = torch.tensor([round(duration_s * Backbone.sample_rate_hz)], device=device)
    waveforms = 0.1 * torch.randn(1, int(num_samples), generator=torch.Generator().manual_seed(0)).to(device)

    def forward() -> None:
        model(waveforms, num_samples)

    with torch.inference_mode():
        taken_s = [_timed_s(forward, device) for _ in range(num_warm + num_repeats)]
    return statistics.median(taken_s[num_warm:])


def _timed_s(act: Callable[[], None], device: torch.device) -> float:
    _settle(device)
    started = time.perf_counter()
    act()
    _settle(device)
    return time.perf_counter() - started


def _settle(device: torch.device) -> None:
    """Wait until a GPU, which works asynchronously, has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

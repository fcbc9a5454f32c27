"""Schedules of the learning rate, whatever the number of steps."""

from __future__ import annotations

import pytest
import torch

from serein.recipe import Schedule
from serein.training.optimizers import build_scheduler

RATE = 0.5


@pytest.mark.parametrize("num_steps", range(1, 12))
def test_one_cycle_reaches_its_top_however_few_steps_there_are(num_steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    schedule = build_scheduler(optimizer, Schedule(name="one-cycle", warmup=0.2), num_steps)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert all(RATE / 25_001 <= rate <= RATE for rate in rates)
    assert max(rates) > RATE / 2

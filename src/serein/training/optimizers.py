"""The optimiser and its parameter groups, the learning rate schedule, and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from serein.models.model import SpeechModel
from serein.recipe import Optimizer, Schedule


def build_optimizer(model: SpeechModel, options: Optimizer) -> torch.optim.Optimizer:
    """Return the optimiser of the trainable weights; vectors (biases, norms) have no weight decay."""
    rate_of = backbone_rates(model, options)
    groups: dict[tuple[bool, float, bool], dict[str, Any]] = {}  # the backbone's first, the heads' last
    for p in model.parameters():
        if p.requires_grad:
            rate = rate_of.get(id(p), options.learning_rate)
            decay = options.weight_decay if p.ndim > 1 else 0.0
            group = {"params": [], "lr": rate, "weight_decay": decay}
            groups.setdefault((id(p) not in rate_of, rate, p.ndim <= 1), group)["params"].append(p)
    return OPTIMIZERS[options.name]([groups[key] for key in sorted(groups)], options)


def backbone_rates(model: SpeechModel, options: Optimizer) -> dict[int, float]:
    """Return the learning rate of each backbone parameter, by its id.

    With a layer decay d, the rate of layer i of N is multiplied by d^(N + 1 - i), and that of everything below layer 1
    by d^(N + 1) (Clark 2020, ELECTRA); an adapter's rate is unchanged.
    """
    rates: dict[int, float] = {}
    for backbone in [model.backbone, *(model.backbone_of(name) for name in model.branches)]:
        rate = options.backbone_learning_rate or options.learning_rate
        for name, parameters in backbone.parameter_groups().items():
            number = int(name.removeprefix("layer ")) if name.startswith("layer ") else 0
            depth = 0 if name == "adapter" else backbone.num_layers + 1 - number
            rates |= {id(parameter): rate * options.layer_decay**depth for parameter in parameters}
    return rates


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], Optimizer], torch.optim.Optimizer]] = {
    "adamw": lambda groups, options: torch.optim.AdamW(groups, betas=options.betas, fused=True),
    "adam": lambda groups, options: torch.optim.Adam(groups, betas=options.betas, fused=True),
    "sgd": lambda groups, options: torch.optim.SGD(groups, momentum=options.momentum),
}


def build_scheduler(optimizer: torch.optim.Optimizer, schedule: Schedule, num_steps: int) -> Any:
    """Return the learning rate schedule: `exponential` is stepped by epochs, any other by optimiser steps.

    Args:
        num_steps: Number of optimiser steps of the whole stage.
    """
    if schedule.name == "exponential":
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, schedule.factor)
    if schedule.name == "one-cycle":
        rates, total = [group["lr"] for group in optimizer.param_groups], num_steps + 1
        is_singular = abs(schedule.warmup * total - 1) < 1e-6  # PyTorch's warm-up then divides by zero
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            rates,
            total_steps=total,
            pct_start=schedule.warmup * (1 - 1e-6) if is_singular else schedule.warmup,
            div_factor=25.0,
            final_div_factor=schedule.final_divisor,
            cycle_momentum=schedule.cycle_momentum,
        )
    warmup_steps = round(schedule.warmup * num_steps)

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
        falling = 1 - done if schedule.name == "linear" else 0.5 * (1 + torch.cos(torch.tensor(done * torch.pi)).item())
        return max(0.0, falling)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


class MovingAverage(nn.Module):
    """An exponential moving average of a model's weights and buffers, which favours new weights in the first steps.

    PyTorch's `AveragedModel` counts its steps on the device and therefore synchronises with it in each step.

    Attributes:
        module: The averaged model; parts that it shares with the original model are left unchanged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module: Any = deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, num_before: int) -> None:
        """Update the average with a model's weights, after `num_before` updates."""
        kept = min(self.decay, (1 + num_before) / (10 + num_before)) if num_before else 0.0
        own, others = ([*each.parameters(), *each.buffers()] for each in (self.module, model))
        pairs = [pair for pair in zip(own, others, strict=True) if pair[0] is not pair[1]]
        for is_averaged in (True, False):  # counters are copied
            chosen = [pair for pair in pairs if (pair[0].is_floating_point() and kept > 0.0) == is_averaged]
            if chosen:
                averages, values = map(list, zip(*chosen, strict=True))
                if is_averaged:
                    torch._foreach_lerp_(averages, values, 1 - kept)
                else:
                    torch._foreach_copy_(averages, values)

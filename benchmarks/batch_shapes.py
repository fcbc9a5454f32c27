"""Memory of a training whose batches have many lengths: oneDNN keeps the kernels of each shape.

    ONEDNN_PRIMITIVE_CACHE_CAPACITY=4096 python benchmarks/batch_shapes.py [--steps 400] [--multiple 1]

A stack of two-dimensional convolutions over 80 bands, as of log-mel features, learns from random lengths, rounded up to
a multiple. Prints the resident memory and the processor's seconds of every hundred steps.
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import pairwise

import torch
from torch import nn


def resident_mb() -> float:
    """Return the memory that the process holds now, in MB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def main() -> None:
    """Print a row for every hundred steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--multiple", type=int, default=1, help="frames that lengths are rounded up to")
    parser.add_argument("--most", type=int, default=600, help="frames of the longest batch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = (1, 16, 32, 32, 48, 48)
    convolutions = [nn.Conv2d(a, b, 3, padding=1, stride=(2, 1)) for a, b in pairwise(sizes)]
    network = nn.Sequential(*(part for each in convolutions for part in (each, nn.ReLU())))
    network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    lengths = torch.randint(50, options.most, (options.steps,)).tolist()
    shapes: set[int] = set()
    print(f"{'steps':>6}{'lengths':>9}{'MB':>8}{'s':>7}")
    started_s = time.process_time()
    for step, length in enumerate(lengths, start=1):
        shapes.add(frames := -(-length // options.multiple) * options.multiple)
        features = torch.randn(4, 1, 80, frames).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            loss = network(features).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if step % 100 == 0 or step == options.steps:
            print(f"{step:>6}{len(shapes):>9}{resident_mb():>8.0f}{time.process_time() - started_s:>7.1f}", flush=True)


if __name__ == "__main__":
    main()

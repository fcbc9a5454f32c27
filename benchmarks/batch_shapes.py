"""Memory and time of training on batches of many lengths: oneDNN caches the kernels of each shape.

    python benchmarks/batch_shapes.py [--backbone FOLDER] [--layers 4] [--steps 200]
    ONEDNN_PRIMITIVE_CACHE_CAPACITY=4096 python benchmarks/batch_shapes.py --network log-mel [--steps 400]

A pretrained model (without a folder, a small wav2vec 2.0 with random weights) is trained on batches of four clips of
random lengths, padded to the longest clip or to a multiple (`serein.models.backbones.PADDED_TO`). With
`--network log-mel`, the model is a stack of two-dimensional convolutions over 80 bands, as for log-mel features, whose
batches serein does not pad further. Each row is a separate process in bfloat16 with one thread. It shows the number of
different lengths, resident memory after a quarter of the steps and after all of them, and CPU seconds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

from serein.models import backbones
from serein.models.backbones import HuggingFaceBackbone

SMALL = {
    "model_type": "wav2vec2",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "conv_dim": [128] * 7,
    "num_conv_pos_embedding_groups": 16,
}
BATCH = 4
MULTIPLES = {"pretrained": (1, backbones.PADDED_TO), "log-mel": (1, 16)}  # samples, frames
LONGEST = {"pretrained": 96_000, "log-mel": 600}


def resident_mb() -> float:
    """Return the current resident memory of the process, in MB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def pretrained(folder: str | None, layers: int, multiple: int) -> tuple[nn.Module, Callable[[int], torch.Tensor]]:
    """Return a pretrained model, and a function from the number of samples of a batch's longest clip to its output."""
    backbones.PADDED_TO = multiple
    if folder is None:
        model = HuggingFaceBackbone.from_config(SMALL)
    else:
        model = HuggingFaceBackbone.from_source(folder, layers=layers)

    def output(longest: int) -> torch.Tensor:
        num_samples = torch.tensor([longest - 800 * number for number in range(BATCH)])
        return model(torch.randn(BATCH, longest), num_samples).last

    return model, output


def log_mel(multiple: int) -> tuple[nn.Module, Callable[[int], torch.Tensor]]:
    """Return convolutions over bands, and a function from a batch's number of frames, rounded up, to their output."""
    sizes = (1, 16, 32, 32, 48, 48)
    convolutions = [nn.Conv2d(a, b, 3, padding=1, stride=(2, 1)) for a, b in pairwise(sizes)]
    network = nn.Sequential(*(part for each in convolutions for part in (each, nn.ReLU())))
    network.to(memory_format=torch.channels_last)

    def output(longest: int) -> torch.Tensor:
        frames = -(-longest // multiple) * multiple
        features = torch.randn(BATCH, 1, 80, frames).to(memory_format=torch.channels_last)
        return network(features)  # type: ignore[no-any-return]

    return network, output


def learn(options: argparse.Namespace) -> None:
    """Train a network on random lengths, and print one row."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.network == "pretrained":
        network, output = pretrained(options.backbone, options.layers, options.multiple)
    else:
        network, output = log_mel(options.multiple)
    network.train()
    optimiser = torch.optim.AdamW([each for each in network.parameters() if each.requires_grad], 1e-4)
    longest = LONGEST[options.network]
    lengths = torch.randint(longest // 6, longest, (options.steps,)).tolist()
    shapes: set[int] = set()
    early_mb, started_s = 0.0, time.process_time()
    for step, length in enumerate(lengths, start=1):
        with torch.autocast("cpu", torch.bfloat16):
            found = output(length)
            loss = found.float().square().mean()
        shapes.add(found.shape[1] if options.network == "pretrained" else found.shape[3])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if step == max(1, options.steps // 4):
            early_mb = resident_mb()
    took_s = time.process_time() - started_s
    print(f"{options.multiple:>12}{len(shapes):>9}{early_mb:>12.0f}{resident_mb():>10.0f}{took_s:>9.1f}", flush=True)


def main() -> None:
    """Print a row for each multiple."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=MULTIPLES, default="pretrained")
    parser.add_argument("--backbone", help="model folder of Transformers")
    parser.add_argument("--layers", type=int, help="use only this many of its lower layers")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--multiple", type=int, help="print one row: multiple of samples, or frames, to pad to")
    options = parser.parse_args()
    if options.multiple is not None:
        learn(options)
        return
    print(f"{'a multiple of':>12}{'lengths':>8}{'MB, quarter':>12}{'MB, end':>10}{'s':>9}", flush=True)
    for multiple in MULTIPLES[options.network]:
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--multiple", str(multiple)], check=True)


if __name__ == "__main__":
    main()

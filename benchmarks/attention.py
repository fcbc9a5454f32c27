"""Attention during training on a CPU: PyTorch's fused kernel compared with the plain products that `attend` uses.

    python benchmarks/attention.py [--frames 48 112 256 384 512] [--json]

Forward and backward passes for 2,688 frames in total, with eight heads of 64 features, a third of the clips padded, and
one thread. Prints the CPU time of each in milliseconds, in bfloat16 and float32.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from serein.models import masking

ALL_FRAMES = 2688
NUM_HEADS, HEAD_SIZE = 8, 64


def fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attend with PyTorch's fused kernel."""
    return F.scaled_dot_product_attention(query, key, value, mask, scale=1.0)


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attend as `attend` does if there are few weights."""
    return masking.weighted(query, key, value, mask, dropout=0.0)


def milliseconds(
    attend: Callable[..., torch.Tensor], num_frames: int, dtype: torch.dtype, *, repeats: int = 5
) -> float:
    """Return the CPU time of a forward and a backward pass in milliseconds."""
    num_clips = max(1, ALL_FRAMES // num_frames)
    shape = (num_clips, num_frames, NUM_HEADS, HEAD_SIZE)
    tensors = [torch.randn(shape, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3)]
    lengths = torch.full((num_clips,), num_frames)
    lengths[::3] = num_frames // 2
    mask = (torch.arange(num_frames) < lengths[:, None])[:, None, None]
    started = 0.0
    for number in range(repeats + 1):
        started = time.process_time() if number == 1 else started  # the first pass prepares kernels
        attend(*tensors, mask).sum().backward()
    return 1000 * (time.process_time() - started) / repeats


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[48, 112, 256, 384, 512])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        {
            "frames": num_frames,
            "dtype": str(dtype).removeprefix("torch."),
            "fused_ms": round(milliseconds(fused, num_frames, dtype), 1),
            "plain_ms": round(milliseconds(plain, num_frames, dtype), 1),
        }
        for num_frames in options.frames
        for dtype in (torch.bfloat16, torch.float32)
    ]
    if options.json:
        print(json.dumps(rows))
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()

"""What the C library does with memory that is freed."""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h: what `mallopt` sets, and to how many bytes
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
SIZES = {MMAP_THRESHOLD: 1 << 30, TRIM_THRESHOLD: (1 << 31) - 1, TOP_PAD: 64 << 20}


def keep_freed_memory() -> None:
    """Let this process keep what it frees, up to 2 GiB, for what it allocates next.

    glibc gives large arrays back to the system at once, which fills the pages of the next batch with zeros again: a
    fifth of the time of a wav2vec 2.0 (docs/measurements.md, Speed). The commands and their workers call it; a program
    that uses the package may. Nothing happens where the C library is another one.

    Example:
        >>> keep_freed_memory()
    """
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "mallopt"):
        return
    for parameter, size in SIZES.items():
        library.mallopt(parameter, size)

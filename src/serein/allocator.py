"""How the C library handles freed memory."""

from __future__ import annotations

import ctypes
import sys

# parameters of `mallopt` in glibc's malloc.h, and their values in bytes
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
SIZES = {MMAP_THRESHOLD: 1 << 30, TRIM_THRESHOLD: (1 << 31) - 1, TOP_PAD: 64 << 20}


def keep_freed_memory() -> None:
    """Let this process keep freed memory, up to 2 GiB, for its next allocations.

    glibc returns large arrays to the system at once, and the system then fills the pages of the next batch with zeros
    again, which takes a fifth of the time of a wav2vec 2.0 (docs/speed.md). The commands and their
    workers call this function; other programs may. With another C library, it does nothing.

    Example:
        >>> keep_freed_memory()
    """
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "mallopt"):
        return
    for parameter, size in SIZES.items():
        library.mallopt(parameter, size)

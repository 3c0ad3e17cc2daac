"""What large requests took of the memory goes back to the system when they are done."""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
LARGE = 8 << 20  # bytes: pictures come in blocks of 16 MB, most tensors of a step are smaller


def return_large_blocks() -> None:
    """From now on blocks of 8 MB or more go back when they are freed.

    By itself, glibc raises the threshold to the largest block that was ever freed: after one large picture all others
    would come from the heap, whose middle stays.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and needs none
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, LARGE)

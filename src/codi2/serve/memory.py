"""What large requests took of the memory goes back to the system when they are done."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
LARGE = 8 << 20  # bytes: pictures come in blocks of 16 MB, most tensors of a step are smaller


def return_large_blocks() -> None:
    """From now on blocks of 8 MB or more go back when they are freed.

    By itself, glibc raises the threshold to the largest block that was ever freed: after one large picture all others
    would come from the heap, whose middle stays.
    """
    if mallopt := _glibc("mallopt"):
        mallopt(M_MMAP_THRESHOLD, LARGE)


def return_freed() -> None:
    """Gives back what is free in the heap, and what a request that was cut off left behind in cycles."""
    gc.collect()  # what was loaded at the start is frozen: some milliseconds
    if malloc_trim := _glibc("malloc_trim"):
        malloc_trim(0)


def _glibc(function: str) -> Any:
    """None where there is no glibc, as on musl: other libraries give memory back by themselves."""
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None

"""Returns the memory of large requests to the system when they are done."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
LARGE = 8 << 20  # bytes: pictures come in blocks of 16 MB, most tensors of a step are smaller


def return_large_blocks() -> None:
    """From now on blocks of 8 MB or more are returned to the system when they are freed.

    By default glibc raises this threshold to the largest block that was ever freed. After one large picture, all
    others would then be allocated in the heap, which shrinks at its end only.
    """
    if mallopt := _glibc("mallopt"):
        mallopt(M_MMAP_THRESHOLD, LARGE)


def return_freed() -> None:
    """Returns free memory of the heap to the system, after a collection of the cycles of aborted requests."""
    gc.collect()  # takes milliseconds: the objects that were loaded at the start are frozen
    if malloc_trim := _glibc("malloc_trim"):
        malloc_trim(0)


def _glibc(function: str) -> Any:
    """None without glibc, as on musl: other C libraries return memory by themselves."""
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None

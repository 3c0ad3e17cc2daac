"""Samples as the integers of sound files, and back, exactly.

Writers that are given floats scale them by 2^(bits-1) - 1 and readers divide by 2^(bits-1), so loud samples come back
one step lower. Integers come back as they were.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from codi2.prompt.parts import Audio

BLOCK = 1 << 20  # samples


def to_pcm(samples: np.ndarray, bits: int) -> np.ndarray:
    """float [N] in [-1, 1] → int16 [N] for 16 bits, int32 [N] with the sample in the upper bits for 24."""
    top = 2 ** (bits - 1)
    values = np.rint(np.asarray(samples, np.float64) * top).clip(-top, top - 1)
    return values.astype(np.int16) if bits == 16 else values.astype(np.int32) << (32 - bits)


def rounded(sound: Audio, bits: int) -> Audio:
    """The sound as a file of `bits` bits gives it back; the same object where nothing changes."""
    top = 2 ** (bits - 1)
    exact = np.empty(len(sound.samples), np.float32)
    for start in range(0, len(exact), BLOCK):  # the whole of a long sound in float64 would be four times its size
        block = sound.samples[start : start + BLOCK].astype(np.float64)
        exact[start : start + BLOCK] = np.rint(block * top).clip(-top, top - 1) / top
    return sound if np.array_equal(exact, sound.samples) else replace(sound, samples=exact)

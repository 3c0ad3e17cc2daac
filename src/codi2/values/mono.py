"""Mixes several channels to one, so that speech in the centre keeps its level."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from codi2.errors import MediaWarning

_SIDE = 0.5**0.5
_WEIGHTS = {"FC": 1.0, "FL": _SIDE, "FR": _SIDE, "FLC": _SIDE, "FRC": _SIDE, "LFE": 0.0, "LFE2": 0.0}
"""Weights of ITU-R BS.775 for one channel, by FFmpeg's names of channels; other channels have 0.5."""
_ORDERS = {
    1: "FC", 2: "FL FR", 3: "FL FR FC", 4: "FL FR BL BR", 5: "FL FR FC BL BR", 6: "FL FR FC LFE BL BR",
    7: "FL FR FC LFE BC SL SR", 8: "FL FR FC LFE BL BR SL SR",
}  # fmt: skip
"""Number of channels → their names, for WAV and FLAC files without names."""
_CANCELLED = 0.01  # fraction of the channels' power, 20 dB, below which they cancel each other


class Downmix:
    """Mixes blocks of a sound of several channels.

    Args:
        names: FFmpeg's names of the channels; NONE for channels without a name.
    """

    def __init__(self, names: Sequence[str]) -> None:
        if "NONE" in names:
            names = _ORDERS.get(len(names), "").split()
        weights = np.array([_WEIGHTS.get(name, 0.5) for name in names], np.float32)
        if "FC" not in names:  # a sound of equal level on both sides keeps this level
            weights *= np.float32(_SIDE)
        equal = np.full(len(names), 1 / max(len(names), 1), np.float32)
        self.weights = weights if {"FL", "FC"} & set(names) else equal
        self._power, self._kept = 0.0, 0.0

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """float32 [N, C] → float32 [N]."""
        if block.shape[1] == 1:
            return block[:, 0]
        if len(self.weights) != block.shape[1]:  # more than eight channels without names
            self.weights = np.full(block.shape[1], 1 / block.shape[1], np.float32)
        mixed: np.ndarray = block @ self.weights
        self._power += float(np.square(block, dtype=np.float64).sum()) / block.shape[1]
        self._kept += float(np.square(mixed, dtype=np.float64).sum())
        return mixed

    def warn(self, name: str) -> None:
        """Warns where channels have cancelled each other."""
        if self._power and self._kept < _CANCELLED * self._power:
            warnings.warn(
                f"{name}: its channels cancel each other when they are mixed to one, so little of it is heard; "
                "turn the phase of one channel, or give one channel alone.",
                MediaWarning,
                stacklevel=2,
            )

"""Edits of sounds that need no model: the counterpart of `transforms`, on int16 clips [N] at 16 kHz."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from codi2.errors import MissingDependencyError

RATE = 16_000
Clip = np.ndarray


def _float(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Clip], Clip]:
    """`function` in float64, scaled back to the clip's peak, so that it never clips."""

    def apply(clip: Clip) -> Clip:
        x = clip.astype(np.float64)
        y = function(x)
        peak, original_peak = np.abs(y).max(), np.abs(x).max()
        return np.round(y * (original_peak / peak if peak > 0 else 0)).astype(np.int16)

    return apply


def _echo(x: np.ndarray) -> np.ndarray:
    y = x.copy()
    for n, gain in ((1, 0.55), (2, 0.3), (3, 0.17)):
        lag = n * RATE // 4
        y[lag:] += gain * x[:-lag]
    return y


def _resampled(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    """Played `factor` times as fast: pitch and tempo together, cut or padded to the same length."""

    def apply(x: np.ndarray) -> np.ndarray:
        places = np.arange(len(x)) * factor
        return np.interp(places, np.arange(len(x)), x, right=0.0)

    return apply


def _filtered(cutoff: float, kind: str) -> Callable[[np.ndarray], np.ndarray]:
    def apply(x: np.ndarray) -> np.ndarray:
        try:
            from scipy.signal import butter, sosfiltfilt
        except ImportError as error:
            raise MissingDependencyError("filtering a sound needs SciPy: run `pip install 'codi2[data]'`") from error
        return np.asarray(sosfiltfilt(butter(4, cutoff, kind, fs=RATE, output="sos"), x))

    return apply


def _tremolo(x: np.ndarray) -> np.ndarray:
    return x * (0.55 + 0.45 * np.cos(2 * np.pi * 6 * np.arange(len(x)) / RATE))


def _fade_in(x: np.ndarray) -> np.ndarray:
    return x * np.linspace(0, 1, len(x)) ** 2


@dataclass(frozen=True)
class SoundTransform:
    """One edit. `asks` are instructions for it, `words` describe the result in a caption."""

    name: str
    apply: Callable[[Clip], Clip]
    asks: tuple[str, ...]
    words: str


TRANSFORMS: tuple[SoundTransform, ...] = (
    SoundTransform("plain", lambda clip: clip, (), ""),
    SoundTransform("half", lambda clip: (clip // 2).astype(np.int16), (), ""),  # the level a base has in a mix
    SoundTransform("echo", _float(_echo), ("add echo to it", "make it echo"), "with echo"),
    SoundTransform("reverse", lambda clip: clip[::-1].copy(), ("play it backwards", "reverse it"), "played backwards"),
    SoundTransform(
        "high", _float(_resampled(1.5)), ("raise its pitch", "make it higher and faster"), "at a higher pitch"
    ),
    SoundTransform(
        "low", _float(_resampled(0.67)), ("lower its pitch", "make it deeper and slower"), "at a lower pitch"
    ),
    SoundTransform(
        "muffled", _float(_filtered(700, "low")), ("muffle it", "make it sound as if behind a wall"), "muffled"
    ),
    SoundTransform(
        "thin",
        _float(_filtered(1500, "high")),
        ("make it thin like a telephone", "remove the bass"),
        "thin, without bass",
    ),
    SoundTransform("tremolo", _float(_tremolo), ("make it tremble", "add tremolo"), "with tremolo"),
    SoundTransform("fade_in", _float(_fade_in), ("fade it in", "let it grow from silence"), "fading in"),
)
BY_NAME = {transform.name: transform for transform in TRANSFORMS}

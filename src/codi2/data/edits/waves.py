"""Shared functions of the edits of sounds, on float64 clips [N] at 16 kHz, in the units of int16."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import butter, lfilter, oaconvolve, sosfilt

RATE = 16_000
PEAK = 32_000.0
"""The largest value after an edit: 0.2 dB below the limit of int16."""
Clip = np.ndarray


def fitted(x: Clip, length: int) -> Clip:
    """Cut, or padded with silence, to `length`."""
    return x[:length] if len(x) >= length else np.pad(x, (0, length - len(x)))


def limited(x: Clip) -> Clip:
    """Unchanged, or scaled down to the peak `PEAK`."""
    peak = float(np.abs(x).max(initial=0))
    return x * (PEAK / peak) if peak > PEAK else x


def like(x: Clip, level_of: Clip) -> Clip:
    """Scaled to the peak of another clip, by at most 18 dB: rounding errors of an almost silent clip stay quiet."""
    peak = float(np.abs(x).max(initial=0))
    return x * min(float(np.abs(level_of).max(initial=0)) / peak, 8.0) if peak > 0 else x


def time(length: int) -> np.ndarray:
    """Seconds of each sample."""
    return np.arange(length) / RATE


def filtered(x: Clip, hertz: float | tuple[float, float], kind: str, order: int = 4) -> Clip:
    return np.asarray(sosfilt(butter(order, hertz, kind, fs=RATE, output="sos"), x))


def resonant(x: Clip, hertz: float, quality: float) -> Clip:
    """A narrow band of gain 1 around `hertz`, `quality` times narrower than its frequency."""
    turn = 2 * np.pi * hertz / RATE
    slope = np.sin(turn) / (2 * quality)
    return np.asarray(lfilter([slope, 0, -slope], [1 + slope, -2 * np.cos(turn), 1 - slope], x))


def weighted(x: Clip, gains: np.ndarray, length: int) -> Clip:
    """The spectrum of `x`, padded to `length`, times `gains`."""
    return np.asarray(irfft(rfft(x, length) * gains, length))[: len(x)]


def tilted(x: Clip, decibels: float) -> Clip:
    """Louder by `decibels` an octave towards the treble, around 1 kHz."""
    length = next_fast_len(len(x), real=True)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(length, 1 / RATE), 60) / 1000)
    return weighted(x, 10 ** (decibels * octaves / 20), length)


def at(x: Clip, places: np.ndarray) -> Clip:
    """The values between samples; silence outside the clip."""
    return np.interp(places, np.arange(len(x)), x, left=0.0, right=0.0)


def faster(x: Clip, factor: float) -> Clip:
    """Played `factor` times as fast: the length changes."""
    return np.asarray(soxr.resample(x, RATE * factor, RATE, quality="MQ"))


def stretched(x: Clip, factor: float, window: int = 960) -> Clip:
    """`factor` times as long at the same pitch: a phase vocoder, three windows an overlap."""
    hop = window // 3
    padded = np.pad(x, (window, window + hop)).astype(np.float32)
    starts = np.arange(0, len(padded) - window - hop, hop / factor).astype(int)
    hann = np.hanning(window + 1)[:-1].astype(np.float32)
    pieces = sliding_window_view(padded, window)
    before, now = rfft(pieces[starts] * hann, axis=1), rfft(pieces[starts + hop] * hann, axis=1)
    # The phase advances as between two windows one hop apart; after silence it is the phase of the sound.
    turns = now * (before.conj() + np.float32(1e-3)) + np.float32(1e-6)
    phasors = np.cumprod(turns / np.abs(turns), 0)
    thirds = (irfft(np.abs(now) * phasors, axis=1) * hann).reshape(len(starts), 3, hop)
    out = np.zeros((len(starts) + 2, hop))
    for part in range(3):
        out[part : part + len(starts)] += thirds[:, part]
    # the middle of a window is where the middle of its source is, `factor` times as late
    start = round(window / 2 + (window / 2 - hop) * factor)
    # the squares of three Hann windows add up to 9/8
    return out.ravel()[start:][: round(len(x) * factor)] / 1.125


def pitched(x: Clip, semitones: float) -> Clip:
    """Higher or lower at the same length."""
    factor = 2 ** (semitones / 12)
    return fitted(faster(stretched(x, factor), factor), len(x))


@lru_cache(maxsize=1)
def room() -> np.ndarray:
    """Noise of two seconds: the reflections of a room before they decay."""
    return np.random.default_rng(0).standard_normal(2 * RATE)


def reverberated(x: Clip, seconds: float) -> Clip:
    """The clip in a room whose sound falls by 60 dB in `seconds`."""
    times = time(round(seconds * RATE))
    tail = room()[: len(times)] * 10 ** (-3 * times / seconds)
    wet = oaconvolve(x, tail)[: len(x)] / np.sqrt((tail**2).sum())
    return 0.5 * x + 0.9 * wet


def power(x: Clip) -> float:
    """Root mean square of the parts that are not silent."""
    loud = np.abs(x) > 0.02 * np.abs(x).max(initial=0)
    return float(np.sqrt((x[loud] ** 2).mean())) if loud.any() else 0.0


def wave(length: int, hertz: float) -> np.ndarray:
    """A sine from -1 to 1."""
    return np.sin(2 * np.pi * hertz * time(length))


def noise(length: int, seed: float) -> np.ndarray:
    """White noise of power 1."""
    return np.random.default_rng(int(seed)).standard_normal(length)

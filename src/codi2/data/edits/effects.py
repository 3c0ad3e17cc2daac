"""The functions of the edits of sounds, on float64 clips [N] at 16 kHz, in the units of int16."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codi2.data.edits import waves as w
from codi2.data.edits.waves import RATE, Clip


def level(function: Callable[..., Clip]) -> Callable[..., Clip]:
    """Converts an edit of floats to one of int16 that never clips; the function sets the level."""

    def apply(clip: Clip, **values: float) -> Clip:
        return np.round(w.limited(function(clip.astype(np.float64), **values))).astype(np.int16)

    return apply


def peak(function: Callable[..., Clip]) -> Callable[..., Clip]:
    """As `level`, scaled to the peak of the clip."""
    return level(lambda x, **values: w.like(function(x, **values), x))


def loudness(x: Clip, decibels: float) -> Clip:
    """Attenuates by a factor; amplifies by a curve that compresses the peaks."""
    gain = 10 ** (decibels / 20)
    return x * gain if gain < 1 else w.PEAK * np.tanh(x * gain / w.PEAK)


def band(x: Clip, hertz: float, octaves: float) -> Clip:
    half = 2 ** (octaves / 2)
    return w.filtered(x, (hertz / half, min(hertz * half, 7500)), "band", 2)


def echo(x: Clip, delay: float, decay: float) -> Clip:
    lag, y = round(delay * RATE), x.copy()
    for number in range(1, 6):
        if number * lag < len(x):
            y[number * lag :] += decay**number * x[: len(x) - number * lag]
    return y


def tempo(x: Clip, factor: float) -> Clip:
    """`factor` times as fast at the same pitch."""
    return w.fitted(w.stretched(x[: round(len(x) * factor)], 1 / factor), len(x))


def vibrato(x: Clip, rate: float, semitones: float) -> Clip:
    # a sine of the delay whose steepest slope is the largest change of pitch
    depth = (2 ** (semitones / 12) - 1) / (2 * np.pi * rate) * RATE
    return w.at(x, np.arange(len(x)) + depth * (w.wave(len(x), rate) - 1))


def distortion(x: Clip, drive: float) -> Clip:
    """Keeps the power of the clip: a compressed wave of the same peak would be far louder."""
    y = np.tanh(drive * x / max(float(np.abs(x).max(initial=0)), 1))
    return y * np.sqrt((x**2).mean() / max(float((y**2).mean()), 1e-9))


def crush(x: Clip, levels: float) -> Clip:
    step = 2 * float(np.abs(x).max(initial=0)) / (levels - 1)
    return np.round(x / step) * step if step else x


def coarse(x: Clip, hertz: float) -> Clip:
    """Sample and hold at a lower rate."""
    step = RATE / hertz
    return x[(np.floor(np.arange(len(x)) / step) * step).astype(int)]


def fade_in(x: Clip, seconds: float) -> Clip:
    return x * np.clip(w.time(len(x)) / seconds, 0, 1) ** 2


def fade_out(x: Clip, seconds: float) -> Clip:
    """Silent from `seconds` on."""
    return x * np.clip(1 - w.time(len(x)) / seconds, 0, 1) ** 1.5


def gate(x: Clip, rate: float, share: float) -> Clip:
    phase = (w.time(len(x)) * rate) % 1
    return x * np.clip(np.minimum(phase, share - phase) / rate * 400, 0, 1)  # ramps of 2.5 ms do not click


def repeat(x: Clip, count: float) -> Clip:
    piece = x[: int(len(x) / count)].copy()
    ramp = np.linspace(0, 1, 160)
    piece[-160:] *= ramp[::-1]
    return np.resize(piece, len(x))


def cut(x: Clip, seconds: float) -> Clip:
    return x * np.clip((seconds - w.time(len(x))) * 100, 0, 1)


def later(x: Clip, seconds: float) -> Clip:
    return np.concatenate([np.zeros(round(seconds * RATE)), x])[: len(x)]


def noise(x: Clip, ratio: float, seed: float) -> Clip:
    return x + w.noise(len(x), seed) * w.power(x) * 10 ** (-ratio / 20)


def hum(x: Clip, ratio: float, hertz: float) -> Clip:
    tone = w.wave(len(x), hertz) + 0.5 * w.wave(len(x), 2 * hertz) + 0.3 * w.wave(len(x), 3 * hertz)
    return x + tone * w.power(x) * 1.2 * 10 ** (-ratio / 20)


def crackle(x: Clip, rate: float, seed: float) -> Clip:
    """Clicks of a worn record."""
    rng = np.random.default_rng(int(seed))
    count = round(rate * len(x) / RATE)
    clicks = np.zeros(len(x))
    np.add.at(clicks, rng.integers(0, len(x), count), rng.uniform(-1, 1, count) * np.abs(x).max(initial=0))
    shape = np.exp(-np.arange(24) / 6) * np.cos(np.arange(24))
    return x + np.convolve(clicks, shape)[: len(x)]


def chorus(x: Clip, depth: float, rate: float) -> Clip:
    """Three copies whose delays vary by `depth` milliseconds."""
    places, y = np.arange(len(x)), x.copy()
    for number in range(3):
        sway = w.wave(len(x), rate * (1 + 0.17 * number)) * (-1) ** number
        y += w.at(x, places - (0.012 + 0.006 * number) * RATE - depth / 1000 * RATE * (1 + sway))
    return y


def flanger(x: Clip, rate: float, depth: float) -> Clip:
    delay = depth / 1000 * RATE * (1 + w.wave(len(x), rate)) / 2
    return x + 0.9 * w.at(x, np.arange(len(x)) - delay - 4)


def swell(x: Clip, at: float) -> Clip:
    place = w.time(len(x)) / (len(x) / RATE)
    return x * np.clip(np.minimum(place / at, (1 - place) / (1 - at)), 0, 1) ** 1.5


def glide(x: Clip, semitones: float) -> Clip:
    """The pitch and the tempo change evenly from the start to the end."""
    speed = 2 ** (np.linspace(0, semitones, len(x)) / 12)
    return w.at(x, np.cumsum(speed) - speed[0])


def beep(x: Clip, hertz: float, level: float) -> Clip:
    return x + w.wave(len(x), hertz) * np.abs(x).max() * level


def copy_above(x: Clip, semitones: float) -> Clip:
    return x + 0.9 * w.pitched(x, semitones)


def wah(x: Clip, rate: float, reach: float) -> Clip:
    """A narrow band that moves between 400 Hz and `reach`: a bank of bands with varying gains."""
    centres = np.geomspace(400, reach, 6)
    place = (0.5 - 0.5 * np.cos(2 * np.pi * rate * w.time(len(x)))) * 5
    y = np.zeros_like(x)
    for number, hertz in enumerate(centres):
        y += w.resonant(x, hertz, 3) * np.clip(1 - np.abs(place - number), 0, 1)
    return y


def tape_stop(x: Clip, seconds: float) -> Clip:
    """After 15 % of the clip the tape slows down, and stops `seconds` later."""
    start = int(len(x) * 0.15)
    slowing = np.clip(1 - np.arange(len(x) - start) / (seconds * RATE), 0, 1)
    speed = np.concatenate([np.ones(start), slowing])
    places = np.cumsum(speed) - 1
    return w.at(x, places) * np.clip(speed * 8, 0, 1)


def shuffle(x: Clip, pieces: float, seed: float) -> Clip:
    """Pieces of equal length in another order."""
    count = int(pieces)
    size = len(x) // count
    order = np.random.default_rng(int(seed)).permutation(count)
    ramp = np.minimum(np.linspace(0, size / 80, size), 1)
    parts = x[: size * count].reshape(count, size)[order] * ramp * ramp[::-1]
    return w.fitted(parts.ravel(), len(x))

"""Edits of sounds: int16 clips [N] at 16 kHz. The peak stays as it was, except where the level is the edit."""

from __future__ import annotations

import numpy as np

from codi2.data.edits import effects as e
from codi2.data.edits import waves
from codi2.data.edits import words as w
from codi2.data.edits.kind import SEED, Kind, Span


def _ratio(decibels: float) -> str:
    if decibels == 0:
        return "as loud as the sound"
    return f"{w.number(abs(decibels))} decibels {'below' if decibels > 0 else 'above'} the sound"


KINDS = (
    Kind("reverse", {}, lambda clip: clip[::-1].copy()),
    Kind(
        "loudness",
        {"decibels": Span(-26, 16, 0.5, gap=(-5, 5), held=(-18, -12))},
        e.level(e.loudness),
        lambda decibels: {
            "decibels": f"{w.number(abs(decibels))} decibels",
            "more": "louder" if decibels > 0 else "quieter",
            "way": "up" if decibels > 0 else "down",
            "much": w.compared(decibels, "louder", "quieter", 5, 20),
        },
    ),
    Kind(
        "low_pass",
        {"hertz": Span(200, 3000, 10, log=True)},
        e.peak(lambda x, hertz: waves.filtered(x, hertz, "low")),
        lambda hertz: {
            "hertz": w.hertz(hertz),
            "much": w.level(np.log(hertz), np.log(200), np.log(3000), ("strongly", "clearly", "a little")),
            "thick": w.level(np.log(hertz), np.log(200), np.log(3000), ("very thick", "thick", "thin")),
        },
    ),
    Kind(
        "high_pass",
        {"hertz": Span(400, 4000, 10, log=True)},
        e.peak(lambda x, hertz: waves.filtered(x, hertz, "high")),
        lambda hertz: {
            "hertz": w.hertz(hertz),
            "thin": w.level(np.log(hertz), np.log(400), np.log(4000), ("a little thin", "thin", "very thin")),
        },
    ),
    Kind(
        "band_pass",
        {"hertz": Span(350, 3000, 10, log=True), "octaves": Span(0.5, 2.0, 0.1)},
        e.peak(e.band),
        lambda hertz, octaves: {
            "hertz": w.hertz(hertz),
            "octaves": w.number(octaves),
            "narrow": w.level(octaves, 0.5, 2, ("narrow", "medium", "broad")),
        },
    ),
    Kind(
        "speed",
        {"factor": Span(0.45, 2.2, gap=(0.85, 1.18), held=(1.45, 1.75), log=True)},
        e.peak(lambda x, factor: waves.fitted(waves.faster(x, factor), len(x))),
        lambda factor: {
            "factor": w.times(factor),
            "times": f"by a factor of {w.number(factor)}",
            "percent": w.percent(factor),
            "more": w.compared(factor - 1, "faster", "slower", 0.1, 0.9),
            "high": "higher" if factor > 1 else "deeper",
        },
    ),
    Kind(
        "tempo",
        {"factor": Span(0.5, 2.0, gap=(0.85, 1.18), held=(0.6, 0.72), log=True)},
        e.peak(e.tempo),
        lambda factor: {
            "factor": w.times(factor),
            "percent": w.percent(factor),
            "more": w.compared(factor - 1, "faster", "slower", 0.1, 0.9),
            "high": "higher" if factor > 1 else "deeper",
        },
    ),
    Kind(
        "pitch",
        {"semitones": Span(-12, 12, 0.5, gap=(-2, 2), held=(4, 7))},
        e.peak(waves.pitched),
        lambda semitones: {
            "semitones": w.semitones(semitones),
            "verb": "raise" if semitones > 0 else "lower",
            "high": "higher" if semitones > 0 else "deeper",
            "way": "up" if semitones > 0 else "down",
            "more": w.compared(semitones, "higher", "deeper", 2, 12),
        },
    ),
    Kind(
        "echo",
        {"delay": Span(0.08, 0.6), "decay": Span(0.35, 0.8)},
        e.peak(e.echo),
        lambda delay, decay: {
            "delay": w.seconds(delay),
            "strong": w.level(decay, 0.35, 0.8, ("faint", "clear", "loud")),
        },
    ),
    Kind(
        "reverb",
        {"seconds": Span(0.4, 2.0, 0.05)},
        e.peak(lambda x, seconds: waves.reverberated(x, seconds)),
        lambda seconds: {
            "seconds": w.seconds(seconds),
            "room": w.level(seconds, 0.4, 2, ("a room", "a large hall", "a cathedral")),
        },
    ),
    Kind(
        "tremolo",
        {"rate": Span(2.0, 14.0, 0.1, log=True), "depth": Span(0.6, 1.0)},
        e.peak(lambda x, rate, depth: x * (1 - depth / 2 + depth / 2 * waves.wave(len(x), rate))),
        lambda rate, depth: {"often": w.often(rate), "rate": w.number(rate), "percent": w.percent(depth)},
    ),
    Kind(
        "vibrato",
        {"rate": Span(3.0, 10.0, 0.1), "semitones": Span(0.4, 3.0, 0.1)},
        e.peak(e.vibrato),
        lambda rate, semitones: {"often": w.often(rate), "semitones": w.semitones(semitones)},
    ),
    Kind(
        "ring",
        {"hertz": Span(30, 900, 5, log=True)},
        e.peak(lambda x, hertz: x * waves.wave(len(x), hertz)),
        lambda hertz: {"hertz": w.hertz(hertz)},
    ),
    Kind(
        "distortion",
        {"drive": Span(4, 40, 0.5, log=True)},
        e.level(e.distortion),
        lambda drive: {
            "drive": w.number(drive),
            "much": w.level(np.log(drive), np.log(4), np.log(40), ("a little", "clearly", "strongly")),
        },
    ),
    Kind("crush", {"levels": Span(3, 14, 1, held=(7, 8))}, e.peak(e.crush), lambda levels: {"levels": w.count(levels)}),
    Kind("coarse", {"hertz": Span(700, 5000, 50, log=True)}, e.peak(e.coarse), lambda hertz: {"hertz": w.hertz(hertz)}),
    Kind(
        "fade_in",
        {"seconds": Span(0.5, 2.5, 0.05)},
        e.peak(e.fade_in),
        lambda seconds: {
            "seconds": w.seconds(seconds),
            "slowly": w.level(seconds, 0.5, 2.5, ("quickly", "slowly", "very slowly")),
        },
    ),
    Kind(
        "fade_out",
        {"seconds": Span(0.4, 2.4, 0.05)},
        e.peak(e.fade_out),
        lambda seconds: {
            "seconds": w.seconds(seconds),
            "slowly": w.level(seconds, 0.4, 2.4, ("quickly", "slowly", "very slowly")),
        },
    ),
    Kind(
        "gate",
        {"rate": Span(1.5, 12.0, 0.1, log=True), "share": Span(0.3, 0.7)},
        e.peak(e.gate),
        lambda rate, share: {"often": w.often(rate), "rate": w.number(rate), "percent": w.percent(share)},
    ),
    Kind(
        "repeat",
        {"count": Span(2.0, 8.0, 0.5, held=(4.0, 5.0))},
        e.peak(e.repeat),
        lambda count: {"count": w.count(count)},
    ),
    Kind("cut", {"seconds": Span(0.2, 1.6, 0.05)}, e.level(e.cut), lambda seconds: {"seconds": w.seconds(seconds)}),
    Kind("later", {"seconds": Span(0.2, 1.6, 0.05)}, e.level(e.later), lambda seconds: {"seconds": w.seconds(seconds)}),
    Kind(
        "hiss",
        {"ratio": Span(-4, 18, 0.5), "seed": SEED},
        e.peak(e.noise),
        lambda ratio, seed: {"ratio": _ratio(ratio), "strong": w.level(ratio, -4, 18, ("strong", "clear", "faint"))},
    ),
    Kind(
        "hum",
        {"ratio": Span(-4, 15, 0.5), "hertz": Span(50, 240, 5)},
        e.peak(e.hum),
        lambda ratio, hertz: {
            "ratio": _ratio(ratio),
            "hertz": w.hertz(hertz),
            "strong": w.level(ratio, -4, 15, ("strongly", "clearly", "faintly")),
        },
    ),
    Kind(
        "crackle",
        {"rate": Span(15, 120, 1, log=True), "seed": SEED},
        e.peak(e.crackle),
        lambda rate, seed: {
            "often": w.often(rate),
            "rate": w.number(rate),
            "much": w.level(np.log(rate), np.log(15), np.log(120), ("a little", "clearly", "strongly")),
        },
    ),
    Kind(
        "tone_colour",
        {"decibels": Span(-9, 9, 0.5, gap=(-2.5, 2.5), held=(-6, -3.5))},
        e.peak(lambda x, decibels: waves.tilted(x, decibels)),
        lambda decibels: {
            "more": w.compared(decibels, "brighter", "darker", 2.5, 9),
            "bright": "brighter" if decibels > 0 else "darker",
            "end": "treble" if decibels > 0 else "bass",
            "decibels": f"{w.number(abs(decibels))} decibels",
            "much": w.much(abs(decibels), 2.5, 9),
        },
    ),
    Kind(
        "chorus",
        {"depth": Span(1.0, 6.0, 0.1), "rate": Span(0.5, 4.0, 0.1)},
        e.peak(e.chorus),
        lambda depth, rate: {
            "wide": w.level(depth, 1, 6, ("close", "wide", "very wide")),
            "depth": w.number(depth),
            "often": w.often(rate),
        },
    ),
    Kind(
        "flanger",
        {"rate": Span(0.3, 3.0, 0.1), "depth": Span(1.0, 6.0, 0.1)},
        e.peak(e.flanger),
        lambda rate, depth: {"often": w.often(rate), "rate": w.number(rate), "depth": w.number(depth)},
    ),
    Kind("swell", {"at": Span(0.2, 0.8)}, e.peak(e.swell), lambda at: {"percent": w.percent(at)}),
    Kind(
        "glide",
        {"semitones": Span(-12, 12, 0.5, gap=(-2.5, 2.5), held=(-8, -5))},
        e.peak(e.glide),
        lambda semitones: {
            "semitones": w.semitones(semitones),
            "way": "up" if semitones > 0 else "down",
            "verb": "rise" if semitones > 0 else "fall",
            "high": "higher" if semitones > 0 else "deeper",
        },
    ),
    Kind(
        "beep",
        {"hertz": Span(250, 3500, 10, log=True), "level": Span(0.15, 0.7)},
        e.peak(e.beep),
        lambda hertz, level: {
            "hertz": w.hertz(hertz),
            "a_loud": w.a(w.level(level, 0.15, 0.7, ("soft", "clear", "loud"))),
        },
    ),
    Kind(
        "harmony",
        {"semitones": Span(2, 12, 0.5)},
        e.peak(e.copy_above),
        lambda semitones: {"semitones": w.semitones(semitones)},
        held_out=True,
    ),
    Kind(
        "wah",
        {"rate": Span(0.8, 5.0, 0.1), "reach": Span(1500, 4500, 50)},
        e.peak(e.wah),
        lambda rate, reach: {"often": w.often(rate), "hertz": w.hertz(reach)},
        held_out=True,
    ),
    Kind(
        "tape_stop",
        {"seconds": Span(0.6, 2.2, 0.05)},
        e.peak(e.tape_stop),
        lambda seconds: {"seconds": w.seconds(seconds)},
        held_out=True,
    ),
    Kind(
        "shuffle",
        {"pieces": Span(4, 16, 1), "seed": SEED},
        e.level(e.shuffle),
        lambda pieces, seed: {"pieces": w.count(pieces)},
        held_out=True,
    ),
)

"""Edits that add frames, overlays and light to a picture."""

from __future__ import annotations

from math import pi

import numpy as np
from PIL import Image

from codi2.data.edits import words as w
from codi2.data.edits.ground import EDGE, tone
from codi2.data.edits.kind import DIRECTION, HUE, SLANT, Kind, Span
from codi2.data.edits.pixels import Pixels, along, floats, grid, mixed, rgb, soft, whole

POSITION = Span(0.2, 0.8)


def _frame(pixels: Pixels, hue: float, width: float) -> Pixels:
    y, x = grid(*pixels.shape[:2])
    return mixed(pixels, rgb(hue), soft(np.maximum(abs(x), abs(y)) - (1 - 2 * width), EDGE)[..., None])


def _round_frame(pixels: Pixels, hue: float, radius: float) -> Pixels:
    y, x = grid(*pixels.shape[:2])
    inner = 1 - radius
    distance = np.hypot(np.maximum(abs(x) - inner, 0), np.maximum(abs(y) - inner, 0)) - radius
    return mixed(pixels, rgb(hue), soft(distance + 0.08, EDGE)[..., None])


def _vignette(pixels: Pixels, strength: float) -> Pixels:
    y, x = grid(*pixels.shape[:2])
    return whole(floats(pixels) * (1 - strength * np.clip((np.hypot(x, y) - 0.35) / 0.8, 0, 1))[..., None])


def _spotlight(pixels: Pixels, x: float, y: float, radius: float) -> Pixels:
    rows, columns = grid(*pixels.shape[:2])
    lit = soft(2 * radius - np.hypot(columns - (2 * x - 1), rows - (2 * y - 1)), 0.25)
    return whole(floats(pixels) * (0.18 + 0.82 * lit)[..., None])


def _reflection(pixels: Pixels, height: float, strength: float) -> Pixels:
    rows = np.nonzero((pixels < 246).any((1, 2)))[0]
    if len(rows) < 2:
        return pixels.copy()
    side = len(pixels)
    upper = round(side * height)
    thing = Image.fromarray(pixels[: rows[-1] + 1]).resize((pixels.shape[1], upper), Image.Resampling.BICUBIC)
    above = np.asarray(thing)
    below = above[::-1][: side - upper]
    fade = strength * np.linspace(1, 0.4, len(below), dtype=np.float32)[:, None, None]
    out = np.full_like(pixels, 255)
    out[:upper], out[upper : upper + len(below)] = above, mixed(np.full_like(below, 255), floats(below), fade)
    return out


def _bar(pixels: Pixels, hue: float, at: float, width: float, angle: float) -> Pixels:
    distance = width - np.abs(along(pixels.shape, angle) - (2 * at - 1))
    return mixed(pixels, rgb(hue, 0.45), soft(distance, EDGE)[..., None])


def _disc(pixels: Pixels, hue: float, x: float, y: float, size: float) -> Pixels:
    rows, columns = grid(*pixels.shape[:2])
    distance = size - np.hypot(columns - (2 * x - 1), rows - (2 * y - 1))
    return mixed(pixels, rgb(hue), soft(distance, EDGE)[..., None])


def _blinds(pixels: Pixels, count: float, strength: float, angle: float) -> Pixels:
    place = along(pixels.shape, angle) * count / 2
    dark = soft((np.abs(place % 1 - 0.5) - 0.25) * 2 / count, EDGE)
    return whole(floats(pixels) * (1 - strength * dark)[..., None])


def _rainbow(pixels: Pixels, angle: float, strength: float) -> Pixels:
    share = along(pixels.shape, angle) * 0.4 + 0.5
    colours = 0.5 + 0.5 * np.cos(2 * pi * (share[..., None] - np.array([0, 1 / 3, 2 / 3], np.float32)))
    return mixed(pixels, floats(pixels) * (0.25 + 0.75 * colours), strength)


KINDS = (
    Kind(
        "frame",
        {"hue": HUE, "width": Span(0.04, 0.2)},
        _frame,
        lambda hue, width: {
            **tone(hue),
            "percent": w.percent(width),
            "broad": w.level(width, 0.04, 0.2, ("narrow", "medium", "broad")),
            "broadly": w.level(width, 0.04, 0.2, ("narrowly", "well", "broadly")),
        },
    ),
    Kind(
        "round_frame",
        {"hue": HUE, "radius": Span(0.35, 1.0)},
        _round_frame,
        lambda hue, radius: {
            **tone(hue),
            "percent": w.percent(radius / 2),
            "round": w.level(radius, 0.35, 1, ("rounded", "very round", "circular")),
        },
    ),
    Kind(
        "vignette",
        {"strength": Span(0.45, 1.0)},
        _vignette,
        lambda strength: {"percent": w.percent(strength), "much": w.more(strength, 0.45, 1)},
    ),
    Kind(
        "spotlight",
        {"x": POSITION, "y": POSITION, "radius": Span(0.15, 0.4)},
        _spotlight,
        lambda x, y, radius: {
            "place": w.place(x, y),
            "percent": w.percent(2 * radius),
            "size": w.level(radius, 0.15, 0.4, ("small", "medium", "large")),
        },
    ),
    Kind(
        "reflection",
        {"height": Span(0.5, 0.8), "strength": Span(0.25, 0.8)},
        _reflection,
        lambda height, strength: {
            "share": w.percent(height),
            "percent": w.percent((1 - height) / height),
            "faint": w.level(strength, 0.25, 0.8, ("faint", "clear", "strong")),
        },
    ),
    Kind(
        "bar",
        {"hue": HUE, "at": POSITION, "width": Span(0.06, 0.25), "angle": SLANT},
        _bar,
        lambda hue, at, width, angle: {**tone(hue, 0.45), "percent": w.percent(width), "slant": w.slant(angle)},
    ),
    Kind(
        "disc",
        {"hue": HUE, "x": POSITION, "y": POSITION, "size": Span(0.18, 0.45)},
        _disc,
        lambda hue, x, y, size: {
            **tone(hue),
            "place": w.place(x, y),
            "percent": w.percent(size),
            "size": w.level(size, 0.18, 0.45, ("small", "medium", "large")),
        },
    ),
    Kind(
        "blinds",
        {"count": Span(3, 12, 0.5), "strength": Span(0.35, 0.9), "angle": SLANT},
        _blinds,
        lambda count, strength, angle: {
            "count": w.count(count),
            "percent": w.percent(strength),
            "slant": w.slant(angle),
        },
    ),
    Kind(
        "rainbow",
        {"angle": DIRECTION, "strength": Span(0.5, 1.0)},
        _rainbow,
        lambda angle, strength: {"direction": w.direction(angle), "percent": w.percent(strength)},
    ),
)

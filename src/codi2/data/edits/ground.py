"""Edits of the background of a cut-out, and of its outline."""

from __future__ import annotations

from math import cos, pi, radians, sin

import numpy as np

from codi2.data.edits import words as w
from codi2.data.edits.kind import DIRECTION, HUE, LIGHT, SLANT, Kind, Span
from codi2.data.edits.pixels import Pixels, along, blurred, floats, grid, ground, on_ground, rgb, soft, whole

EDGE = 2 / 64
"""Width of a soft edge, in half sides: one pixel of 64."""


def _pattern(pixels: Pixels, hue: float, share: np.ndarray) -> Pixels:
    """A background in two tones of a hue: light where `share` [H, W] is 0, strong where it is 1."""
    light, strong = rgb(hue, 0.86, 0.7), rgb(hue, 0.52, 0.75)
    return on_ground(pixels, light + share[..., None] * (strong - light))


def _ground(pixels: Pixels, hue: float, light: float) -> Pixels:
    return on_ground(pixels, rgb(hue, light, 0.75))


def _gradient(pixels: Pixels, hue: float, other: float, angle: float) -> Pixels:
    share = np.clip(along(pixels.shape, angle) * 0.5 + 0.5, 0, 1)[..., None]
    start, end = rgb(hue, 0.6, 0.8), rgb(other, 0.6, 0.8)
    return on_ground(pixels, start + share * (end - start))


def _stripes(pixels: Pixels, hue: float, width: float, angle: float) -> Pixels:
    place = along(pixels.shape, angle) / (2 * width)
    return _pattern(pixels, hue, soft((np.abs(place % 1 - 0.5) - 0.25) * 4 * width, EDGE))


def _dots(pixels: Pixels, hue: float, distance: float) -> Pixels:
    y, x = (axis % (2 * distance) - distance for axis in grid(*pixels.shape[:2]))
    return _pattern(pixels, hue, soft(0.55 * distance - np.hypot(x, y), EDGE))


def _checks(pixels: Pixels, hue: float, size: float) -> Pixels:
    y, x = grid(*pixels.shape[:2])
    return _pattern(pixels, hue, ((np.floor(y / (2 * size)) + np.floor(x / (2 * size))) % 2).astype(np.float32))


def _rays(pixels: Pixels, hue: float, count: float) -> Pixels:
    y, x = grid(*pixels.shape[:2])
    place = np.arctan2(y, x) / (2 * pi) * count
    return _pattern(pixels, hue, soft((np.abs(place % 1 - 0.5) - 0.25) * np.hypot(x, y) * 2 * pi / count, EDGE))


def _floor(pixels: Pixels, hue: float, height: float) -> Pixels:
    y, _ = grid(*pixels.shape[:2])
    return on_ground(pixels, 255 + soft(y - (1 - 2 * height), EDGE)[..., None] * (rgb(hue, 0.45, 0.6) - 255))


def _thing(pixels: Pixels) -> tuple[np.ndarray, np.ndarray] | None:
    """The share of the background [H, W, 1], and the mask of the object, uint8 [H, W] with 255 inside."""
    share = ground(pixels)
    return None if share is None else (share, whole(255 * (1 - share[..., 0])))


def _outline(pixels: Pixels, hue: float, width: float) -> Pixels:
    parts = _thing(pixels)
    if parts is None:
        return pixels.copy()
    share, thing = parts
    # a blurred mask cut low is a mask that has grown, with a soft edge
    grown = np.clip(floats(blurred(thing, width)) * (5 / 255) - 0.35, 0, 1)[..., None]
    return on_ground(pixels, 255 + grown * (rgb(hue, 0.45, 0.9) - 255), share)


def _glow(pixels: Pixels, hue: float, size: float) -> Pixels:
    parts = _thing(pixels)
    if parts is None:
        return pixels.copy()
    share, thing = parts
    light = np.clip(floats(blurred(thing, size)) * (1.6 / 255), 0, 1)[..., None]
    dark = rgb(hue, 0.12, 0.5)
    return on_ground(pixels, dark + light * (rgb(hue, 0.75, 0.95) - dark), share)


def _shadow(pixels: Pixels, angle: float, distance: float, strength: float) -> Pixels:
    parts = _thing(pixels)
    if parts is None:
        return pixels.copy()
    share, thing = parts
    height, width = thing.shape
    moved = np.zeros_like(thing)
    dx, dy = round(distance * width * cos(radians(angle))), round(distance * height * sin(radians(angle)))
    rows, columns = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
    moved[rows, columns] = thing[max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
    return on_ground(pixels, 255 - strength * floats(blurred(moved, 1.5))[..., None], share)


def _silhouette(pixels: Pixels, hue: float, light: float) -> Pixels:
    share = ground(pixels)
    return pixels.copy() if share is None else whole(255 * share + rgb(hue, light, 0.8) * (1 - share))


def tone(hue: float, light: float = 0.5) -> dict[str, str]:
    name = w.colour(hue, light)
    return {"colour": name, "a_colour": w.a(name)}


KINDS = (
    Kind("ground", {"hue": HUE, "light": LIGHT}, _ground, tone),
    Kind(
        "ground_gradient",
        {"hue": HUE, "other": HUE, "angle": DIRECTION},
        _gradient,
        lambda hue, other, angle: {
            "first": (first := w.colour(hue, 0.6)),
            "second": second if (second := w.colour(other, 0.6)) != first else "a nearby colour",
            "direction": w.direction(angle),
        },
    ),
    Kind(
        "ground_stripes",
        {"hue": HUE, "width": Span(0.06, 0.3), "angle": SLANT},
        _stripes,
        lambda hue, width, angle: {
            **tone(hue),
            "width": w.level(width, 0.06, 0.3, ("narrow", "medium", "broad")),
            "slant": w.slant(angle),
            "percent": w.percent(width),
        },
    ),
    Kind(
        "ground_dots",
        {"hue": HUE, "distance": Span(0.1, 0.4)},
        _dots,
        lambda hue, distance: {
            **tone(hue),
            "size": w.level(distance, 0.1, 0.4, ("small", "medium", "large")),
            "percent": w.percent(distance),
        },
    ),
    Kind(
        "ground_checks",
        {"hue": HUE, "size": Span(0.08, 0.34)},
        _checks,
        lambda hue, size: {
            **tone(hue),
            "size": w.level(size, 0.08, 0.34, ("small", "medium", "large")),
            "percent": w.percent(size),
        },
    ),
    Kind(
        "floor",
        {"hue": HUE, "height": Span(0.12, 0.6)},
        _floor,
        lambda hue, height: {**tone(hue, 0.45), "percent": w.percent(height)},
    ),
    Kind(
        "outline",
        {"hue": HUE, "width": Span(0.8, 3.5, 0.1)},
        _outline,
        lambda hue, width: {**tone(hue, 0.45), "width": w.level(width, 0.8, 3.5, ("thin", "medium", "thick"))},
    ),
    Kind(
        "glow",
        {"hue": HUE, "size": Span(2.0, 8.0, 0.1)},
        _glow,
        lambda hue, size: {**tone(hue, 0.6), "size": w.level(size, 2, 8, ("narrow", "soft", "wide"))},
    ),
    Kind(
        "shadow",
        {"angle": DIRECTION, "distance": Span(0.04, 0.18), "strength": Span(0.3, 0.8)},
        _shadow,
        lambda angle, distance, strength: {
            "direction": w.direction(angle),
            "percent": w.percent(distance),
            "dark": w.level(strength, 0.3, 0.8, ("faint", "soft", "dark")),
        },
    ),
    Kind(
        "ground_rays",
        {"hue": HUE, "count": Span(5, 16, 1)},
        _rays,
        lambda hue, count: {**tone(hue), "count": w.count(count)},
        held_out=True,
    ),
    Kind(
        "silhouette",
        {"hue": HUE, "light": Span(0.15, 0.6)},
        _silhouette,
        lambda hue, light: tone(hue, light),
        held_out=True,
    ),
)

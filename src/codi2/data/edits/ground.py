"""Edits of the ground behind a cut-out, of its outline, and of what lies in front of it or around it."""

from __future__ import annotations

from math import cos, pi, radians, sin

import numpy as np
from PIL import Image

from codi2.data.edits import words as w
from codi2.data.edits.kind import HUE, LIGHT, Kind, Span
from codi2.data.edits.pixels import Pixels, along, blurred, floats, grid, ground, mixed, on_ground, rgb, soft, whole

ANGLE = Span(0, 179, 1)
EDGE = 2 / 64
"""Width of a soft edge, in half sides: one pixel of 64."""


def _pattern(pixels: Pixels, hue: float, share: np.ndarray) -> Pixels:
    """The ground in two tones of a hue: the light one where `share` [H, W] is 0, the strong one where it is 1."""
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
    """The ground's share [H, W, 1], and the thing as uint8 [H, W] with 255 inside."""
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


POSITION = Span(0.2, 0.8)


def _tone(hue: float, light: float = 0.5) -> dict[str, str]:
    name = w.colour(hue, light)
    return {"colour": name, "a_colour": w.a(name)}


KINDS = (
    Kind(
        "ground",
        {"hue": HUE, "light": LIGHT},
        _ground,
        (
            "put it on {a_colour} background",
            "make the background {colour}",
            "paint the ground behind it {colour}",
            "show it in front of {a_colour} wall",
        ),
        "on {a_colour} ground",
        _tone,
    ),
    Kind(
        "ground_gradient",
        {"hue": HUE, "other": HUE, "angle": Span(0, 359, 1)},
        _gradient,
        (
            "let the background go from {first} to {second}, {direction}",
            "put it on a gradient from {first} to {second}",
            "blend {first} into {second} behind it, {direction}",
            "paint the ground {first}, turning {second} {direction}",
        ),
        "on a ground that goes from {first} to {second}",
        lambda hue, other, angle: {
            "first": w.colour(hue, 0.6),
            "second": w.colour(other, 0.6),
            "direction": w.direction(angle),
        },
    ),
    Kind(
        "ground_stripes",
        {"hue": HUE, "width": Span(0.06, 0.3), "angle": ANGLE},
        _stripes,
        (
            "put {width} {colour} stripes behind it",
            "make the background {slant} {colour} stripes",
            "paint {width}, {slant} stripes of {colour} on the ground",
            "give it {a_colour} striped background, {percent} a stripe",
        ),
        "on {width} {colour} stripes",
        lambda hue, width, angle: {
            **_tone(hue),
            "width": w.level(width, 0.06, 0.3, ("narrow", "medium", "broad")),
            "slant": w.slant(angle),
            "percent": w.percent(width),
        },
    ),
    Kind(
        "ground_dots",
        {"hue": HUE, "distance": Span(0.1, 0.4)},
        _dots,
        (
            "put {size} {colour} dots behind it",
            "give it {a_colour} dotted background",
            "paint {colour} dots on the ground, {percent} apart",
            "make the background {colour} with {size} polka dots",
        ),
        "on {size} {colour} dots",
        lambda hue, distance: {
            **_tone(hue),
            "size": w.level(distance, 0.1, 0.4, ("small", "medium", "large")),
            "percent": w.percent(distance),
        },
    ),
    Kind(
        "ground_checks",
        {"hue": HUE, "size": Span(0.08, 0.34)},
        _checks,
        (
            "put {size} {colour} checks behind it",
            "give it {a_colour} chequered background",
            "paint {a_colour} chessboard on the ground, {percent} a square",
            "set it before {size} {colour} squares",
        ),
        "on {size} {colour} checks",
        lambda hue, size: {
            **_tone(hue),
            "size": w.level(size, 0.08, 0.34, ("small", "medium", "large")),
            "percent": w.percent(size),
        },
    ),
    Kind(
        "floor",
        {"hue": HUE, "height": Span(0.12, 0.6)},
        _floor,
        (
            "put {a_colour} floor under it, {percent} high",
            "paint the lower {percent} of the ground {colour}",
            "let it stand on {a_colour} field",
            "fill the background with {colour} up to {percent}",
        ),
        "on {a_colour} floor of {percent}",
        lambda hue, height: {**_tone(hue, 0.45), "percent": w.percent(height)},
    ),
    Kind(
        "outline",
        {"hue": HUE, "width": Span(0.8, 3.5, 0.1)},
        _outline,
        (
            "draw {a_colour} line around it, {width}",
            "outline it in {colour}",
            "give it {a_colour} contour, {width}",
            "trace its edge {width} in {colour}",
        ),
        "with {a_colour} outline",
        lambda hue, width: {**_tone(hue, 0.45), "width": w.level(width, 0.8, 3.5, ("thin", "medium", "thick"))},
    ),
    Kind(
        "glow",
        {"hue": HUE, "size": Span(2.0, 8.0, 0.1)},
        _glow,
        (
            "let it glow {colour} in the dark, {size}",
            "put {a_colour} halo around it on a dark ground",
            "light it {size} from behind in {colour}",
            "surround it with {size} {colour} light",
        ),
        "with {a_colour} glow in the dark",
        lambda hue, size: {**_tone(hue, 0.6), "size": w.level(size, 2, 8, ("narrow", "soft", "wide"))},
    ),
    Kind(
        "shadow",
        {"angle": Span(0, 359, 1), "distance": Span(0.04, 0.18), "strength": Span(0.3, 0.8)},
        _shadow,
        (
            "let it throw a {dark} shadow {direction}",
            "add a drop shadow {direction}",
            "put a shadow behind it, {percent} {direction}",
            "let it float with a {dark} shadow {direction}",
        ),
        "with a {dark} shadow {direction}",
        lambda angle, distance, strength: {
            "direction": w.direction(angle),
            "percent": w.percent(distance),
            "dark": w.level(strength, 0.3, 0.8, ("faint", "soft", "dark")),
        },
    ),
    Kind(
        "frame",
        {"hue": HUE, "width": Span(0.04, 0.2)},
        _frame,
        (
            "put {a_colour} frame of {percent} around it",
            "frame it {broadly} in {colour}",
            "give it {a_colour} border, {percent} of the side",
            "hang it in a {broad} {colour} frame",
        ),
        "in {a_colour} frame of {percent}",
        lambda hue, width: {
            **_tone(hue),
            "percent": w.percent(width),
            "broad": w.level(width, 0.04, 0.2, ("narrow", "medium", "broad")),
            "broadly": w.level(width, 0.04, 0.2, ("narrowly", "well", "broadly")),
        },
    ),
    Kind(
        "round_frame",
        {"hue": HUE, "radius": Span(0.35, 1.0)},
        _round_frame,
        (
            "put it in {a_colour} frame with {round} corners",
            "cut its corners {round} and paint them {colour}",
            "frame it {colour}, with a radius of {percent}",
            "show it through {a_colour} window with {round} corners",
        ),
        "in {a_colour} frame with {round} corners",
        lambda hue, radius: {
            **_tone(hue),
            "percent": w.percent(radius / 2),
            "round": w.level(radius, 0.35, 1, ("rounded", "very round", "circular")),
        },
    ),
    Kind(
        "vignette",
        {"strength": Span(0.45, 1.0)},
        _vignette,
        (
            "darken its corners by {percent}",
            "add a vignette of {percent}",
            "let it get {much} darker towards the edge",
            "shade the border of the picture by {percent}",
        ),
        "with a vignette of {percent}",
        lambda strength: {"percent": w.percent(strength), "much": w.more(strength, 0.45, 1)},
    ),
    Kind(
        "spotlight",
        {"x": POSITION, "y": POSITION, "radius": Span(0.15, 0.4)},
        _spotlight,
        (
            "put a spotlight {place}",
            "light only a {size} circle {place}",
            "darken everything but a {size} round {place}",
            "shine a torch on it {place}, {percent} wide",
        ),
        "in a {size} spotlight {place}",
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
        (
            "let it stand on a mirror that shows {percent} of it",
            "add a {faint} reflection below it",
            "put it on still water with a {faint} reflection",
            "show it in the upper {share} and its reflection below",
        ),
        "with a {faint} reflection below",
        lambda height, strength: {
            "share": w.percent(height),
            "percent": w.percent((1 - height) / height),
            "faint": w.level(strength, 0.25, 0.8, ("faint", "clear", "strong")),
        },
    ),
    Kind(
        "bar",
        {"hue": HUE, "at": POSITION, "width": Span(0.06, 0.25), "angle": ANGLE},
        _bar,
        (
            "lay {a_colour} bar of {percent} across it",
            "cover part of it with {a_colour} {slant} stripe",
            "hide {percent} of it behind {a_colour} band",
            "put {a_colour} {slant} bar in front of it",
        ),
        "behind {a_colour} {slant} bar",
        lambda hue, at, width, angle: {**_tone(hue, 0.45), "percent": w.percent(width), "slant": w.slant(angle)},
    ),
    Kind(
        "disc",
        {"hue": HUE, "x": POSITION, "y": POSITION, "size": Span(0.15, 0.45)},
        _disc,
        (
            "put {a_colour} disc {place}",
            "cover it {place} with a {size} {colour} circle",
            "stick a {size} {colour} dot on it {place}",
            "hide what is {place} behind {a_colour} disc of {percent}",
        ),
        "with a {size} {colour} disc {place}",
        lambda hue, x, y, size: {
            **_tone(hue),
            "place": w.place(x, y),
            "percent": w.percent(size),
            "size": w.level(size, 0.15, 0.45, ("small", "medium", "large")),
        },
    ),
    Kind(
        "blinds",
        {"count": Span(3, 12, 0.5), "strength": Span(0.35, 0.9), "angle": ANGLE},
        _blinds,
        (
            "let {count} stripes of shade fall on it",
            "show it through {slant} blinds with {count} slats",
            "shade it in {count} {slant} bands, by {percent}",
            "put the shadow of blinds on it, {percent} dark",
        ),
        "in the shade of {slant} blinds",
        lambda count, strength, angle: {
            "count": w.count(count),
            "percent": w.percent(strength),
            "slant": w.slant(angle),
        },
    ),
    Kind(
        "rainbow",
        {"angle": Span(0, 359, 1), "strength": Span(0.5, 1.0)},
        _rainbow,
        (
            "lay a rainbow over it, {direction}",
            "colour it like a rainbow by {percent}",
            "let its light go through all colours {direction}",
            "shine rainbow light of {percent} on it",
        ),
        "in rainbow light",
        lambda angle, strength: {"direction": w.direction(angle), "percent": w.percent(strength)},
    ),
    Kind(
        "ground_rays",
        {"hue": HUE, "count": Span(5, 16, 1)},
        _rays,
        (
            "put {count} {colour} rays behind it",
            "let {colour} sunbeams burst out behind it",
            "paint a {colour} star of {count} rays on the ground",
            "give it {a_colour} sunburst background of {count} rays",
        ),
        "before {count} {colour} rays",
        lambda hue, count: {**_tone(hue), "count": w.count(count)},
        held_out=True,
    ),
    Kind(
        "silhouette",
        {"hue": HUE, "light": Span(0.15, 0.6)},
        _silhouette,
        (
            "fill its whole shape with {colour}",
            "show only its silhouette, in {colour}",
            "make it {a_colour} paper cut",
            "show it as {a_colour} shadow figure",
        ),
        "as {a_colour} silhouette",
        lambda hue, light: _tone(hue, light),
        held_out=True,
    ),
)

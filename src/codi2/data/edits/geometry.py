"""Edits of position and shape. Empty areas become white."""

from __future__ import annotations

from math import ceil, cos, pi, radians, sin

import numpy as np
from PIL import Image

from codi2.data.edits import words as w
from codi2.data.edits.kind import DIRECTION, SEED, Kind, Span
from codi2.data.edits.pixels import Pixels, grid, image, mixed, sampled


def _rotate(pixels: Pixels, angle: float) -> Pixels:
    return np.asarray(image(pixels).rotate(-angle, Image.Resampling.BICUBIC, fillcolor="white"))


def _resized(pixels: Pixels, across: float, down: float, dx: float = 0, dy: float = 0) -> Pixels:
    """Scales by two factors around the middle, then moves by shares of the sides; antialiased."""
    height, width = pixels.shape[:2]
    pad_x, pad_y = (
        ceil(width * (max(0, 1 / across - 1) / 2 + abs(dx) / across)),
        ceil(height * (max(0, 1 / down - 1) / 2 + abs(dy) / down)),
    )
    padded = np.pad(pixels, ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), constant_values=255)
    left = pad_x + width * (0.5 - (0.5 + dx) / across)
    top = pad_y + height * (0.5 - (0.5 + dy) / down)
    box = (left, top, left + width / across, top + height / down)
    limits = (padded.shape[1], padded.shape[0]) * 2
    box = tuple(min(max(value, 0.0), float(limit)) for value, limit in zip(box, limits, strict=True))
    return np.asarray(image(padded).resize((width, height), Image.Resampling.BICUBIC, box=box))


def _shift(pixels: Pixels, angle: float, distance: float) -> Pixels:
    return _resized(pixels, 1, 1, distance * cos(radians(angle)), distance * sin(radians(angle)))


def _affine(pixels: Pixels, matrix: tuple[float, float, float, float]) -> Pixels:
    """PIL's affine transform around the middle: output x, y → input."""
    height, width = pixels.shape[:2]
    a, b, c, d = matrix
    x, y = width / 2, height / 2
    data = (a, b, x - a * x - b * y, c, d, y - c * x - d * y)
    size = (width, height)
    return np.asarray(
        image(pixels).transform(size, Image.Transform.AFFINE, data, Image.Resampling.BICUBIC, fillcolor="white")
    )


def _symmetric(pixels: Pixels, at: float) -> Pixels:
    """The part to the right of a line becomes the mirror image of the part to the left."""
    y, x = grid(*pixels.shape[:2])
    line = at * 2 - 1
    return sampled(pixels, y, np.minimum(x, 2 * line - x))


def _tile(pixels: Pixels, count: float) -> Pixels:
    height, width = pixels.shape[:2]
    small = np.asarray(image(pixels).resize((round(width / count), round(height / count)), Image.Resampling.LANCZOS))
    # one of the copies is in the middle
    rows = (np.arange(height) - (height - len(small)) // 2) % len(small)
    columns = (np.arange(width) - (width - small.shape[1]) // 2) % small.shape[1]
    return small[rows][:, columns]


def _kaleidoscope(pixels: Pixels, mirrors: float, angle: float) -> Pixels:
    y, x = grid(*pixels.shape[:2])
    radius, theta = np.hypot(x, y), np.arctan2(y, x)
    sector = 2 * pi / mirrors
    folded = np.abs((theta + sector / 2) % sector - sector / 2) + radians(angle)
    return sampled(pixels, radius * np.sin(folded), radius * np.cos(folded))


def _swirl(pixels: Pixels, angle: float, size: float) -> Pixels:
    y, x = grid(*pixels.shape[:2])
    turn = -radians(angle) * np.clip(1 - np.hypot(x, y) / size, 0, 1)
    return sampled(pixels, y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn))


def _wave(pixels: Pixels, height: float, waves: float, side: float) -> Pixels:
    y, x = grid(*pixels.shape[:2])
    if side:
        return sampled(pixels, y, x + height * np.sin(pi * waves * y))
    return sampled(pixels, y + height * np.sin(pi * waves * x), x)


def _lean(pixels: Pixels, amount: float) -> Pixels:
    """Perspective: the top (positive) or the bottom is farther away."""
    y, x = grid(*pixels.shape[:2])
    scale = 1 - abs(amount) / 2 * (1 - np.sign(amount) * y)
    return sampled(pixels, y, x / scale)


def _bulge(pixels: Pixels, strength: float) -> Pixels:
    y, x = grid(*pixels.shape[:2])
    radius = np.hypot(x, y)
    inside = np.clip(radius, 1e-3, 1)
    scale = np.where(radius < 1, inside ** (strength if strength > 0 else strength / 2), 1)
    return sampled(pixels, y * scale, x * scale)


def _roll(pixels: Pixels, share: float, side: float) -> Pixels:
    axis = int(side)
    return np.roll(pixels, round(share * pixels.shape[axis]), axis)


def _ghost(pixels: Pixels, angle: float, distance: float, strength: float) -> Pixels:
    copy = _shift(pixels, angle, distance)
    # the minimum of both, as a second exposure on white paper
    return mixed(pixels, np.minimum(pixels, copy).astype(np.float32), strength)


def _quarters(pixels: Pixels, gap: float) -> Pixels:
    """Moves the four quarters apart."""
    height, width = pixels.shape[:2]
    y, x = grid(height, width)
    out = sampled(pixels, y - np.sign(y) * gap, x - np.sign(x) * gap)
    out[(np.abs(y) < gap) | (np.abs(x) < gap)] = 255
    return out


def _glitch(pixels: Pixels, size: float, bands: float, seed: float) -> Pixels:
    """Moves horizontal bands by different distances, with wrap-around."""
    rng = np.random.default_rng(int(seed))
    height, width = pixels.shape[:2]
    cuts = np.sort(rng.choice(np.arange(1, height), int(bands) - 1, replace=False))
    band = np.searchsorted(cuts, np.arange(height), side="right")
    distances = np.round(rng.uniform(0.35, 1, int(bands)) * rng.choice([-1, 1], int(bands)) * size * width).astype(int)
    columns = (np.arange(width) - distances[band][:, None]) % width
    return pixels[np.arange(height)[:, None], columns]


KINDS = (
    Kind("mirror", {}, lambda pixels: pixels[:, ::-1].copy()),
    Kind("flip", {}, lambda pixels: pixels[::-1].copy()),
    Kind("symmetric", {"at": Span(0.3, 0.7)}, _symmetric, lambda at: {"percent": w.percent(at)}),
    Kind(
        "rotate",
        {"angle": Span(-170, 170, 1, gap=(-12, 12), held=(40, 88))},
        _rotate,
        lambda angle: {"angle": w.turn(angle)},
    ),
    Kind(
        "shrink",
        {"factor": Span(0.3, 0.8)},
        lambda pixels, factor: _resized(pixels, factor, factor),
        lambda factor: {"size": w.size(factor), "percent": w.percent(factor), "more": w.more(-factor, -0.8, -0.3)},
    ),
    Kind(
        "zoom",
        {"factor": Span(1.25, 2.8)},
        lambda pixels, factor: _resized(pixels, factor, factor),
        lambda factor: {"size": w.size(factor), "factor": w.number(factor), "more": w.more(factor, 1.25, 2.8)},
    ),
    Kind(
        "shift",
        {"angle": DIRECTION, "distance": Span(0.12, 0.45)},
        _shift,
        lambda angle, distance: {
            "direction": w.direction(angle),
            "percent": w.percent(distance),
            "much": w.level(distance, 0.12, 0.45, ("a little", "some way", "far")),
        },
    ),
    Kind(
        "shear",
        {"amount": Span(-0.7, 0.7, gap=(-0.15, 0.15), held=(0.3, 0.5))},
        lambda pixels, amount: _affine(pixels, (1, amount, 0, 1)),
        lambda amount: {
            "side": "right" if amount > 0 else "left",
            "percent": w.percent(amount),
            "much": w.much(abs(amount), 0.15, 0.7),
        },
    ),
    Kind(
        "width",
        {"factor": Span(0.35, 2.2, gap=(0.8, 1.25), held=(0.5, 0.68), log=True)},
        lambda pixels, factor: _resized(pixels, factor, 1),
        lambda factor: {
            "more": f"{w.more(abs(factor - 1), 0.2, 0.9)} {'wider' if factor > 1 else 'narrower'}",
            "verb": "stretch" if factor > 1 else "press",
            "percent": w.percent(factor),
        },
    ),
    Kind(
        "height",
        {"factor": Span(0.35, 2.2, gap=(0.8, 1.25), held=(1.45, 1.75), log=True)},
        lambda pixels, factor: _resized(pixels, 1, factor),
        lambda factor: {
            "more": f"{w.more(abs(factor - 1), 0.2, 0.9)} {'taller' if factor > 1 else 'flatter'}",
            "verb": "stretch" if factor > 1 else "squash",
            "percent": w.percent(factor),
        },
    ),
    Kind("tile", {"count": Span(1.5, 4.5, 0.1)}, _tile, lambda count: {"count": w.count(count)}),
    Kind(
        "kaleidoscope",
        {"mirrors": Span(3, 10, 1, held=(6, 6)), "angle": Span(0, 180, 1)},
        _kaleidoscope,
        lambda mirrors, angle: {"mirrors": w.count(mirrors), "angle": w.degrees(angle)},
    ),
    Kind(
        "wave",
        {"height": Span(0.06, 0.2), "waves": Span(1.2, 3.5, 0.1), "side": Span(0, 1, 1, free=True)},
        _wave,
        lambda height, waves, side: {
            "waves": w.number(waves),
            "way": "from side to side" if side else "up and down",
            "percent": w.percent(height / 2),
            "much": w.level(height, 0.06, 0.2, ("slightly", "clearly", "very")),
        },
    ),
    Kind(
        "lean",
        {"amount": Span(-0.75, 0.75, gap=(-0.25, 0.25), held=(0.4, 0.6))},
        _lean,
        lambda amount: {
            "far": "top" if amount > 0 else "bottom",
            "way": "backwards" if amount > 0 else "forwards",
            "percent": w.percent(amount),
            "much": w.more(abs(amount), 0.25, 0.75),
        },
    ),
    Kind(
        "bulge",
        {"strength": Span(-0.8, 1.2, gap=(-0.3, 0.35), held=(0.65, 0.9))},
        _bulge,
        lambda strength: {
            "verb": "bulge" if strength > 0 else "pinch",
            "more": "larger" if strength > 0 else "smaller",
            "percent": w.percent(strength),
            "much": w.much(abs(strength), 0.3, 1.2),
        },
    ),
    Kind(
        "roll",
        {"share": Span(0.15, 0.85), "side": Span(0, 1, 1, free=True)},
        _roll,
        lambda share, side: {
            "percent": w.percent(share),
            "way": "to the right" if side else "down",
            "last": "right" if side else "bottom",
        },
    ),
    Kind(
        "ghost",
        {"angle": DIRECTION, "distance": Span(0.12, 0.4), "strength": Span(0.4, 0.9)},
        _ghost,
        lambda angle, distance, strength: {
            "direction": w.direction(angle),
            "percent": w.percent(distance),
            "faint": w.level(strength, 0.4, 0.9, ("faint", "clear", "strong")),
        },
    ),
    Kind("quarters", {"gap": Span(0.06, 0.4)}, _quarters, lambda gap: {"percent": w.percent(gap)}),
    Kind(
        "swirl",
        {"angle": Span(-320, 320, 1, gap=(-70, 70)), "size": Span(0.8, 1.3)},
        _swirl,
        lambda angle, size: {"angle": w.turn(angle)},
        held_out=True,
    ),
    Kind(
        "glitch",
        {"size": Span(0.08, 0.4), "bands": Span(4, 14, 1), "seed": SEED},
        _glitch,
        lambda size, bands, seed: {"bands": w.number(bands), "percent": w.percent(size)},
        held_out=True,
    ),
)

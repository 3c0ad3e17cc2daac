"""Edits of sharpness, drawing style, grain and weather."""

from __future__ import annotations

from math import cos, radians, sin

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import uniform_filter

from codi2.data.edits import words as w
from codi2.data.edits.kind import DIRECTION, SEED, SLANT, Kind, Span
from codi2.data.edits.pixels import LUMA, Pixels, along, floats, grid, image, mixed, whole


def _filtered(pixels: Pixels, kernel: ImageFilter.Filter) -> Pixels:
    return np.asarray(image(pixels).filter(kernel))


def _lightness(pixels: Pixels) -> np.ndarray:
    """Float32 [H, W]."""
    return np.asarray(pixels @ LUMA, np.float32)


def _three(values: np.ndarray) -> Pixels:
    """[H, W] as a grey picture."""
    return np.repeat(whole(values)[..., None], 3, -1)


def _motion(pixels: Pixels, length: float, angle: float) -> Pixels:
    """The mean of copies moved along a line; beyond its edge the picture is continued by the edge pixels."""
    count = round(length) + 1
    padded = np.pad(floats(pixels), ((count, count), (count, count), (0, 0)), mode="edge")
    height, width = pixels.shape[:2]
    total = np.zeros_like(floats(pixels))
    for part in np.linspace(-0.5, 0.5, count):
        dy, dx = round(part * length * sin(radians(angle))), round(part * length * cos(radians(angle)))
        total += padded[count + dy : count + dy + height, count + dx : count + dx + width]
    return whole(total / count)


def _pixelate(pixels: Pixels, blocks: float) -> Pixels:
    small = image(pixels).resize((round(blocks),) * 2, Image.Resampling.BOX)
    return np.asarray(small.resize(pixels.shape[1::-1], Image.Resampling.NEAREST))


def _sketch(pixels: Pixels, width: float, strength: float) -> Pixels:
    """Colour dodge: a picture over its own blurred negative keeps only its lines."""
    light = _lightness(pixels)
    soft = floats(np.asarray(Image.fromarray(whole(light)).filter(ImageFilter.GaussianBlur(width))))
    lines = 255 * light / np.maximum(soft, 1)
    return _three(255 - (255 - lines) * strength)


def _emboss(pixels: Pixels, strength: float, angle: float) -> Pixels:
    light = np.pad(_lightness(pixels), 1, mode="edge")
    down, right = light[2:, 1:-1] - light[:-2, 1:-1], light[1:-1, 2:] - light[1:-1, :-2]
    return _three(128 + strength * (right * cos(radians(angle)) + down * sin(radians(angle))))


def _neon(pixels: Pixels, strength: float) -> Pixels:
    """The edges in the picture's colours, on black."""
    values = np.pad(floats(pixels), ((1, 1), (1, 1), (0, 0)), mode="edge")
    edges = np.hypot(values[2:, 1:-1] - values[:-2, 1:-1], values[1:-1, 2:] - values[1:-1, :-2])
    return whole(edges * strength)


def _grain(pixels: Pixels, amount: float, size: float, seed: float) -> Pixels:
    height, width = pixels.shape[:2]
    rng = np.random.default_rng(int(seed))
    noise = rng.standard_normal((round(height / size), round(width / size)), np.float32)
    noise = np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
    return whole(floats(pixels) + 128 * amount * noise[..., None])


def _speckle(pixels: Pixels, share: float, seed: float) -> Pixels:
    rng = np.random.default_rng(int(seed))
    hit, colours = rng.random(pixels.shape[:2]) < share, rng.integers(0, 256, pixels.shape, np.uint8)
    return np.where(hit[..., None], colours, pixels)


def _rain(pixels: Pixels, amount: float, angle: float, seed: float) -> Pixels:
    rng = np.random.default_rng(int(seed))
    height, width = pixels.shape[:2]
    streaks = Image.new("L", (width, height))
    draw = ImageDraw.Draw(streaks)
    count = round(amount * height * width / 40)
    for x, y, length in rng.random((count, 3)) * (1.4, 1.2, 1):
        start = ((x - 0.2) * width, (y - 0.2) * height)
        reach = (0.12 + 0.12 * length) * height
        end = (start[0] + reach * sin(radians(angle)), start[1] + reach * cos(radians(angle)))
        draw.line((*start, *end), fill=190)
    wet = floats(pixels) * np.array([0.62, 0.7, 0.8], np.float32)
    return mixed(wet, np.array([225, 235, 245], np.float32), floats(np.asarray(streaks))[..., None] / 255)


def _snow(pixels: Pixels, amount: float, size: float, seed: float) -> Pixels:
    rng = np.random.default_rng(int(seed))
    height, width = pixels.shape[:2]
    flakes = Image.new("L", (width * 2, height * 2))
    draw = ImageDraw.Draw(flakes)
    for x, y, part in rng.random((round(amount * 110), 3)):
        radius = size * (0.5 + part) * height / 64
        draw.ellipse(
            [x * 2 * width - radius, y * 2 * height - radius, x * 2 * width + radius, y * 2 * height + radius], fill=255
        )
    cover = floats(np.asarray(flakes.reduce(2)))[..., None] / 255
    return mixed(floats(pixels) * np.array([0.62, 0.7, 0.82], np.float32), 255, cover)


def _lines(pixels: Pixels, distance: float, strength: float) -> Pixels:
    rows = np.arange(len(pixels)) * 64 / len(pixels)
    dark = 0.5 + 0.5 * np.cos(2 * np.pi * rows / distance)
    return whole(floats(pixels) * (1 - strength * dark)[:, None, None])


def _weave(pixels: Pixels, size: float, strength: float) -> Pixels:
    """A cloth of crossing threads."""
    y, x = grid(*pixels.shape[:2])
    threads = np.sin(np.pi * x / size) * np.sin(np.pi * y / size)
    return whole(floats(pixels) * (1 - strength / 2 + strength / 2 * threads)[..., None])


def _fringe(pixels: Pixels, distance: float, angle: float) -> Pixels:
    """Red and blue shifted apart, as by a poor lens."""
    dx, dy = round(distance * cos(radians(angle))), round(distance * sin(radians(angle)))
    pad = max(abs(dx), abs(dy))
    padded = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    height, width = pixels.shape[:2]
    out = pixels.copy()
    for channel, sign in ((0, 1), (2, -1)):
        rows, columns = pad - sign * dy, pad - sign * dx
        out[..., channel] = padded[rows : rows + height, columns : columns + width, channel]
    return out


def _hatching(pixels: Pixels, distance: float, angle: float) -> Pixels:
    """Parallel pen strokes, broader where the picture is darker."""
    place = np.abs((along(pixels.shape, angle) * 32 / distance) % 1 - 0.5) * 2
    ink = 1 - _lightness(pixels) / 255
    return _three(255 * np.clip((place - ink * 1.15) * 2.5 + 1, 0, 1))


def _halftone(pixels: Pixels, size: float, angle: float) -> Pixels:
    """Black dots on a turned raster, larger where the picture is darker."""
    u, v = along(pixels.shape, angle) * 32 / size, along(pixels.shape, angle + 90) * 32 / size
    ink = 1 - np.asarray(Image.fromarray(whole(_lightness(pixels))).filter(ImageFilter.BoxBlur(size / 3))) / 255
    distance = np.hypot(u % 1 - 0.5, v % 1 - 0.5)
    radius = 0.78 * np.sqrt(ink) - 0.65 / size  # below zero on white: no dot
    return _three(255 * np.clip((distance - radius) * size * 0.8 + 0.5, 0, 1))


def _painted(pixels: Pixels, reach: float) -> Pixels:
    """Flat dabs (Kuwahara's filter): the mean of the square with the least variance, of four that meet in a pixel."""
    height, width = pixels.shape[:2]
    light, half, side = _lightness(pixels)[..., None], int(reach), 2 * int(reach) + 1
    values = np.concatenate([floats(pixels), light, light**2], -1)
    means = uniform_filter(np.pad(values, ((half, half), (half, half), (0, 0)), "edge"), (side, side, 0))
    squares = np.stack([means[y : y + height, x : x + width] for y in (0, 2 * half) for x in (0, 2 * half)])
    evenest = (squares[..., 4] - squares[..., 3] ** 2).argmin(0)
    return whole(np.take_along_axis(squares[..., :3], evenest[None, ..., None], 0)[0])


KINDS = (
    Kind(
        "blur",
        {"radius": Span(0.8, 5.0, 0.1)},
        lambda pixels, radius: _filtered(pixels, ImageFilter.GaussianBlur(radius)),
        lambda radius: {
            "much": w.much(radius, 0.8, 5),
            "more": w.level(radius, 0.8, 5, ("slightly", "clearly", "completely")),
            "radius": w.number(radius),
        },
    ),
    Kind(
        "motion_blur",
        {"length": Span(4, 18, 1), "angle": SLANT},
        _motion,
        lambda length, angle: {"length": w.count(length), "along": w.line(angle)},
    ),
    Kind(
        "sharpen",
        {"amount": Span(1.5, 5.0, 0.1)},
        lambda pixels, amount: _filtered(pixels, ImageFilter.UnsharpMask(2, round(amount * 100), 0)),
        lambda amount: {"much": w.much(amount, 1.5, 5), "more": w.more(amount, 1.5, 5), "amount": w.number(amount)},
    ),
    Kind("pixelate", {"blocks": Span(6, 26, 1)}, _pixelate, lambda blocks: {"blocks": w.number(blocks)}),
    Kind(
        "sketch",
        {"width": Span(1.0, 5.0, 0.1), "strength": Span(0.6, 1.6)},
        _sketch,
        lambda width, strength: {
            "broad": w.level(width, 1, 5, ("fine", "medium", "broad")),
            "dark": w.level(strength, 0.6, 1.6, ("pale", "clear", "dark")),
        },
    ),
    Kind(
        "emboss",
        {"strength": Span(0.5, 2.5), "angle": DIRECTION},
        _emboss,
        lambda strength, angle: {"much": w.much(strength, 0.5, 2.5), "direction": w.direction(angle)},
    ),
    Kind(
        "neon",
        {"strength": Span(0.6, 3.0)},
        _neon,
        lambda strength: {"much": w.much(strength, 0.6, 3), "strength": w.number(strength)},
    ),
    Kind(
        "grain",
        {"amount": Span(0.12, 0.5), "size": Span(1.0, 4.0, 0.1), "seed": SEED},
        _grain,
        lambda amount, size, seed: {
            "percent": w.percent(amount),
            "coarse": w.level(size, 1, 4, ("fine", "medium", "coarse")),
            "more": w.level(amount, 0.12, 0.5, ("slightly", "clearly", "very")),
        },
    ),
    Kind(
        "speckle",
        {"share": Span(0.06, 0.4), "seed": SEED},
        _speckle,
        lambda share, seed: {"percent": w.percent(share), "much": w.much(share, 0.06, 0.4)},
    ),
    Kind(
        "rain",
        {"amount": Span(0.15, 0.9), "angle": Span(-40, 40, 1), "seed": SEED},
        _rain,
        lambda amount, angle, seed: {
            "rain": w.level(amount, 0.15, 0.9, ("light rain", "rain", "heavy rain")),
            "way": "straight down" if abs(angle) < 10 else "to the right" if angle > 0 else "to the left",
        },
    ),
    Kind(
        "snow",
        {"amount": Span(0.2, 1.0), "size": Span(1.2, 3.5, 0.1), "seed": SEED},
        _snow,
        lambda amount, size, seed: {
            "snow": w.level(amount, 0.2, 1, ("light snow", "snow", "thick snow")),
            "big": w.level(size, 1.2, 3.5, ("small", "medium", "big")),
        },
    ),
    Kind(
        "scan_lines",
        {"distance": Span(2.5, 9.0, 0.1), "strength": Span(0.35, 0.9)},
        _lines,
        lambda distance, strength: {"distance": w.number(distance), "percent": w.percent(strength)},
    ),
    Kind(
        "cloth",
        {"size": Span(0.08, 0.3), "strength": Span(0.35, 0.9)},
        _weave,
        lambda size, strength: {
            "coarse": w.level(size, 0.08, 0.3, ("fine", "medium", "coarse")),
            "percent": w.percent(strength),
        },
    ),
    Kind(
        "fringe",
        {"distance": Span(1.5, 6.0, 0.1), "angle": DIRECTION},
        _fringe,
        lambda distance, angle: {"distance": w.number(distance), "direction": w.direction(angle)},
    ),
    Kind(
        "hatching",
        {"distance": Span(3.0, 8.0, 0.1), "angle": SLANT},
        _hatching,
        lambda distance, angle: {
            "fine": w.level(distance, 3, 8, ("fine", "medium", "coarse")),
            "slant": w.slant(angle),
            "distance": w.number(distance),
        },
    ),
    Kind(
        "painted",
        {"reach": Span(1, 4, 1, held=(3, 3))},
        _painted,
        lambda reach: {"broad": w.level(reach, 1, 4, ("fine", "medium", "broad")), "size": w.count(2 * reach + 1)},
    ),
    Kind(
        "halftone",
        {"size": Span(3.0, 8.0, 0.1), "angle": Span(0, 89, 1)},
        _halftone,
        lambda size, angle: {"size": w.number(size), "fine": w.level(size, 3, 8, ("fine", "medium", "coarse"))},
        held_out=True,
    ),
)

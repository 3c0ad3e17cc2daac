"""Edits of colour and light."""

from __future__ import annotations

import numpy as np
from PIL import Image

from codi2.data.edits import words as w
from codi2.data.edits.kind import HUE, Kind, Span
from codi2.data.edits.pixels import Pixels, floats, grey, grid, image, mixed, rgb, whole

PAIRS = (("red", "green"), ("red", "blue"), ("green", "blue"))


def _hue(pixels: Pixels, turn: float) -> Pixels:
    hue, saturation, value = image(pixels).convert("HSV").split()
    turned = hue.point([(h + round(turn * 256 / 360)) % 256 for h in range(256)])
    return np.asarray(Image.merge("HSV", (turned, saturation, value)).convert("RGB"))


def _brightness(pixels: Pixels, factor: float) -> Pixels:
    return whole(floats(pixels) * factor)


def _contrast(pixels: Pixels, factor: float) -> Pixels:
    middle = grey(pixels).mean() * 0.5 + 64  # between the picture's own lightness and medium grey
    return whole((floats(pixels) - middle) * factor + middle)


def _gamma(pixels: Pixels, power: float) -> Pixels:
    table = np.round(255 * (np.arange(256) / 255) ** power).astype(np.uint8)
    return table[pixels]


def _tint(pixels: Pixels, hue: float, strength: float) -> Pixels:
    return mixed(pixels, floats(pixels) * (rgb(hue, 0.6, 0.9) / 255), strength)


def _temperature(pixels: Pixels, change: float) -> Pixels:
    return whole(floats(pixels) * (1 + change * np.array([0.28, -0.04, -0.55], np.float32)))


def _posterise(pixels: Pixels, levels: float) -> Pixels:
    steps = levels - 1
    table = np.round(np.round(np.arange(256) / 255 * steps) / steps * 255).clip(0, 255).astype(np.uint8)
    return table[pixels]


def _solarise(pixels: Pixels, threshold: float) -> Pixels:
    return np.where(pixels >= threshold, 255 - pixels, pixels)


def _duotone(pixels: Pixels, dark: float, light: float) -> Pixels:
    share = grey(pixels) / 255
    return whole(rgb(dark, 0.22, 0.9) * (1 - share) + rgb(light, 0.78, 0.9) * share)


def _sepia(pixels: Pixels, strength: float) -> Pixels:
    return mixed(pixels, grey(pixels) * np.array([1.0, 0.86, 0.64], np.float32), strength)


def _night(pixels: Pixels, strength: float) -> Pixels:
    return mixed(pixels, floats(pixels) * np.array([0.16, 0.22, 0.48], np.float32), strength)


def _fog(pixels: Pixels, density: float) -> Pixels:
    y, _ = grid(*pixels.shape[:2])
    return mixed(pixels, np.array([205, 212, 220], np.float32), (density * (0.9 + 0.1 * y))[..., None])


def _channel(index: int, pixels: Pixels, change: float) -> Pixels:
    gain = np.full(3, 1 - max(change, 0), np.float32)
    gain[index] = 1 + min(change, 0)
    return whole(floats(pixels) * gain)


def _swap(pixels: Pixels, pair: float, amount: float) -> Pixels:
    order = ([1, 0, 2], [2, 1, 0], [0, 2, 1])[int(pair)]
    return mixed(pixels, pixels[..., order], amount)


def _recolour(pixels: Pixels, hue: float, strength: float) -> Pixels:
    share = grey(pixels) / 255
    middle = rgb(hue, 0.5, 0.85)
    shades = np.where(share < 0.5, middle * share * 2, middle + (255 - middle) * (share * 2 - 1))
    return mixed(pixels, shades, strength)


def _keep_hue(pixels: Pixels, hue: float, width: float) -> Pixels:
    own, saturation, _ = (np.asarray(band).astype(np.float32) for band in image(pixels).convert("HSV").split())
    distance = np.abs((own * 360 / 256 - hue + 180) % 360 - 180)
    kept = np.clip((width / 2 - distance) / 12 + 0.5, 0, 1) * (saturation > 25)
    return mixed(pixels, grey(pixels), 1 - kept[..., None])


def _stencil(pixels: Pixels, level: float) -> Pixels:
    return whole(np.repeat(np.clip((grey(pixels) - level) * 8 + 128, 0, 255), 3, -1))


def _channel_kind(index: int, name: str) -> Kind:
    def say(change: float) -> dict[str, str]:
        verb, less = ("strengthen", "more") if change > 0 else ("weaken", "less")
        return {"verb": verb, "more": less, "much": w.much(abs(change), 0.2, 0.8), "percent": w.percent(change)}

    return Kind(
        f"more_{name}",
        {"change": Span(-0.8, 0.8, gap=(-0.2, 0.2), held=(0.38, 0.6))},
        lambda pixels, change: _channel(index, pixels, change),
        say,
    )


KINDS = (
    Kind(
        "hue",
        {"turn": Span(-180, 180, 1, gap=(-25, 25), held=(60, 110))},
        _hue,
        lambda turn: {"turn": f"{w.degrees(turn)} {'back' if turn < 0 else 'forward'}"},
    ),
    Kind(
        "vivid",
        {"factor": Span(1.4, 3.5)},
        lambda pixels, factor: whole(grey(pixels) + (pixels - grey(pixels)) * factor),
        lambda factor: {"more": w.more(factor, 1.4, 3.5), "factor": w.number(factor)},
    ),
    Kind(
        "grey",
        {"amount": Span(0.4, 1.0)},
        lambda pixels, amount: mixed(pixels, grey(pixels), amount),
        lambda amount: {
            "amount": "all" if amount == 1 else w.percent(amount),
            "grey": w.level(amount, 0.4, 1, ("half grey", "mostly grey", "black and white")),
        },
    ),
    Kind(
        "brightness",
        {"factor": Span(0.3, 1.8, gap=(0.8, 1.25), held=(0.48, 0.66))},
        _brightness,
        lambda factor: {
            "more": w.compared(factor - 1, "brighter", "darker", 0.1, 0.8),
            "percent": w.percent(factor),
            "factor": w.number(factor),
        },
    ),
    Kind(
        "contrast",
        {"factor": Span(0.25, 2.4, gap=(0.75, 1.35), held=(1.6, 1.95))},
        _contrast,
        lambda factor: {
            "more": w.compared(factor - 1, "more", "less", 0.1, 1.2),
            "percent": w.percent(factor),
            "factor": w.number(factor),
        },
    ),
    Kind(
        "gamma",
        {"power": Span(0.35, 3.0, gap=(0.7, 1.4), held=(1.75, 2.3), log=True)},
        _gamma,
        lambda power: {
            "power": w.number(power),
            "more": w.compared(1 / power - 1, "lighter", "darker", 0.1, 1.4),
            "verb": "lift" if power < 1 else "deepen",
        },
    ),
    Kind(
        "tint",
        {"hue": HUE, "strength": Span(0.35, 1.0)},
        _tint,
        lambda hue, strength: {
            "colour": w.colour(hue),
            "a_colour": w.a(w.colour(hue)),
            "percent": w.percent(strength),
            "much": w.much(strength, 0.35, 1),
        },
    ),
    Kind(
        "temperature",
        {"change": Span(-1, 1, gap=(-0.35, 0.35), held=(-0.8, -0.5))},
        _temperature,
        lambda change: {
            "more": w.compared(change, "warmer", "cooler", 0.35, 1),
            "end": "warm" if change > 0 else "cool",
            "percent": w.percent(change),
            "much": w.much(abs(change), 0.35, 1),
        },
    ),
    Kind(
        "invert",
        {"amount": Span(0.65, 1.0)},
        lambda pixels, amount: mixed(pixels, 255 - floats(pixels), amount),
        lambda amount: {
            "percent": w.percent(amount),
            "much": w.level(amount, 0.65, 1, ("mostly", "almost", "completely")),
        },
    ),
    Kind("posterise", {"levels": Span(2, 6, 1, held=(4, 4))}, _posterise, lambda levels: {"levels": w.count(levels)}),
    Kind(
        "solarise",
        {"threshold": Span(50, 220, 5)},
        _solarise,
        lambda threshold: {"percent": w.percent(threshold / 255)},
    ),
    Kind(
        "sepia",
        {"strength": Span(0.5, 1.0)},
        _sepia,
        lambda strength: {
            "percent": w.percent(strength),
            "much": w.level(strength, 0.5, 1, ("partly", "mostly", "fully")),
        },
    ),
    Kind(
        "night",
        {"strength": Span(0.45, 1.0)},
        _night,
        lambda strength: {
            "night": w.level(strength, 0.45, 1, ("dusk", "night", "deep night")),
            "percent": w.percent(strength),
        },
    ),
    Kind(
        "fog",
        {"density": Span(0.3, 0.85)},
        _fog,
        lambda density: {
            "fog": w.level(density, 0.3, 0.85, ("light fog", "fog", "thick fog")),
            "percent": w.percent(density),
        },
    ),
    *(_channel_kind(index, name) for index, name in enumerate(("red", "green", "blue"))),
    Kind(
        "swap",
        {"pair": Span(0, 2, 1, free=True), "amount": Span(0.6, 1.0)},
        _swap,
        lambda pair, amount: {
            "one": PAIRS[int(pair)][0],
            "other": PAIRS[int(pair)][1],
            "percent": w.percent(amount),
            "much": w.level(amount, 0.6, 1, ("mostly", "almost", "completely")),
        },
    ),
    Kind(
        "recolour",
        {"hue": HUE, "strength": Span(0.6, 1.0)},
        _recolour,
        lambda hue, strength: {"colour": w.colour(hue), "percent": w.percent(strength)},
    ),
    Kind(
        "keep_hue",
        {"hue": HUE, "width": Span(40, 140, 1)},
        _keep_hue,
        lambda hue, width: {"colour": w.colour(hue), "width": w.degrees(width)},
    ),
    Kind(
        "pale",
        {"amount": Span(0.3, 0.8)},
        lambda pixels, amount: mixed(pixels, 255, amount),
        lambda amount: {"percent": w.percent(amount), "much": w.more(amount, 0.3, 0.8)},
    ),
    Kind("stencil", {"level": Span(60, 210, 5)}, _stencil, lambda level: {"percent": w.percent(level / 255)}),
    Kind(
        "duotone",
        {"dark": HUE, "light": HUE},
        _duotone,
        lambda dark, light: {"dark": w.colour(dark, 0.3), "light": w.colour(light, 0.78)},
        held_out=True,
    ),
)

"""Factorial changes: a look or a voice sets some factors, and a rule is a look that examples show.

A medium has one value of each factor, so changes combine freely. One example shows only the factors in which its
two media differ: where the first already has what the rule asks for, the example is silent on it, and more are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from codi2.data import sound_transforms, transforms
from codi2.data.motions import SPEEDS
from codi2.data.scene import scaled, turned
from codi2.data.transforms import Pixels, background_mask, hue_turned

Look = Mapping[str, str]
"""Factor → value. A factor that is not named is as it was."""


@dataclass(frozen=True)
class Value:
    """One value of a factor."""

    apply: Callable[[np.ndarray], np.ndarray]
    ask: str
    """An instruction for it, as a clause about `it`."""
    words: str
    """What a caption says of the result: `a cat, at night`."""


def _pil(function: Callable[[Image.Image], Image.Image]) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.asarray(function(Image.fromarray(pixels)).convert("RGB"))


def tinted(red: float, green: float, blue: float, lift: int = 0) -> Callable[[Pixels], Pixels]:
    """Every channel scaled, then lightened by `lift` of 255."""
    return lambda pixels: (pixels * np.array([red, green, blue]) + lift).clip(0, 255).astype(np.uint8)


def on_ground(colour: tuple[int, int, int]) -> Callable[[Pixels], Pixels]:
    """The white ground of a cut-out painted."""
    return lambda pixels: np.where(background_mask(pixels)[..., None], np.array(colour, np.uint8), pixels)


def _rainy(pixels: Pixels) -> Pixels:
    wet = tinted(0.6, 0.68, 0.78)(pixels)
    rows, columns = np.indices(wet.shape[:2])
    slant = np.asarray(rows + 3 * columns)
    streak = np.asarray((slant % 23 == 0) | (slant % 37 == 28))
    return np.where(streak[..., None], (wet // 2 + 110).astype(np.uint8), wet)


def _posterised(pixels: Pixels) -> Pixels:
    return _pil(lambda p: ImageOps.posterize(ImageEnhance.Color(p).enhance(1.5), 2))(pixels)


_BY_NAME = transforms.BY_NAME
LOOKS: dict[str, dict[str, Value]] = {
    "style": {
        "pencil": Value(_BY_NAME["sketch"].apply, "draw it as a pencil sketch", "as a pencil sketch"),
        "grey": Value(_BY_NAME["grey"].apply, "make it black and white", "in black and white"),
        "poster": Value(_posterised, "turn it into a poster of few colours", "as a poster of few colours"),
    },
    "hue": {
        "90": Value(hue_turned(90), "turn its hues by a quarter", "with hues turned by a quarter"),
        "180": Value(hue_turned(180), "exchange its colours for the opposite ones", "in opposite colours"),
        "270": Value(hue_turned(270), "turn its hues back by a quarter", "with hues turned back by a quarter"),
    },
    "geometry": {
        "mirrored": Value(_BY_NAME["mirror"].apply, "mirror it", "mirrored"),
        "upside_down": Value(lambda p: p[::-1].copy(), "turn it upside down", "upside down"),
        "turned": Value(turned(90), "turn it on its side", "lying on its side"),
        "small": Value(scaled(0.55), "make it small", "small"),
        "tilted": Value(turned(30), "tilt it", "tilted"),
    },
    "background": {
        "blue": Value(on_ground((90, 150, 235)), "put it on a blue background", "on a blue background"),
        "green": Value(on_ground((110, 190, 110)), "put it on a green background", "on a green background"),
        "yellow": Value(on_ground((245, 215, 90)), "put it on a yellow background", "on a yellow background"),
        "pink": Value(on_ground((240, 160, 190)), "put it on a pink background", "on a pink background"),
    },
    "light": {
        "night": Value(tinted(0.35, 0.4, 0.65), "make it night", "at night"),
        "sunset": Value(tinted(1.0, 0.72, 0.5), "let the sun set on it", "at sunset"),
        "winter": Value(tinted(0.6, 0.68, 0.75, 64), "make it winter", "in winter"),
        "rain": Value(_rainy, "let it rain", "in the rain"),
        "bright": Value(tinted(1.1, 1.1, 0.95, 18), "make it a bright day", "on a bright day"),
        "sea": Value(tinted(0.45, 0.8, 0.85), "put it under water", "under water"),
    },
}
"""Of pictures, in the order in which they are applied: the ground is painted once the thing lies where it belongs."""
COLOURLESS = ("pencil", "grey")
"""Styles on which a hue does not show."""

_SOUND = sound_transforms.BY_NAME


def _sound(name: str) -> Value:
    transform = _SOUND[name]
    return Value(transform.apply, transform.asks[0], transform.words)


VOICES: dict[str, dict[str, Value]] = {
    "time": {"reverse": _sound("reverse")},
    "pitch": {"high": _sound("high"), "low": _sound("low")},
    "tone": {"muffled": _sound("muffled"), "thin": _sound("thin")},
    "swell": {"tremolo": _sound("tremolo"), "fade_in": _sound("fade_in")},
    "space": {"echo": _sound("echo")},
}
"""Of sounds, in the order in which they are applied."""

MOTIONS: dict[str, dict[str, Value]] = {
    **LOOKS,
    "time": {
        "backwards": Value(SPEEDS["backwards"], "play it backwards", "played backwards"),
        "slow": Value(SPEEDS["slow"], "play it at half speed", "at half speed"),
        "fast": Value(SPEEDS["fast"], "play it twice as fast", "fast"),
    },
}
"""Of clips: what a picture can have, frame by frame, and their time."""

FACTORS = {"image": LOOKS, "audio": VOICES, "video": MOTIONS}
HELD_OUT = frozenset({"poster", "270", "tilted", "pink", "sunset", "thin", "fade_in"})
"""Values that training data does not have unless asked for: what a model does with them, it learned from examples."""


def apply(modality: str, media: np.ndarray, look: Look) -> np.ndarray:
    """A picture uint8 [H, W, 3], a sound int16 [N] or a clip uint8 [F, H, W, 3] with the look's values."""
    for factor, values in FACTORS[modality].items():
        if factor in look:
            change, by_frame = values[look[factor]].apply, modality == "video" and factor in LOOKS
            media = np.stack([change(frame) for frame in media]) if by_frame else change(media)
    return media


def asks(modality: str, look: Look) -> str:
    """The instruction for a look: `mirror it and make it night`."""
    return " and ".join(_values(modality, look, "ask"))


def words(modality: str, look: Look) -> str:
    """What a caption adds: `mirrored, at night`; empty where nothing is set."""
    return ", ".join(_values(modality, look, "words"))


def _values(modality: str, look: Look, field: str) -> list[str]:
    return [getattr(values[look[f]], field) for f, values in FACTORS[modality].items() if f in look]


def shown(before: Look, rule: Look) -> set[str]:
    """The factors of a rule that an example shows: those in which its media differ."""
    return {factor for factor in rule if before.get(factor) != rule[factor]}

"""Edits that need no model: pure functions on pictures, each with the words that ask for it.

They give `tiny` its instructional edits (InstructPix2Pix's role in section 4.1) and its exemplar pairs: the same edit
on two pictures is an analogy. All work on RGB uint8 arrays [H, W, 3] and return a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from codi2.errors import MissingDependencyError

Pixels = np.ndarray


def _pil(function: Callable[[Image.Image], Image.Image]) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.asarray(function(Image.fromarray(pixels)).convert("RGB"))


def hue_turned(degrees: int) -> Callable[[Pixels], Pixels]:
    """All hues turned around the colour circle."""

    def turn(picture: Image.Image) -> Image.Image:
        hue, saturation, value = picture.convert("HSV").split()
        hue = hue.point(lambda h: (h + degrees * 256 // 360) % 256)
        return Image.merge("HSV", (hue, saturation, value)).convert("RGB")

    return _pil(turn)


def background_mask(pixels: Pixels, threshold: int = 246) -> np.ndarray:
    """True [H, W] where the picture is white and connected to its border: the background of a cut-out."""
    try:
        from scipy.ndimage import label
    except ImportError as error:
        raise MissingDependencyError(
            "finding the background of a picture needs SciPy: run `pip install 'codi2[data]'`"
        ) from error
    white = (pixels >= threshold).all(-1)
    regions, _ = label(np.pad(white, 1, constant_values=True))
    return np.asarray((regions == regions[0, 0])[1:-1, 1:-1])


def _on(colour: tuple[int, int, int]) -> Callable[[Pixels], Pixels]:
    def paint(pixels: Pixels) -> Pixels:
        return np.where(background_mask(pixels)[..., None], np.array(colour, np.uint8), pixels)

    return paint


def _night(pixels: Pixels) -> Pixels:
    return (pixels * np.array([0.35, 0.4, 0.65])).astype(np.uint8)


def _sketch(picture: Image.Image) -> Image.Image:
    edges = picture.convert("L").filter(ImageFilter.FIND_EDGES)
    # FIND_EDGES leaves the border of the picture bright
    edges.paste(0, (0, 0, edges.width, 1))
    edges.paste(0, (0, edges.height - 1, edges.width, edges.height))
    edges.paste(0, (0, 0, 1, edges.height))
    edges.paste(0, (edges.width - 1, 0, edges.width, edges.height))
    return edges.point(lambda v: 255 - min(255, v * 2)).convert("RGB")


@dataclass(frozen=True)
class Transform:
    """One edit. `asks` are instructions for it, `words` describe the result in a caption."""

    name: str
    apply: Callable[[Pixels], Pixels]
    asks: tuple[str, ...]
    words: str


TRANSFORMS: tuple[Transform, ...] = (
    Transform("plain", lambda pixels: pixels, (), ""),
    Transform("mirror", lambda pixels: pixels[:, ::-1].copy(), ("mirror it", "flip it left to right"), "mirrored"),
    Transform(
        "grey", _pil(lambda p: p.convert("L")), ("make it black and white", "remove its colours"), "in black and white"
    ),
    Transform(
        "hue_120",
        hue_turned(120),
        ("shift its colours from red to green", "rotate the hues by a third"),
        "with hues turned by a third",
    ),
    Transform(
        "on_blue",
        _on((90, 150, 235)),
        ("put it on a blue background", "make the background blue"),
        "on a blue background",
    ),
    Transform("night", _night, ("make it night", "turn day into night"), "at night"),
    Transform(
        "sketch", _pil(_sketch), ("draw it as a pencil sketch", "turn it into a line drawing"), "as a pencil sketch"
    ),
)
BY_NAME = {transform.name: transform for transform in TRANSFORMS}

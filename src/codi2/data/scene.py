"""Pictures composed of others: a thing on a scene, many of a thing, a pattern behind it, a thing in another size.

All are uint8 [H, W, 3].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from codi2.errors import MissingDependencyError

Pixels = np.ndarray
COLUMNS = 4  # ornaments along the side of a pattern


def background_mask(pixels: Pixels) -> np.ndarray:
    """True [H, W] where the picture is white and connected to its border: the background of a cut-out."""
    try:
        from scipy.ndimage import label
    except ImportError as error:
        raise MissingDependencyError(
            "finding the background of a picture needs SciPy: run `pip install 'codi2[data]'`"
        ) from error
    white = (pixels >= 246).all(-1)
    regions, _ = label(np.pad(white, 1, constant_values=True))
    return np.asarray((regions == regions[0, 0])[1:-1, 1:-1])


def cut(pixels: Pixels) -> Image.Image:
    """RGBA: the thing without its white ground, cropped to it."""
    mask = ~background_mask(pixels)
    rgba = Image.fromarray(np.dstack([pixels, np.where(mask, 255, 0).astype(np.uint8)]))
    return rgba.crop(rgba.getchannel("A").getbbox() or (0, 0, *rgba.size))


def is_cut_out(pixels: Pixels) -> bool:
    """Whether it is a thing on a white ground, neither a full picture nor a speck."""
    return 0.15 <= float(background_mask(pixels).mean()) <= 0.9


def placed(scene: Pixels, things: list[Pixels], places: list[tuple[float, float, float]]) -> Pixels:
    """Cut-outs laid on a scene: `places` are (x, y, size), the middle of the foot and the longer side, of 1."""
    side = len(scene)
    canvas = Image.fromarray(scene).convert("RGBA")
    for thing, (x, y, size) in zip(things, places, strict=True):
        figure = cut(thing)
        factor = size * side / max(figure.size)
        figure = figure.resize([max(1, round(n * factor)) for n in figure.size], Image.Resampling.LANCZOS)
        corner = max(0, round(x * side - figure.width / 2)), max(0, round(y * side - figure.height))
        canvas.alpha_composite(figure, corner)
    return np.asarray(canvas.convert("RGB"))


def counted(thing: Pixels, count: int) -> Pixels:
    """`count` (1 to 9) of a thing in rows of three on white."""
    white = np.full_like(thing, 255)
    cells = [((i % 3 + 0.5) / 3, (i // 3 + 0.95) / 3, 0.28) for i in range(count)]
    return placed(white, [thing] * count, cells)


def patterned(thing: Pixels, ornament: Pixels) -> Pixels:
    """The thing on a ground that the ornament is repeated over."""
    side = len(thing)
    step = side // COLUMNS
    tile = Image.fromarray(ornament).resize((step, step), Image.Resampling.LANCZOS)
    ground = np.tile(np.asarray(tile), (COLUMNS + 1, COLUMNS + 1, 1))[:side, :side]
    return np.where(background_mask(thing)[..., None], ground, thing)


def scaled(factor: float, dx: float = 0.0, dy: float = 0.0) -> Callable[[Pixels], Pixels]:
    """Larger or smaller around the middle, then moved by shares of the side; what is uncovered is white."""

    def apply(pixels: Pixels) -> Pixels:
        side = len(pixels)
        small = Image.fromarray(pixels).resize((max(1, round(side * factor)),) * 2, Image.Resampling.LANCZOS)
        canvas = Image.new("RGB", (side, side), "white")
        at = [round((side - small.width) / 2 + d * side) for d in (dx, dy)]
        canvas.paste(small, (at[0], at[1]))
        return np.asarray(canvas)

    return apply


def turned(degrees: float) -> Callable[[Pixels], Pixels]:
    """Clockwise around the middle; what is uncovered is white."""

    def apply(pixels: Pixels) -> Pixels:
        turned = Image.fromarray(pixels).rotate(-degrees, Image.Resampling.BICUBIC, fillcolor="white")
        return np.asarray(turned)

    return apply

"""Pixels of any type → 8-bit sRGB: wide integers and floats, colour profiles, transparency."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from codi2.errors import MediaError

if TYPE_CHECKING:
    from PIL import Image as PILImage

_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # tags of a TIFF
_RANGES = (255, 4095, 65_535)
"""Possible ranges of integers and of floats beyond 1, in files that do not name theirs: 8, 12 or 16 bits."""
_DARK = 16  # a range is implausible if the brightest value is below this fraction of it
_ROWS = 256  # converted at once, so that a large picture is never in memory with 64 bits
_SAME = 2  # steps of 255 by which a profile may differ from sRGB and is taken for it
_GREY = ("1", "L", "LA")
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Colour spaces of profiles that are applied → Pillow's modes."""


def to_rgb(picture: PILImage.Image, name: str) -> PILImage.Image:
    """The decoded picture upright, in 8-bit sRGB, with transparency composed over white.

    Raises MediaError: its numbers are in no range of pictures.
    """
    from PIL import Image as PILImage
    from PIL import ImageOps

    about = getattr(picture, "tag_v2", {}) if picture.format == "TIFF" else {}
    kind = picture.format
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = _eight_bits(picture, kind, about, name)
    if not picture.has_transparency_data:
        return _srgb(picture)
    whole = picture.convert("RGBA")
    colours = picture.convert("L") if picture.mode in _GREY else whole.convert("RGB")
    colours.info = picture.info
    opaque = _srgb(colours)
    opaque.putalpha(whole.getchannel("A"))
    return PILImage.alpha_composite(PILImage.new("RGBA", picture.size, "white"), opaque).convert("RGB")


def _eight_bits(picture: PILImage.Image, kind: str | None, about: Any, name: str) -> PILImage.Image:
    """A grey picture of 16 or 32 bits or floats in mode L."""
    from PIL import Image as PILImage

    values = np.asarray(picture)
    low, high = float(values.min()), float(values.max())
    white = _white(picture.mode, kind, about, high)
    if not (np.isfinite([low, high]).all() and white and low >= -white / _DARK):
        raise MediaError(
            f"{name} has values from {low:g} to {high:g}, and pictures reach from 0 to 1, 255, 4095 or 65535; save it "
            "with 8 or 16 bits"
        )
    grey = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), _ROWS):
        grey[row : row + _ROWS] = (values[row : row + _ROWS].astype(np.float64) / white * 255).clip(0, 255).round()
    if about.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    converted = PILImage.fromarray(grey)
    converted.info = picture.info
    return converted


def _white(mode: str, kind: str | None, about: Any, high: float) -> float:
    """The value of white; 0: unknown."""
    if mode.startswith("I;16") or kind == "PPM":
        bits = (about.get(_BITS) or (16,))[0]
        return 2.0 ** min(max(int(bits), 1), 16) - 1
    if mode == "F" and high <= _DARK:  # values above white are clipped
        return 1.0
    top = 2.0**31 - 1
    if mode == "I" and top / _DARK < high:
        return top
    return float(next((white for white in _RANGES if high <= white), 0))


def _srgb(picture: PILImage.Image) -> PILImage.Image:
    """RGB without transparency. A profile that is damaged, or of another mode, is ignored, as viewers do."""
    from PIL import ImageCms

    if picture.mode == "LAB":
        change = _from_lab()
        return picture.convert("RGB") if change is None else ImageCms.applyTransform(picture, change) or picture
    profile = picture.info.get("icc_profile")
    change, mode = _transform(profile) if profile else (None, "RGB")
    grey, inked = picture.mode in _GREY, picture.mode == "CMYK"
    if change is None or (mode == "L") != grey or (mode == "CMYK") != inked:
        return picture.convert("RGB")
    return ImageCms.applyTransform(picture.convert(mode), change) or picture


@lru_cache(maxsize=1)
def _from_lab() -> Any:
    from PIL import ImageCms

    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


@lru_cache(maxsize=4)
def _transform(profile: bytes) -> tuple[Any, str]:
    """The transform of a profile's colours to sRGB, and their mode; None: no transform is needed."""
    from PIL import Image as PILImage
    from PIL import ImageCms

    try:
        icc = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _SPACES.get(icc.profile.xcolor_space.strip(), "")
        if not mode:
            return None, "RGB"
        change = ImageCms.buildTransform(
            icc,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None, "RGB"
    if mode != "CMYK":
        levels = np.arange(0, 256, 15, dtype=np.uint8)
        colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
        probe = PILImage.fromarray(colours) if mode == "RGB" else PILImage.fromarray(levels[None])
        transformed = np.asarray(ImageCms.applyTransform(probe, change), int)
        if np.abs(transformed - np.asarray(probe.convert("RGB"), int)).max() <= _SAME:
            return None, mode  # sRGB itself: its pixels stay unchanged
    return change, mode

"""Pixels of any type to the 8-bit sRGB that a screen shows: wide integers and floats, profiles, transparency."""

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
"""What integers and floats beyond 1 are taken to reach where the file does not say: 8, 12 or 16 bits."""
_DARK = 16  # a picture whose brightest value is below this part of its range would be taken for black
_ROWS = 256  # converted at once: a large picture is not held in 64 bits
_SAME = 2  # steps of 255 by which a profile may differ from sRGB and still be it
_GREY = ("1", "L", "LA")
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Colour spaces of profiles that are heeded, with Pillow's name for them."""


def to_rgb(picture: PILImage.Image, name: str) -> PILImage.Image:
    """Upright, 8-bit sRGB, transparency laid on white; decodes the whole picture.

    Raises MediaError: its numbers are of no range that a picture has.
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
    """Mode L of a grey picture of 16 or 32 bits or floats."""
    from PIL import Image as PILImage

    deep = np.asarray(picture)
    low, high = float(deep.min()), float(deep.max())
    white = _white(picture.mode, kind, about, high)
    if not (np.isfinite([low, high]).all() and white and low >= -white / _DARK):
        raise MediaError(
            f"{name} has values from {low:g} to {high:g}, and pictures reach from 0 to 1, 255, 4095 or 65535; save it "
            "with 8 or 16 bits."
        )
    grey = np.empty(deep.shape, np.uint8)
    for row in range(0, len(deep), _ROWS):
        grey[row : row + _ROWS] = (deep[row : row + _ROWS].astype(np.float64) / white * 255).clip(0, 255).round()
    if about.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    made = PILImage.fromarray(grey)
    made.info = picture.info
    return made


def _white(mode: str, kind: str | None, about: Any, high: float) -> float:
    """The value that is shown as white; 0: nobody can tell."""
    if mode.startswith("I;16") or kind == "PPM":
        bits = (about.get(_BITS) or (16,))[0]
        return 2.0 ** min(max(int(bits), 1), 16) - 1
    if mode == "F" and high <= _DARK:  # what is brighter than white is white
        return 1.0
    top = 2.0**31 - 1
    if mode == "I" and top / _DARK < high:
        return top
    return float(next((white for white in _RANGES if high <= white), 0))


def _srgb(picture: PILImage.Image) -> PILImage.Image:
    """RGB without transparency. A profile that is damaged, or of other colours, is passed over, as viewers do."""
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
    """How a profile's colours become sRGB, and the mode that they are in; None where nothing need be done."""
    from PIL import Image as PILImage
    from PIL import ImageCms

    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _SPACES.get(opened.profile.xcolor_space.strip(), "")
        if not mode:
            return None, "RGB"
        change = ImageCms.buildTransform(
            opened,
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
        seen = np.asarray(ImageCms.applyTransform(probe, change), int)
        if np.abs(seen - np.asarray(probe.convert("RGB"), int)).max() <= _SAME:
            return None, mode  # sRGB itself: its pixels stay as they are, to the bit
    return change, mode

"""Pictures and animations that Pillow opens, within the limits."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING

import numpy as np

from codi2.cancellation import check_cancelled
from codi2.errors import MediaError, MissingReaderError
from codi2.media import bounds, timeline
from codi2.prompt.parts import Image, Video
from codi2.values.colour import to_rgb

if TYPE_CHECKING:
    from PIL import Image as PILImage

FORMATS = ["PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "ICO"]
ANIMATED = {"GIF", "WEBP", "PNG", "AVIF"}
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"}
"""Brands in the first box of a HEIC picture; phones write one of the first two."""
BROKEN = (OSError, SyntaxError, ValueError, IndexError, EOFError, OverflowError, struct.error, zlib.error)
"""Exceptions of Pillow for files that are damaged or cut."""


def picture(data: bytes, name: str, still: bool = False) -> Image | Video | None:
    """The picture or animation in a file; None: it is no picture.

    Args:
        still: whether only the first frame of an animated picture is read.
    Raises MediaError: it is a picture, but cannot be used.
    """
    from PIL import Image as PILImage

    if data[:4] == b"\0\0\1\0":
        bounds.check_icon(data, name)
    if data[:3] == b"GIF" and not still:
        bounds.check_gif(data, name)
    try:
        file = _open(data, name)
        if file is None:
            return None  # no picture, or cut within the header
        bounds.check_size(name, file.width, file.height)
        # A phone's MPO and a TIFF also hold several pictures, but no animation.
        if file.format not in ANIMATED or not getattr(file, "is_animated", False):
            return Image(to_rgb(file, name), name)
        if still:
            return Image(timeline.scaled(to_rgb(file, name)), name)
        bounds.check_animation(name, getattr(file, "n_frames", 1), file.width, file.height)
        return _animation(file, name)
    except PILImage.DecompressionBombError as error:
        raise bounds.too_large(name, "more than 178 million") from error
    except BROKEN as error:
        kind = file.format if file else "picture"
        raise MediaError(f"{name} is a broken {kind} file ({error}); export or download it again") from error


def _open(data: bytes, name: str) -> PILImage.Image | None:
    """The picture, of which only the header is read; None: it is no picture. Raises MissingReaderError: it is HEIC;
    MediaError: it is broken HEIC."""
    from PIL import Image as PILImage

    heif = data[4:8] == b"ftyp" and not HEIF_BRANDS.isdisjoint(_brands(data))
    for formats in (FORMATS, ["HEIF"] if heif and _reads_heif() else []):
        try:
            with warnings.catch_warnings(action="ignore"):  # of a size above Pillow's limit, which is higher than ours
                return PILImage.open(io.BytesIO(data), formats=formats)
        except PILImage.DecompressionBombError:
            raise
        except BROKEN:
            continue
    if heif and not _reads_heif():
        raise MissingReaderError(
            f"{name} is a HEIC picture; install its reader (pip install 'codi2[heif]') or give a JPEG"
        )
    if heif:
        raise MediaError(f"{name} is a broken HEIC file; export or download it again")
    return None


def _brands(data: bytes) -> set[bytes]:
    """The brands in the first box of an ISO file."""
    size = min(int.from_bytes(data[:4], "big"), 256, len(data))
    return {data[at : at + 4] for at in (8, *range(16, size, 4))}


def _reads_heif() -> bool:
    """Whether the optional reader of HEIC is installed; registers it with Pillow."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return True


def _animation(file: PILImage.Image, name: str) -> Video:
    durations = []  # seconds
    for number in range(getattr(file, "n_frames", 1)):
        check_cancelled()
        file.seek(number)
        file.load()  # only then WebP has a frame's duration
        durations.append(float(file.info.get("duration") or 100) / 1000)  # without one, browsers use 100 ms
        if sum(durations) > bounds.MAX_SECONDS:
            raise bounds.too_long(name, sum(durations))
    times = np.cumsum([0.0, *durations])
    numbers, fps = timeline.even_frames(times[:-1].tolist(), float(times[-1]))
    frames: dict[int, PILImage.Image] = {}
    for number in dict.fromkeys(numbers.tolist()):
        check_cancelled()
        file.seek(number)
        frames[number] = timeline.scaled(to_rgb(file, name))
    return Video(timeline.of_one_size([frames[number] for number in numbers]), fps, name)

"""Pictures and animations: what Pillow opens, within the limits."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING

import numpy as np

from codi2.errors import MediaError, MissingReaderError
from codi2.media import bounds, timeline
from codi2.prompt.parts import Image, Video
from codi2.stopping import check_stop
from codi2.values.colour import to_rgb

if TYPE_CHECKING:
    from PIL import Image as PILImage

FORMATS = ["PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "ICO"]
ANIMATED = {"GIF", "WEBP", "PNG", "AVIF"}
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"}
"""In the first box of a HEIC picture; phones write one of the first two."""
BROKEN = (OSError, SyntaxError, ValueError, IndexError, EOFError, OverflowError, struct.error, zlib.error)
"""What Pillow raises for files that are damaged or cut."""


def picture(data: bytes, name: str, still: bool = False) -> Image | Video | None:
    """None: it is no picture. `still`: of an animated picture the first frame, and the others are not looked at.

    Raises MediaError: it is a picture, but cannot be used.
    """
    from PIL import Image as PILImage

    if data[:4] == b"\0\0\1\0":
        bounds.check_icon(data, name)
    if data[:3] == b"GIF" and not still:
        bounds.check_gif(data, name)
    try:
        file = _opened(data, name)
        if file is None:
            return None  # no picture, or cut within the header
        bounds.check_size(name, file.width, file.height)
        # A phone's MPO and a TIFF also hold several pictures, but not a motion.
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
        raise MediaError(f"{name} is a broken {kind} file ({error}); export or download it again.") from error


def _opened(data: bytes, name: str) -> PILImage.Image | None:
    """The picture with its header read. Raises MissingReaderError: it is HEIC; MediaError: it is broken HEIC."""
    from PIL import Image as PILImage

    heif = data[4:8] == b"ftyp" and not HEIF_BRANDS.isdisjoint(_brands(data))
    for formats in (FORMATS, ["HEIF"] if heif and _reads_heif() else []):
        try:
            with warnings.catch_warnings(action="ignore"):  # Pillow's own size warning: the limit here is lower
                return PILImage.open(io.BytesIO(data), formats=formats)
        except PILImage.DecompressionBombError:
            raise
        except BROKEN:
            continue
    if heif and not _reads_heif():
        raise MissingReaderError(
            f"{name} is a HEIC picture; install its reader (pip install 'codi2[heif]') or give a JPEG."
        )
    if heif:
        raise MediaError(f"{name} is a broken HEIC file; export or download it again.")
    return None


def _brands(data: bytes) -> set[bytes]:
    """The brands that the first box of an ISO file lists."""
    size = min(int.from_bytes(data[:4], "big"), 256, len(data))
    return {data[at : at + 4] for at in (8, *range(16, size, 4))}


def _reads_heif() -> bool:
    """Whether the optional reader of HEIC is there; Pillow knows it from then on."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return True


def _animation(file: PILImage.Image, name: str) -> Video:
    shown = []
    for index in range(getattr(file, "n_frames", 1)):
        check_stop()
        file.seek(index)
        file.load()  # WebP tells a frame's duration only then
        shown.append(float(file.info.get("duration") or 100) / 1000)  # as browsers take frames without one
        if sum(shown) > bounds.MAX_SECONDS:
            raise bounds.too_long(name, sum(shown))
    times = np.cumsum([0.0, *shown])
    kept, fps = timeline.even_frames(times[:-1].tolist(), float(times[-1]))
    made: dict[int, PILImage.Image] = {}
    for index in dict.fromkeys(kept.tolist()):
        check_stop()
        file.seek(index)
        made[index] = timeline.scaled(to_rgb(file, name))
    return Video(timeline.of_one_size([made[index] for index in kept]), fps, name)

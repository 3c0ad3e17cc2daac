"""Checks of the media and captions of records. The limits are wide: they detect damage, not low quality."""

from __future__ import annotations

import io
import struct
from pathlib import Path, PurePosixPath

import numpy as np

from codi2.data.record import MODALITY, SUFFIXES, Medium, suffix_in_shards
from codi2.errors import MediaError, MissingReaderError, PromptError
from codi2.media import load, picture_bytes, webp_bytes
from codi2.prompt.parts import Audio, Image, Media, Video, check_characters
from codi2.untrusted import OutsideError, read_inside

SIDES = (16, 10_000)  # pixels
ASPECT = 10  # longer side over shorter
RATES = (4_000, 192_000)  # Hz
SECONDS = (0.05, 600.0)
FPS = (1.0, 240.0)
SILENCE = 1e-4  # of full scale
CAPTION = 2_000  # characters
_ALIASES = {"jfif": "jpg", "jpe": "jpg", "jif": "jpg", "tiff": "tif", "heif": "heic"}
READ = (*MODALITY, "tif", "bmp", "avif", "heic")
"""Suffixes of a user's files. Pictures with the last ones are converted, as shards cannot hold them."""


class Unfit(Exception):
    """A record that cannot be used. `reason` is one of a few terms that are counted; `detail` describes the record."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class BadRecord(Unfit):
    """Damaged or malformed: quarantined, and counted against the share that a build allows."""


class LeftOut(Unfit):
    """Undamaged, but without a use, as its medium was not downloaded or its caption names no mask: counted apart."""


def entry_file(root: Path, name: str | Path) -> bytes:
    """The bytes of a file that an entry names, read inside `root`.

    Raises:
        BadRecord: it is outside of `root`, not a plain file, too large, or cannot be read.
        LeftOut: it is missing.
    """
    try:
        return read_inside(root, name)
    except OutsideError as error:
        raise BadRecord(error.reason, str(error)) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LeftOut("absent", f"no {name}") from error
    except OSError as error:
        raise BadRecord("unreadable", f"{name}: {error.strerror or error}") from error


def suffix_of(name: str) -> str:
    """The suffix in lower case without its dot; one name for formats that have several."""
    suffix = PurePosixPath(name).suffix[1:].lower()
    return _ALIASES.get(suffix, suffix)


def medium_of(name: str, data: bytes) -> Medium:
    """The medium of a user's file. The content decides the format of a picture: a file named PNG may be a JPEG.

    Pictures in formats that shards cannot hold become PNG, upright and in sRGB.

    Raises:
        BadRecord: the name ends in no known suffix, or the file cannot be converted.
        LeftOut: it is HEIC, and its reader is not installed.
    """
    suffix = suffix_in_shards(suffix_of(name), data)
    if suffix not in READ:
        raise BadRecord("malformed", f"{name} ends in none of {', '.join(READ)}")
    # a phone's HEIC may be called .jpg
    wrong = suffix in SUFFIXES["image"] and data[4:8] == b"ftyp"
    if suffix in MODALITY and not wrong and not (suffix == "gif" and _is_still(data)):
        return Medium(suffix, data)
    try:
        media = load(data, name)
    except MissingReaderError as error:
        raise LeftOut("format not read", str(error)) from error
    except MediaError as error:
        raise BadRecord("undecodable", str(error)) from error
    if isinstance(media, Video):
        return Medium("awebp", webp_bytes(media))
    if not isinstance(media, Image):
        raise BadRecord("undecodable", f"{name} is a sound; rename it with the suffix of a sound")
    check_sides(media.pixels.size)
    return Medium("png", picture_bytes(media.pixels), checked=True)


def _is_still(gif: bytes) -> bool:
    """Whether a GIF has only one frame; False for a damaged one, which decoding reports."""
    from PIL import Image as PILImage

    try:
        with PILImage.open(io.BytesIO(gif), formats=["GIF"]) as file:
            return not getattr(file, "is_animated", False)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, PILImage.DecompressionBombError):
        return False


def caption(text: object) -> str:
    """A caption with normalised white space. Raises BadRecord: it is empty, not text, or very long."""
    if not isinstance(text, str):
        raise BadRecord("no caption", repr(text)[:80])
    words = " ".join(text.split())
    try:
        check_characters(words)
    except PromptError as error:
        raise BadRecord("malformed", str(error)) from error
    if not words:
        raise BadRecord("empty caption", repr(text)[:80])
    if len(words) > CAPTION:
        raise BadRecord("absurd size", f"a caption of {len(words):,} characters")
    return words


def verify(medium: Medium) -> None:
    """As `decoded` without the result: faster for JPEG and MP4, which large data sets consist of."""
    if medium.suffix in ("jpg", "jpeg"):
        _verify_jpeg(medium)
    elif medium.suffix == "mp4":
        _verify_mp4(medium)
    else:
        decoded(medium)


def _verify_jpeg(medium: Medium) -> None:
    """Reads the whole file, but decodes it at an eighth of its size."""
    from PIL import Image as PILImage

    try:
        with PILImage.open(io.BytesIO(medium.data), formats=["JPEG"]) as file:
            check_sides(file.size)
            file.draft(None, (file.width // 8, file.height // 8))
            file.load()
    except (OSError, SyntaxError, ValueError, struct.error, PILImage.DecompressionBombError):
        decoded(medium)  # reports the error


def _verify_mp4(medium: Medium) -> None:
    """Reads all packets, and decodes the key frames."""
    import av

    try:
        with av.open(io.BytesIO(medium.data), "r", format="mp4") as container:
            stream = next(stream for stream in container.streams.video if stream.codec_context)
            if stream.width and stream.height:  # before a frame of that size is decoded
                check_sides((stream.width, stream.height))
            stream.codec_context.skip_frame = "NONKEY"
            packets = keys = 0
            for packet in container.demux(stream):  # the last, empty one flushes the decoder
                packets += packet.size > 0
                keys += len(packet.decode())
            size, rate, frames = (stream.width, stream.height), float(stream.average_rate or 25), stream.frames
    except (av.FFmpegError, ValueError, StopIteration):
        decoded(medium)  # reports the error
        return
    if not keys or packets < frames:
        raise BadRecord("undecodable", f"{packets} of {frames} frames exist, {keys} of them key frames")
    check_sides(size)
    _check_rate(packets, rate)


def decoded(medium: Medium) -> Media:
    """The decoded medium. Raises BadRecord: it cannot be decoded, or exceeds the limits."""
    try:
        media = medium.decode()
    except MediaError as error:
        raise BadRecord("undecodable", str(error)) from error
    match media:
        case Image():
            check_sides(media.pixels.size)
        case Video():
            check_sides(media.frames[0].size)
            _check_rate(len(media.frames), media.fps)
        case Audio():
            _check_sound(media)
    return media


def check_sides(size: tuple[int, int]) -> None:
    """Raises BadRecord: the size exceeds the limits."""
    short, long = sorted(size)
    if short < SIDES[0] or long > SIDES[1] or long > ASPECT * short:
        raise BadRecord("absurd size", f"{size[0]} x {size[1]} pixels")


def _check_rate(frames: int, fps: float) -> None:
    if frames < 2 or not FPS[0] <= fps <= FPS[1]:
        raise BadRecord("wrong rate", f"{frames} frames at {fps:g} frames per second")


def _check_sound(sound: Audio) -> None:
    if not RATES[0] <= sound.rate <= RATES[1]:
        raise BadRecord("wrong rate", f"{sound.rate} Hz")
    if not SECONDS[0] <= sound.seconds <= SECONDS[1]:
        raise BadRecord("absurd size", f"{sound.seconds:.2f} s")
    if float(np.abs(sound.samples).max()) < SILENCE:
        raise BadRecord("silent", f"{sound.seconds:.2f} s")

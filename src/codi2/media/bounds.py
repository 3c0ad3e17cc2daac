"""Limits of decoded media, checked in the headers of files before they are decoded.

A file of a few kilobytes can decode to gigabytes of pixels or samples. The `check_…` functions raise `MediaError`.
"""

from __future__ import annotations

from codi2.errors import MediaError
from codi2.prompt.parts import IMU, Audio, Depth, Image, Part, Thermal, Video

MAX_PIXELS = 64_000_000
"""Largest picture or frame, width times height."""
MAX_SECONDS = 600
"""Longest sound, clip or animation, seconds."""
MAX_ANIMATION_PIXELS = 256_000_000
"""Frames times width times height of an animated picture."""
MAX_CLIP_PIXELS = 2_000_000_000
"""Frames times width times height of a clip: half a minute of 1920 x 1080 at 30 frames a second."""
MAX_FPS = 1000.0
"""Frames a second of a clip; clips of a higher rate are read at this rate."""
MAX_ANIMATION_FRAMES = 10_000
"""Frames of an animated picture."""
MAX_SAMPLES = 200_000_000
"""Samples times channels of a sound: ten minutes of six channels at 48 kHz are below it."""
RATES = range(100, 655_351)
"""Samples a second; above 65,535 only multiples of 10. These are the rates of FLAC, in which sounds are stored."""
MAX_COMMENT = 1 << 20  # bytes of a GIF's extensions


def check_size(name: str, width: int, height: int) -> None:
    """Of a picture or one frame, in pixels."""
    if width * height > MAX_PIXELS:
        raise too_large(name, f"{width} x {height}")


def check_animation(name: str, frames: int, width: int, height: int) -> None:
    check_size(name, width, height)
    if frames > MAX_ANIMATION_FRAMES or frames * width * height > MAX_ANIMATION_PIXELS:
        raise MediaError(
            f"{name} has {frames} frames or more of {width} x {height} pixels, the limit is {MAX_ANIMATION_FRAMES} "
            f"frames and {MAX_ANIMATION_PIXELS // 10**6} million pixels in all; make it shorter or smaller"
        )


def check_clip(name: str, frames: float, width: int, height: int) -> None:
    check_size(name, width, height)
    if frames * width * height > MAX_CLIP_PIXELS:
        raise MediaError(
            f"{name} has about {frames:.0f} frames of {width} x {height} pixels, the limit is "
            f"{MAX_CLIP_PIXELS // 10**6} million pixels in all; cut out the part that matters, or scale it down"
        )


def check_sound(name: str, samples: int, channels: int, rate: int) -> None:
    """`samples` of each channel."""
    if rate not in RATES or (rate > 65_535 and rate % 10):
        raise MediaError(
            f"{name} has {rate} samples a second; {RATES.start} to 65535 are read, and multiples of 10 up to "
            f"{RATES.stop - 1}: convert it to 48000 first"
        )
    if samples > MAX_SECONDS * rate:
        raise too_long(name, samples / rate)
    if samples * channels > MAX_SAMPLES:
        raise MediaError(
            f"{name} has {samples * channels} samples in {channels} channels, the limit is {MAX_SAMPLES}; "
            "give fewer channels or a lower rate"
        )


def too_large(name: str, size: str) -> MediaError:
    return MediaError(f"{name} has {size} pixels, the limit is {MAX_PIXELS // 10**6} million; scale it down first")


def too_long(name: str, seconds: float) -> MediaError:
    return MediaError(f"{name} lasts {seconds:.0f} s, the limit is {MAX_SECONDS} s; cut out the part that matters")


def check_gif(data: bytes, name: str) -> None:
    """Reads the blocks of a GIF: a later frame may be larger than the canvas, and a frame of 20 bytes may fill it."""
    width, height = (int.from_bytes(data[at : at + 2], "little") for at in (6, 8))
    position, frames, comments = 13 + _colours(data[10:11]), 0, 0
    while position < len(data):
        kind = data[position]
        if kind == 0x2C:  # a frame: left, top, width, height, flags
            left, top, wide, high = (
                int.from_bytes(data[position + at : position + at + 2], "little") for at in (1, 3, 5, 7)
            )
            width, height, frames = max(width, left + wide), max(height, top + high), frames + 1
            check_animation(name, frames, width, height)
            position += 11 + _colours(data[position + 9 : position + 10])
        elif kind == 0x21:
            position += 2
        elif kind == 0x3B:
            return
        else:
            position += 1  # as Pillow does
            continue
        start = position
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1
        comments += position - start if kind == 0x21 else 0
        if comments > MAX_COMMENT:
            raise MediaError(f"{name} has more than {MAX_COMMENT >> 20} MB of comments; save it again without them")


def _colours(flags: bytes) -> int:
    """The size of a colour table in bytes."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def check_icon(data: bytes, name: str) -> None:
    """Reads the sizes of the pictures in an ICO, of which Pillow decodes one when it opens the file."""
    for entry in range(6, min(6 + 16 * int.from_bytes(data[4:6], "little"), len(data)), 16):
        start = int.from_bytes(data[entry + 12 : entry + 16], "little")
        inner = data[start : start + 24]
        if inner.startswith(b"\x89PNG"):
            check_size(name, int.from_bytes(inner[16:20], "big"), int.from_bytes(inner[20:24], "big"))
        else:  # a bitmap and its mask, one above the other
            width, height = (int.from_bytes(inner[at : at + 4], "little", signed=True) for at in (4, 8))
            check_size(name, abs(width), abs(height) // 2)


def decoded_bytes(part: Part) -> int:
    """The size of a decoded part in bytes: 3 for each pixel, 4 for each sample or reading."""
    match part:
        case Image():
            return 3 * part.pixels.width * part.pixels.height
        case Video():
            sound = decoded_bytes(part.sound) if part.sound is not None else 0
            return sum(3 * frame.width * frame.height for frame in part.frames) + sound
        case Audio():
            return part.samples.nbytes
        case Depth():
            return part.metres.nbytes
        case Thermal():
            return part.warmth.nbytes
        case IMU():
            return part.readings.nbytes
    return 0

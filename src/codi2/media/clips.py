"""Clips: frames with the times, the shape and the orientation in which players show them."""

from __future__ import annotations

import struct
import warnings
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import numpy as np

from codi2.cancellation import check_cancelled
from codi2.errors import MediaError, MediaWarning
from codi2.media import bounds, streams, timeline
from codi2.media.hdr import ToneMapping
from codi2.media.sounds import track
from codi2.prompt.parts import Audio, Video

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from PIL import Image as PILImage

_NARROW = 10  # aspect ratio of a pixel beyond which, or its inverse, the header is taken for damaged
_TURNS = {
    (0, 1, -1, 0): "ROTATE_270", (-1, 0, 0, -1): "ROTATE_180", (0, -1, 1, 0): "ROTATE_90",
    (-1, 0, 0, 1): "FLIP_LEFT_RIGHT", (1, 0, 0, -1): "FLIP_TOP_BOTTOM",
    (0, 1, 1, 0): "TRANSPOSE", (0, -1, -1, 0): "TRANSVERSE",
}  # fmt: skip
"""Signs of a display matrix's a, b, c, d (x' = a x + c y, y' = b x + d y) → Pillow's name of the transposition."""


def clip(data: bytes, name: str, with_sound: bool = False) -> Video | None:
    """The frames of the first video stream and, with `with_sound`, the first sound; None: there is no video stream.

    Raises MediaError: it is broken, or beyond the limits, which are checked by its packets before it is decoded.
    """
    with streams.opened(data, name, "video") as opened:
        if opened is None:
            return None
        times, end = _times(opened[0], cast("VideoStream", opened[1]), name)
    numbers, fps = timeline.even_frames(times, end) if times else (np.zeros(1, int), bounds.MAX_FPS)
    with streams.opened(data, name, "video") as opened:  # again from its start: not every container can be rewound
        assert opened is not None
        frames = _decode(opened[0], cast("VideoStream", opened[1]), name, times, set(numbers.tolist()))
    if not frames:
        raise MediaError(f"{name} holds no frames; export or download it again")
    # in place of a missing frame, players show the one before it
    decoded = np.array(sorted(frames))
    nearest = decoded[np.maximum(np.searchsorted(decoded, numbers, "right") - 1, 0)]
    silent_clip = Video(timeline.of_one_size([frames[number] for number in nearest.tolist()]), fps, name)
    return replace(silent_clip, sound=_sound(data, name, len(numbers) / fps)) if with_sound else silent_clip


def _sound(data: bytes, name: str, seconds: float) -> Audio | None:
    """The first sound, cut to the clip's length in `seconds`; None: there is no sound, or it is silent.

    A sound that cannot be read is left out with a warning, since the frames can be read.
    """
    try:
        sound = track(data, name)
    except MediaError as error:
        warnings.warn(f"{name}: the clip is read without its sound ({error})", MediaWarning, stacklevel=2)
        return None
    if sound is None or not sound.samples.any():
        return None
    return replace(sound, samples=sound.samples[: max(round(seconds * sound.rate), 1)])


def _times(container: InputContainer, stream: VideoStream, name: str) -> tuple[list[float], float]:
    """The times in seconds of all frames, and the end of the last one, from the packets, without decoding.

    Frames that an edit list leaves out are not among them. Without packets, the list is empty.
    """
    seconds = float((container.duration or 0) / 1_000_000)
    bounds.check_clip(name, stream.frames or seconds * float(stream.average_rate or 25), stream.width, stream.height)
    durations: dict[float, float] = {}  # time of a frame → its duration, in seconds
    count, all_timed = 0, True
    for packet in container.demux(stream):
        if not packet.size or packet.is_discard:
            continue
        count += 1
        check_cancelled()
        bounds.check_clip(name, count, stream.width, stream.height)  # the header may have said less, or nothing
        all_timed &= packet.pts is not None
        if packet.pts is not None and packet.time_base is not None:
            durations[float(packet.pts * packet.time_base)] = float((packet.duration or 0) * packet.time_base)
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    if not all_timed or len(durations) < 2:
        return [number / rate for number in range(count)], count / rate
    times = sorted(durations)
    end = times[-1] + (durations[times[-1]] or float(np.median(np.diff(times))))
    if end - times[0] > bounds.MAX_SECONDS:
        raise bounds.too_long(name, end - times[0])
    return times, end


def _decode(
    container: InputContainer, stream: VideoStream, name: str, times: list[float], wanted: set[int]
) -> dict[int, PILImage.Image]:
    """Number of a frame in `times` → the frame, for the numbers in `wanted`."""
    stream.codec_context.options = {"max_pixels": str(bounds.MAX_PIXELS)}  # a later frame may be larger
    shape = Fraction(stream.sample_aspect_ratio or 1)
    shape = shape if Fraction(1, _NARROW) <= shape <= _NARROW else Fraction(1)
    frames: dict[int, PILImage.Image] = {}
    tone_mapping, pixels = ToneMapping(stream), 0
    for place, frame in enumerate(container.decode(stream)):
        check_cancelled()
        pixels += frame.width * frame.height  # there may be more frames than packets, and larger ones than the first
        bounds.check_clip(name, pixels / (frame.width * frame.height), frame.width, frame.height)
        number = place if frame.time is None or not times else _nearest(times, frame.time)
        if number in wanted and number not in frames:
            frames[number] = _upright(tone_mapping(frame).to_image(), frame, shape)
    return frames


def _nearest(times: list[float], time: float) -> int:
    after = int(np.searchsorted(times, time))
    return min((max(after - 1, 0), min(after, len(times) - 1)), key=lambda number: abs(times[number] - time))


def _upright(picture: PILImage.Image, frame: VideoFrame, shape: Fraction) -> PILImage.Image:
    """The picture of a frame as players show it. `shape`: width of a pixel over its height; the height stays."""
    from av.sidedata.sidedata import Type
    from PIL import Image as PILImage

    if shape != 1:
        width, height = max(round(picture.width * shape), 1), picture.height
        scale = min(1, timeline.MAX_FRAME_SIDE / max(width, height))
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        picture = picture.resize(size, PILImage.Resampling.BICUBIC, reducing_gap=2)
    picture = timeline.scaled(picture)
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]  # its stub has names alone
    if matrix is not None:
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
        # phones write right angles; other angles are rounded to the nearest one
        straight = abs(a) + abs(d) >= abs(b) + abs(c)
        signs = (_sign(a), 0, 0, _sign(d)) if straight else (0, _sign(b), _sign(c), 0)
        if turn := _TURNS.get(signs):
            return picture.transpose(PILImage.Transpose[turn])
    return picture


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)

"""Clips: frames at the times, in the shape and the right way up that players show them."""

from __future__ import annotations

import struct
import warnings
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import numpy as np

from codi2.errors import MediaError, MediaWarning
from codi2.media import bounds, streams, timeline
from codi2.media.sounds import track
from codi2.prompt.parts import Audio, Video
from codi2.stopping import check_stop

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from PIL import Image as PILImage

_NARROW = 10  # pixels that are this much longer than wide, or wider than long, are a damaged header
_TURNS = {
    (0, 1, -1, 0): "ROTATE_270", (-1, 0, 0, -1): "ROTATE_180", (0, -1, 1, 0): "ROTATE_90",
    (-1, 0, 0, 1): "FLIP_LEFT_RIGHT", (1, 0, 0, -1): "FLIP_TOP_BOTTOM",
    (0, 1, 1, 0): "TRANSPOSE", (0, -1, -1, 0): "TRANSVERSE",
}  # fmt: skip
"""Signs of a display matrix's a, b, c, d (x' = a x + c y, y' = b x + d y), and Pillow's name for the change."""


def clip(data: bytes, name: str, hears: bool = False) -> Video | None:
    """The frames of the first picture stream, with `hears` the first sound beside them; None: there is none.

    Raises MediaError: it is broken, or beyond the limits, which packets tell before a frame is decoded.
    """
    with streams.opened(data, name, "video") as found:
        if found is None:
            return None
        times, end = _times(found[0], cast("VideoStream", found[1]), name)
    kept, fps = timeline.even_frames(times, end) if times else (np.zeros(1, int), bounds.MAX_FPS)
    with streams.opened(data, name, "video") as found:  # from its beginning: not every container can be sought in
        assert found is not None
        made = _decoded(found[0], cast("VideoStream", found[1]), name, times, set(kept.tolist()))
    if not made:
        raise MediaError(f"{name} holds no frames; export or download it again.")
    # a frame that is missing is the one before it, as players show it
    there = np.array(sorted(made))
    nearest = there[np.maximum(np.searchsorted(there, kept, "right") - 1, 0)]
    found_clip = Video(timeline.of_one_size([made[index] for index in nearest.tolist()]), fps, name)
    return replace(found_clip, sound=_sound(data, name, len(kept) / fps)) if hears else found_clip


def _sound(data: bytes, name: str, seconds: float) -> Audio | None:
    """The first sound, of the clip's length at most; None: there is none, or it is silent.

    A sound that cannot be read is left out with a warning: the frames can.
    """
    try:
        heard = track(data, name)
    except MediaError as error:
        warnings.warn(f"{name}: the clip is read without its sound ({error})", MediaWarning, stacklevel=2)
        return None
    if heard is None or not heard.samples.any():
        return None
    return replace(heard, samples=heard.samples[: max(round(seconds * heard.rate), 1)])


def _times(container: InputContainer, stream: VideoStream, name: str) -> tuple[list[float], float]:
    """Seconds at which frames are shown, and at which the last one ends, without decoding any.

    Frames that an edit list leaves out are not among them. Empty: no packet is there.
    """
    seconds = float((container.duration or 0) / 1_000_000)
    bounds.check_clip(name, stream.frames or seconds * float(stream.average_rate or 25), stream.width, stream.height)
    shown: dict[float, float] = {}  # seconds → how long
    count, timed = 0, True
    for packet in container.demux(stream):
        if not packet.size or packet.is_discard:
            continue
        count += 1
        check_stop()
        bounds.check_clip(name, count, stream.width, stream.height)  # the header may have said less, or nothing
        timed &= packet.pts is not None
        if packet.pts is not None and packet.time_base is not None:
            shown[float(packet.pts * packet.time_base)] = float((packet.duration or 0) * packet.time_base)
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    if not timed or len(shown) < 2:
        return [number / rate for number in range(count)], count / rate
    times = sorted(shown)
    end = times[-1] + (shown[times[-1]] or float(np.median(np.diff(times))))
    if end - times[0] > bounds.MAX_SECONDS:
        raise bounds.too_long(name, end - times[0])
    return times, end


def _decoded(
    container: InputContainer, stream: VideoStream, name: str, times: list[float], wanted: set[int]
) -> dict[int, PILImage.Image]:
    """Frames by their number in `times`."""
    stream.codec_context.options = {"max_pixels": str(bounds.MAX_PIXELS)}  # a later frame may be larger
    shape = Fraction(stream.sample_aspect_ratio or 1)
    shape = shape if Fraction(1, _NARROW) <= shape <= _NARROW else Fraction(1)
    made: dict[int, PILImage.Image] = {}
    pixels = 0
    for place, frame in enumerate(container.decode(stream)):
        check_stop()
        pixels += frame.width * frame.height  # packets may have said less, and a frame may be larger than the first
        bounds.check_clip(name, pixels / (frame.width * frame.height), frame.width, frame.height)
        number = place if frame.time is None else _nearest(times, frame.time)
        if number in wanted and number not in made:
            made[number] = _upright(frame, shape)
    return made


def _nearest(times: list[float], time: float) -> int:
    after = int(np.searchsorted(times, time))
    return min((max(after - 1, 0), min(after, len(times) - 1)), key=lambda number: abs(times[number] - time))


def _upright(frame: VideoFrame, shape: Fraction) -> PILImage.Image:
    """`shape`: width of a pixel over its height; the height stays, as in players."""
    from av.sidedata.sidedata import Type
    from PIL import Image as PILImage

    picture = frame.to_image()
    if shape != 1:
        width, height = max(round(picture.width * shape), 1), picture.height
        less = min(1, timeline.MAX_FRAME_SIDE / max(width, height))
        size = max(round(width * less), 1), max(round(height * less), 1)
        picture = picture.resize(size, PILImage.Resampling.BICUBIC, reducing_gap=2)
    picture = timeline.scaled(picture)
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]  # its stub has names alone
    if matrix is not None:
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
        # phones write right angles; the nearest one stands for others
        straight = abs(a) + abs(d) >= abs(b) + abs(c)
        signs = (_sign(a), 0, 0, _sign(d)) if straight else (0, _sign(b), _sign(c), 0)
        if turn := _TURNS.get(signs):
            return picture.transpose(PILImage.Transpose[turn])
    return picture


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)

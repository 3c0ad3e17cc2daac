"""Bytes of a file to a picture, sound or clip: what Pillow, libsndfile and FFmpeg open, within the limits.

Each reader returns None for what is not its own, and raises `MediaError` for what is, but cannot be used.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from codi2 import media_bounds as bounds
from codi2.errors import MediaError
from codi2.pcm import rounded
from codi2.prompt.parts import Audio, Image, Video

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream
    from PIL import Image as PILImage

MAX_BEATS = 4096  # of an animation: its shortest frames may be a moment beside the others
MAX_FRAMES = 256
"""Frames kept of a clip; longer ones are thinned evenly."""
MAX_FRAME_SIDE = 512
"""Pixels; larger frames of a clip are scaled down, or a minute of it would fill the memory."""
PICTURE_FORMATS = ["PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "ICO"]
ANIMATED = {"GIF", "WEBP", "PNG", "AVIF"}
BROKEN = (OSError, SyntaxError, ValueError, IndexError, EOFError, OverflowError, struct.error, zlib.error)
"""What Pillow raises for files that are damaged or cut."""
BLOCK = 65_536  # samples of each channel that are read at once
UNKNOWN = 1 << 62  # samples from which libsndfile means that the header does not say
# Formats that are nothing but media. FFmpeg also opens playlists, and those name other files and addresses.
STREAM_FORMATS = "mov,matroska,avi,mpeg,mpegts,flv,asf,ogg,mp3,aac,wav,flac,amr,caf,aiff,au"
MAGIC = {b"PNG\r\n": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"WEBP": "WebP", b"RIFF": "WAV or AVI",
         b"OggS": "OGG", b"fLaC": "FLAC", b"ID3": "MP3", b"ftyp": "MP4", b"%PDF": "PDF", b"PK\3\4": "ZIP"}  # fmt: skip


def picture(data: bytes, name: str, still: bool = False) -> Image | Video | None:
    """`still`: of an animated picture the first frame, and the others are not looked at."""
    from PIL import Image as PILImage

    if data[:4] == b"\0\0\1\0":
        bounds.check_icon(data, name)
    if data[:3] == b"GIF" and not still:
        bounds.check_gif(data, name)
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow's own size warning: the limit here is lower
            file = PILImage.open(io.BytesIO(data), formats=PICTURE_FORMATS)
    except PILImage.DecompressionBombError as error:
        raise bounds.too_large(name, "more than 178 million") from error
    except BROKEN:
        return None  # no picture, or cut within the header
    bounds.check_size(name, file.width, file.height)
    try:
        # A phone's MPO and a TIFF also hold several pictures, but not a motion.
        if file.format in ANIMATED and getattr(file, "is_animated", False):
            if still:
                return Image(_scaled(_to_rgb(file)), name)
            bounds.check_animation(name, getattr(file, "n_frames", 1), file.width, file.height)
            return _animation(file, name)
        return Image(_to_rgb(file), name)
    except PILImage.DecompressionBombError as error:
        raise bounds.too_large(name, "more than 178 million") from error
    except BROKEN as error:
        raise MediaError(f"{name} is a broken {file.format} file ({error}); export or download it again.") from error


def _to_rgb(picture: PILImage.Image) -> PILImage.Image:
    """Upright, 8-bit RGB, transparency laid on white; decodes the whole picture."""
    from PIL import Image as PILImage
    from PIL import ImageOps

    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # Pillow clips 16-bit grey at 255 instead of scaling it
        deep = np.asarray(picture)
        grey = np.empty(deep.shape, np.uint8)
        for row in range(0, len(deep), 256):  # a large picture is not held in 64 bits
            grey[row : row + 256] = deep[row : row + 256].astype(np.int64).clip(0, 65_535) // 257
        return PILImage.fromarray(grey).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return PILImage.alpha_composite(PILImage.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _animation(file: PILImage.Image, name: str) -> Video:
    """Frames at the pace of the shortest one: those that are shown longer come several times."""
    shown = []
    for index in range(getattr(file, "n_frames", 1)):
        file.seek(index)
        file.load()  # WebP tells a frame's duration only then
        shown.append(float(file.info.get("duration") or 100))  # as browsers take frames without one
    if sum(shown) > 1000 * bounds.MAX_SECONDS:
        raise bounds.too_long(name, sum(shown) / 1000)
    beat = max(min(shown), sum(shown) / MAX_BEATS)
    ends = np.round(np.cumsum([0.0, *shown]) / beat).astype(int)
    kept = _Thinned()
    for index, times in enumerate(np.diff(ends)):
        file.seek(index)
        frame = cache(lambda: _to_rgb(file))
        for _ in range(times):
            kept.add(frame)
    return Video(tuple(kept.frames), min(1000 * len(kept.frames) / sum(shown), bounds.MAX_FPS), name)


class _Thinned:
    """At most MAX_FRAMES frames, evenly spread over a clip whose length is not known beforehand."""

    def __init__(self) -> None:
        self.frames: list[PILImage.Image] = []
        self.stride = 1
        self.seen = 0

    def add(self, frame: Callable[[], PILImage.Image]) -> None:
        """`frame` is called when the frame is kept."""
        if self.seen % self.stride == 0:
            if len(self.frames) == MAX_FRAMES:
                self.frames, self.stride = self.frames[::2], self.stride * 2
            self.frames.append(_scaled(frame()))
        self.seen += 1


def _scaled(frame: PILImage.Image) -> PILImage.Image:
    frame.thumbnail((MAX_FRAME_SIDE, MAX_FRAME_SIDE))
    return frame


def sound(data: bytes, name: str) -> Audio | None:
    import soundfile

    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.LibsndfileError:
        return None
    with file:
        known = max(file.frames, 0) if file.frames < UNKNOWN else 0
        bounds.check_sound(name, known, file.channels, file.samplerate)
        mono: list[np.ndarray] = [np.zeros(0, np.float32)]
        length = 0
        try:
            # in blocks: the channels of the whole would be many times what is kept of them
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                mono.append(block.mean(axis=1))
                length += len(block)
                bounds.check_sound(name, length, file.channels, file.samplerate)
        except (soundfile.LibsndfileError, MemoryError) as error:
            raise MediaError(f"{name} is a broken {file.format} file ({error}); export it again.") from error
        return _audio(_joined(mono), file.samplerate, name)


def stream(data: bytes, name: str, kind: Literal["audio", "video"]) -> Audio | Video | None:
    """The first sound or picture stream of what FFmpeg opens; None where it opens nothing or finds no such stream."""
    import av

    try:
        container = av.open(
            io.BytesIO(data), "r", options={"format_whitelist": STREAM_FORMATS, "max_pixels": str(bounds.MAX_PIXELS)}
        )
    except (av.FFmpegError, ValueError):
        return None
    with container:
        seconds = (container.duration or 0) / av.time_base
        if seconds > bounds.MAX_SECONDS:
            raise bounds.too_long(name, seconds)
        covers = av.stream.Disposition.attached_pic
        # a stream of a codec that FFmpeg does not know has no context
        streams = [s for s in getattr(container.streams, kind) if s.codec_context and not s.disposition & covers]
        if not streams:
            return None
        try:
            return _sound_track(container, streams[0], name) if kind == "audio" else _clip(container, streams[0], name)
        except av.FFmpegError as error:
            broken = container.format.name
            raise MediaError(f"{name} is a broken {broken} file ({error.strerror}); export it again.") from error


def _sound_track(container: InputContainer, track: AudioStream, name: str) -> Audio:
    import av

    bounds.check_sound(name, 0, track.channels, track.rate)
    # interleaved: PyAV reads past the planes of eight channels
    resampler = av.AudioResampler(format="flt", layout=track.layout, rate=track.rate)
    blocks: list[np.ndarray] = [np.zeros(0, np.float32)]
    length = 0
    for frame in container.decode(track):
        for block in resampler.resample(frame):
            blocks.append(block.to_ndarray().reshape(-1, track.channels).mean(axis=1))
            length += len(blocks[-1])
        bounds.check_sound(name, length, track.channels, track.rate)  # the header may have said less, or nothing
    return _audio(_joined(blocks), track.rate, name)


def _clip(container: InputContainer, stream: VideoStream, name: str) -> Video:
    seconds = (container.duration or 0) / 1_000_000
    bounds.check_clip(name, stream.frames or seconds * float(stream.average_rate or 25), stream.width, stream.height)
    stream.codec_context.options = {"max_pixels": str(bounds.MAX_PIXELS)}  # a later frame may be larger
    kept, pixels = _Thinned(), 0
    for frame in container.decode(stream):
        pixels += frame.width * frame.height  # the header may have said less, and a frame may be larger than the first
        bounds.check_clip(name, pixels / (frame.width * frame.height), frame.width, frame.height)
        kept.add(frame.to_image)
    if not kept.frames:
        raise MediaError(f"{name} holds no frames; export or download it again.")
    return Video(tuple(kept.frames), min(float(stream.average_rate or 25) / kept.stride, bounds.MAX_FPS), name)


def _joined(blocks: list[np.ndarray]) -> np.ndarray:
    """The blocks as one array; each is dropped when it is copied, so that a long sound is not there twice."""
    whole, position = np.empty(sum(map(len, blocks)), np.float32), 0
    for number, block in enumerate(blocks):
        whole[position : position + len(block)] = block
        position += len(block)
        blocks[number] = block[:0].copy()
    return whole


def _audio(samples: np.ndarray, rate: int, name: str) -> Audio:
    """`samples` float32 [N], which are changed."""
    if not samples.size:
        raise MediaError(f"{name} is a sound of zero length; record or export it again.")
    peak = max(float(samples.max()), -float(samples.min()))
    if not np.isfinite(peak):  # NaN is the largest and the smallest, where there is one
        raise MediaError(f"{name} holds samples that are NaN or infinite; export it again as 16-bit WAV.")
    samples /= np.float32(max(peak, 1.0))
    # of 24 bits, as sounds are kept and sent: what is read again is the same
    return rounded(Audio(samples, rate, name), 24)


def guess(data: bytes) -> str:
    """What a file that nothing opens looks like, for the message."""
    for magic, kind in MAGIC.items():
        if magic in data[:16]:
            return f"a broken or unsupported {kind} file"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "of no known format"
    if "<svg" in text[:2000]:
        return "an SVG drawing, which is not read"
    return "a text file, whatever its name says" if "\0" not in text else "of no known format"

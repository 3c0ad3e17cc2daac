"""Convert any picture to 64×64 RGB, any sound to cuts of 40,960 samples, any animation to 8 frames of that length."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageOps

from codi2.data.raw import Sound
from codi2.errors import DataError, MissingDependencyError

SIDE = 64
"""Pixels."""
RATE = 16_000
"""Hz."""
CLIP = 40_960
"""Samples: 2.56 s at 16 kHz."""
FRAMES = 8
"""Frames of a clip, which is as long as a sound."""
FPS = FRAMES * RATE / CLIP
"""Frames a second."""
_MARGIN = 0.06  # of the side, for cut-outs
_PEAK = 0.9
_FADE = RATE * 20 // 1000
_SILENCE = 10 ** (-50 / 20)  # of full scale after peak normalisation
_LONG = 5 * RATE  # a longer recording is cut into several clips
_MAX_CLIPS = 3


def square(picture: Image.Image) -> np.ndarray:
    """RGB or RGBA of any size → uint8 [64, 64, 3].

    Cut-outs are cropped with a margin, laid on white and padded square; scenes are cut square from the middle.
    """
    return square_clip([picture])[0]


def square_clip(frames: Sequence[Image.Image]) -> np.ndarray:
    """Frames of one size → uint8 [n, 64, 64, 3], as in `square`, with one crop for all frames."""
    frames = [frame.convert("RGBA") for frame in frames]
    alpha = np.stack([np.asarray(frame.getchannel("A")) for frame in frames])
    margin = 0.0
    if alpha.min() < 128:
        box = Image.fromarray(np.uint8(255) * (alpha.max(0) > 8)).getbbox()
        if box is None:
            raise DataError(f"a picture of {frames[0].size} pixels is fully transparent: leave it out of the corpus")
        frames, margin = [frame.crop(box) for frame in frames], _MARGIN
    elif not all(map(_on_white, frames)):
        fitted = [ImageOps.fit(frame.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS) for frame in frames]
        return np.stack([np.asarray(frame) for frame in fitted])
    return np.stack([_padded(frame, margin) for frame in frames])


def _padded(rgba: Image.Image, margin: float) -> np.ndarray:
    """The whole picture in the middle of a white square."""
    side = round(max(rgba.size) * (1 + 2 * margin))
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(rgba, ((side - rgba.width) // 2, (side - rgba.height) // 2))
    return np.asarray(canvas.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _on_white(picture: Image.Image) -> bool:
    """Whether all four corners are nearly white: then padding with white does not show."""
    right, bottom = picture.width - 1, picture.height - 1
    corners = [picture.getpixel(at) for at in ((0, 0), (right, 0), (0, bottom), (right, bottom))]
    return all(min(corner[:3]) > 235 for corner in corners)  # type: ignore[index]


def open_picture(data: bytes) -> Image.Image:
    """Encoded bytes (PNG, GIF, WebP, JPEG, or SVG, which is drawn 256 pixels wide) → RGBA."""
    if b"<svg" in data[:4096] or data[:5] == b"<?xml":
        data = _draw_svg(data)
    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGBA")


def open_clip(data: bytes) -> list[Image.Image]:
    """An animated picture (WebP, GIF, APNG) → RGBA frames spread evenly over its first 2.56 s; a shorter one repeats. A
    still picture gives one frame.
    """
    with Image.open(io.BytesIO(data)) as file:
        count = getattr(file, "n_frames", 1)
        ends: list[int] = []  # milliseconds
        for number in range(count):
            file.seek(number)
            file.load()
            ends.append((ends[-1] if ends else 0) + round(file.info.get("duration") or 100))
        if count == 1:
            return [file.convert("RGBA")]
        moments = np.round(np.arange(FRAMES) * 1000 / FPS) % ends[-1]
        frames = []
        for number in np.searchsorted(ends, moments, side="right").tolist():
            file.seek(number)
            frames.append(file.convert("RGBA"))
        return frames


def _draw_svg(data: bytes) -> bytes:
    try:
        import resvg_py
    except ImportError as error:
        raise MissingDependencyError(
            "drawing SVG needs the package resvg_py: run `pip install 'codi2[data]'`"
        ) from error
    return bytes(resvg_py.svg_to_bytes(svg_string=data.decode("utf-8", "replace"), width=256, dpi=96))


def open_sound(data: bytes) -> Sound:
    """Encoded bytes (WAV, OGG, FLAC, MP3, or a format of PyAV) → float samples [N, channels] and the rate."""
    import soundfile

    try:
        return cast(Sound, soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True))
    except soundfile.LibsndfileError:
        return _open_with_av(data)


def _open_with_av(data: bytes) -> Sound:
    import av

    with av.open(io.BytesIO(data), "r") as container:
        rate = container.streams.audio[0].rate
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
        frames = [out.to_ndarray() for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate(frames, axis=1).T, rate


def read_picture(path: Path) -> Image.Image:
    return open_picture(path.read_bytes())


def read_clip(path: Path) -> list[Image.Image]:
    return open_clip(path.read_bytes())


def read_sound(path: Path) -> Sound:
    return open_sound(path.read_bytes())


def clips(sound: Sound) -> Iterator[np.ndarray]:
    """Up to three non-overlapping clips, float32 [40960], peak 0.9; none of a silent sound."""
    import soxr

    samples, rate = sound
    mono = np.asarray(samples, np.float32).reshape(len(samples), -1).mean(axis=1)
    mono = soxr.resample(mono, rate, RATE) if rate != RATE else mono
    peak = float(np.abs(mono).max(initial=0.0))
    if not np.isfinite(peak) or peak < 1e-3:
        return
    mono = mono * (_PEAK / peak)
    start = int(np.argmax(np.abs(mono) > _SILENCE))
    mono = mono[start:]
    count = min(_MAX_CLIPS, len(mono) // CLIP) if len(mono) > _LONG else 1
    for index in range(count):
        clip = mono[index * CLIP : (index + 1) * CLIP].copy()
        peak = float(np.abs(clip).max())
        if index and (peak < 0.1 or np.sqrt(np.mean(clip**2)) < 0.01):
            continue
        clip *= _PEAK / peak
        fade = min(_FADE, len(clip))
        clip[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        yield np.pad(clip, (0, CLIP - len(clip)))

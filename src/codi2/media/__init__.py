"""Files and bytes ↔ pictures, sounds and clips.

The content of a file decides its format, not its suffix. A file that cannot be used raises a `MediaError` of one
sentence: the file, the fault, the remedy. Orientation, shape, colour and rate are those that viewers and players show.
Files of replies hold the recipe that made them, which `read_recipe` returns.
"""

from __future__ import annotations

import numpy as np

from codi2.errors import MediaError
from codi2.media.clips import clip
from codi2.media.files import Source, guess, read_source
from codi2.media.pictures import picture
from codi2.media.sounds import sound, track
from codi2.media.write import (
    AAC_RATES,
    LOSSLESS,
    RECIPE_KEY,
    apng_bytes,
    file_bytes,
    mp4_bytes,
    picture_bytes,
    read_recipe,
    save,
    sound_bytes,
    webp_bytes,
)
from codi2.prompt.parts import Audio, Image, Media, Video

__all__ = [
    "AAC_RATES", "LOSSLESS", "RECIPE_KEY", "Source", "apng_bytes", "file_bytes", "load", "load_audio", "load_image",
    "mp4_bytes", "picture_bytes", "read_recipe", "read_source", "save", "sound_bytes", "to_clip", "webp_bytes",
]  # fmt: skip


def load(source: Source, name: str = "", still: bool = False, with_sound: bool = True) -> Media:
    """A picture, sound or clip from a path or from the bytes of a file.

    Animated pictures (GIF, WebP, APNG) are clips. The `sound` of a clip is its sound track, unless that is silent.

    Args:
        name: of the part, and in messages; the file name by default.
        still: whether only the first frame of an animated picture is read.
        with_sound: whether the sound track of a clip is read.

    Raises:
        MediaError: missing, a folder, empty, broken, beyond the limits, or of no known format.
    """
    data, name = read_source(source, name)
    media = picture(data, name, still) or sound(data, name) or clip(data, name, with_sound) or track(data, name)
    if media is None:
        kind = guess(data)
        raise MediaError(f"{name} is {kind}; give a PNG or JPEG picture, a WAV or OGG sound, or an MP4 clip")
    return media


def load_image(source: Source, name: str = "") -> Image:
    """As `load`, but a clip or animation becomes its first frame, and a sound is refused."""
    media = load(source, name, still=True)
    if isinstance(media, Video):
        return Image(media.frames[0], media.name)
    if not isinstance(media, Image):
        raise MediaError(f"{media.name} is a sound, but must be a picture; give a PNG or JPEG file")
    return media


def load_audio(source: Source, name: str = "") -> Audio:
    """As `load`, but a clip becomes its sound track, and a picture is refused."""
    data, name = read_source(source, name)
    media = picture(data, name) or sound(data, name) or track(data, name)
    if not isinstance(media, Audio):
        kind = "a picture" if media else guess(data)
        raise MediaError(f"{name} is {kind}, but must be a sound; give a WAV, FLAC, OGG or MP3 file")
    return media


def to_clip(audio: Audio, rate: int = 16_000, num_samples: int = 40_960) -> np.ndarray:
    """The sound at `rate` Hz, float32 [num_samples] in [-1, 1]: cut at the end, or padded there with silence."""
    import soxr

    # The filter needs less than one more second of input; resampling all of a long sound would be a waste.
    needed = audio.samples[: int((num_samples / rate + 1) * audio.rate)]
    samples = soxr.resample(needed, audio.rate, rate)[:num_samples]
    # Resampling overshoots at hard edges.
    return np.pad(samples, (0, num_samples - len(samples))).astype(np.float32).clip(-1, 1)

"""Writes pictures, sounds and clips with the recipe that made them, and reads the recipe.

The recipe is in a PNG's text chunk, the comment of a sound or an MP4, the XMP of a JPEG or WebP. Each file also has
IPTC's digital source type (`media.provenance`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codi2.cancellation import check_cancelled
from codi2.errors import MediaError, OutputError
from codi2.hub import write_atomic
from codi2.media import provenance
from codi2.media.files import read_source
from codi2.pcm import to_pcm
from codi2.prompt.parts import Audio, Image, Video

if TYPE_CHECKING:
    from PIL import Image as PILImage
    from PIL.PngImagePlugin import PngInfo

RECIPE_KEY = "codi2"

AAC_RATES = (7350, 8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000)
"""Samples a second that a clip's sound can have."""


LOSSLESS = {"image": "png", "audio": "flac", "video": "webp"}
"""Modality → suffix of the files that hold it without loss; of a clip the frames only."""
_SUBTYPES = {"WAV": ("PCM_16", 16), "FLAC": ("PCM_24", 24), "OGG": ("VORBIS", 0), "MP3": ("MPEG_LAYER_III", 0)}
"""Kind of a sound's file → libsndfile's name of its form, and the bits of a sample; 0: written from floats."""
_SAVED = {"image": ("png",), "audio": ("wav", "flac"), "video": ("mp4", "webp")}


def save(
    path: str | Path, part: Image | Audio | Video, metadata: Mapping[str, Any], sound: Audio | None = None
) -> Path:
    """Writes a medium as the name says, with `metadata` as JSON: PNG, WAV, FLAC, MP4 or animated WebP.

    Args:
        sound: of a clip in an MP4.
    Raises:
        OutputError: the name ends in no suffix of this modality, or the file cannot be written.
    """
    path = Path(path).expanduser()
    suffix, expected = path.suffix.lower().removeprefix("."), _SAVED[part.modality]
    if suffix not in expected:
        names = " or ".join(f".{name}" for name in expected)
        raise OutputError(f"{path} cannot hold {part.modality} with its recipe; end the name in {names}")
    write_atomic(path, file_bytes(part, suffix, metadata, sound))
    return path


def file_bytes(
    part: Image | Audio | Video, suffix: str, metadata: Mapping[str, Any] | None = None, sound: Audio | None = None
) -> bytes:
    """A picture, sound or clip as the bytes of a file.

    Args:
        suffix: of a picture png, jpeg or webp; of a sound wav, flac, ogg (Vorbis) or mp3; of a clip mp4 or webp.
        metadata: how a model made it; None: no model has made it.
        sound: of a clip in an MP4.
    """
    match part:
        case Image():
            return picture_bytes(part.pixels, suffix.upper(), metadata)
        case Audio():
            return sound_bytes(part, suffix.upper(), metadata)
        case Video():
            return mp4_bytes(part, metadata, sound) if suffix == "mp4" else webp_bytes(part, metadata)


def picture_bytes(
    pixels: PILImage.Image, kind: str = "PNG", metadata: Mapping[str, Any] | None = None, quality: int = 95
) -> bytes:
    """A picture as PNG, JPEG or WEBP that says how it was made.

    Args:
        quality: of JPEG and WEBP, 0 to 100; a WEBP of 100 is exact.
    """
    out = io.BytesIO()
    pixels = pixels.copy()  # Pillow keeps the options of a save in the picture, which other threads may save as well
    if kind == "PNG":
        pixels.save(out, kind, pnginfo=_png_info(metadata))
        return out.getvalue()
    more = {"xmp": provenance.xmp(metadata)} if metadata is not None else {}
    exact = kind == "WEBP" and quality == 100
    pixels.save(out, kind, quality=quality, **more, **({"lossless": True, "exact": True} if exact else {}))
    return out.getvalue()


def _png_info(metadata: Mapping[str, Any] | None) -> PngInfo:
    """The text chunks of a PNG."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if metadata is not None:
        info.add_itxt(RECIPE_KEY, provenance.marked(metadata))
        info.add_itxt(provenance.PNG_KEY, provenance.xmp(metadata).decode())
    return info


def sound_bytes(audio: Audio, kind: str, metadata: Mapping[str, Any] | None = None) -> bytes:
    """A sound as WAV of 16 bits, FLAC of 24 bits, OGG (Vorbis) or MP3."""
    import soundfile

    out = io.BytesIO()
    coded, bits = _SUBTYPES[kind]
    with soundfile.SoundFile(out, "w", audio.rate, 1, coded, format=kind) as file:
        if kind != "WAV" and metadata is not None:
            file.comment = provenance.marked(metadata)
        file.write(to_pcm(audio.samples, bits) if bits else audio.samples)
    data = out.getvalue()
    return provenance.with_chunks(data, metadata) if kind == "WAV" and metadata is not None else data


def mp4_bytes(clip: Video, metadata: Mapping[str, Any] | None, sound: Audio | None = None) -> bytes:
    """H.264 in the form that browsers play (4:2:0), with the sound as AAC; metadata of None: no model has made it."""
    from fractions import Fraction

    import av

    out = io.BytesIO()
    width, height = clip.frames[0].size
    with av.open(out, "w", format="mp4") as container:
        if metadata is not None:
            container.metadata["comment"] = provenance.marked(metadata)
        pictures = container.add_stream("libx264", rate=Fraction(clip.fps).limit_denominator(1000))
        # 4:2:0 has one colour for two by two pixels, so sides are even
        pictures.width, pictures.height = width + width % 2, height + height % 2
        pictures.pix_fmt, pictures.options = "yuv420p", {"crf": "12"}
        sound = sound and _at_aac_rate(sound)
        audio_stream = container.add_stream("aac", rate=sound.rate, layout="mono") if sound else None
        for number, picture in enumerate(clip.frames):
            check_cancelled()
            pixels = np.pad(np.asarray(picture), ((0, height % 2), (0, width % 2), (0, 0)), "edge")
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        if sound and audio_stream:
            samples = sound.samples.astype(np.float32)[None]
            audio_frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            audio_frame.rate = sound.rate
            container.mux([*audio_stream.encode(audio_frame), *audio_stream.encode()])
    return provenance.with_xmp_box(out.getvalue(), metadata) if metadata is not None else out.getvalue()


def _at_aac_rate(sound: Audio) -> Audio:
    """The sound at the lowest rate of AAC that is not below its own, or at the highest rate."""
    import soxr

    rate = next((rate for rate in AAC_RATES if rate >= sound.rate), AAC_RATES[-1])
    return sound if rate == sound.rate else Audio(soxr.resample(sound.samples, sound.rate, rate), rate, sound.name)


def webp_bytes(clip: Video, metadata: Mapping[str, Any] | None = None) -> bytes:
    """The frames as a lossless animated WebP that plays in a loop."""
    more = {"xmp": provenance.xmp(metadata)} if metadata is not None else {}
    duration = round(1000 / clip.fps)  # milliseconds of a frame
    return _animation(clip, "WEBP", duration=duration, lossless=True, **more)


def apng_bytes(clip: Video, metadata: Mapping[str, Any] | None = None) -> bytes:
    """The frames as an animated PNG that plays in a loop."""
    return _animation(clip, "PNG", duration=1000 / clip.fps, pnginfo=_png_info(metadata))


def _animation(clip: Video, kind: str, **options: Any) -> bytes:
    first, *others = clip.frames
    out = io.BytesIO()
    first.copy().save(out, kind, save_all=True, append_images=others, loop=0, **options)  # as in `picture_bytes`
    return out.getvalue()


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The metadata that `save` wrote into a file.

    Raises:
        MediaError: the file cannot be read, or has none.
    """
    import soundfile
    from PIL import Image as PILImage

    data, name = read_source(path)
    try:
        if data.startswith(b"\x89PNG"):
            with PILImage.open(io.BytesIO(data), formats=["PNG"]) as picture:
                text = picture.info[RECIPE_KEY]
        elif data[8:12] == b"WEBP" or data.startswith(b"\xff\xd8"):
            with PILImage.open(io.BytesIO(data), formats=["WEBP", "JPEG"]) as picture:
                return provenance.recipe_in(picture.info["xmp"])
        elif data.startswith(b"RIFF"):
            text = provenance.comment_of(data)
        elif data[4:8] == b"ftyp":
            import av

            with av.open(io.BytesIO(data)) as container:
                text = container.metadata["comment"]
        else:
            with soundfile.SoundFile(io.BytesIO(data)) as sound:
                text = sound.comment
        return provenance.without_type(text)
    except (OSError, KeyError, TypeError, ValueError, soundfile.LibsndfileError) as error:
        raise MediaError(
            f"{name} carries no recipe; only PNG, JPEG, WebP, WAV, FLAC, OGG, MP3 and MP4 files written by codi2 do"
        ) from error

"""Pictures, sounds and clips that the tests of files make."""

import io

import av
import numpy as np
import soundfile
from PIL import Image as PILImage


def encoded(picture: PILImage.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def sound(samples, rate=16_000, kind="WAV", subtype=None) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, subtype=subtype)
    return out.getvalue()


def clip(frames=10, audio=True, rate=10, codec="mpeg4") -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        video = container.add_stream(codec, rate=rate)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        track = container.add_stream("aac", rate=16_000, layout="mono") if audio else None
        for i in range(frames):
            picture = np.full((48, 64, 3), i * 20 % 256, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        if track:
            block = av.AudioFrame.from_ndarray(tone(1.0)[None], format="fltp", layout="mono")
            block.rate = 16_000
            container.mux(track.encode(block))
            container.mux(track.encode())
    return out.getvalue()


def tone(seconds, rate=16_000, hz=440, gain=0.5):
    return (gain * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def noise_picture(size=(64, 64)):
    return PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))

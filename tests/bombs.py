"""Small files that stand for much: what hostile clients send."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import soundfile


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int = 8, color: int = 2, rows: int | None = None, more: bytes = b"") -> bytes:
    """A black PNG; `rows` of it are there, all by default. `more` are chunks behind the header."""
    pack = zlib.compressobj(9)
    row = b"\0" + bytes(width * {0: 1, 2: 3, 6: 4}[color] * bits // 8)
    body = b"".join(pack.compress(row) for _ in range(height if rows is None else rows)) + pack.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def gif(width: int, height: int, frames: int, later: tuple[int, int] = (1, 1), hundredths: int = 10) -> bytes:
    """An animated GIF of about 20 bytes a frame; the second frame says that it is as large as `later`."""
    file = io.BytesIO()
    file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff")
    for number in range(frames):
        wide, high = later if number == 1 else (1, 1)
        file.write(b"\x21\xf9\x04" + struct.pack("<BHBB", 4, hundredths, 0, 0))
        file.write(b"\x2c" + struct.pack("<HHHHB", 0, 0, wide, high, 0) + b"\x02\x02\x44\x01\0")
    return file.getvalue() + b";"


def apng(width: int, height: int, frames: int) -> bytes:
    whole = zlib.compress(b"".join(b"\0" + bytes(width * 3) for _ in range(height)), 9)
    dot = zlib.compress(b"\0\0\0\0")
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data += chunk(b"acTL", struct.pack(">II", frames, 0))
    data += chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 100, 0, 0)) + chunk(b"IDAT", whole)
    for number in range(1, frames):
        data += chunk(b"fcTL", struct.pack(">IIIIIHHBB", 2 * number - 1, 1, 1, 0, 0, 1, 100, 0, 1))
        data += chunk(b"fdAT", struct.pack(">I", 2 * number) + dot)
    return data + chunk(b"IEND", b"")


def ico(inner: bytes) -> bytes:
    """An icon that says it is 16 x 16."""
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22) + inner


def bitmap(width: int, height: int) -> bytes:
    """The header of a bitmap as icons hold it."""
    return struct.pack("<IiiHHIIiiII", 40, width, 2 * height, 1, 32, 0, 0, 0, 0, 0, 0) + bytes(64)


def flac(seconds: int, rate: int, channels: int) -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, channels, "PCM_16", format="FLAC") as sound:
        for _ in range(seconds):
            sound.write(np.zeros((rate, channels), np.int16))
    return file.getvalue()


def wav_header(rate: int, channels: int, size: int = 1 << 31) -> bytes:
    """A WAV file that says it is 2 GB, and is cut."""
    about = struct.pack("<HHIIHH", 1, channels, rate, min(rate * channels * 2, 2**32 - 1), channels * 2 % 65536, 16)
    return (
        b"RIFF"
        + struct.pack("<I", size)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + about
        + b"data"
        + struct.pack("<I", size)
        + bytes(4096)
    )


def clip(width: int, height: int, frames: int, form: str = "mp4", codec: str = "libx264") -> bytes:
    """A black clip of 30 frames a second."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=Fraction(30))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "51", "g": "100000"}
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for number in range(frames):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def npy(*shape: int) -> bytes:
    """The header of an array, and hardly any numbers."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(100)

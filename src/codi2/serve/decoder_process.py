"""The process that decodes what clients send: `python -m codi2.serve.decoder_process MEGABYTES SECONDS BUDGET`.

It reads one request's media at a time from its standard input, and decodes each request in a child of its own, which
has a limit of memory and of processor time and is gone afterwards: nothing of one client's media is there when the
next one's are decoded. The answer is a line of JSON and plain bytes; what comes out of a decoder is never unpickled.

    in   {"media": [{"kind": "still", "name": "part 1 of message 0", "bytes": 5120}, …]}\\n, then the files
    out  {"media": [{"modality": "image", "sizes": [[64, 48]], "bytes": 9216, …}, …]}\\n, then pixels and samples
         {"error": "part 1 of message 0 is …", "limit": false}\\n
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from codi2.errors import MediaError
from codi2.media import load
from codi2.media.bounds import decoded_bytes
from codi2.prompt.parts import IMU, Audio, Depth, Image, Media, Thermal, Video
from codi2.senses import load_as

if TYPE_CHECKING:
    from PIL import Image as PILImage

TOO_LONG, BROKEN = 3, 4
"""How this process ends when a child was stopped at its limit of time, or in any other way."""
STILL = "still"
"""The kind of a picture; of an animated one the first frame is read. Other kinds are those of `senses.load_as`."""
SILENT = "silent"
"""The kind of a clip whose sound is left out."""
BAND = 1 << 20  # pixels
NICE = 5  # the model and the event loop come first


def main() -> None:
    import av  # noqa: F401  imported here, once, for all children
    import soundfile  # noqa: F401
    from PIL import Image as PILImage

    PILImage.init()
    megabytes, seconds, budget = map(int, sys.argv[1:])
    os.nice(NICE)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    while line := requests.readline():
        about = json.loads(line)["media"]
        files = [requests.read(one["bytes"]) for one in about]
        child = os.fork()
        if child == 0:
            _limit(megabytes << 20, seconds)
            _answer(about, files, budget, megabytes, answers)
            os._exit(0)
        del files
        _, status = os.waitpid(child, 0)
        if status:  # the answer may be cut: the pool starts another process
            limits = (signal.SIGXCPU, signal.SIGKILL)  # of processor time: the soft one, the hard one
            late = os.WIFSIGNALED(status) and os.WTERMSIG(status) in limits
            os._exit(TOO_LONG if late else BROKEN)


def decode(kind: str, data: bytes) -> Media:
    """The medium in a file; `kind` is STILL, SILENT, or of `senses.load_as`. Raises MediaError."""
    if kind in (STILL, SILENT):
        return load(data, still=kind == STILL, hears=kind != SILENT)
    return load_as(kind, data)


def _limit(most: int, seconds: int) -> None:
    """Bytes of address space, seconds of processor time; no files are written, and no core is dumped."""
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(
    about: Sequence[dict[str, Any]], files: Sequence[bytes], budget: int, megabytes: int, out: IO[bytes]
) -> None:
    made: list[Media] = []
    size = 0
    try:
        for one, data in zip(about, files, strict=True):
            try:
                part = decode(one["kind"], data)
            except MediaError as error:
                raise MediaError(f"{one['name']} cannot be read: {error}") from error
            made.append(part)
            size += decoded_bytes(part)
            if size > budget:
                raise _TooMuch(
                    f"the media of this request are more than {budget >> 20} MB when they are decoded; send fewer or "
                    "smaller ones"
                )
        said: dict[str, Any] = {"media": [describe(part) for part in made]}
        blocks = [block for part in made for block in blocks_of(part)]
    except _TooMuch as error:
        said, blocks = {"error": str(error), "limit": True}, []
    except MemoryError:
        message = f"the media of this request need more than {megabytes} MB to be read; send smaller ones"
        said, blocks = {"error": message, "limit": True}, []
    except MediaError as error:
        said, blocks = {"error": str(error), "limit": False}, []
    out.write(json.dumps(said).encode() + b"\n")
    for block in blocks:
        out.write(block)
    out.flush()


class _TooMuch(Exception):
    """More than the budget of decoded bytes."""


def describe(part: Media) -> dict[str, Any]:
    """What `restore` needs beside the bytes of `blocks_of`."""
    sizes: list[Any] = []
    rate = 0.0
    match part:
        case Image():
            sizes = [part.pixels.size]
        case Video():
            sizes, rate = [frame.size for frame in part.frames], part.fps
        case Audio():
            sizes, rate = [part.samples.shape], float(part.rate)
        case Depth():
            sizes = [part.metres.shape]
        case Thermal():
            sizes = [part.warmth.shape]
        case IMU():
            sizes, rate = [part.readings.shape], part.rate
    heard = part.sound if isinstance(part, Video) else None
    sound = describe(heard) if heard is not None else None
    size = decoded_bytes(part)
    return {"modality": part.modality, "name": part.name, "sizes": sizes, "rate": rate, "bytes": size, "sound": sound}


def blocks_of(part: Media) -> list[bytes]:
    """Pixels as RGB, a block for each picture; numbers as float32 of this machine."""
    match part:
        case Image():
            return [part.pixels.tobytes()]
        case Video():
            return [frame.tobytes() for frame in part.frames] + (blocks_of(part.sound) if part.sound else [])
        case Audio(samples=numbers) | Depth(metres=numbers) | Thermal(warmth=numbers) | IMU(readings=numbers):
            return [np.ascontiguousarray(numbers, np.float32).tobytes()]


def restore(about: dict[str, Any], source: IO[bytes]) -> Media:
    """A part from what `describe` says of it and the bytes of `blocks_of`. Raises EOFError: they are cut."""
    modality, name, rate = about["modality"], about["name"], about["rate"]
    if modality in ("image", "video"):
        pictures = [_picture(size, source) for size in about["sizes"]]
        if modality == "image":
            return Image(pictures[0], name)
        sound = restore(about["sound"], source) if about["sound"] else None
        return Video(tuple(pictures), rate, name, sound if isinstance(sound, Audio) else None)
    (shape,) = about["sizes"]
    numbers = np.frombuffer(_exactly(source, 4 * int(np.prod(shape))), np.float32).reshape(shape)
    match modality:
        case "audio":
            return Audio(numbers, int(rate), name)
        case "depth":
            return Depth(numbers, name)
        case "thermal":
            return Thermal(numbers, name)
    return IMU(numbers, rate, name)


def _picture(size: tuple[int, int], source: IO[bytes]) -> PILImage.Image:
    """In bands: one copy of a large picture would hold Python's lock for half a second."""
    from PIL import Image as PILImage

    width, height = size
    picture = PILImage.new("RGB", (width, height))
    rows = max(1, BAND // max(width, 1))
    for top in range(0, height, rows):
        band = (width, min(rows, height - top))
        picture.paste(PILImage.frombytes("RGB", band, _exactly(source, 3 * band[0] * band[1])), (0, top))
    return picture


def _exactly(source: IO[bytes], count: int) -> bytearray:
    data = bytearray(count)
    view, done = memoryview(data), 0
    while done < count:
        read = source.readinto(view[done:])  # type: ignore[attr-defined]
        if not read:
            raise EOFError("the answer is cut")
        done += read
    return data


if __name__ == "__main__":
    main()

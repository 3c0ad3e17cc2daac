"""The process that decodes clients' media: `python -m codi2.serve.decoder_process MEGABYTES SECONDS BUDGET`.

It reads the media of one request at a time from its standard input, and decodes each request in a child process with
limits of memory and processor time. The child ends with the request, so no client's media stay in memory for the next
request. The answer is a line of JSON and plain bytes, which are never unpickled.

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
"""Exit codes of this process: its child exceeded the limit of time, or ended in any other way."""
STILL = "still"
"""The kind of a picture; only the first frame of an animated one is read. `senses.load_as` has the other kinds."""
SILENT = "silent"
"""The kind of a clip whose sound is left out."""
BAND = 1 << 20  # pixels
NICE = 5  # lower priority than the model and the event loop


def main() -> None:
    import av  # noqa: F401  imported here, once, for all children
    import soundfile  # noqa: F401
    from PIL import Image as PILImage

    PILImage.init()
    megabytes, seconds, budget = map(int, sys.argv[1:])
    os.nice(NICE)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keeps the output of libraries out of the answers
    while line := requests.readline():
        descriptions = json.loads(line)["media"]
        files = [requests.read(description["bytes"]) for description in descriptions]
        child = os.fork()
        if child == 0:
            _limit(megabytes << 20, seconds)
            _answer(descriptions, files, budget, megabytes, answers)
            os._exit(0)
        del files
        _, status = os.waitpid(child, 0)
        if status:  # the answer may be incomplete: the pool starts another process
            limits = (signal.SIGXCPU, signal.SIGKILL)  # of processor time: the soft one, the hard one
            late = os.WIFSIGNALED(status) and os.WTERMSIG(status) in limits
            os._exit(TOO_LONG if late else BROKEN)


def decode(kind: str, data: bytes) -> Media:
    """The medium in a file; `kind` is STILL, SILENT, or a kind of `senses.load_as`. Raises MediaError."""
    if kind in (STILL, SILENT):
        return load(data, still=kind == STILL, with_sound=kind != SILENT)
    return load_as(kind, data)


def _limit(most: int, seconds: int) -> None:
    """Limits address space (bytes) and processor time (seconds), and forbids to write files or core dumps."""
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(
    descriptions: Sequence[dict[str, Any]], files: Sequence[bytes], budget: int, megabytes: int, out: IO[bytes]
) -> None:
    """Decodes the files of one request and writes the answer."""
    parts: list[Media] = []
    size = 0
    try:
        for description, data in zip(descriptions, files, strict=True):
            try:
                part = decode(description["kind"], data)
            except MediaError as error:
                raise MediaError(f"{description['name']} cannot be read: {error}") from error
            parts.append(part)
            size += decoded_bytes(part)
            if size > budget:
                raise _TooLarge(
                    f"the media of this request are more than {budget >> 20} MB when they are decoded; send fewer or "
                    "smaller ones"
                )
        header: dict[str, Any] = {"media": [describe(part) for part in parts]}
        blocks = [block for part in parts for block in blocks_of(part)]
    except _TooLarge as error:
        header, blocks = {"error": str(error), "limit": True}, []
    except MemoryError:
        message = f"the media of this request need more than {megabytes} MB to be read; send smaller ones"
        header, blocks = {"error": message, "limit": True}, []
    except MediaError as error:
        header, blocks = {"error": str(error), "limit": False}, []
    out.write(json.dumps(header).encode() + b"\n")
    for block in blocks:
        out.write(block)
    out.flush()


class _TooLarge(Exception):
    """The media exceed the budget of decoded bytes."""


def describe(part: Media) -> dict[str, Any]:
    """The values that `restore` needs beside the bytes of `blocks_of`."""
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
    sound = describe(part.sound) if isinstance(part, Video) and part.sound is not None else None
    size = decoded_bytes(part)
    return {"modality": part.modality, "name": part.name, "sizes": sizes, "rate": rate, "bytes": size, "sound": sound}


def blocks_of(part: Media) -> list[bytes]:
    """Pixels as RGB, one block for each picture; numbers as float32 in this machine's byte order."""
    match part:
        case Image():
            return [part.pixels.tobytes()]
        case Video():
            return [frame.tobytes() for frame in part.frames] + (blocks_of(part.sound) if part.sound else [])
        case Audio(samples=numbers) | Depth(metres=numbers) | Thermal(warmth=numbers) | IMU(readings=numbers):
            return [np.ascontiguousarray(numbers, np.float32).tobytes()]


def restore(description: dict[str, Any], source: IO[bytes]) -> Media:
    """The part with a description of `describe` and the bytes of `blocks_of`. Raises EOFError: bytes are missing."""
    modality, name, rate = description["modality"], description["name"], description["rate"]
    if modality in ("image", "video"):
        pictures = [_picture(size, source) for size in description["sizes"]]
        if modality == "image":
            return Image(pictures[0], name)
        sound = restore(description["sound"], source) if description["sound"] else None
        return Video(tuple(pictures), rate, name, sound if isinstance(sound, Audio) else None)
    (shape,) = description["sizes"]
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
    """Reads a picture in bands: a copy of a large picture at once would hold Python's lock for half a second."""
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
            raise EOFError("the answer is incomplete")
        done += read
    return data


if __name__ == "__main__":
    main()

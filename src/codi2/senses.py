"""Depth maps, thermal pictures and IMU recordings ↔ files: the other modalities that ImageBind reads.

| sense     | file                                           | numbers                                              |
|-----------|------------------------------------------------|------------------------------------------------------|
| `depth`   | PNG of 16 bits, grey                           | millimetres, as depth cameras write them; 0: unknown |
| `thermal` | PNG of 8 or 16 bits, grey                      | the warmer, the brighter                             |
| `imu`     | CSV or .npy of six columns, 200 readings a second | accelerometer x y z, gyroscope x y z, as they are |
|           | the same with seven columns, at any rate       | seconds first                                        |

The modality is not in the file, but in its placeholder, `[depth0]`, or in the field that a client sends.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codi2.errors import MediaError, PromptError
from codi2.media import Source, load, read_source
from codi2.media.bounds import check_size, too_large
from codi2.media.pictures import BROKEN
from codi2.modalities import MEDIA, SENSES
from codi2.prompt.parts import IMU, Depth, Media, Sense, Thermal

if TYPE_CHECKING:
    from PIL import Image as PILImage

IMU_RATE, AXES = 200.0, 6  # readings a second, of files without a column of seconds
MOST_READINGS = 1_000_000
_NAMED = re.compile(rf"(({'|'.join((*MEDIA, *SENSES))})[0-9]{{1,4}})=(.+)", re.IGNORECASE | re.ASCII)
MAX_UINT16 = 65_535


def load_as(kind: str, source: Source, name: str = "", with_sound: bool = True) -> Media:
    """A file as an item of the modality `kind`: `depth`, `thermal` or `imu`; `media.load` reads all other kinds.

    Raises:
        MediaError: it is missing, broken, or not in the form of this modality.
    """
    return LOADERS[kind](source, name) if kind in LOADERS else load(source, name, with_sound=with_sound)


def load_depth(source: Source, name: str = "") -> Depth:
    """Metres. Raises MediaError."""
    grey, name = _grey(source, name)
    if grey.dtype != np.uint16:
        raise MediaError(f"{name} has 8 bits; depth is a grey PNG of 16 bits that holds millimetres")
    if not grey.any():
        raise MediaError(f"{name} holds no depth: every number is 0, which means unknown; give another file")
    return Depth(grey.astype(np.float32) / 1000, name)


def load_thermal(source: Source, name: str = "") -> Thermal:
    """Warmth in [0, 1] of the largest value of its bits. Raises MediaError."""
    grey, name = _grey(source, name)
    return Thermal(grey.astype(np.float32) / np.iinfo(grey.dtype).max, name)


def load_imu(source: Source, name: str = "") -> IMU:
    """A table of CSV or .npy, a row for each reading: 6 axes, or seconds and 6 axes. Raises MediaError."""
    data, name = read_source(source, name)
    table = _npy(data, name) if data.startswith(b"\x93NUMPY") else _csv(data, name)
    if table.ndim == 2 and table.shape[1] not in (AXES, AXES + 1) and table.shape[0] in (AXES, AXES + 1):
        table = table.T
    if table.ndim != 2 or table.shape[1] not in (AXES, AXES + 1) or len(table) < 2:
        raise MediaError(
            f"{name} is a table of {' × '.join(map(str, table.shape))}; save it as CSV or .npy with 6 columns, "
            "or 7 with seconds first"
        )
    if len(table) > MOST_READINGS:
        raise MediaError(
            f"{name} has {len(table)} readings, the limit is {MOST_READINGS}; cut out the part that matters"
        )
    if not (np.isfinite(table).all() and (np.abs(table[:, -AXES:]) <= np.finfo(np.float32).max).all()):
        raise MediaError(f"{name} holds numbers that are NaN, infinite, or beyond 32 bits; leave these readings out")
    if table.shape[1] == AXES:
        return IMU(np.ascontiguousarray(table.T, dtype=np.float32), IMU_RATE, name)
    seconds = table[:, 0]
    if not (seconds[1:] > seconds[:-1]).all():
        raise MediaError(f"the seconds in the first column of {name} do not increase; sort its rows")
    span = float(seconds[-1]) - float(seconds[0])  # may be infinite
    if span * IMU_RATE >= MOST_READINGS:
        limit = f"{MOST_READINGS / IMU_RATE:.0f} s"
        raise MediaError(f"{name} lasts {span:.6g} s, the limit is {limit}; write seconds in its first column")
    count = max(2, round(span * IMU_RATE) + 1)
    times = seconds[0] + np.arange(count) / IMU_RATE
    return IMU(np.stack([np.interp(times, seconds, axis) for axis in table.T[1:]]).astype(np.float32), IMU_RATE, name)


LOADERS: dict[str, Callable[[Source, str], Sense]] = {"depth": load_depth, "thermal": load_thermal, "imu": load_imu}


SUFFIXES = {"depth": "png", "thermal": "png", "imu": "npy"}
"""Sense → the suffix of the files of `to_bytes`."""


def to_bytes(part: Sense) -> bytes:
    """The bytes of a file from which its loader reads the same values."""
    from PIL import Image as PILImage

    file = io.BytesIO()
    match part:
        case Depth():
            values = (part.metres * 1000).round().clip(0, MAX_UINT16).astype(np.uint16)
            PILImage.fromarray(values).save(file, "PNG")
        case Thermal():
            PILImage.fromarray((part.warmth * MAX_UINT16).round().clip(0, MAX_UINT16).astype(np.uint16)).save(
                file, "PNG"
            )
        case IMU():
            seconds = np.arange(part.readings.shape[1]) / part.rate
            np.save(file, np.concatenate([seconds[None], part.readings]).T)
    return file.getvalue()


def render_sense(part: Sense) -> PILImage.Image:
    """A picture for people: near and warm things bright, the six axes of an IMU as curves."""
    from PIL import Image as PILImage

    match part:
        case Depth(metres=metres):
            near = np.where(metres > 0, 1 / np.maximum(metres, 0.1), 0)
            plane = near / max(float(near.max()), 1e-9)
        case Thermal(warmth=warmth):
            plane = warmth
        case IMU(readings=readings):
            plane = np.ones((6 * 32, 320))
            for row, axis in enumerate(readings):
                values = np.interp(np.linspace(0, len(axis) - 1, 320), np.arange(len(axis)), axis)
                span = max(float(np.ptp(values)), 1e-9)
                height = 31 - ((values - values.min()) / span * 31).round().astype(int)
                plane[row * 32 + height, np.arange(320)] = 0
    return PILImage.fromarray((plane * 255).round().astype(np.uint8)).convert("RGB")


def _grey(source: Source, name: str) -> tuple[np.ndarray, str]:
    """uint8 or uint16 [H, W] of a PNG."""
    from PIL import Image as PILImage

    data, name = read_source(source, name)
    if not data.startswith(b"\x89PNG"):
        raise MediaError(f"{name} is no PNG; depth and thermal pictures are grey PNG files")
    try:
        with warnings.catch_warnings(action="ignore"), PILImage.open(io.BytesIO(data), formats=["PNG"]) as file:
            if file.mode not in ("L", "I;16", "I"):
                raise MediaError(f"{name} has colours ({file.mode}); depth and thermal pictures are grey PNG files")
            check_size(name, file.width, file.height)
            has_16_bits = file.mode != "L"
            values = np.asarray(file)
    except PILImage.DecompressionBombError as error:
        raise too_large(name, "more than 178 million") from error
    except BROKEN as error:
        raise MediaError(f"{name} is a broken PNG file ({error}); export or download it again") from error
    return values.astype(np.uint16 if has_16_bits else np.uint8), name


def _npy(data: bytes, name: str) -> np.ndarray:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
    except Exception as error:  # numpy evaluates the header as Python: TokenError, MemoryError and others
        raise MediaError(f"{name} is a broken .npy file ({error}); save plain numbers again") from error
    if dtype.kind not in "iuf":
        raise MediaError(f"{name} is a .npy file of {dtype}; IMU is a table of plain numbers: save float32 or float64")
    if math.prod(shape) * dtype.itemsize > len(data):  # numpy would allocate the memory of the header's shape
        raise MediaError(f"{name} is cut: its header names {' × '.join(map(str, shape))} numbers; save it again")
    file.seek(0)
    try:
        return np.load(file, allow_pickle=False).astype(np.float64)
    except (OSError, ValueError, TypeError, EOFError, OverflowError) as error:
        raise MediaError(f"{name} is a broken .npy file ({error}); save plain numbers again") from error


def _csv(data: bytes, name: str) -> np.ndarray:
    """Rows of numbers, without a first row of names."""
    if data.count(b",") + data.count(b";") + data.count(b"\n") > MOST_READINGS * (AXES + 1):
        raise MediaError(f"{name} has more than {MOST_READINGS} readings; cut out the part that matters")
    try:
        lines = [line for line in data.decode("utf-8-sig").splitlines() if line.strip() and not line.startswith("#")]
        first = lines[0].replace(";", ",").split(",") if lines else []
        has_names = any(not _is_number(cell) for cell in first)
        rows = lines[1:] if has_names else lines
        if not rows:
            raise MediaError(f"{name} holds no rows of numbers; give a CSV or .npy file")
        return np.loadtxt([row.replace(";", ",") for row in rows], delimiter=",", ndmin=2)
    except (UnicodeDecodeError, ValueError) as error:
        raise MediaError(
            f"{name} is no table of numbers ({str(error).splitlines()[0]}); give a CSV or .npy file"
        ) from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def load_files(files: Sequence[str], with_sound: bool = True) -> dict[str, Media] | list[Media]:
    """`["cat.png", "rain.wav"]` → media in order; `["image0=cat.png", "depth0=room.png"]` → media by placeholder.

    Args:
        with_sound: whether the sound tracks of clips are read.
    Raises:
        PromptError: only a part of the files has a name.
        MediaError: a file cannot be read.
    """
    named = {match[1].lower(): match for file in files if (match := _NAMED.fullmatch(file)) and not Path(file).exists()}
    if not named:
        return [load(file, with_sound=with_sound) for file in files]
    if len(named) < len(files):
        raise PromptError("name all files or none, each with another placeholder: image0=cat.png depth0=room.png")
    return {name: load_as(match[2].lower(), match[3], with_sound=with_sound) for name, match in named.items()}

"""Read Qt binary resource archives (`.rcc`): a big-endian tree of names over one block of data."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from codi2.errors import DataError

_HEADER = struct.Struct(">4sIIII")  # magic, version, offsets of tree, data and names
_COMPRESSED, _FOLDER, _ZSTD = 1, 2, 4


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """(path inside the archive, content) of every file, in the archive's order.

    Raises `DataError` where the file is not such an archive or uses a compression other than zlib.
    """
    blob = path.read_bytes()
    if len(blob) < _HEADER.size or blob[:4] != b"qres":
        raise DataError(f"{path} is not a Qt resource archive (it does not begin with 'qres'): fetch it again")
    _, version, tree, data, names = _HEADER.unpack_from(blob)
    node = 22 if version >= 2 else 14  # bytes; version 2 added a time stamp

    def name(offset: int) -> str:
        (length,) = struct.unpack_from(">H", blob, names + offset)  # then a 4-byte hash, then UTF-16
        return blob[names + offset + 6 : names + offset + 6 + 2 * length].decode("utf-16-be")

    def content(flags: int, offset: int) -> bytes:
        (length,) = struct.unpack_from(">I", blob, data + offset)
        raw = blob[data + offset + 4 : data + offset + 4 + length]
        if flags & _ZSTD:
            raise DataError(f"{path} is compressed with zstd; expected zlib: fetch the pinned version of the source")
        return zlib.decompress(raw[4:]) if flags & _COMPRESSED else raw

    def walk(index: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        at = tree + index * node
        name_at, flags = struct.unpack_from(">IH", blob, at)
        here = f"{prefix}/{name(name_at)}".lstrip("/") if index else ""
        if flags & _FOLDER:
            count, first = struct.unpack_from(">II", blob, at + 6)
            for child in range(first, first + count):
                yield from walk(child, here)
        else:
            yield here, content(flags, struct.unpack_from(">I", blob, at + 10)[0])

    yield from walk(0, "")

"""Reads untrusted tars strictly: a damaged tar is never read as a shorter one.

`tarfile` takes a damaged or missing header for the end of the archive, allocates the size that a header claims, and
follows negative sizes backwards. Here every header must have a correct checksum, every entry must lie within the file,
and two empty blocks must end it.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from codi2.untrusted import MAX_BYTES

BLOCK = tarfile.BLOCKSIZE
_LONG = 1 << 20  # most bytes of a long name or of extended headers
_PADDING = 1 << 24  # most bytes after the end
_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_KINDS = {
    tarfile.LNKTYPE: "a hard link", tarfile.SYMTYPE: "a symbolic link", tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a pipe", tarfile.GNUTYPE_SPARSE: "a sparse file",
}  # fmt: skip
_CHECKSUM = slice(148, 156)  # of a header
_NAME, _PREFIX = slice(0, 100), slice(345, 500)


class BrokenTar(Exception):
    """The data at a position of the file is not an entry, or is incomplete."""


@dataclass(frozen=True)
class Member:
    """A file in a tar. `fault` says why its content is missing: it is a link, its name leads out of the folder, …"""

    name: str
    data: bytes = b""
    fault: tuple[str, str] | None = None
    """Reason and detail."""


def members(file: BinaryIO, most: int = MAX_BYTES) -> Iterator[Member]:
    """The files in a tar that is open for reading, in order, without folders.

    Args:
        most: most bytes of a file; larger files have a fault.
    Raises:
        BrokenTar: a header is damaged, something is cut off, or the two empty blocks of the end are not the end.
    """
    size = os.fstat(file.fileno()).st_size
    at, long_name = 0, ""
    while True:
        header = _block(file, at, size)
        if not any(header):
            if long_name:
                raise BrokenTar("its last entry is missing: only the name of it is there")
            _check_end(file, at, size)
            return
        info = _parsed(header, at)
        at += BLOCK
        has_content = info.isreg() or info.type not in (*_KINDS, tarfile.DIRTYPE)  # links may claim their target's size
        length = info.size if has_content else 0
        if length < 0 or at + length > size:
            raise BrokenTar(f"the entry at byte {at - BLOCK:,} should have {length:,} bytes, {size - at:,} follow")
        start, at = at, at + -(-length // BLOCK) * BLOCK
        if info.type in _EXTENDED:
            path, changed = _pax(_content(file, start, info.size, _LONG))
            if changed:
                raise BrokenTar(f"the entry at byte {start - BLOCK:,} sets the size of another one, which is not read")
            long_name = path if path and info.type != tarfile.XGLTYPE else long_name
        elif info.type in _NAMES:
            text = _content(file, start, info.size, _LONG).rstrip(b"\0").decode("utf-8", "surrogateescape")
            long_name = text if info.type == tarfile.GNUTYPE_LONGNAME else long_name
        else:
            name, long_name = long_name or info.name, ""
            if info.type != tarfile.DIRTYPE:
                fault = _fault(name, info, header, most)
                yield Member(name, b"" if fault else _content(file, start, info.size, most), fault)


def _block(file: BinaryIO, at: int, size: int) -> bytes:
    """A block. Raises BrokenTar: the file ends before the block does."""
    if at + BLOCK > size:
        raise BrokenTar("it is cut off" if size else "it is empty")
    file.seek(at)
    return file.read(BLOCK)


def _content(file: BinaryIO, start: int, size: int, most: int) -> bytes:
    if size > most:
        raise BrokenTar(f"the entry at byte {start - BLOCK:,} claims {size:,} bytes for a name")
    file.seek(start)
    return file.read(size)


def _parsed(header: bytes, at: int) -> tarfile.TarInfo:
    """A parsed header. Raises BrokenTar: its checksum is wrong, or it is not a header."""
    total = sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" ")
    # the forms that writers of tars use; other forms may be flipped bits
    if header[_CHECKSUM] not in (b"%06o\0 " % total, b"%06o \0" % total, b"%07o\0" % total):
        raise BrokenTar(f"the header at byte {at:,} is damaged: its checksum is wrong")
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise BrokenTar(f"the header at byte {at:,} is damaged: {error}") from error


def _check_end(file: BinaryIO, at: int, size: int) -> None:
    """Raises BrokenTar: there is only one empty block, or data after the two."""
    if not at + 2 * BLOCK <= size <= at + _PADDING:
        raise BrokenTar("it is cut off: its end is missing" if size < at + 2 * BLOCK else "its end is not the file's")
    file.seek(at)
    while piece := file.read(1 << 20):
        if piece.count(0) != len(piece):
            raise BrokenTar(f"the header at byte {at:,} is empty, and more follows")


def _pax(data: bytes) -> tuple[str, bool]:
    """The path that extended headers set for the next entry, and whether they set its size. Raises BrokenTar."""
    path, sized, at = "", False, 0
    while at < len(data):
        length, space, _ = data[at : at + 20].partition(b" ")
        if not space or not length.isdigit() or not at + len(length) + 1 < at + int(length) <= len(data):
            raise BrokenTar("the extended headers of an entry are damaged")
        key, equals, value = data[at + len(length) + 1 : at + int(length)].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise BrokenTar("the extended headers of an entry are damaged")
        if key == b"path":
            path = value[:-1].decode("utf-8", "surrogateescape")
        sized |= key == b"size" or key.startswith(b"GNU.sparse")
        at += int(length)
    return path, sized


def _fault(name: str, info: tarfile.TarInfo, header: bytes, most: int) -> tuple[str, str] | None:
    shown = ascii(name[:80])
    if not info.isreg() or info.type == tarfile.GNUTYPE_SPARSE:
        kind = _KINDS.get(info.type, f"of the unknown kind {info.type!r}")
        return "no plain file", f"{shown} is {kind}{f' to {info.linkname[:80]!a}' if info.linkname else ''}"
    fields = (header[_NAME], header[_PREFIX] if header[257:263] == tarfile.POSIX_MAGIC[:6] else b"")
    if "\0" in name or any(field.rstrip(b"\0").count(0) for field in fields):
        return "bad name", f"{shown} has a zero byte in it"
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        return "bad name", f"{shown} leads out of its folder"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "bad name", f"{shown} is not UTF-8"
    return ("absurd size", f"{shown} has {info.size:,} bytes") if info.size > most else None

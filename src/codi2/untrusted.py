"""Files from elsewhere: `inside` alone decides which files may be opened for a name that stands in one of them.

A data set, a conversation or a model of somebody else's names files. Those names stay inside the folder that they stand
in, and what they lead to is a plain file of a bounded size: no device, no pipe, no link that leads out.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from codi2.errors import CoDi2Error, WeightsError

MAX_BYTES = 256 * 2**20
"""Largest file that is read into memory whole."""
MOST_FILES = 10_000  # of a model's folder
TEXTS = (".json", ".jinja", ".txt", ".model", ".md")


class OutsideError(CoDi2Error):
    """A name leads out of its folder, to something else than a plain file, or to one that is too large.

    `reason` is one of a few words that are counted.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, str(self))


def inside(folder: Path, name: str | Path, *, links: bool = True) -> Path:
    """The path of `name` in `folder`, with links resolved; it need not exist.

    Args:
        name: as a file from elsewhere gives it, or a path that begins with `folder`.
        links: whether symbolic links that stay inside the folder are followed.
    Raises:
        OutsideError: the name is absolute, has `..` in it, is an address or no name at all, or leads out by a link.
    """
    given = str(name)
    path = Path(given)
    if path.is_relative_to(folder):
        path = path.relative_to(folder)
    if not given or "\0" in given:
        raise OutsideError("bad name", f"{_short(given)} cannot be the name of a file; give a plain relative name")
    if path.is_absolute() or ".." in path.parts or "://" in given:
        raise OutsideError(
            "outside the folder", f"{_short(given)} leads out of {folder}; only names inside that folder are opened"
        )
    try:
        base = folder.resolve()
        place = (base / path).resolve()
    except (OSError, RuntimeError) as error:  # a name that is too long, or a circle of links
        raise OutsideError("bad name", f"{_short(given)} cannot be the name of a file in {folder}") from error
    if not place.is_relative_to(base) or (not links and place != base / path):
        raise OutsideError(
            "outside the folder",
            f"{_short(given)} is a link that leads out of {folder}; put the file itself there"
            if links
            else f"{_short(given)} in {folder} is a link; put the file itself there",
        )
    return place


def open_inside(folder: Path, name: str | Path, *, links: bool = True) -> BinaryIO:
    """Opens the plain file `name` in `folder` for reading.

    Raises:
        OutsideError: as `inside`, or it is a folder, a device, a pipe or a socket.
        OSError: it does not exist or cannot be read.
    """
    place = inside(folder, name, links=links)
    try:
        # a pipe without a writer would wait for one
        handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OutsideError("bad name", f"{_short(str(name))} is too long for the name of a file") from error
        if error.errno == errno.ENXIO:
            raise _no_file(folder, name) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _no_file(folder, name)
    return os.fdopen(handle, "rb")


def read_inside(folder: Path, name: str | Path, *, links: bool = True, most: int = MAX_BYTES) -> bytes:
    """The bytes of the plain file `name` in `folder`.

    Raises:
        OutsideError: as `open_inside`, or it has more than `most` bytes.
        OSError: it does not exist or cannot be read.
    """
    with open_inside(folder, name, links=links) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OutsideError(
                "absurd size", f"{_short(str(name))} has {size:,} bytes, at most {most:,} are read; make it smaller"
            )
        return file.read(most)


def is_file(folder: Path, name: str | Path) -> bool:
    """Whether `name` is a plain file in `folder`; what leads out counts as none."""
    try:
        return inside(folder, name).is_file()
    except (OutsideError, OSError):
        return False


def check_folder(folder: Path) -> None:
    """Looks at a model's folder before libraries read it.

    Raises OutsideError: something in it is no plain file, leads out of it, or is a text of an absurd size. In the hub's
    cache files are links, which stay inside the model's folder of the cache.
    """
    cached = folder.resolve().parent.parent
    root = cached if (cached / "blobs").is_dir() and (cached / "snapshots").is_dir() else folder
    seen = 0
    for where, folders, files in os.walk(folder):
        seen += len(folders) + len(files)
        if seen > MOST_FILES:
            raise OutsideError("absurd size", f"{folder} holds more than {MOST_FILES:,} files, which is no model")
        for name in folders:
            if (path := Path(where, name)).is_symlink():
                inside(root, Path(os.path.abspath(path)).relative_to(os.path.abspath(root)))
        for name in files:
            path = Path(where, name)
            with open_inside(root, Path(os.path.abspath(path)).relative_to(os.path.abspath(root))) as file:
                size = os.fstat(file.fileno()).st_size
            if path.suffix in TEXTS and size > MAX_BYTES:
                raise OutsideError("absurd size", f"{path} has {size:,} bytes, which no text of a model has")


@contextmanager
def one_sentence(what: str) -> Iterator[None]:
    """Whatever a library makes of files from elsewhere becomes a WeightsError of one sentence."""
    try:
        yield
    except CoDi2Error:
        raise
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"  # of a library in Rust
        if not isinstance(error, Exception) and not panic:
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
        raise WeightsError(
            f"{what} cannot be loaded ({type(error).__name__}: {lines[0][:300]}); fetch it again or name another model"
        ) from error


def parse_json(text: str | bytes) -> Any:
    """`json.loads`, for which nesting without end is one more kind of damage. Raises ValueError."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _no_file(folder: Path, name: str | Path) -> OutsideError:
    return OutsideError("no plain file", f"{_short(str(name))} in {folder} is no plain file; put a file there")


def _short(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:60]}…{name[-19:]}")

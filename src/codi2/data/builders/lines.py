"""Text files of one record a line (CSV, JSON lines), of any size: planned in one pass, read at any place."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from codi2.data.builders.contract import Raw
from codi2.data.checks import BadRecord
from codi2.errors import DataError
from codi2.hub import atomic_path
from codi2.untrusted import open_inside

LONGEST = 64 * 2**20  # bytes of a record
_PIECE = 1 << 20  # bytes of a line that are read at once
Name = str | Path


class Lines:
    """A file whose records can be read by number. Opening it needs the index that `index_lines` wrote."""

    def __init__(self, root: Path, name: Name, index: Path) -> None:
        """Raises DataError: the file has changed since it was indexed."""
        self.name = str(name)
        self._starts = np.load(index, mmap_mode="r")
        self._file = open_inside(root, name)
        if self._file.seek(0, io.SEEK_END) != self._starts[-1]:
            raise DataError(f"{name} has changed since this build was planned; build into another folder")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: int) -> str:
        """Raises BadRecord: the record is too long."""
        start, end = int(self._starts[i]), int(self._starts[i + 1])
        if end - start > LONGEST:
            raise BadRecord("absurd size", f"record {i} of {self.name} has {end - start:,} bytes")
        self._file.seek(start)
        return self._file.read(end - start).decode("utf-8", "replace").rstrip("\r\n")


def index_lines(root: Path, name: Name, index: Path, *, quoted: bool = False, skip: int = 0, comments: str = "") -> int:
    """Writes where each record of the file `name` inside `root` begins, int64 [N + 1]; returns N.

    Args:
        quoted: CSV: a line break inside quotes does not end a record.
        skip: records at the head that are none (column names).
        comments: lines at the head that begin with this are none either.

    Raises:
        DataError: there is no such file.
        OutsideError: it is no plain file inside `root`.
    """
    begin = 0
    ends = array("q")
    try:
        file = open_inside(root, name)
    except FileNotFoundError as error:
        raise DataError(f"there is no {error.filename}") from error
    with file:
        for at, first, blank in _records(file, quoted):
            comment = bool(comments) and first.startswith(comments.encode())
            if not ends and (comment or skip > 0):
                skip -= not comment
                begin = at
            elif not blank:
                ends.append(at)
            elif ends:  # a blank line goes with the record before it, where it is stripped
                ends[-1] = at
    places = np.array([begin, *ends], dtype=np.int64)
    with atomic_path(index) as aside, open(aside, "wb") as out:
        np.save(out, places)
    return len(ends)


def _records(file: BinaryIO, quoted: bool) -> Iterator[tuple[int, bytes, bool]]:
    """Where each record ends, its first line (or the beginning of it), and whether it is blank."""
    at, first, blank, open_quote = 0, b"", True, False
    while piece := file.readline(_PIECE):
        at += len(piece)
        first, blank = first or piece, blank and not piece.strip()
        open_quote ^= quoted and piece.count(b'"') % 2 == 1
        if piece.endswith(b"\n") and not open_quote:
            yield at, first, blank
            first, blank = b"", True
    if first:  # without a line break, or with a quote that is never closed: the record is bad, and is not to be lost
        yield at, first, blank


def csv_header(root: Path, name: Name) -> list[str]:
    """The column names of a CSV file. Raises DataError: it is no text."""
    try:
        with open_inside(root, name) as file:
            head = io.TextIOWrapper(file, encoding="utf-8", newline="").read(_PIECE)
        return next(csv.reader(io.StringIO(head)), [])
    except FileNotFoundError as error:
        raise DataError(f"there is no {error.filename}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{name} is no CSV file ({error}); bring it again") from error


def csv_fields(line: str) -> list[str]:
    """The fields of one record of a CSV file. Raises BadRecord."""
    try:
        fields = next(csv.reader(io.StringIO(line)), [])
    except csv.Error as error:
        raise BadRecord("malformed", f"{line[:80]!r}: {error}") from error
    if line.count('"') % 2:
        raise BadRecord("malformed", f"{line[:80]!r}: a quote is not closed")
    return fields


def line_entries(lines: Lines, unit: Any, name: str, first: int = 0) -> Iterator[Raw | BadRecord]:
    """The records of a unit that `ranges` planned, as entries `name-first`, …; a record that cannot be read is bad."""
    for i in range(unit["start"], unit["stop"]):
        try:
            line = lines[i]
        except BadRecord as error:
            yield error
        else:
            yield Raw(f"{name}-{i + first}", line, (line,))


def ranges(count: int, size: int, **fixed: Any) -> list[dict[str, Any]]:
    """Units of `size` records each."""
    return [{**fixed, "start": start, "stop": min(start + size, count)} for start in range(0, count, size)]

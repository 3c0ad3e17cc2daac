"""Text files of one record a line (CSV, JSON lines), of any size: planned in one pass, read at any place."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from codi2.data.checks import BadRecord
from codi2.errors import DataError
from codi2.hub import atomic_path


class Lines:
    """A file whose records can be read by number. Opening it needs the index that `index_lines` wrote."""

    def __init__(self, path: Path, index: Path) -> None:
        """Raises DataError: the file has changed since it was indexed."""
        self.path = path
        self._starts = np.load(index, mmap_mode="r")
        self._file = open(path, "rb")  # noqa: SIM115 – open as long as its builder
        if path.stat().st_size != self._starts[-1]:
            raise DataError(f"{path} has changed since this build was planned; build into another folder")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: int) -> str:
        self._file.seek(int(self._starts[i]))
        return self._file.read(int(self._starts[i + 1] - self._starts[i])).decode("utf-8", "replace").rstrip("\r\n")


def index_lines(path: Path, index: Path, *, quoted: bool = False, skip: int = 0, comments: str = "") -> int:
    """Writes where each record of `path` begins, int64 [N + 1]; returns N.

    Args:
        quoted: CSV: a line break inside quotes does not end a record.
        skip: records at the head that are none (column names).
        comments: lines at the head that begin with this are none either.

    Raises DataError: there is no such file.
    """
    begin, at, open_quote = 0, 0, False
    ends = array("q")
    try:
        with open(path, "rb") as file:
            for line in file:
                at += len(line)
                open_quote ^= quoted and line.count(b'"') % 2 == 1
                if open_quote:
                    continue
                comment = bool(comments) and line.startswith(comments.encode())
                if not ends and (comment or skip > 0):
                    skip -= not comment
                    begin = at
                elif line.strip():
                    ends.append(at)
                elif ends:  # a blank line goes with the record before it, where it is stripped
                    ends[-1] = at
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder, and a text file is wanted") from error
    places = np.array([begin, *ends], dtype=np.int64)
    with atomic_path(index) as aside, open(aside, "wb") as out:
        np.save(out, places)
    return len(ends)


def csv_header(path: Path) -> list[str]:
    """The column names of a CSV file. Raises DataError: it is no text."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return next(csv.reader(file), [])
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file ({error}); bring it again") from error


def csv_fields(line: str) -> list[str]:
    """The fields of one record of a CSV file. Raises BadRecord."""
    try:
        return next(csv.reader(io.StringIO(line)), [])
    except csv.Error as error:
        raise BadRecord("malformed", f"{line[:80]!r}: {error}") from error


def ranges(count: int, size: int, **fixed: Any) -> list[dict[str, Any]]:
    """Units of `size` records each."""
    return [{**fixed, "start": start, "stop": min(start + size, count)} for start in range(0, count, size)]


def numbered(lines: Lines, unit: Any) -> Iterator[tuple[int, str]]:
    """The records of a unit that `ranges` planned, with their numbers."""
    for i in range(unit["start"], unit["stop"]):
        yield i, lines[i]

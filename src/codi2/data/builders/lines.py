"""Text files with one record per line (CSV, JSON lines), of any size: indexed in one pass, then read by number."""

from __future__ import annotations

import codecs
import csv
import io
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from codi2.data.builders.contract import Raw
from codi2.data.checks import BadRecord
from codi2.data.texts import decode, encoding_of
from codi2.errors import DataError
from codi2.hub import atomic_path
from codi2.untrusted import open_inside

LONGEST = 64 * 2**20  # most bytes of a record
_PIECE = 1 << 20  # bytes of a line that are read at once
Name = str | Path


class Lines:
    """A file whose records can be read by number, with the index of `index_lines`."""

    def __init__(self, root: Path, name: Name, index: Path) -> None:
        """Raises DataError: the file has changed since it was indexed."""
        self.name = str(name)
        self._starts = np.load(index, mmap_mode="r")
        copy = _copy(index)
        self._file = open_inside(copy.parent, copy.name) if copy.is_file() else open_inside(root, name)
        if self._file.seek(0, io.SEEK_END) != self._starts[-1]:
            raise DataError(f"{name} has changed since this build was planned; build into another folder")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: int) -> str:
        """Raises BadRecord: the record is too long, or its encoding is unknown."""
        start, end = int(self._starts[i]), int(self._starts[i + 1])
        if end - start > LONGEST:
            raise BadRecord("absurd size", f"record {i} of {self.name} has {end - start:,} bytes")
        self._file.seek(start)
        return decode(self._file.read(end - start)).rstrip("\r\n")


def index_lines(root: Path, name: Name, index: Path, *, quoted: bool = False, skip: int = 0, comments: str = "") -> int:
    """Writes the starts of the records of the file `name` inside `root`, int64 [N + 1]; returns N.

    A file in UTF-16 or UTF-32, where a byte of a character may look like a line break, is copied beside the index as
    UTF-8, and its records are read from the copy.

    Args:
        quoted: CSV: a line break inside quotes does not end a record.
        skip: number of header lines (column names).
        comments: prefix of comment lines before the first record.

    Raises:
        DataError: there is no such file, or it is not in the encoding of its byte order mark.
        OutsideError: it is not a plain file inside `root`.
    """
    ends = array("q")
    with ExitStack() as stack:
        source = stack.enter_context(_opened(root, name))
        encoding, begin = encoding_of(source.read(64))
        source.seek(begin)
        _copy(index).unlink(missing_ok=True)
        file = source
        if encoding not in ("", "utf-8"):
            _transcode(source, encoding, name, _copy(index))
            begin, file = 0, stack.enter_context(open(_copy(index), "rb"))
        for at, first, blank in _records(file, quoted, begin):
            comment = bool(comments) and first.startswith(comments.encode())
            if not ends and (comment or skip > 0):
                skip -= not comment
                begin = at
            elif not blank:
                ends.append(at)
            elif ends:  # a blank line belongs to the record before it, which is stripped
                ends[-1] = at
    places = np.array([begin, *ends], dtype=np.int64)
    with atomic_path(index) as aside, open(aside, "wb") as out:
        np.save(out, places)
    return len(ends)


def _opened(root: Path, name: Name) -> BinaryIO:
    """An open file. Raises DataError: there is no such file."""
    try:
        return open_inside(root, name)
    except FileNotFoundError as error:
        raise DataError(f"there is no {error.filename}; name another source") from error


def _copy(index: Path) -> Path:
    return index.with_suffix(".utf8")


def _transcode(source: BinaryIO, encoding: str, name: Name, copy: Path) -> None:
    """Copies a file as UTF-8. Raises DataError."""
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with atomic_path(copy) as aside, open(aside, "wb") as out:
            while piece := source.read(_PIECE):
                out.write(decoder.decode(piece).encode())
            out.write(decoder.decode(b"", final=True).encode())
    except UnicodeError as error:
        raise DataError(f"{name} is damaged or cut off ({error}); save it as UTF-8") from error


def _records(file: BinaryIO, quoted: bool, at: int) -> Iterator[tuple[int, bytes, bool]]:
    """The end of each record from byte `at` on, its first line (or the beginning of it), and whether it is blank."""
    first, blank, open_quote = b"", True, False
    while piece := file.readline(_PIECE):
        at += len(piece)
        first, blank = first or piece, blank and not piece.strip()
        open_quote ^= quoted and piece.count(b'"') % 2 == 1
        if piece.endswith(b"\n") and not open_quote:
            yield at, first, blank
            first, blank = b"", True
    if first:  # without a line break, or with an open quote: the record is bad and is counted
        yield at, first, blank


def csv_header(root: Path, name: Name) -> tuple[list[str], str]:
    """The column names of a CSV file, and its separator: a comma, a semicolon or a tab.

    Raises DataError: it is not text.
    """
    with _opened(root, name) as file:
        head = file.read(_PIECE)
    try:
        encoding, mark = encoding_of(head)
        if encoding not in ("", "utf-8"):
            text = head[mark:].decode(encoding, "ignore")  # cut within a character
        else:
            text = decode(head if len(head) < _PIECE else head[: head.rfind(b"\n") + 1])
        # spreadsheets write a semicolon in locales with decimal commas
        between = max(",;\t", key=text.partition("\n")[0].count)
        return [column.strip() for column in next(csv.reader(io.StringIO(text), delimiter=between), [])], between
    except (BadRecord, ValueError, csv.Error) as error:
        raise DataError(f"{name} is not a CSV file ({error}); download it again") from error


def csv_fields(line: str, between: str = ",") -> list[str]:
    """The fields of one record of a CSV file. Raises BadRecord."""
    try:
        fields = next(csv.reader(io.StringIO(line), delimiter=between), [])
    except csv.Error as error:
        raise BadRecord("malformed", f"{line[:80]!r}: {error}") from error
    if line.count('"') % 2:
        raise BadRecord("malformed", f"{line[:80]!r}: a quote is not closed")
    return fields


def line_entries(lines: Lines, unit: Any, name: str, first: int = 0) -> Iterator[Raw | BadRecord]:
    """The records of a unit of `ranges`, as entries `name-first`, …; a record that cannot be read is a BadRecord."""
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

"""Reads parquet files row by row, with at most one batch of a row group in memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codi2.data.checks import BadRecord
from codi2.errors import DataError, MissingDependencyError
from codi2.untrusted import inside, open_inside

BATCH = 64  # rows decoded at once; pictures are large
Name = str | Path


@contextmanager
def _open(root: Path, name: Name) -> Iterator[Any]:
    """The table `name` inside `root`. Raises DataError: it is missing or damaged; OutsideError: it lies elsewhere."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingDependencyError(
            "reading parquet needs the package pyarrow, which is not installed; run pip install 'codi2[data]'"
        ) from error
    try:
        file = open_inside(root, name)
    except FileNotFoundError as error:
        raise DataError(f"there is no {error.filename}; name another source") from error
    with file:
        try:
            table = ParquetFile(file)
        except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
            raise DataError(
                f"{name} is not a complete parquet file ({_first_line(error)}); download it again"
            ) from error
        with table:
            yield table


def columns(root: Path, name: Name) -> list[str]:
    """The names of the columns. Raises DataError: the file is missing or damaged."""
    with _open(root, name) as table:
        names: list[str] = table.schema_arrow.names
        return names


def need_columns(root: Path, name: Name, wanted: Sequence[str]) -> None:
    """Raises DataError: a column is missing; it names that column and the existing ones."""
    present = columns(root, name)
    if missing := [column for column in wanted if column not in present]:
        raise DataError(f"{name} has no column {missing[0]!r}; it has {', '.join(present)}")


def count_rows(root: Path, name: Name) -> int:
    """The number of rows. Raises DataError: the file is missing or damaged, or claims more rows than it has bytes."""
    with _open(root, name) as table:
        rows = int(table.metadata.num_rows)
    if not 0 <= rows <= inside(root, name).stat().st_size:
        raise DataError(f"{name} claims {rows:,} rows, more than it has bytes; download it again")
    return rows


def read_rows(
    root: Path, name: Name, start: int = 0, stop: int | None = None, names: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any] | BadRecord]]:
    """Rows with their numbers; a BadRecord stands for all rows of a row group that cannot be read.

    Row groups before `start` are skipped without reading. Raises DataError: the file is missing or damaged.
    """
    with _open(root, name) as table:
        first = 0
        for group in range(table.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            if first + count > start and (stop is None or first < stop):
                for place, row in _group(table, group, count, names):
                    number = first + place
                    if isinstance(row, BadRecord):
                        yield number, BadRecord(row.reason, f"{Path(name).name}, {row.detail}")
                    elif number >= start and (stop is None or number < stop):
                        yield number, row
            first += count


def pick_rows(
    root: Path, name: Name, wanted: Collection[int], names: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any] | BadRecord]]:
    """The rows of these numbers; other row groups are skipped without reading. Errors as in `read_rows`."""
    rows = sorted(set(wanted))
    with _open(root, name) as table:
        first = 0
        for group in range(table.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            selected = set(rows[bisect_left(rows, first) : bisect_left(rows, first + count)])
            for place, row in _group(table, group, count, names) if selected else ():
                if isinstance(row, BadRecord):
                    yield first + place, BadRecord(row.reason, f"{Path(name).name}, {row.detail}")
                elif first + place in selected:
                    yield first + place, row
            first += count


def _group(
    table: Any, group: int, count: int, names: Sequence[str] | None
) -> Iterator[tuple[int, dict[str, Any] | BadRecord]]:
    """A row group's rows with their numbers in it; after a batch that cannot be read, rows are read one by one."""
    done = 0
    for size in (BATCH, 1):
        batches, at = table.iter_batches(size, row_groups=[group], columns=names), 0
        try:
            for batch in batches:
                rows: list[Any] = [None] * len(batch) if at + len(batch) <= done else _rows(batch)
                for row in rows:
                    if at >= done:
                        yield at, row
                    at += 1
                done = max(done, at)
            if at >= count:
                return
            reason = "they are missing"
        except Exception as error:  # Arrow raises errors of many types
            reason = _first_line(error)
    yield done, BadRecord("broken table", f"rows {done} to {count - 1} of a row group: {reason}")


def _rows(batch: Any) -> list[Any]:
    """The rows of a batch. Raises Arrow's errors for several rows; a single row that cannot be read is a BadRecord."""
    try:
        rows: list[Any] = batch.to_pylist()
        return rows
    except Exception as error:
        if len(batch) > 1:
            raise
        return [BadRecord("broken table", f"a row cannot be read: {_first_line(error)}")]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def picture_bytes(value: Any) -> bytes:
    """The bytes in the value of a picture column: bytes, or a dict of bytes and path, as `datasets` writes it."""
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else b""

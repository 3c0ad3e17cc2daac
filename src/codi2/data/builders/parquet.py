"""Parquet files, row by row, with no more than a row group's batch in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from codi2.errors import DataError, MissingDependencyError

BATCH = 64  # rows decoded at once; pictures are large


def _open(path: Path) -> Any:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingDependencyError("reading parquet needs pyarrow: pip install 'codi2[data]'") from error
    try:
        return ParquetFile(path)
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}") from error
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is no whole parquet file ({_first_line(error)}); bring it again") from error


def columns(path: Path) -> list[str]:
    """Raises DataError: the file is missing or damaged."""
    with _open(path) as table:
        names: list[str] = table.schema_arrow.names
        return names


def need_columns(path: Path, wanted: Sequence[str]) -> None:
    """Raises DataError naming the first column that is missing, and those that are there."""
    there = columns(path)
    if missing := [name for name in wanted if name not in there]:
        raise DataError(f"{path} has no column {missing[0]!r}; it has {', '.join(there)}")


def count_rows(path: Path) -> int:
    with _open(path) as table:
        return int(table.metadata.num_rows)


def read_rows(
    path: Path, start: int = 0, stop: int | None = None, names: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their numbers. Row groups before `start` are passed over unread. Raises DataError."""
    import pyarrow

    with _open(path) as table:
        at = 0
        try:
            for group in range(table.num_row_groups):
                count = table.metadata.row_group(group).num_rows
                if at + count <= start or (stop is not None and at >= stop):
                    at += count
                    continue
                for batch in table.iter_batches(BATCH, row_groups=[group], columns=names):
                    for row in batch.to_pylist():
                        if at >= start and (stop is None or at < stop):
                            yield at, row
                        at += 1
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{path} is damaged at row {at} ({_first_line(error)}); bring it again") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def picture_bytes(value: Any) -> bytes:
    """A picture column's value: bytes, or the dict of bytes and path that the `datasets` library writes."""
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else b""


def suffix_of(data: bytes) -> str:
    """`jpg`, `png` or `webp` by the first bytes; `jpg` where they say nothing, and decoding will tell."""
    if data.startswith(b"\x89PNG"):
        return "png"
    return "webp" if data[8:12] == b"WEBP" else "jpg"

"""One SQLite file that several processes write: transactions with the write lock, and SQLite's errors as ours."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from codi2.errors import BusyError, DataError, OutputError
from codi2.hub import write_atomic

PATIENCE = 30.0  # seconds that a process waits for another's transaction
RESERVE = 1 << 20  # bytes that are reserved for deletions: on a full disk, their log needs room

T = TypeVar("T")


class Database:
    """A connection to a file. May be used from several threads; a process needs one of its own.

    Args:
        version: of the form of its rows; a file of another version is refused.
    Raises OutputError: the folder cannot be written. DataError: the file is no database, or of another version.
    """

    def __init__(self, file: Path, tables: str, version: int) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(file, check_same_thread=False, isolation_level=None, timeout=PATIENCE)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
                self.db.execute(f"PRAGMA {pragma}")
            self._check_version(file, version)
            # the version first: another process that sees a table sees the version, too
            self.db.executescript(f"PRAGMA user_version = {version}; {tables}")
        except OSError as error:
            raise OutputError(
                f"the sessions' folder {file.parent} cannot be made ({error.strerror}); give another folder"
            ) from error
        except sqlite3.OperationalError as error:
            raise OutputError(f"the sessions in {file.parent} cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"{file} is not a database of sessions ({error}); move it away") from error
        self.lock = threading.RLock()
        self._reserve = file.parent / "reserve"

    def _check_version(self, file: Path, version: int) -> None:
        (tables,) = self.db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (stored,) = self.db.execute("PRAGMA user_version").fetchone()
        if tables and stored != version:
            self.db.close()
            raise DataError(
                f"{file} holds sessions of format {stored}, this version of codi2 reads {version}; serve them with the "
                "version that wrote them, or move the file away"
            )

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction that excludes those of other processes; an exception rolls it back.

        Raises OutputError: the disk is full or cannot be written; nothing was changed. BusyError: another process has
        locked the file for too long.
        """
        with self.lock, _errors():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
                self.db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite rolls some transactions back itself, as on a full disk
                    self.db.execute("ROLLBACK")
                raise

    @contextmanager
    def look(self) -> Iterator[sqlite3.Connection]:
        """A transaction that reads: all its queries see one state of the file. Raises as `change`."""
        with self.lock, _errors():
            self.db.execute("BEGIN")
            try:
                yield self.db
            finally:
                with suppress(sqlite3.Error):
                    self.db.execute("COMMIT")

    def delete(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work`, called in a transaction; deletions succeed on a full disk. Raises as `change`."""
        try:
            with self.change() as db:
                return work(db)
        except OutputError:
            if not self._reserve.is_file():
                raise
        self._reserve.unlink(missing_ok=True)
        with self.change() as db:
            return work(db)

    def keep_reserve(self) -> None:
        """Writes the reserve for deletions again, if the disk has room."""
        if not self._reserve.is_file():
            with suppress(OutputError):
                write_atomic(self._reserve, bytes(RESERVE))

    def rows(self, query: str, *values: Any) -> list[Any]:
        """The rows of one query. Raises as `change`."""
        with self.lock, _errors():
            return self.db.execute(query, values).fetchall()

    def forget(self) -> None:
        """Removes deleted rows from the log too, unless another process reads now or the disk is full."""
        with self.lock, suppress(sqlite3.OperationalError):
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        with self.lock:
            self.db.close()


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise BusyError("another process is writing to the sessions; ask again in 5 seconds", 5.0) from error
        raise OutputError(f"the sessions cannot be written: {error}; free some space on the disk") from error

"""Media of sessions in files that are named by the hash of their content, shared by all processes of a folder.

A file is kept as long as a round names it or a writer claims it: a claim is a row for a round that is about to be
added. Files are removed inside a transaction, which excludes claims and rounds of other processes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from codi2.errors import CoDi2Error, DataError
from codi2.hub import write_atomic
from codi2.serve.database import Database

TABLES = """
CREATE TABLE IF NOT EXISTS media (
    name TEXT NOT NULL, session TEXT NOT NULL, number INTEGER NOT NULL,
    FOREIGN KEY (session, number) REFERENCES rounds (session, number) ON DELETE CASCADE);
CREATE INDEX IF NOT EXISTS by_name ON media (name);
CREATE INDEX IF NOT EXISTS by_round ON media (session, number);
CREATE TABLE IF NOT EXISTS claims (name TEXT NOT NULL, writer TEXT NOT NULL, until REAL NOT NULL);
CREATE INDEX IF NOT EXISTS claimed ON claims (name);
"""
CLAIM_SECONDS = 600.0  # that a claim holds, and that the writing of a file may take
BATCH = 64  # files that are removed in one transaction


class MediaFiles:
    """The files under `folder`.

    Args:
        writer: a unique name of this process's store.
    """

    def __init__(self, database: Database, folder: Path, writer: str) -> None:
        self.database, self.folder, self.writer = database, folder, writer

    def path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def put(self, media: dict[str, bytes]) -> None:
        """Claims media by their names (`chat.files.content_name`) and writes the files that are missing.

        Raises OutputError: they cannot be written, and the files that were written are removed.
        """
        until = time.time() + CLAIM_SECONDS
        with self.database.change() as db:
            db.executemany("INSERT INTO claims VALUES (?, ?, ?)", [(name, self.writer, until) for name in media])
        try:
            for name, data in media.items():
                if not self.path(name).is_file():
                    write_atomic(self.path(name), data)
        except BaseException:
            with suppress(CoDi2Error):  # on a full disk the claims stay until they end by themselves
                self.release(media)
            raise

    def get(self, name: str) -> bytes:
        """The bytes of a medium. Raises DataError: its file is missing."""
        try:
            return self.path(name).read_bytes()
        except OSError as error:
            raise DataError(f"the medium {name} is missing ({error.strerror}); restore its file") from error

    def named(self, names: Iterable[str], session: str, number: int) -> None:
        """Records that a round names these media, and ends this writer's claims: inside the round's transaction."""
        db = self.database.db
        for name in names:
            db.execute("INSERT INTO media VALUES (?, ?, ?)", (name, session, number))
            db.execute(_UNCLAIM, (name, self.writer))

    def release(self, names: Iterable[str]) -> None:
        """Ends this writer's claims of media that no round will name, and removes the files that nothing needs."""
        with self.database.change() as db:
            for name in names:
                if self._needed(name) <= Counter({self.writer: 1}):
                    self._remove(name)  # before the rows change, which a full disk does not allow
                db.execute(_UNCLAIM, (name, self.writer))

    def drop(self, names: Iterable[str]) -> None:
        """Removes those of these media that no round names and no writer claims."""
        all_names = list(names)
        for start in range(0, len(all_names), BATCH):
            with self.database.change():
                for name in all_names[start : start + BATCH]:
                    if not self._needed(name):
                        self._remove(name)

    def sweep(self) -> int:
        """Removes the files that nothing needs, as a kill leaves them, and returns their number."""
        files = list(self.folder.glob("*/*"))
        with self.database.change() as db:
            db.execute("DELETE FROM claims WHERE until < ?", (time.time(),))
        rows = self.database.rows("SELECT name FROM media UNION SELECT name FROM claims")
        needed = {name for (name,) in rows}
        orphans = [path.name for path in files if path.name not in needed and not path.name.startswith(".")]
        self.drop(orphans)
        half_written = [path for path in files if path.name.startswith(".") and _age(path) > CLAIM_SECONDS]
        for path in half_written:
            path.unlink(missing_ok=True)
        return len(orphans) + len(half_written)

    def _needed(self, name: str) -> Counter[str]:
        """Writer → the number of its claims of a file; "" has 1 where a round names it."""
        db = self.database.db
        rows = db.execute("SELECT writer FROM claims WHERE name = ? AND until >= ?", (name, time.time())).fetchall()
        named = db.execute("SELECT 1 FROM media WHERE name = ? LIMIT 1", (name,)).fetchall()
        return Counter([writer for (writer,) in rows] + [""] * len(named))

    def _remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)


_UNCLAIM = "DELETE FROM claims WHERE rowid = (SELECT rowid FROM claims WHERE name = ? AND writer = ? LIMIT 1)"


def _age(path: Path) -> float:
    """Seconds since a file was changed; 0: it is missing."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0

"""Media of sessions as files by the hash of their content, shared by all processes that serve a folder.

A file is there as long as a round names it or a writer claims it: a claim is a row that stands for a round that is
about to be added. Files are removed inside a transaction, which no claim and no round of another process can overlap.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from codi2.chat.files import content_name
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
YOUNG = 600.0  # seconds that a claim holds, and that a file may take to be written
SWEPT = 64  # files that are removed in one transaction


class MediaFiles:
    """The files under `folder`.

    Args:
        writer: a name of this process's store, which no other has.
    """

    def __init__(self, database: Database, folder: Path, writer: str) -> None:
        self.database, self.folder, self.writer = database, folder, writer

    def path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def put(self, media: dict[str, bytes]) -> None:
        """Claims media by their names (`content_name`) and writes those that are not there.

        Raises OutputError: they cannot be written; what was written is removed again.
        """
        until = time.time() + YOUNG
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

    def put_one(self, data: bytes, suffix: str) -> str:
        """The same of one medium: its name."""
        name = content_name(data, suffix)
        self.put({name: data})
        return name

    def get(self, name: str) -> bytes:
        """Raises DataError: the medium is gone."""
        try:
            return self.path(name).read_bytes()
        except OSError as error:
            raise DataError(f"the medium {name} is missing: {error.strerror}") from error

    def named(self, names: Iterable[str], session: str, number: int) -> None:
        """A round names these media, and this writer's claims of them end: in the transaction that adds the round."""
        db = self.database.db
        for name in names:
            db.execute("INSERT INTO media VALUES (?, ?, ?)", (name, session, number))
            db.execute(_UNCLAIM, (name, self.writer))

    def release(self, names: Iterable[str]) -> None:
        """Ends this writer's claims of media that no round will name, and removes those that nobody else needs."""
        with self.database.change() as db:
            for name in names:
                if self._needed(name) <= Counter({self.writer: 1}):
                    self._remove(name)  # before the rows change, which a full disk does not allow
                db.execute(_UNCLAIM, (name, self.writer))

    def drop(self, names: Iterable[str]) -> None:
        """Removes those of these media that no round names and nobody claims any more."""
        todo = list(names)
        for start in range(0, len(todo), SWEPT):
            with self.database.change():
                for name in todo[start : start + SWEPT]:
                    if not self._needed(name):
                        self._remove(name)

    def sweep(self) -> int:
        """Removes the files that nothing needs, as a kill leaves them: how many. Takes the lock for moments only."""
        found = list(self.folder.glob("*/*"))
        with self.database.change() as db:
            db.execute("DELETE FROM claims WHERE until < ?", (time.time(),))
        rows = self.database.rows("SELECT name FROM media UNION SELECT name FROM claims")
        needed = {name for (name,) in rows}
        orphans = [path.name for path in found if path.name not in needed and not path.name.startswith(".")]
        self.drop(orphans)
        half_written = [path for path in found if path.name.startswith(".") and _age(path) > YOUNG]
        for path in half_written:
            path.unlink(missing_ok=True)
        return len(orphans) + len(half_written)

    def _needed(self, name: str) -> Counter[str]:
        """Who needs a file: writers by the number of their claims, and "" for the rounds."""
        db = self.database.db
        rows = db.execute("SELECT writer FROM claims WHERE name = ? AND until >= ?", (name, time.time())).fetchall()
        named = db.execute("SELECT 1 FROM media WHERE name = ? LIMIT 1", (name,)).fetchall()
        return Counter([writer for (writer,) in rows] + [""] * len(named))

    def _remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)


_UNCLAIM = "DELETE FROM claims WHERE rowid = (SELECT rowid FROM claims WHERE name = ? AND writer = ? LIMIT 1)"


def _age(path: Path) -> float:
    """Seconds since a file was changed; 0: it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0

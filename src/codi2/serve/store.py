"""What the server remembers: sessions and API keys in one SQLite file, media by the hash of their content beside it.

    codi2.db  media/3f/3f…c1.png

A round is there when the call that adds it returns: its media are on the disk before its row is, and the row is a
transaction. A kill at any moment leaves the rounds that were finished. A medium that no round names any more is
removed with the last that did; what a kill orphaned is swept at the next start.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codi2.chat import Round
from codi2.chat.files import content_name, to_json
from codi2.errors import DataError, OutputError
from codi2.hub import write_atomic
from codi2.serve.keys import Keys

YOUNG = 600.0  # seconds: a medium that no round names yet may belong to one that is being made
TABLES = """
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, title TEXT NOT NULL, about TEXT NOT NULL, created REAL, changed REAL);
CREATE INDEX IF NOT EXISTS of_owner ON sessions (owner, changed);
CREATE TABLE IF NOT EXISTS rounds (
    session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE, number INTEGER NOT NULL, round TEXT NOT NULL,
    PRIMARY KEY (session, number));
CREATE TABLE IF NOT EXISTS media (
    name TEXT NOT NULL, session TEXT NOT NULL, number INTEGER NOT NULL,
    FOREIGN KEY (session, number) REFERENCES rounds (session, number) ON DELETE CASCADE);
CREATE INDEX IF NOT EXISTS by_name ON media (name);
CREATE INDEX IF NOT EXISTS by_round ON media (session, number);
"""


class NoSession(DataError):
    """There is no such session, or it is another's."""


@dataclass(frozen=True)
class Session:
    """A conversation that the server holds; `created` and `changed` are seconds since 1970."""

    id: str
    title: str
    rounds: int
    created: float
    changed: float


class Store(Keys):
    """Sessions and keys under a folder. May be used from several threads, and by several processes.

    Raises OutputError: the folder cannot be written. DataError: the file in it is none of ours.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(folder / "codi2.db", check_same_thread=False, isolation_level=None, timeout=30)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.executescript(TABLES)
            super().__init__(folder)
        except OSError as error:
            raise OutputError(f"the sessions' folder {folder} cannot be made: {error.strerror}") from error
        except sqlite3.OperationalError as error:
            raise OutputError(f"the sessions in {folder} cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"{folder / 'codi2.db'} is no file of sessions ({error}); move it away") from error
        self._lock = threading.RLock()
        self._sweep()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            try:
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as error:
                self._db.execute("ROLLBACK")
                raise OutputError(f"the sessions in {self.folder} cannot be written: {error}") from error

    def create(self, owner: str, title: str = "", about: Mapping[str, Any] | None = None) -> Session:
        """A new session. `about` is kept with it, as JSON."""
        name, now = secrets.token_urlsafe(12), time.time()
        with self._change() as db:
            db.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?)",
                (name, owner, title, json.dumps(about or {}), now, now),
            )
        return Session(name, title, 0, now, now)

    def sessions(self, owner: str) -> list[Session]:
        """An owner's, the last changed first."""
        with self._lock:
            rows = self._db.execute(_SELECT + "WHERE owner = ? ORDER BY changed DESC", (owner,)).fetchall()
        return [Session(*row) for row in rows]

    def session(self, owner: str, name: str) -> Session:
        """Raises NoSession."""
        with self._lock:
            row = self._db.execute(_SELECT + "WHERE owner = ? AND id = ?", (owner, name)).fetchone()
        if row is None:
            raise NoSession(f"there is no session {name!r}")
        return Session(*row)

    def about(self, owner: str, name: str) -> dict[str, Any]:
        """What was kept with a session. Raises NoSession."""
        self.session(owner, name)
        with self._lock:
            (text,) = self._db.execute("SELECT about FROM sessions WHERE id = ?", (name,)).fetchone()
        values: dict[str, Any] = json.loads(text)
        return values

    def rename(self, owner: str, name: str, title: str) -> Session:
        """Raises NoSession."""
        self.session(owner, name)
        with self._change() as db:
            db.execute("UPDATE sessions SET title = ?, changed = ? WHERE id = ?", (title, time.time(), name))
        return self.session(owner, name)

    def rounds(self, owner: str, name: str) -> list[dict[str, Any]]:
        """The rounds of a session, as `chat.files.to_json` made them. Raises NoSession."""
        self.session(owner, name)
        with self._lock:
            rows = self._db.execute("SELECT round FROM rounds WHERE session = ? ORDER BY number", (name,)).fetchall()
        return [json.loads(text) for (text,) in rows]

    def keep(self, owner: str, name: str, number: int, round_: Round) -> None:
        """Keeps a round with its media. Raises as `add`."""
        with self._lock:  # nobody drops a medium between its file and its row
            self.add(owner, name, number, to_json(round_, self.put))

    def add(self, owner: str, name: str, number: int, round_: Mapping[str, Any]) -> None:
        """Keeps a round, whose media were given to `put`.

        Raises:
            NoSession: the session was deleted meanwhile.
            DataError: the session has another number of rounds: somebody else has added or undone one.
        """
        with self._change() as db:
            count = self.session(owner, name).rounds
            if count != number:
                raise DataError(
                    f"the session has {count} rounds and not {number}: it was changed elsewhere; load it again"
                )
            db.execute("INSERT INTO rounds VALUES (?, ?, ?)", (name, number, json.dumps(round_)))
            files = sorted({file for part in (*round_["prompt"], *round_["reply"]) for file in _files(part)})
            db.executemany("INSERT INTO media VALUES (?, ?, ?)", [(file, name, number) for file in files])
            db.execute("UPDATE sessions SET changed = ? WHERE id = ?", (time.time(), name))

    def undo(self, owner: str, name: str) -> int:
        """Removes the last round: how many are left. Raises NoSession, and DataError where there is none."""
        with self._change() as db:
            count = self.session(owner, name).rounds
            if not count:
                raise DataError("there is nothing to undo: this session has no round yet")
            where = "session = ? AND number = ?"
            dropped = db.execute(f"SELECT name FROM media WHERE {where}", (name, count - 1)).fetchall()
            db.execute(f"DELETE FROM rounds WHERE {where}", (name, count - 1))
        self._drop([file for (file,) in dropped])
        return count - 1

    def delete(self, owner: str, name: str) -> None:
        """Removes a session, its rounds and what media no other has: from the disk, not from view. Raises NoSession."""
        with self._change() as db:
            self.session(owner, name)
            dropped = db.execute("SELECT DISTINCT name FROM media WHERE session = ?", (name,)).fetchall()
            db.execute("DELETE FROM sessions WHERE id = ?", (name,))
        with self._lock:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the log would remember it
        self._drop([file for (file,) in dropped])

    def put(self, data: bytes, suffix: str) -> str:
        """Keeps a medium for a round that is about to be added: its name."""
        name = content_name(data, suffix)
        path = self.path(name)
        if not path.is_file():
            write_atomic(path, data)
        else:
            path.touch()  # it is about to be used again: not to be swept
        return name

    def get(self, name: str) -> bytes:
        """A medium of a round. Raises DataError: it is gone."""
        try:
            return self.path(name).read_bytes()
        except OSError as error:
            raise DataError(f"the medium {name} is missing from {self.folder}: {error.strerror}") from error

    def path(self, name: str) -> Path:
        """Where a medium is."""
        return self.folder / "media" / name[:2] / name

    def _sweep(self) -> None:
        """Removes media that no round names; young ones may belong to a round that is being made."""
        with self._lock:
            named = {name for (name,) in self._db.execute("SELECT DISTINCT name FROM media")}
        for path in (self.folder / "media").glob("*/*"):
            if path.name not in named and time.time() - path.stat().st_mtime > YOUNG:
                path.unlink(missing_ok=True)

    def _drop(self, names: list[str]) -> None:
        """Removes those of these media that no round names any more."""
        with self._lock:
            for name in names:
                if not self._db.execute("SELECT 1 FROM media WHERE name = ?", (name,)).fetchone():
                    self.path(name).unlink(missing_ok=True)
                    for copy in (self.folder / "page").rglob(name):  # what the page showed of it
                        copy.unlink(missing_ok=True)

    def close(self) -> None:
        self.close_keys()
        with self._lock:
            self._db.close()


_SELECT = """SELECT id, title, (SELECT count(*) FROM rounds WHERE session = id), created, changed FROM sessions """


def _files(part: Mapping[str, Any]) -> list[str]:
    file = part.get("file", [])
    return [file] if isinstance(file, str) else list(file)

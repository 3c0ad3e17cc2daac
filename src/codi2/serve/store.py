"""Sessions and API keys in one SQLite file; their media in files that are named by the hash of their content.

    codi2.db  media/3f/3f…c1.png  reserve

Several processes may serve one folder. A round is stored when the call that adds it returns: its media are written
before its row, and the row is a transaction. A kill at any moment leaves all finished rounds. A medium is removed with
the last round that names it; files that a kill leaves are removed while the server runs.
"""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codi2.chat import Round
from codi2.chat.document import SCHEMA
from codi2.chat.files import content_name, files_in, to_json
from codi2.errors import CoDi2Error, DataError, OutputError
from codi2.serve import keys, media_files
from codi2.serve.database import Database
from codi2.serve.keys import Keys
from codi2.serve.media_files import MediaFiles
from codi2.serve.uploads import Uploads

SWEEP = 300.0  # seconds between two sweeps of a running server
TABLES = """
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, title TEXT NOT NULL, about TEXT NOT NULL, created REAL, changed REAL);
CREATE INDEX IF NOT EXISTS of_owner ON sessions (owner, changed);
CREATE TABLE IF NOT EXISTS rounds (
    session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE, number INTEGER NOT NULL, round TEXT NOT NULL,
    PRIMARY KEY (session, number));
CREATE TABLE IF NOT EXISTS revisions (
    session TEXT PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE, revision INTEGER NOT NULL);
"""


class NoSession(DataError):
    """There is no such session, or it is another's."""


class SessionChanged(DataError):
    """A session has other rounds than the caller expects: another request or server has changed it."""

    @classmethod
    def of_counts(cls, count: int, expected: int) -> SessionChanged:
        """The session has `count` rounds."""
        return cls(f"the session has {count} rounds and not {expected}: it was changed elsewhere; load it again")


@dataclass(frozen=True)
class Session:
    """A conversation that the server holds; `created` and `changed` are seconds since 1970."""

    id: str
    title: str
    rounds: int
    created: float
    changed: float


@dataclass(frozen=True)
class StoredSession:
    """All of a session at one moment: what `create` stored with it, its rounds as `chat.files.to_json` made them, and a
    revision that changes with each change of its rounds."""

    about: dict[str, Any]
    rounds: list[dict[str, Any]]
    revision: int


class Store(Keys):
    """Sessions and keys under a folder. May be used from several threads, and by several processes.

    Raises OutputError: the folder cannot be written. DataError: the file in it is not a database of sessions.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        database = Database(folder / "codi2.db", TABLES + media_files.TABLES + keys.TABLES, SCHEMA)
        self._db = database.db
        self.media = MediaFiles(database, folder / "media", secrets.token_urlsafe(9))
        self.uploads = Uploads(folder / "uploads")
        self._closed = threading.Event()
        try:
            super().__init__(database, folder)
        except sqlite3.Error as error:
            raise OutputError(f"the keys in {folder} cannot be opened: {error}") from error
        self.sweep()

    def create(self, owner: str, title: str = "", about: Mapping[str, Any] | None = None) -> Session:
        """A new session. `about` is stored with it, as JSON."""
        name, now = secrets.token_urlsafe(12), time.time()
        with self._database.change() as db:
            db.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?)",
                (name, owner, title, json.dumps(about or {}), now, now),
            )
        return Session(name, title, 0, now, now)

    def sessions(self, owner: str) -> list[Session]:
        """The sessions of an owner, the last changed first."""
        rows = self._database.rows(_SELECT + "WHERE owner = ? ORDER BY changed DESC", owner)
        return [Session(*row) for row in rows]

    def session(self, owner: str, name: str) -> Session:
        """Raises NoSession."""
        rows = self._database.rows(_SELECT + "WHERE owner = ? AND id = ?", owner, name)
        if not rows:
            raise NoSession(f"there is no session {name!r}; list the sessions")
        return Session(*rows[0])

    def revision(self, owner: str, name: str) -> int:
        """A number that changes with each change of the session's rounds. Raises NoSession."""
        self.session(owner, name)
        rows = self._database.rows("SELECT revision FROM revisions WHERE session = ?", name)
        return int(rows[0][0]) if rows else 0

    def load(self, owner: str, name: str) -> StoredSession:
        """All of a session. Raises NoSession."""
        with self._database.look() as db:
            self.session(owner, name)
            (about,) = db.execute("SELECT about FROM sessions WHERE id = ?", (name,)).fetchone()
            rounds = db.execute("SELECT round FROM rounds WHERE session = ? ORDER BY number", (name,)).fetchall()
            revision = self.revision(owner, name)
        return StoredSession(json.loads(about), [json.loads(text) for (text,) in rounds], revision)

    def rename(self, owner: str, name: str, title: str) -> Session:
        """Raises NoSession."""
        self.session(owner, name)
        with self._database.change() as db:
            db.execute("UPDATE sessions SET title = ?, changed = ? WHERE id = ?", (title, time.time(), name))
        return self.session(owner, name)

    def rounds(self, owner: str, name: str) -> list[dict[str, Any]]:
        """The rounds of a session, as `chat.files.to_json` made them. Raises NoSession."""
        return self.load(owner, name).rounds

    def rounds_with(self, owner: str, name: str, files: Sequence[str]) -> list[dict[str, Any]]:
        """The rounds of a session that have one of these media. Raises NoSession."""
        self.session(owner, name)
        marks = ", ".join("?" * len(files))
        where = f"session = ? AND number IN (SELECT number FROM media WHERE session = ? AND name IN ({marks}))"
        rows = self._database.rows(f"SELECT round FROM rounds WHERE {where}", name, name, *files)
        return [json.loads(text) for (text,) in rows]

    def keep(
        self, owner: str, name: str, number: int, round_: Round, count: int | None = None, revision: int | None = None
    ) -> int:
        """Stores a round with its media, or nothing of it. Returns and raises as `add`."""
        media: dict[str, bytes] = {}

        def add_file(data: bytes, suffix: str) -> str:
            file_name = content_name(data, suffix)
            media[file_name] = data
            return file_name

        value = to_json(round_, add_file)
        self.media.put(media)
        try:
            return self.add(owner, name, number, value, count, revision)
        except BaseException:
            with suppress(CoDi2Error):  # on a full disk, the claims end by themselves
                self.media.release(media)
            raise

    def add(
        self,
        owner: str,
        name: str,
        number: int,
        round_: Mapping[str, Any],
        count: int | None = None,
        revision: int | None = None,
    ) -> int:
        """Stores a round whose media were stored by `MediaFiles.put`. It replaces the rounds from `number` on.

        Args:
            count: rounds that the caller expects in the session; None: `number`, so that no round is replaced.
            revision: that the caller expects; None: any.
        Returns: the session's new revision.
        Raises:
            NoSession: the session was deleted. SessionChanged: it has another number of rounds or another revision.
            OutputError: the disk is full.
        """
        with self._database.change() as db:
            self._check(owner, name, number if count is None else count, revision)
            dropped = self._remove(name, number)
            db.execute("INSERT INTO rounds VALUES (?, ?, ?)", (name, number, json.dumps(round_)))
            files = {file for part in (*round_["prompt"], *round_["reply"]) for file in files_in(part)}
            self.media.named(sorted(files), name, number)
            new_revision = self._changed(name)
        if count is not None and count > number:
            self._forget(dropped)
        return new_revision

    def undo(self, owner: str, name: str, revision: int | None = None) -> int:
        """Removes the last round and returns the number of the others. Raises as `add`; DataError: there is none."""

        def work(db: sqlite3.Connection) -> tuple[int, list[str]]:
            count = self.session(owner, name).rounds
            if not count:
                raise DataError("there is nothing to undo: this session has no round yet")
            self._check(owner, name, count, revision)
            dropped = self._remove(name, count - 1)
            self._changed(name)
            return count - 1, dropped

        left, dropped = self._database.delete(work)
        self._forget(dropped)
        return left

    def delete(self, owner: str, name: str) -> None:
        """Removes a session, its rounds, and the media that no other session has, from the disk. Raises NoSession."""

        def work(db: sqlite3.Connection) -> list[str]:
            self.session(owner, name)
            dropped = self._remove(name, 0)
            db.execute("DELETE FROM sessions WHERE id = ?", (name,))
            return dropped

        self._forget(self._database.delete(work))

    def _check(self, owner: str, name: str, count: int, revision: int | None) -> None:
        rounds, current = self.session(owner, name).rounds, self.revision(owner, name)
        if rounds != count:
            raise SessionChanged.of_counts(rounds, count)
        if revision is not None and current != revision:
            raise SessionChanged("the session's rounds were changed elsewhere; load it again")

    def _remove(self, name: str, number: int) -> list[str]:
        """Deletes the rows of the rounds from `number` on, and returns the names of their media."""
        where = "session = ? AND number >= ?"
        named = self._db.execute(f"SELECT DISTINCT name FROM media WHERE {where}", (name, number)).fetchall()
        self._db.execute(f"DELETE FROM rounds WHERE {where}", (name, number))
        return [file for (file,) in named]

    def _changed(self, name: str) -> int:
        """Records a change of the rounds, and returns the new revision."""
        self._db.execute("UPDATE sessions SET changed = ? WHERE id = ?", (time.time(), name))
        (row,) = self._db.execute(_COUNT_UP, (name,)).fetchall()
        return int(row[0])

    def _forget(self, media: list[str]) -> None:
        """Removes deleted rows and media from the disk. Where that fails, a later sweep does it."""
        self._database.forget()
        with suppress(CoDi2Error):
            self.media.drop(media)

    def get(self, name: str) -> bytes:
        """The bytes of a medium. Raises DataError: its file is missing."""
        return self.media.get(name)

    def sweep(self) -> None:
        """Removes the files that no round names and no writer claims, as a kill leaves them; also on a full disk."""
        with suppress(CoDi2Error):
            self.media.sweep()
        self.uploads.sweep()
        self._database.forget()
        self._database.keep_reserve()

    def keep_sweeping(self, seconds: float = SWEEP) -> None:
        """Sweeps every `seconds`, in a thread that ends with the store."""

        def work() -> None:
            while not self._closed.wait(seconds):
                try:
                    self.sweep()
                except Exception:
                    if not self._closed.is_set():
                        logging.getLogger("codi2").exception("a sweep of the sessions' media failed")

        threading.Thread(target=work, name="codi2-sweep", daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self.close_keys()
        self._database.close()


_SELECT = """SELECT id, title, (SELECT count(*) FROM rounds WHERE session = id), created, changed FROM sessions """


_COUNT_UP = """INSERT INTO revisions VALUES (?, 1) ON CONFLICT (session) DO UPDATE SET revision = revision + 1
RETURNING revision"""

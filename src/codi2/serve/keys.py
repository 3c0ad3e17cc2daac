"""API keys, and the number of requests that each has made in the last minute.

A key's secret is 256 random bits, of which only the hash is stored. A session belongs to the id of a key and not to its
label, so a label that is used again is another owner. A revoked key stays as a row without its hash. So the number of
rows never falls, and tells "there was never a key" from "every key was revoked".
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from codi2.errors import BusyError, DataError
from codi2.serve.database import Database

LONGEST_LABEL = 100  # characters
MINUTE = 60.0  # seconds
TABLES = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, hash TEXT UNIQUE, label TEXT NOT NULL, per_minute INTEGER NOT NULL, created REAL,
    revoked REAL);
CREATE UNIQUE INDEX IF NOT EXISTS labels_in_use ON keys (label) WHERE revoked IS NULL;
"""
_REQUESTS = """
CREATE TABLE IF NOT EXISTS requests (key TEXT NOT NULL, moment REAL NOT NULL);
CREATE INDEX IF NOT EXISTS by_key ON requests (key);
CREATE INDEX IF NOT EXISTS by_moment ON requests (moment);
"""


@dataclass(frozen=True)
class Key:
    """An API key; only the hash of its secret is stored."""

    id: str  # owns the key's sessions
    label: str
    per_minute: int  # requests; 0: any number
    created: float  # seconds since 1970


class Keys:
    """The keys in `codi2.db` of a folder, which `database` has open.

    They are read by a connection of their own, so that a key can be checked while another thread writes a round.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        """Raises sqlite3.Error."""
        self._database = database
        self._keys = _connect(folder / "codi2.db")
        self._requests = _connect(folder / "requests.db")
        self._requests.executescript(_REQUESTS)
        self._requests.execute("PRAGMA synchronous = NORMAL")  # a crash may forget a minute's requests
        self._requests.execute("PRAGMA busy_timeout = 1000")  # ms: requests are counted in the event loop
        self._guard = threading.Lock()

    def make_key(self, label: str, per_minute: int = 0) -> str:
        """Makes an API key and returns its secret, which is not stored. Raises DataError: the label is in use, or
        malformed."""
        if not label.isprintable() or not 0 < len(label.strip()) == len(label) <= LONGEST_LABEL:
            raise DataError(
                f"the label {label!r} cannot be used; a label has 1 to {LONGEST_LABEL} printable characters and no "
                "space at its ends"
            )
        secret = f"codi2-{secrets.token_urlsafe(32)}"
        row = (f"key_{secrets.token_urlsafe(12)}", _hash(secret), label, per_minute, time.time(), None)
        try:
            with self._database.change() as db:
                db.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?)", row)
        except sqlite3.IntegrityError as error:
            raise DataError(f"there is a key {label!r} already; revoke it or choose another label") from error
        return secret

    def list_keys(self) -> list[Key]:
        """The keys that are not revoked, the oldest first."""
        return [key for key, _ in self._in_use()]

    def count_keys(self) -> int:
        """The number of keys that were ever made, with revoked ones."""
        with self._guard:
            (count,) = self._keys.execute("SELECT count(*) FROM keys").fetchone()
        return int(count)

    def key(self, secret: str) -> Key | None:
        """The key with this secret. All keys are compared, so that the time does not depend on the secret."""
        hashed, match = _hash(secret), None
        for key, known in self._in_use():
            if hmac.compare_digest(hashed, known):
                match = key
        return match

    def revoke(self, label: str) -> Key:
        """Ends a key. Its sessions stay, and no other key reaches them. Raises DataError: there is no such key."""
        key_in_use = next((key for key in self.list_keys() if key.label == label), None)
        if key_in_use is None:
            raise DataError(f"there is no key {label!r}; list the keys with codi2 keys list")
        with self._database.change() as db:
            db.execute("UPDATE keys SET hash = NULL, revoked = ? WHERE id = ?", (time.time(), key_in_use.id))
        return key_in_use

    def count_request(self, key: Key) -> None:
        """Counts a request of a key, for all processes that serve the folder.

        Raises BusyError: the key has used its requests of this minute; a refused request is not counted.
        """
        if not key.per_minute:
            return
        now = time.time()
        try:
            with self._guard:
                self._requests.execute("BEGIN IMMEDIATE")
                try:
                    self._requests.execute("DELETE FROM requests WHERE moment <= ?", (now - MINUTE,))
                    # when the clock is set back, a key must not wait for hours
                    self._requests.execute("DELETE FROM requests WHERE moment > ?", (now + MINUTE,))
                    count, first = self._requests.execute(
                        "SELECT count(*), min(moment) FROM requests WHERE key = ?", (key.id,)
                    ).fetchone()
                    if count < key.per_minute:
                        self._requests.execute("INSERT INTO requests VALUES (?, ?)", (key.id, now))
                finally:
                    self._requests.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise BusyError("this key's requests cannot be counted at the moment; ask again in 5 s", 5.0) from error
        if count >= key.per_minute:
            wait = min(MINUTE, max(0.0, MINUTE - (now - first)))
            raise BusyError(f"this key may ask {key.per_minute} times a minute; ask again in {wait:.0f} s", wait)

    def close_keys(self) -> None:
        with self._guard:
            self._keys.close()
            self._requests.close()

    def _in_use(self) -> list[tuple[Key, str]]:
        with self._guard:
            rows = self._keys.execute(
                "SELECT id, label, per_minute, created, hash FROM keys WHERE revoked IS NULL ORDER BY created"
            ).fetchall()
        return [(Key(*row), known) for *row, known in rows]


def _connect(file: Path) -> sqlite3.Connection:
    db = sqlite3.connect(file, check_same_thread=False, isolation_level=None, timeout=30)
    db.execute("PRAGMA journal_mode = WAL")
    return db


def _hash(secret: str) -> str:
    """Of 256 random bits: a slow hash, which is for words that people choose, would add nothing."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()

"""Media that clients have sent and not yet used in a message: one folder for each client, files with random ids.

An id is looked up among the names in its client's folder, and never joined to a path.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from codi2.errors import BusyError, DataError
from codi2.hub import write_atomic
from codi2.senses import LOADERS

LIFETIME = 3600.0  # seconds
MOST_FILES, MOST_BYTES = 256, 256 << 20  # of one client at a time


class NoMedium(DataError):
    """There is no such medium, or it belongs to another client."""


@dataclass(frozen=True)
class Uploads:
    """The uploads in a folder. May be used from several threads, and by several processes."""

    folder: Path

    def put(self, owner: str, data: bytes, kind: str = "") -> str:
        """Stores the bytes of a medium and returns its id.

        Args:
            kind: one of the senses; empty for formats that can be recognised by their bytes.
        Raises:
            BusyError: the client has too many uploads at once. OutputError: the folder cannot be written.
        """
        self.sweep()
        files = list(self._files(owner).values())
        if len(files) >= MOST_FILES or sum(_size(file) for file in files) + len(data) > MOST_BYTES:
            raise BusyError(
                f"you have {len(files)} uploads that are in no message yet, and at most {MOST_FILES} with "
                f"{MOST_BYTES >> 20} MB are kept; send or delete one of them",
                60.0,
            )
        name = secrets.token_urlsafe(16)
        write_atomic(self._of(owner) / f"{name}.{kind if kind in LOADERS else 'file'}", data)
        return name

    def get(self, owner: str, name: str) -> tuple[str, bytes]:
        """The kind and the bytes of a medium, for `senses.load_as`. Raises NoMedium."""
        file = self._file(owner, name)
        try:
            return file.suffix[1:], file.read_bytes()
        except OSError as error:
            raise _missing(name) from error

    def delete(self, owner: str, name: str) -> None:
        """Raises NoMedium."""
        self._file(owner, name).unlink(missing_ok=True)

    def drop(self, owner: str, names: Iterable[str]) -> None:
        """Removes these media, where they exist; a later sweep removes the files that cannot be removed now."""
        with suppress(OSError):
            files = self._files(owner)
            for name in names:
                if name in files:
                    files[name].unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes the files that are older than `LIFETIME`."""
        for file in self.folder.glob("*/*"):
            try:
                if time.time() - file.stat().st_mtime > LIFETIME:
                    file.unlink(missing_ok=True)
            except OSError:
                continue  # another process has removed it, or it cannot be removed now

    def _of(self, owner: str) -> Path:
        return self.folder / hashlib.sha256(owner.encode()).hexdigest()

    def _files(self, owner: str) -> dict[str, Path]:
        folder = self._of(owner)
        return {file.stem: file for file in folder.iterdir()} if folder.is_dir() else {}

    def _file(self, owner: str, name: str) -> Path:
        file = self._files(owner).get(name)
        if file is None:
            raise _missing(name)
        return file


def _missing(name: str) -> NoMedium:
    return NoMedium(
        f"there is no medium {name[:60]!r}: uploads are kept for {LIFETIME / 60:.0f} minutes, or until a message with "
        "them is kept; send it again"
    )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0

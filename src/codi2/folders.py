"""Folders of the user's machine: written whole or not at all, and by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from codi2.errors import OutputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Holds the lock of `folder` while the block runs. The kernel releases it when the process ends, however it ends.

    Args:
        what: writes there, as an error names it: `a training run`.
    Raises:
        OutputError: another process holds it, or the folder cannot be written.
    """
    path = folder / ".lock"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = _lock(path)
    if handle is None:
        holder = path.read_text(encoding="utf-8", errors="replace").strip()[:20] if path.is_file() else ""
        by = f"{what} (process {holder})" if holder else what
        raise OutputError(f"{folder} is in use by {by}; wait for it, or choose another --out")
    try:
        with suppress(OSError):  # the number only helps whoever reads the error
            os.truncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _lock(path: Path) -> int | None:
    """A handle that holds the lock; None: another process does."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                return handle  # a file system without locks
            os.close(handle)
            raise
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its last holder has removed it in between


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write into; it takes the name `path`, in place of what was there, once it is whole.

    Raises OutputError: the disk is full, or the folder cannot be written; `path` is then as it was.
    """
    aside, old = (path.parent / f".{path.name}.{state}.{os.getpid()}" for state in ("new", "old"))
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            yield aside
            sync_folder(aside)
            if path.exists():
                path.rename(old)
            aside.rename(path)
            _sync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def filled_folder(path: Path, last: str) -> Iterator[Path]:
    """As `atomic_folder`, but other files of `path` stay there. Without the file `last` the folder is none of its kind:
    this file is removed first and comes back last, so that a kill leaves the old folder, the new one, or none."""
    if not path.is_dir():
        with atomic_folder(path) as aside:
            yield aside
        return
    with atomic_folder(path / ".new") as aside:
        yield aside
    with disk_errors(path):
        fresh = path / ".new"
        (path / last).unlink(missing_ok=True)
        for entry in sorted(fresh.iterdir(), key=lambda entry: entry.name == last):
            target = path / entry.name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            entry.replace(target)
        fresh.rmdir()
        _sync(path)


@contextmanager
def undone(folder: Path, done: str = "") -> Iterator[None]:
    """If the block fails, `folder` and its parents are gone again where they were not there before.

    `done`: a file in the folder; once it is there, the folder stays.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if made and not (done and (folder / done).exists()):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # somebody else has put something there
                for path in made[1:]:
                    path.rmdir()
        raise


def sweep(folder: Path, name: str) -> None:
    """Removes what a kill left of the folders `name` that `atomic_folder` was writing."""
    for state in ("new", "old"):
        for aside in folder.glob(f".{name}.{state}.*"):
            shutil.rmtree(aside, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Returns when everything in the folder is on the disk."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


@contextmanager
def disk_errors(path: Path, full: bool = False) -> Iterator[None]:
    """What a disk that is full, or not writable, makes of the block becomes an OutputError of one sentence.

    `full`: only a full one, where the block does not only write.
    """
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        reason = _reason(error)
        if reason is None or (full and isinstance(error, OSError) and error.errno not in FULL):
            raise
        raise OutputError(f"cannot write {path}: {reason}; free some space or choose another folder") from error


def _reason(error: Exception) -> str | None:
    """Why a file could not be written; None: the error is another. Libraries in other languages have their own."""
    text = (str(error).splitlines() or [""])[0]
    if isinstance(error, OSError):
        return error.strerror or text
    if type(error).__name__ == "SafetensorError" and "os error" in text:
        return text.rpartition("I/O error: ")[2]
    if isinstance(error, RuntimeError) and ("inline_container" in text or "PytorchStreamWriter" in text):
        return "the disk is full"
    return None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

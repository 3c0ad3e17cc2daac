"""Atomic writes of folders, locks of folders, and errors of the disk."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from codi2.errors import OutputError

READABLE = 0o644  # mode of written files: models and caches are shared by users of one machine
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Holds the lock of `folder` while the block runs. The kernel releases it when the process ends, also by a kill.

    Args:
        what: the writer, as an error names it: `a training run`.
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
        with suppress(OSError):  # the number is only for the error of another process
            os.truncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _lock(path: Path) -> int | None:
    """A handle that holds the lock; None: another process holds it."""
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
        os.close(handle)  # its last holder has removed the file in between


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, which replaces `path` when it is complete and synced to the disk.

    Raises OutputError: the disk is full, or the folder cannot be written; `path` is then unchanged.
    """
    aside, old = (path.parent / f".{path.name}.{state}.{os.getpid()}" for state in ("new", "old"))
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            yield aside
            make_readable(aside)
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
    """As `atomic_folder`, but other files in `path` stay.

    A folder is valid only with the file `last`. This file is removed first and written last, so that a kill leaves the
    old folder, the new one, or an invalid one.
    """
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
    """Removes `folder` and the parents that did not exist before, if the block fails.

    `done`: a file in the folder; if it exists, the folder stays.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if new and not (done and (folder / done).exists()):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # another process has written into it
                for path in new[1:]:
                    path.rmdir()
        raise


def sweep(folder: Path, name: str) -> None:
    """Removes the temporary folders of `atomic_folder(folder / name)` that a kill has left."""
    for state in ("new", "old"):
        for aside in folder.glob(f".{name}.{state}.*"):
            shutil.rmtree(aside, ignore_errors=True)


def make_readable(folder: Path) -> None:
    """Gives the files in a folder the mode `READABLE`: safetensors writes files that only their owner can read."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(READABLE)


def sync_folder(folder: Path) -> None:
    """Returns when all files in the folder are on the disk."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


@contextmanager
def disk_errors(path: Path, full: bool = False) -> Iterator[None]:
    """Turns errors of a disk that is full or not writable into an OutputError of one sentence.

    `full`: of a full disk only, for blocks that also read.
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
    """The reason why a file could not be written, from errors of Python, safetensors and torch; None: another error."""
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

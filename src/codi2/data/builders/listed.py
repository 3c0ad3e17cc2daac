"""The files of a source, without those that operating systems put into folders."""

from __future__ import annotations

from pathlib import Path, PurePath

_SYSTEM = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin"))


def is_system(path: PurePath) -> bool:
    """Whether a path below a source is a system file: `._cat.png`, `.DS_Store`, `Thumbs.db`, or in a system folder."""
    return any(part.lower() in _SYSTEM or (part.startswith(".") and part not in (".", "..")) for part in path.parts)


def listed(folder: Path, pattern: str) -> list[Path]:
    """The paths below `folder` that match `pattern`, in order."""
    return sorted(path for path in folder.glob(pattern) if not is_system(path.relative_to(folder)))

"""The files of a source, without those that an operating system leaves in every folder."""

from __future__ import annotations

from pathlib import Path, PurePath

_SYSTEM = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin"))


def is_system(path: PurePath) -> bool:
    """Whether a path below a source is not the user's: `._cat.png`, `.DS_Store`, `Thumbs.db`, or in such a folder."""
    return any(part.lower() in _SYSTEM or (part.startswith(".") and part not in (".", "..")) for part in path.parts)


def listed(folder: Path, pattern: str) -> list[Path]:
    """What `pattern` finds below `folder`, in order."""
    return sorted(path for path in folder.glob(pattern) if not is_system(path.relative_to(folder)))

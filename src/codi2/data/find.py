"""Data sets by name or folder."""

from __future__ import annotations

from pathlib import Path

from codi2.errors import DataError
from codi2.hub import home


def find_set(name: str) -> Path:
    """The folder of a data set: a path, from the working directory, or a name under `$CODI2_HOME/data`.

    Raises DataError: neither exists.
    """
    candidates = (Path(name).expanduser(), home() / "data" / name)
    # another folder may have the name of a data set
    finished = [folder for folder in candidates if (folder / "build.json").is_file()]
    folders = finished or [folder for folder in candidates if folder.is_dir()]
    if not folders:
        raise DataError(
            f"{name} is not a data set: it is neither in {Path.cwd()} nor in {candidates[1].parent}; build it with "
            "`codi2 data build`, or name its folder"
        )
    return folders[0]

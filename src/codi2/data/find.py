"""Data sets by name or folder."""

from __future__ import annotations

from pathlib import Path

from codi2.errors import DataError
from codi2.hub import home


def find_set(name: str) -> Path:
    """The folder of a data set: a path, from the working directory, or a name under `$CODI2_HOME/data`.

    Raises DataError: there is neither.
    """
    places = (Path(name).expanduser(), home() / "data" / name)
    # a folder of another kind may have the name of a data set
    finished = [place for place in places if (place / "build.json").is_file()]
    found = finished or [place for place in places if place.is_dir()]
    if not found:
        raise DataError(
            f"{name} is no data set: it is neither in {Path.cwd()} nor in {places[1].parent}; build it with "
            "`codi2 data build`, or name its folder"
        )
    return found[0]

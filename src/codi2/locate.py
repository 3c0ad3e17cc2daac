"""Finds and checks the model that a name stands for, without torch and before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path

from codi2.config import PRESETS, CoDi2Config, preset
from codi2.errors import ConfigError, WeightsError
from codi2.hub import fetch_repo, is_ours, shipped
from codi2.untrusted import check_folder

REPO = re.compile(r"[\w.-]+/[\w.-]+")  # owner and name on the hub


def locate(name_or_path: str | Path) -> tuple[CoDi2Config, Path | None]:
    """The config of a preset, folder or repo, and the folder of its trained parts (None: random weights).

    A name of the form `owner/name` that is not a folder is a repo of the hub, as `push_to_hub` writes it; its files are
    fetched into the hub's cache.

    Raises:
        ConfigError: the name is neither a preset nor a folder with a config.json, or this is of another format.
        OutsideError: the folder holds special files, or links to files outside.
        WeightsError: the hub has no such repo, or cannot be reached.
    """
    name = str(name_or_path)
    folder = shipped(name) if name in PRESETS else Path(name_or_path)
    if not folder.exists() and REPO.fullmatch(name):
        folder = fetch_repo(name)
    if name in ("debug", "paper"):  # these have no trained parts
        return preset(name), None
    if (folder / "config.json").is_file():
        if not is_ours(folder):
            check_folder(folder)
        try:
            return CoDi2Config.from_json((folder / "config.json").read_bytes()), folder
        except ConfigError as error:
            raise ConfigError(f"{folder / 'config.json'}: {error}") from error
    if name in PRESETS:
        raise WeightsError(
            f"the trained parts of {name!r} are not in this installation: {folder} is missing; reinstall the package"
        )
    raise ConfigError(
        f"{name!r} is neither a preset ({', '.join(PRESETS)}) nor a folder with a config.json; name one of these"
    )

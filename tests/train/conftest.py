"""A data set of the tables, built once for all tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from codi2.data.build import Settings, build


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the data set of `table_set`, which the first test builds."""
    return tmp_path_factory.mktemp("set") / "tables"


@pytest.fixture
def table_set(rich_home: Path, built_once: Path, tmp_path: Path) -> Path:
    """Pictures, sounds and clips that occur in many records and shards."""
    if not built_once.is_dir():
        build(Settings("tables", str(rich_home / "data" / "tiny"), str(built_once), options={"records": 76}))
    return Path(shutil.copytree(built_once, tmp_path / "tables"))

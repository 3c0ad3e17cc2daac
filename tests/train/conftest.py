"""A data set of the tasks, written once for all tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from task_set import write_task_set


@pytest.fixture(scope="session")
def written_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the data set of `task_set`, which the first test writes."""
    return tmp_path_factory.mktemp("set") / "tasks"


@pytest.fixture
def task_set(rich_home: Path, written_once: Path, tmp_path: Path) -> Path:
    """Pictures, sounds and clips that occur in many records."""
    if not written_once.is_dir():
        write_task_set(rich_home, written_once)
    return Path(shutil.copytree(written_once, tmp_path / "tasks"))

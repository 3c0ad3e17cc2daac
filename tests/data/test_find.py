"""Which folder the name of a data set stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from codi2.data.find import find_set
from codi2.errors import DataError


def test_a_set_is_found_from_the_working_directory_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODI2_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "home" / "data" / "tasks"
    for folder in (kept, tmp_path / "sets" / "mine"):
        folder.mkdir(parents=True)
        (folder / "build.json").write_text("{}")
    assert find_set("sets/mine").resolve() == tmp_path / "sets" / "mine"
    assert find_set(str(tmp_path / "sets" / "mine")) == tmp_path / "sets" / "mine"
    assert find_set("tasks") == kept
    (tmp_path / "tasks").mkdir()
    assert find_set("tasks") == kept, "a folder of another kind has its name"
    (tmp_path / "tasks" / "build.json").write_text("{}")
    assert find_set("tasks").resolve() == tmp_path / "tasks"
    with pytest.raises(DataError, match=r"nowhere is not a data set: it is neither in .* nor in .*home/data"):
        find_set("nowhere")

"""docs/cli.md and docs/cli/ are what the commands print."""

from __future__ import annotations

import re
from typing import Any

import pytest

from .pages import ROOT, script

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return script("cli").pages()


def test_the_pages_of_commands_are_what_they_print(pages: dict[str, str]):
    files = {str(path.relative_to(DOCS)): path.read_text() for path in (DOCS / "cli.md", *(DOCS / "cli").glob("*"))}
    assert files == pages, "run `python docs/cli.py`"


def test_a_page_is_what_the_command_prints(pages: dict[str, str], cli: Any):
    printed = cli("data", "build", "--help", COLUMNS=80).stdout
    assert re.findall(r"```text\n(.*?)```", pages["cli/data-build.md"], re.DOTALL) == [printed.strip() + "\n"]


def test_a_page_has_the_placement_options_that_its_command_takes(pages: dict[str, str]):
    every = {"--device", "--dtype", "--bits", "--compile", "--offload"}
    for page, taken in (
        ("generate", every),
        ("train", every - {"--offload"}),
        ("transfer", {"--device", "--dtype", "--compile"}),
        ("data-encode", {"--device", "--dtype"}),
        ("new", set()),
    ):
        assert every & set(re.findall(r"^  (--[a-z]+)", pages[f"cli/{page}.md"], re.MULTILINE)) == taken, page

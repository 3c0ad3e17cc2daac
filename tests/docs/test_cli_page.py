"""docs/cli.md is what the commands print."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from .pages import ROOT


def writer() -> Any:
    spec = spec_from_file_location("docs_cli", ROOT / "docs" / "cli.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_commands_is_what_they_print():
    assert (ROOT / "docs/cli.md").read_text() == writer().page(), "run `python docs/cli.py`"


def test_a_section_is_what_the_command_prints(cli: Any):
    page = (ROOT / "docs/cli.md").read_text()
    sections = dict(re.findall(r"^## ([^\n]+)\n\n```text\n(.*?)```", page, re.DOTALL | re.MULTILINE))
    printed = cli("data", "build", "--help", COLUMNS=80).stdout
    assert sections["codi2 data build"].strip() == printed.strip()

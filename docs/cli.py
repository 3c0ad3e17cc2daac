"""Writes docs/cli.md, a section per command, from the help of the commands: `python docs/cli.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from codi2.cli import app
from codi2.hub import atomic_path

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 78  # columns of text in a terminal of 80
HEAD = """# Commands

`python docs/cli.py` writes this page from the help of the commands. To change the page, edit `src/codi2/cli/`.

A mistake of the user ends in one sentence on stderr and exit code 2, Ctrl-C in exit code 130.
"""


def commands(command: Any, name: str = "codi2", parent: Any = None) -> Iterator[tuple[str, str]]:
    """The name and the help of a command and of all commands below it, in the order of the help."""
    context = typer.Context(command, info_name=name, parent=parent, terminal_width=WIDTH)
    yield context.command_path, command.get_help(context)
    for child in getattr(command, "commands", {}).values():
        yield from commands(child, child.name, context)


def page() -> str:
    """The text of docs/cli.md."""
    sections = (f"## {name}\n\n```text\n{text.strip()}\n```\n" for name, text in commands(typer.main.get_command(app)))
    return "\n".join([HEAD, *sections])


if __name__ == "__main__":
    with atomic_path(PAGE) as path:
        path.write_text(page())

"""Writes docs/cli.md and docs/cli/, one page per command, from the help of the commands: `python docs/cli.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from codi2.cli import app
from codi2.hub import atomic_path

DOCS = Path(__file__).parent
WIDTH = 78  # columns of text in a terminal of 80
NOTE = "`python docs/cli.py` writes this page from the help of the command. To change it, edit `src/codi2/cli/`."
ERRORS = "A mistake of the user ends in one sentence on stderr and exit code 2, Ctrl-C in exit code 130."


def commands(command: Any, name: str = "codi2", parent: Any = None) -> Iterator[tuple[str, str, str]]:
    """The name, the help and the one-line description of a command and of all commands below it, in their order."""
    context = typer.Context(command, info_name=name, parent=parent, terminal_width=WIDTH)
    yield context.command_path, command.get_help(context).strip(), command.get_short_help_str(limit=200)
    for child in getattr(command, "commands", {}).values():
        yield from commands(child, child.name, context)


def pages() -> dict[str, str]:
    """Path under docs/ → text: cli.md for `codi2` itself, with links to cli/generate.md, cli/data-build.md."""
    (_, usage, _), *others = commands(typer.main.get_command(app))
    files = {name: f"cli/{name.removeprefix('codi2 ').replace(' ', '-')}.md" for name, _, _ in others}
    links = "\n".join(f"- [`{name}`]({files[name]}): {about}" for name, _, about in others)
    index = f"# Commands\n\n{NOTE}\n\n{ERRORS}\n\n{links}\n\n{_block(usage)}"
    return {
        "cli.md": index,
        **{
            files[name]: f"# {name}\n\n{NOTE}\n\n{_block(text)}\n[All commands](../cli.md)\n"
            for name, text, _ in others
        },
    }


def _block(text: str) -> str:
    return f"```text\n{text}\n```\n"


if __name__ == "__main__":
    (DOCS / "cli").mkdir(exist_ok=True)
    new = pages()
    for old in (DOCS / "cli").glob("*.md"):
        if f"cli/{old.name}" not in new:
            old.unlink()
    for name, text in new.items():
        with atomic_path(DOCS / name) as path:
            path.write_text(text)

"""The documents of the repository, and what stands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/media/ATTRIBUTION.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "src/codi2/weights").rglob("*.md")),
]
HISTORY = ("CHANGELOG.md", "docs/archive/log.md")
"""Pages about the past: they may name commands and files that are gone."""
CURRENT = [page for page in PAGES if str(page.relative_to(ROOT)) not in HISTORY]


def script(name: str) -> Any:
    """A script of docs/ as a module."""
    spec = spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, kind: str) -> list[str]:
    """The fenced blocks of one language, without the indentation of a list."""
    found = re.findall(rf"^( *)```{kind}\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


def prose(page: Path) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading)).strip().lower().replace(" ", "-")
        found.add(next(name for n in range(99) if (name := f"{plain}-{n}" if n else plain) not in found))
    return found


def command_lines(code: str) -> Iterator[list[str]]:
    """The words of each command of a shell block, in order; comments and redirections are left out."""
    line = ""
    for piece in code.replace("\\\n", " ").splitlines():
        line += piece
        try:
            tokens = _tokens(line)
        except ValueError:  # a quote goes on in the next line
            line += "\n"
            continue
        line = ""
        words: list[str] = []
        for word in [*tokens, ";"]:
            if word in ("&&", "||", "|", ";", "&"):
                if words:
                    yield words
                words = []
            elif word != ">":
                words.append(word)


def _tokens(line: str) -> list[str]:
    """Raises ValueError: a quote is not closed."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    return list(lexer)


def codi2_arguments(words: list[str]) -> list[str] | None:
    """What `codi2` is given in a command, also where a launcher starts it; None: the command is another one."""
    if Path(words[0]).name == "codi2":
        return words[1:]
    if "-m" in words and words[words.index("-m") + 1] == "codi2":
        return words[words.index("-m") + 2 :]
    return None

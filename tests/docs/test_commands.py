"""The commands of the documents: each is understood; those of README and quickstart run on the debug model."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from codi2.cli import app

from .pages import CURRENT, ROOT, blocks, codi2_arguments, command_lines, name_of, prose

GUIDES = [ROOT / "README.md", ROOT / "docs/quickstart.md"]
NOT_RUN = {
    "git clone": "the address of the repository is the reader's",
    "cd codi2": "it follows the clone",
    "make demo": "it installs and downloads; the continuous integration runs make",
    "pip install": "it installs; the extras are checked below",
    "codi2 chat": "it reads from the terminal (tests/cli/test_chat.py)",
    "codi2 serve": "it does not end (tests/serve)",
}
ELSEWHERE = {
    "CONTRIBUTING.md": "they are the continuous integration itself",
    "docs/api.md": "tests/serve/test_docs.py runs them on a server of the debug model",
    "docs/data.md": "they need published data sets; tests/data builds each of them in its official form",
    "docs/deployment.md": "they need Docker",
    "docs/evaluation.md": "they need hours, or published networks; tests/evaluate runs the suites on a small corpus",
    "docs/finetune.md": "the page has a test of its own",
    "docs/paper.md": "they need published weights; tests/test_paper_path.py runs the classes with random ones",
    "docs/training.md": "they need hours; tests/train trains each part for some steps",
}
ALSO = ("codi2 data list", "codi2 data build jsonl --source examples/records.jsonl")
"""Commands of these pages that run all the same."""
QUICK = ("codi2 generate", "codi2 data build")
"""The first command of each of these is a quick test; the others take their time (`make test-slow`)."""
OPTIONS = ("$O", "$HELD", "$HELD_CLIPS")  # variables of the training page that stand for several words
ROOT_COMMAND: Any = typer.main.get_command(app)


def shell_commands(*pages: Path) -> list[list[str]]:
    """The commands of the shell blocks of pages, each once."""
    lines = [words for page in pages for code in blocks(page, "sh") for words in command_lines(code)]
    return [list(words) for words in dict.fromkeys(map(tuple, lines))]


def short(words: list[str]) -> str:
    return " ".join([Path(words[0]).name, *words[1:]])


def left_out(words: list[str]) -> bool:
    return any(short(words).startswith(start) for start in NOT_RUN)


RUN = [words for words in shell_commands(*GUIDES) if not left_out(words)]
RUN += [words for words in shell_commands(*CURRENT) if short(words).startswith(ALSO)]
FIRST = [next(words for words in RUN if short(words).startswith(start)) for start in QUICK]
CASES = [pytest.param(words, id=short(words)[:60], marks=[] if words in FIRST else [pytest.mark.slow]) for words in RUN]
PYTHON = [
    pytest.param(code, id=name_of(page), marks=[] if page == GUIDES[0] else [pytest.mark.slow])
    for page in GUIDES
    for code in blocks(page, "python")
]


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_commands_in_blocks_are_understood(page: Path):
    for code in blocks(page, "sh"):
        for words in command_lines(code):
            arguments = codi2_arguments(words)
            if arguments is not None and not any(word in OPTIONS for word in arguments):
                understand(arguments)


def understand(arguments: list[str]) -> None:
    """Parses the arguments of `codi2` as the command does, without running it. Raises click's UsageError."""
    command, parent, name = ROOT_COMMAND, None, "codi2"
    while hasattr(command, "commands"):
        with command.make_context(name, list(arguments), parent=parent) as context:
            parent = context
            name, child, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
            command = child
    command.make_context(name, list(arguments), parent=parent).close()


def test_a_wrong_option_is_not_understood():
    with pytest.raises(Exception, match="wont"):
        understand(["generate", "a", "--wont", "image"])


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_commands_in_sentences_have_their_options(page: Path):
    for line in re.findall(r"`(codi2 [^`]+)`", prose(page)):
        command, words = ROOT_COMMAND, line.split()[1:]
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, f"{name_of(page)}: {line}"
            command = command.commands[words.pop(0)]
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        for word in words:
            option = re.match(r"\[?(--[\w-]+)", word)
            assert option is None or option[1] in known, f"{name_of(page)}: {line}"


@pytest.mark.parametrize("words", CASES)
def test_a_command_of_the_guides_runs(words: list[str], media: Path, tmp_path: Path):
    workplace(tmp_path, media)
    command = [sys.executable, "-m", "codi2", *words[1:]]
    if words[1] == "generate":
        command += ["--model", "debug"]
    if words[1:3] == ["data", "show"]:  # it shows the data set of the command before it
        command += ["--preset", "debug"]
        build = [sys.executable, "-m", "codi2", "data", "build", "folder", "--source", "mine/", "--out", words[3]]
        subprocess.run(build, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CODI2_HOME": str(tmp_path / "home")}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-500:] + run.stderr[-1500:]
    if "--out" in words:
        assert (tmp_path / words[words.index("--out") + 1]).exists()


def workplace(folder: Path, media: Path) -> None:
    """What the guides expect in the working folder: the sample media, the configs, and a folder of captioned files."""
    shutil.copytree(media, folder / "examples" / "media")
    shutil.copytree(ROOT / "configs" / "debug", folder / "configs" / "debug")
    shutil.copytree(ROOT / "examples", folder / "examples", dirs_exist_ok=True)
    (folder / "mine").mkdir()
    for name, caption in (("goose-google.png", "a goose"), ("crow.wav", "a crow cawing")):
        shutil.copy(media / name, folder / "mine" / name)
        (folder / "mine" / name).with_suffix(".txt").write_text(caption)


def test_each_page_runs_or_says_why_not():
    for page in CURRENT:
        assert page in GUIDES or not blocks(page, "sh") or name_of(page) in ELSEWHERE, name_of(page)
    for start in ALSO:
        assert any(short(words).startswith(start) for words in RUN), start


def test_each_reason_for_not_running_is_used():
    for start in NOT_RUN:
        assert any(short(words).startswith(start) for words in shell_commands(*GUIDES)), start


@pytest.mark.parametrize("code", PYTHON)
def test_python_of_the_guides_runs(code: str, media: Path, tmp_path: Path):
    workplace(tmp_path, media)
    code = code.replace('"tiny"', '"debug"')
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-1500:]


def test_extras_that_pages_install_exist():
    import tomllib

    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in CURRENT:
        for names in re.findall(r"(?:\.|codi2)\[([a-z,]+)\]", page.read_text()):
            assert set(names.split(",")) <= set(known), f"{name_of(page)}: [{names}]"

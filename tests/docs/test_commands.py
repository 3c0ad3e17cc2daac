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
    "docs/paper.md": "tests/test_stages.py runs them on small random weights of the published classes",
    "docs/scaling.md": "they need weights or GPUs; tests/train runs each way on small parts",
    "docs/training.md": "they need hours; tests/train trains each part for some steps",
}
OPTIONS = ("$O", "$HELD", "$HELD_CLIPS")  # variables of the training page that stand for several words
ROOT_COMMAND: Any = typer.main.get_command(app)


def short(words: list[str]) -> str:
    return " ".join([Path(words[0]).name, *words[1:]])


def reason(words: list[str]) -> str:
    """Why a command of the guides is not run; empty where it is."""
    return next((why for start, why in NOT_RUN.items() if short(words).startswith(start)), "")


def cases(kind: str) -> list[Any]:
    """The blocks of the guides; those of the README are quick tests, the others take their time (`make test-slow`)."""
    return [
        pytest.param(
            code, id=f"{name_of(page)}: {code.strip()[:40]}", marks=[pytest.mark.slow] if page != GUIDES[0] else []
        )
        for page in GUIDES
        for code in blocks(page, kind)
        if kind != "sh" or not all(reason(words) for words in command_lines(code))
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


@pytest.mark.parametrize("code", cases("sh"))
def test_commands_of_a_block_of_the_guides_run(code: str, media: Path, tmp_path: Path):
    workplace(tmp_path, media)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CODI2_HOME": str(tmp_path / "home")}
    for words in command_lines(code):
        if reason(words):
            continue
        command = [sys.executable, "-m", "codi2", *words[1:]]
        command += {"generate": ["--model", "debug"], "show": ["--preset", "debug"], "train": ["--steps", "2"]}.get(
            words[1 + (words[1] == "data")], []
        )
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


def test_each_reason_for_not_running_is_used():
    commands = [short(words) for page in GUIDES for code in blocks(page, "sh") for words in command_lines(code)]
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in commands), start


@pytest.mark.parametrize("code", cases("python"))
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

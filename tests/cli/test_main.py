import subprocess
import sys

import pytest
from typer.testing import CliRunner

import codi2
from codi2.cli import app
from codi2.errors import PromptError


def test_help_lists_the_commands(cli):
    done = cli("--help")
    assert done.returncode == 0
    for command in ("generate", "demo", "data", "train", "evaluate"):
        assert command in done.stdout


def test_the_version_is_the_packages(cli):
    assert cli("--version").stdout == f"codi2 {codi2.__version__}\n"


@pytest.mark.parametrize("module", ["codi2", "codi2.cli"])
def test_start_up_imports_nothing_heavy(module):
    heavy = "torch transformers diffusers peft numpy scipy PIL rich pydantic annotated_types".split()
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_public_names_are_there():
    from codi2.media import load
    from codi2.prompt.parts import Phrase

    assert codi2.Phrase is Phrase and codi2.load is load
    assert set(codi2.__all__) <= set(dir(codi2))
    with pytest.raises(AttributeError, match="Smell"):
        _ = codi2.Smell


def test_a_misused_option_is_code_2(cli):
    done = cli("generate", "Hello", "--want", "smell")
    assert done.returncode == 2
    assert "smell" in done.stderr and "Traceback" not in done.stderr


def test_debug_shows_the_traceback(cli):
    done = cli("--debug", "generate", "[image0]")
    assert "Traceback" in done.stderr and PromptError.__name__ in done.stderr


def test_ctrl_c_is_130(monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("codi2.senses.load", interrupted)
    assert CliRunner().invoke(app, ["generate", "[image0]", "a.png", "--out", str(tmp_path)]).exit_code == 130

"""What the terminal refuses, says and keeps."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from click.testing import Result
from typer.testing import CliRunner

from codi2.chat.events import Done, StageProgress, TextDelta
from codi2.cli import app
from codi2.cli.output import Bar, follow
from codi2.model import CoDi2
from codi2.prompt.parts import Text
from codi2.reply import Reply

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    yield lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
    gc.unfreeze()


def draw(run: Run, *options: object) -> Result:
    return run("generate", "Draw a goose", "--want", "image", "--model", "debug", "--max-tokens", 1, *options)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["  \n"], "the prompt is empty"),
        (["Hello", "--model", "nothing"], "'nothing' is neither a preset"),
        (["Hello", "--want", "video", "--model", "."], "this model makes image and text, not video"),
        (
            ["[depth0]", "depth0=depth.png", "--model", "debug"],
            "this model reads image, audio, video, phrase, not depth",
        ),
        (["[image0]", "--model", "debug"], "image0"),
        (["Hello", "--device", "cuda:7", "--model", "debug"], "cuda:7"),
        (["Hello", "--max-tokens", "0"], "--max-tokens"),
    ],
)
def test_what_can_be_refused_is_refused_before_a_model_is_loaded(run: Run, tmp_path: Path, arguments, says):
    import numpy as np
    from PIL import Image as PILImage

    from codi2.config import DEBUG, CoDi2Config

    PILImage.fromarray(np.full((4, 4), 900, np.uint16)).save(tmp_path / "depth.png")
    pictures = CoDi2Config("pictures", DEBUG.llm, DEBUG.encoder, DEBUG.heads, {"image": DEBUG.decoders["image"]})
    (tmp_path / "config.json").write_text(pictures.to_json())
    with mock.patch.object(CoDi2, "from_pretrained", side_effect=AssertionError("a model was loaded")):
        done = run("generate", *arguments)
    assert done.exit_code == 2 and says in done.output and "Traceback" not in done.output


@pytest.mark.parametrize("command", [["chat"], ["demo"], ["serve"], ["gallery"], ["evaluate", "edits"]])
def test_every_command_refuses_a_model_that_is_not_there_before_torch_is_imported(command: list[str]):
    code = "import sys; from codi2.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    line = [sys.executable, "-c", code, *command, "--model", "nothing"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 2 and "'nothing' is neither a preset" in done.stderr and done.stdout == "False\n"


def test_nothing_is_overwritten_unless_it_is_forced(run: Run, tmp_path: Path):
    assert "out/reply-0.png" in draw(run).stdout
    first = (tmp_path / "out" / "reply-0.png").read_bytes()
    assert "out/reply-1.png" in draw(run, "--seed", 1).stdout
    assert (tmp_path / "out" / "reply-0.png").read_bytes() == first
    (tmp_path / "out" / "reply-7.wav").write_bytes(b"")
    (tmp_path / "out" / "reply-x.png").write_bytes(b"")
    assert "out/reply-8.png" in draw(run).stdout, "a number is never used twice, whatever the suffix"
    assert "out/reply-0.png" in draw(run, "--seed", 2, "--force").stdout
    assert (tmp_path / "out" / "reply-0.png").read_bytes() != first


def test_all_that_is_wanted_is_given_text_too(run: Run):
    wants = [word for kind in ("text", "image", "audio") for word in ("--want", kind)]
    done = run("generate", "Draw a goose", *wants, "--model", "debug", "--max-tokens", 4, "--json")
    assert done.exit_code == 0, done.output
    parts = json.loads(done.stdout)["parts"]
    assert [part["type"] for part in parts[:3]] == ["text", "image", "audio"] and parts[0]["text"].strip()
    twice = run(
        "generate", "Draw", "--want", "image", "--want", "image", "--model", "debug", "--max-tokens", 1, "--json"
    )
    files = [part["path"] for part in json.loads(twice.stdout)["parts"] if part["type"] == "image"]
    assert len(files) == 2 and Path(files[0]).read_bytes() != Path(files[1]).read_bytes()


def test_a_text_that_is_cut_has_a_note(run: Run):
    done = run("generate", "Hello", "--want", "text", "--model", "debug", "--max-tokens", 3)
    assert "note: The text was cut after 3 tokens" in done.stderr and "--max-tokens" in done.stderr
    assert "note:" not in draw(run).stderr


def test_text_is_printed_piece_by_piece_and_once(capsys: pytest.CaptureFixture[str]):
    reply, seen = Reply((Text("A goose."),)), []

    def events() -> Iterator:
        yield StageProgress("write", 0, 1)
        for piece in (" A", " goose", "."):
            yield TextDelta(piece)
            seen.append(capsys.readouterr().out)
        yield StageProgress("write", 1, 1)
        yield Done(reply)

    assert follow(events(), Bar()) is reply
    assert seen == ["A", " goose", "."] and capsys.readouterr().out == "\n"
    assert follow(iter([TextDelta("hidden"), Done(reply)]), Bar(), print_text=False) is reply
    assert capsys.readouterr().out == ""


def test_libraries_show_no_bars_while_a_model_is_loaded(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    from transformers import LlamaForCausalLM

    from codi2.llm.backbone import random_llm
    from codi2.progress import quiet_loading

    random_llm().save_pretrained(tmp_path)
    with quiet_loading():
        LlamaForCausalLM.from_pretrained(tmp_path)
    assert "Loading weights" not in capfd.readouterr().err
    LlamaForCausalLM.from_pretrained(tmp_path)
    assert "Loading weights" in capfd.readouterr().err, "elsewhere the user's setting is unchanged"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(run: Run, shell: str):
    done = CliRunner().invoke(app, [], prog_name="codi2", env={"_CODI2_COMPLETE": f"source_{shell}"})
    assert done.exit_code == 0 and "codi2" in done.stdout
    words = {"COMP_WORDS": "codi2 gen", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "codi2 gen"}
    words["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    completed = CliRunner().invoke(app, [], prog_name="codi2", env={"_CODI2_COMPLETE": f"complete_{shell}", **words})
    assert "generate" in completed.stdout

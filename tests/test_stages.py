"""The stages of `configs/paper` and the commands of docs/paper.md on `mini`, from untrained parts to a model that
answers prompts of every modality."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from mini import SIZES, load_imagebind, write_mini
from mini_data import small_configs, write, write_data
from PIL import Image as PILImage
from typer.testing import CliRunner, Result

from codi2.cli import app
from codi2.encode import imagebind
from codi2.errors import DataError
from codi2.tensors import device_of, to_device
from codi2.train import PARTS, run
from codi2.train.config import load_config
from codi2.train.recipe import configs_of, resolved

ROOT = Path(__file__).parents[1]
SMALL = {
    "Qwen/Qwen3-8B": "mini-components/llm",
    "stabilityai/stable-diffusion-xl-base-1.0": "mini-components/image",
    "--device cuda": "",
    "--dtype bfloat16": "",
}
"""What the page names and this machine has not → what stands in for it."""
LAUNCHED = re.compile(r"accelerate launch .*?-m codi2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with `mini`, its data, the configs for it and the files that the page names."""
    folder = tmp_path_factory.mktemp("place")
    model = write_mini(folder / "mini")
    write_data(folder / "home")
    small_configs(ROOT / "configs" / "paper", folder / "configs" / "paper", model)
    for name in ("dog.png", "dog.wav", "dog.webp", "rain.wav"):
        write(folder / name, "red", 0)
    PILImage.fromarray(np.full((24, 32), 2_000, np.uint16)).save(folder / "room.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imagebind, "load_encoder", load_imagebind)
        patch.setattr(imagebind.network, "HUGE", SIZES)
        patch.setattr(imagebind.network.ImageBind.__init__, "__defaults__", (SIZES,))  # doctor's
        patch.setenv("CODI2_HOME", str(folder / "home"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.chdir(folder)
        yield folder


def codi2(*arguments: object) -> Result:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, (arguments, result.output, result.exception)
    return result


def commands_of_the_page() -> list[list[str]]:
    """The arguments of every `codi2` of docs/paper.md, with what is small and at hand in place of what is not."""
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    lines = [line.strip() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    commands = []
    for line in filter(None, lines):
        if line.startswith("examples/"):  # tests/test_accept.py runs it
            continue
        for there, here in SMALL.items():
            line = line.replace(there, here)
        program, *arguments = shlex.split(LAUNCHED.sub("codi2", line), comments=True)
        assert program == "codi2", f"{line}: this test runs commands of codi2 alone"
        commands.append(["mini" if argument == "paper" else argument for argument in arguments])
    return commands


def held_out_loss(path: Path, runs: Path, export: Path | None) -> float:
    """A stage's own loss, a mean over steps on held-out records, with the weights of an export."""
    config = resolved(load_config(path), runs)
    if "held_out" in config.options:
        config = replace(config, options={**config.options, "data": config.options["held_out"]})
    recipe = import_module(f"codi2.train.parts.{PARTS[config.part]}").build(config)
    if export or config.start:
        recipe.restore(export or Path(config.start))
    if config.part == "captions":
        recipe.captions = recipe.held_out
    losses = []
    for step in range(4):
        torch.manual_seed(step)
        with torch.no_grad():
            batch = to_device(recipe.batch(step), device_of(recipe.model))
            losses.append(float(recipe.losses(recipe.model.eval(), batch)["loss"]))
    return sum(losses) / len(losses)


@pytest.mark.slow
def test_the_commands_of_the_page_run_and_every_stage_lowers_its_loss(place: Path) -> None:
    for name in ("laion-held-out", "clips-with-sound", "clips-with-sound-held-out"):  # the page encodes laion alone
        codi2("data", "encode", name, "--model", "mini", "--workers", 0)
    for arguments in commands_of_the_page():
        if arguments[:2] == ["data", "encode"]:
            arguments += ["--workers", "0"]
        result = codi2(*arguments)
        if arguments[0] == "train" and "--plan" not in arguments:  # the plan stands before stage 1
            assert "encoded during training" not in result.output, "stage 1 has encoded all media"
    configs, runs = configs_of(place / "configs" / "paper"), place / "runs" / "paper"
    losses = {path.stem: [held_out_loss(path, runs, export) for export in (None, runs / path.stem / "export")]
              for path in configs}  # fmt: skip
    assert all(after < before for before, after in losses.values()), losses
    arguments = ("image0=dog.png", "audio0=dog.wav", "video0=dog.webp")
    for want in ("text", "image", "audio"):
        codi2("generate", "As [image0], [audio0], [video0].", *arguments, "--want", want, "--model", "my-codi2",
              "--out", place / "out" / want)  # fmt: skip
    assert {path.suffix for path in (place / "out").rglob("*.*")} >= {".png", ".wav"}


def test_a_stage_without_its_predecessor_names_it(place: Path) -> None:
    for name, needed in (("4_language", "3_projections"), ("8_joint", "7_everything")):
        message = rf"needs the export of {needed}.* is missing; run `codi2 train .*/{needed}\.toml --out .*` first"
        with pytest.raises(DataError, match=message):
            run(place / "configs" / "paper" / f"{name}.toml", place / "none" / name)

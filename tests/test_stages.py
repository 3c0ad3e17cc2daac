"""The stages of `configs/paper` on `mini`, from untrained parts to a model that answers prompts of every modality."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mini import SIZES, load_imagebind, write_mini
from mini_data import small_configs, write, write_data
from typer.testing import CliRunner, Result

from codi2.cli import app
from codi2.encode import imagebind
from codi2.errors import DataError
from codi2.tensors import device_of, to_device
from codi2.train import PARTS, run
from codi2.train.config import load_config
from codi2.train.recipe import configs_of, resolved

PAPER = Path(__file__).parents[1] / "configs" / "paper"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with `mini`, its data, the configs for it and a picture, a sound and a clip."""
    folder = tmp_path_factory.mktemp("place")
    model = write_mini(folder / "mini")
    write_data(folder / "home")
    small_configs(PAPER, folder / "configs" / "paper", model)
    for name in ("red.png", "red.wav", "red.webp"):
        write(folder / name, "red", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imagebind, "load_encoder", load_imagebind)
        patch.setattr(imagebind.network, "HUGE", SIZES)
        patch.setenv("CODI2_HOME", str(folder / "home"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.chdir(folder)
        yield folder


def codi2(*arguments: object) -> Result:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, (arguments, result.output, result.exception)
    return result


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
def test_the_stages_run_in_order_and_each_lowers_its_loss(place: Path) -> None:
    for name in ("all", "all-held-out", "clips-with-sound", "clips-with-sound-held-out"):
        codi2("data", "encode", place / "home" / "data" / name, "--model", "mini", "--workers", 0)
    configs, runs = configs_of(place / "configs" / "paper"), place / "runs"
    for path in configs:
        before = held_out_loss(path, runs, None)
        result = codi2("train", path, "--out", runs / path.stem)
        assert "encoded while training runs" not in result.output, "stage 1 has encoded all media"
        after = held_out_loss(path, runs, runs / path.stem / "export")
        print(path.stem, before, after)
        assert after < before, (path.stem, before, after)
    last = runs / "7_everything" / "export"
    codi2("new", place / "mine", "--from", last, "--part", f"joint={runs / '8_joint' / 'export'}")
    for want in ("text", "image", "audio", "video", "video,audio"):
        codi2(
            "generate", "As [image0], [audio0], [video0].", "image0=red.png", "audio0=red.wav", "video0=red.webp",
            "--want", want, "--model", "mine", "--out", place / "out" / want,
        )  # fmt: skip


def test_a_stage_without_its_predecessor_names_it(place: Path) -> None:
    for name, needed in (("4_language", "3_projections"), ("8_joint", "7_everything")):
        message = rf"needs the export of {needed}.* is missing; run `codi2 train .*/{needed}\.toml --out .*` first"
        with pytest.raises(DataError, match=message):
            run(place / "configs" / "paper" / f"{name}.toml", place / "none" / name)

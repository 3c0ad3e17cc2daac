"""A recipe runs its parts in order, skips what is finished, and continues what was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codi2.errors import ConfigError, DataError
from codi2.train import run
from codi2.train.config import TrainConfig, load_config
from codi2.train.recipe import before_training, configs_of, recipe_folder, resolved, run_recipe
from codi2.train.release import MODEL, named_parts

SMALL = """
part = "audio_features"
steps = 2
batch_size = 4
learning_rate = 1e-3

[options]
channels = [8, 8, 8, 8]
latent_channels = 32
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "recipe"
    folder.mkdir()
    for name in ("02_second", "01_first"):
        (folder / f"{name}.toml").write_text(SMALL)
    (folder / "notes.toml").write_text("no part of the recipe")
    return folder


def test_parts_run_in_order_once(folder: Path, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    calls: list[str] = []

    def train(config: Path, where: Path) -> None:
        calls.append(config.stem)
        run(config, where)

    assert run_recipe(folder, out, train) == ["01_first", "02_second"] == calls
    assert run_recipe(folder, out, train) == []  # all is finished
    (folder / "02_second.toml").write_text(SMALL.replace("steps = 2", "steps = 3"))
    assert run_recipe(folder, out, train) == ["02_second"]  # and is prolonged


def test_another_config_of_a_finished_part_is_refused(folder: Path, home: Path, tmp_path: Path) -> None:
    run_recipe(folder, tmp_path / "runs", run)
    (folder / "01_first.toml").write_text(SMALL.replace("1e-3", "2e-3"))
    with pytest.raises(ConfigError, match=r"learning_rate = 0\.001, but the config has 0\.002"):
        run_recipe(folder, tmp_path / "runs", run)
    (folder / "01_first.toml").write_text(SMALL.replace("[8, 8, 8, 8]", "[8, 8, 8, 16]"))
    with pytest.raises(ConfigError, match="was trained with options"):
        run_recipe(folder, tmp_path / "runs", run)


def test_numbers_of_one_digit_and_two_are_in_order(tmp_path: Path) -> None:
    for name in ("10_last", "2_second", "1_first", "x_none", "100_none"):
        (tmp_path / f"{name}.toml").write_text(SMALL)
    assert [path.stem for path in configs_of(tmp_path)] == ["1_first", "2_second", "10_last"]


def test_a_part_is_planned_before_those_that_it_starts_from_are_trained(tmp_path: Path) -> None:
    (tmp_path / "2_model.toml").write_text(SMALL + 'model = "debug"\n')
    options = {"model": "@2_model", "decoders": {"image": "@1_image"}, "data": {"a": 1.0}}
    config = TrainConfig("joint", 1, 1, 1e-3, start="@1_image", options=options)
    with pytest.raises(DataError, match=r"run `codi2 train .*2_model\.toml --out .*2_model` first"):
        resolved(config, tmp_path / "runs", tmp_path)
    planned = before_training(config, tmp_path / "runs", tmp_path)
    assert planned.options == {"model": "debug", "data": {"a": 1.0}} and not planned.start


def test_a_name_of_a_part_is_its_export(tmp_path: Path) -> None:
    config = TrainConfig("image_denoiser", 1, 1, 1e-3, options={"vae": "@02_image_vae", "side": 64, "of": {"a": "@x"}})
    with pytest.raises(DataError, match="needs the export of 02_image_vae"):
        resolved(config, tmp_path)
    for part in ("02_image_vae", "x"):
        (tmp_path / part / "export").mkdir(parents=True)
    options: dict[str, Any] = resolved(config, tmp_path).options
    assert options == {
        "vae": str(tmp_path / "02_image_vae/export"), "side": 64, "of": {"a": str(tmp_path / "x/export")}
    }  # fmt: skip


def test_the_shipped_recipe_is_found_and_names_known_parts() -> None:
    from codi2.train import PARTS

    folder = recipe_folder(Path("tiny"))
    assert folder is not None
    configs = [load_config(path) for path in configs_of(folder)]
    assert {config.part for config in configs} <= {*PARTS, MODEL}
    assert recipe_folder(Path("configs/tiny/01_encoder.toml")) is None


def test_an_empty_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no recipe"):
        configs_of(tmp_path)


def test_parts_of_the_shipped_recipe_stand_on_earlier_ones() -> None:
    folder = recipe_folder(Path("tiny"))
    assert folder is not None
    names = [path.stem for path in configs_of(folder)]
    assert len({name[:2] for name in names}) == len(names)
    for place, path in enumerate(configs_of(folder)):
        config = load_config(path)
        for name in named_parts([config.options, config.start]):
            assert name in names[:place], f"{path.stem} stands on {name}"

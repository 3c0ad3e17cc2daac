"""A recipe: the numbered configs of a folder, one part each, run in their order.

A config names an earlier part's export as `@02_image_vae`; it stands for `OUT/02_image_vae/export`. Numbers have one or
two digits. Finished parts are skipped, interrupted parts continue, and nothing is edited between parts: the configs
alone determine the weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from codi2.errors import ConfigError, DataError
from codi2.train.config import TrainConfig, load_config, recorded
from codi2.train.release import MODEL, is_current

NUMBERED = re.compile(r"\d\d?_.+\.toml")


def recipe_folder(config: Path) -> Path | None:
    """The folder of a recipe: `config` is a folder, or `tiny`. None: `config` is the file of one part."""
    if config.is_dir():
        return config
    if str(config) != "tiny":
        return None
    packaged = Path(str(files("codi2").joinpath("configs", "tiny")))
    return packaged if packaged.is_dir() else Path(str(files("codi2"))).parents[1] / "configs" / "tiny"


def configs_of(folder: Path) -> list[Path]:
    """The numbered configs of a recipe. Raises ConfigError: the folder has none."""
    paths = [path for path in folder.glob("*.toml") if NUMBERED.fullmatch(path.name)]
    if not paths:
        raise ConfigError(f"{folder} holds no recipe; expected configs named like 01_encoder.toml")
    return sorted(paths, key=lambda path: (int(path.name.partition("_")[0]), path.name))


def run_recipe(folder: Path, out: Path, run: Callable[[Path, Path], Any]) -> list[str]:
    """Runs every part that is not finished; `run(config, out)` trains one part. Returns the names of the parts run.

    Raises:
        ConfigError: a finished part was trained with another config.
    """
    ran = []
    for path in configs_of(folder):
        if not is_finished(load_config(path), out / path.stem):
            run(path, out / path.stem)
            ran.append(path.stem)
    return ran


def is_finished(config: TrainConfig, out: Path) -> bool:
    """Whether `out` holds the export of all steps. Raises ConfigError: the export is of another config."""
    reports = sorted((out / "export").rglob("training.json"))
    if not reports:
        return False
    report = json.loads(reports[0].read_text(encoding="utf-8"))
    if report["steps"] < config.steps:
        return False
    trained, wanted = report["config"], json.loads(json.dumps(recorded(config)))
    trained["options"].pop("placement", None)  # exports of earlier versions have it
    differing = next((key for key in sorted(wanted) if trained.get(key) != wanted[key]), None)
    if differing is not None:
        raise ConfigError(
            f"{out} was trained with {differing} = {trained.get(differing)!r}, but the config has "
            f"{wanted[differing]!r}; choose another --out or delete that folder"
        )
    return config.part != MODEL or is_current(report, config, out.parent)


def before_training(config: TrainConfig, runs: Path, configs: Path) -> TrainConfig:
    """As `resolved`, for a plan before earlier parts are trained: their weights are not needed, only the sizes.

    Raises DataError: an export is needed for the sizes too.
    """
    options = {key: value for key, value in config.options.items() if key != "decoders"}
    model = str(options.get("model", ""))
    if model.startswith("@") and not (runs / model[1:] / "export").is_dir():
        options["model"] = load_config(configs / f"{model[1:]}.toml").options.get("model", "")
    return resolved(replace(config, start="", options=options), runs, configs)


def resolved(config: TrainConfig, runs: Path, configs: Path = Path()) -> TrainConfig:
    """The config with every `@part` replaced by that part's export below `runs`.

    Args:
        configs: folder of the recipe, for the error.

    Raises:
        DataError: a part has no export yet.
    """

    def located(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: located(inner) for key, inner in value.items()}
        if not (isinstance(value, str) and value.startswith("@")):
            return value
        export = runs / value[1:] / "export"
        if not export.is_dir():
            raise DataError(
                f"{config.part} needs the export of {value[1:]}, but {export} is missing; run "
                f"`codi2 train {configs / value[1:]}.toml --out {runs / value[1:]}` first"
            )
        return str(export)

    return replace(config, options=located(config.options), start=located(config.start))

"""`codi2 train`: train one part from its config, or all parts of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from codi2.cli.output import OutOption, check_writable
from codi2.cli.placement import placed_over_config
from codi2.errors import ConfigError, DataError


@placed_over_config
def train(
    config: Annotated[
        Path,
        typer.Argument(help="The config of one part, or a folder of numbered configs; `tiny`: the model its recipe."),
    ],
    out: OutOption,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps, instead of the recipe's.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="Exported weights to start from, where --out holds no checkpoint.")
    ] = None,
    first_step: Annotated[int, typer.Option(min=0, help="Steps of the recipe that these weights have had.")] = 0,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only print what would be trained, the memory, samples and hours.")
    ] = False,
    snapshot: Annotated[bool, typer.Option("--snapshot", help="Only export what the newest checkpoint holds.")] = False,
    placement: dict[str, Any] | None = None,
) -> None:
    """Train one part, or every part of a recipe; the same --out again continues where it stopped."""
    check_writable(out)

    from codi2.train import run
    from codi2.train.recipe import recipe_folder, run_recipe

    def run_part(part: Path, folder: Path) -> None:
        try:
            run(part, folder, steps, snapshot, plan=plan, placement=placement)
        except DataError as error:
            if not plan:
                raise
            print(f"{part.stem}: it cannot be planned yet: {error}")  # the part from which it starts is not trained

    if folder := recipe_folder(config):
        if start or first_step:
            raise ConfigError(
                f"--start and --first-step are for one part, but {config} is a recipe; name the config of a part"
            )
        run_recipe(folder, out, run_part)
        return

    run(config, out, steps, snapshot, start, first_step, plan, placement)

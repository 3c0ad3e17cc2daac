"""`codi2 train`: train one part from its config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codi2.cli.output import OutOption, check_writable


def train(
    config: Annotated[Path, typer.Argument(help="The recipe of one part, e.g. configs/tiny/image_decoder.toml.")],
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
) -> None:
    """Train one part; the same --out again goes on where it stopped."""
    check_writable(out)

    from codi2.train import run

    run(config, out, steps=steps, snapshot=snapshot, start=start, first_step=first_step, plan=plan)

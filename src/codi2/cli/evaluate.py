"""`codi2 evaluate`: measure a model on held-out items."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codi2.cli.output import ModelOption, OutOption, check_writable


def evaluate(
    suite: Annotated[
        str,
        typer.Argument(help="smoke, icl, audio-edit, rounds, caption, perceive, subject, compose, all; dreambench."),
    ],
    model: ModelOption = "tiny",
    out: OutOption = Path("out/evaluate"),
    quick: Annotated[bool, typer.Option("--quick", help="Few items a figure: a first look.")] = False,
    outputs: Annotated[
        Path | None, typer.Option(help="Another system's outputs, <case>.png …: scored instead.")
    ] = None,
    source: Annotated[Path | None, typer.Option(help="The data of dreambench, as its authors release it.")] = None,
    dino: Annotated[str, typer.Option(help="Hub id or path of DINO; empty: facebook/dino-vits16.")] = "",
    clip: Annotated[str, typer.Option(help="Hub id or path of CLIP; empty: openai/clip-vit-base-patch32.")] = "",
    export: Annotated[Path | None, typer.Option(help="Folder for the cases, for another system to answer.")] = None,
) -> None:
    """Measure a model on held-out items, as JSON and as a page."""
    check_writable(out)

    from codi2.evaluate import run

    backbones = {name: place for name, place in (("dino", dino), ("clip", clip)) if place}
    run(suite, model, out, quick, outputs=outputs, export=export, source=source, backbones=backbones)

"""`codi2 evaluate`: measure a model on held-out items."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codi2.cli.output import ModelOption, OutOption, check_writable


def evaluate(
    suite: Annotated[
        str, typer.Argument(help="smoke, icl, audio-edit, rounds, caption, perceive, subject, compose, all.")
    ],
    model: ModelOption = "tiny",
    out: OutOption = Path("out/evaluate"),
    quick: Annotated[bool, typer.Option("--quick", help="Few items a figure: a first look.")] = False,
    outputs: Annotated[
        Path | None, typer.Option(help="Another system's outputs, <case>.png …: scored instead.")
    ] = None,
    export: Annotated[Path | None, typer.Option(help="Folder for the cases, for another system to answer.")] = None,
) -> None:
    """Measure a model on held-out items, as JSON and as a page."""
    check_writable(out)

    from codi2.evaluate import run

    run(suite, model=model, out=out, quick=quick, outputs=outputs, export=export)

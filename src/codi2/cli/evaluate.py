"""`codi2 evaluate`: measure a model on held-out items."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codi2.cli.output import ModelOption, OutOption, check_writable


def evaluate(
    suite: Annotated[str, typer.Argument(help="Which figures: smoke is all of them in minutes.")],
    model: ModelOption = "tiny",
    out: OutOption = Path("out/evaluate"),
    quick: Annotated[bool, typer.Option("--quick", help="Few items a figure: a first look.")] = False,
) -> None:
    """Measure a model on held-out items, as JSON and as a page."""
    check_writable(out)

    from codi2.evaluate import run

    run(suite, model=model, out=out, quick=quick)

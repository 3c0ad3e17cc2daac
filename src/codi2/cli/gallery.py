"""`codi2 gallery`: every row of the paper's Tables 1 to 3 and Figure 1, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codi2.cli.output import ModelOption, OutOption, check_model, check_writable
from codi2.cli.placement import placed
from codi2.placement import ON_CPU, Placement


@placed
def gallery(
    model: ModelOption = "tiny",
    out: OutOption = Path("out/gallery"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Few instances a row: a first look, without verdicts.")
    ] = False,
    sheet: Annotated[
        bool, typer.Option("--sheet", help="In place of the rows, 48 answers that nobody chose as one picture.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the items and of the answers.")] = 0,
    placement: Placement = ON_CPU,
) -> None:
    """Run each row of the paper's tables of examples on held-out media, with a measured verdict."""
    check_writable(out)
    check_model(model)

    from rich.console import Console
    from rich.table import Table

    from codi2.evaluate.context import EvalContext
    from codi2.evaluate.gallery import run_gallery
    from codi2.evaluate.sheet import sheet as write_sheet
    from codi2.model import CoDi2
    from codi2.processes import join

    with join() as processes:
        loaded = CoDi2.from_pretrained(model, **vars(processes.placed(placement)))
        if sheet:
            if processes.first:
                write_sheet(EvalContext(loaded, seed, quick), out / "sheet.png")
                typer.echo(f"The sheet is {out / 'sheet.png'}.")
            return
        rows = run_gallery(EvalContext(loaded, seed, quick), out, processes)
        if not processes.first:
            return
    table = Table("row", "where", "right", "verdict")
    for row in rows:
        right = ", ".join(f"{figure.value:.2f}" for figure in row.figures) or row.lacking
        table.add_row(row.entry.title, row.entry.where, right, row.verdict)
    Console().print(table)
    typer.echo(f"The page is {out / 'index.html'}.")

"""The command line: one file per command, heavy imports inside the command bodies.

A `CoDi2Error` becomes one sentence on stderr and exit code 2; Ctrl-C gives exit code 130. Other errors are bugs and
keep their traceback.
"""

from __future__ import annotations

import sys
import warnings
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from codi2 import __version__
from codi2.cli.chat import chat
from codi2.cli.convert import convert
from codi2.cli.data import app as data
from codi2.cli.demo import demo
from codi2.cli.doctor import doctor
from codi2.cli.evaluate import evaluate
from codi2.cli.gallery import gallery
from codi2.cli.generate import generate
from codi2.cli.new import new
from codi2.cli.serve import keys, serve
from codi2.cli.train import train
from codi2.cli.transfer import transfer
from codi2.errors import CoDi2Error, MediaWarning


class Commands(TyperGroup):
    """The group of all commands, which turns a user's error into one sentence."""

    def invoke(self, ctx: Any) -> Any:
        if not ctx.params["debug"]:  # warnings of libraries are for developers
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", MediaWarning)
            warnings.formatwarning = _sentence
        try:
            return super().invoke(ctx)
        except CoDi2Error as error:
            if ctx.params["debug"]:
                raise
            print(f"codi2: {error}", file=sys.stderr)
            raise typer.Exit(2) from error


def _sentence(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning in the form of errors, without its line of code."""
    return f"codi2: {message}\n"


# Plain help: rich takes longer to import than all other modules here.
app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command()(generate)
app.command()(transfer)
app.command()(chat)
app.command()(demo)
app.command()(serve)
app.add_typer(keys, name="keys")
app.command()(train)
app.command()(evaluate)
app.command()(gallery)
app.command()(doctor)
app.command()(convert)
app.command()(new)
app.add_typer(data, name="data")


def _version(requested: bool) -> None:
    if requested:
        print(f"codi2 {__version__}")
        raise typer.Exit


@app.callback()
def codi2(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """CoDi-2: reads and generates interleaved text, pictures, sounds and clips."""


def main() -> None:
    """Entry point of `codi2`."""
    for stream in (sys.stdin, sys.stdout):  # names of files may not be UTF-8, and are printed unchanged
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")
    app(prog_name="codi2")

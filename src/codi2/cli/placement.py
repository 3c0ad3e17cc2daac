"""The options of a model's placement, one group for all commands that run a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Annotated, Any, get_args

import typer

from codi2.placement import DTYPES, Placement, check

Dtype = StrEnum("Dtype", {name: name for name in DTYPES})  # type: ignore[misc]

DeviceOption = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1 or mps.", metavar="DEVICE")]
DtypeOption = Annotated[Dtype, typer.Option(help="Dtype of encoder and decoders; in training, of the frozen ones.")]
BitsOption = Annotated[
    int, typer.Option(help="Bits of the language model's weights, 8 or 4, with bitsandbytes; 0: unchanged.")
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Compile the denoising networks: slow to start, then faster.")
]
OffloadOption = Annotated[
    bool, typer.Option("--offload", help="Keep parts in main memory; each is moved to the device while it runs.")
]
OPTIONS: dict[str, tuple[Any, Any]] = {
    "device": (DeviceOption, "cpu"),
    "dtype": (DtypeOption, Dtype("float32")),
    "bits": (BitsOption, 0),
    "compile": (CompileOption, False),
    "offload": (OffloadOption, False),
}
"""Name → annotation and default: the fields of `Placement` that a command takes."""


Command = Callable[..., None]


def placed(command: Command) -> Command:
    """Gives a command all options of the group, see `placed_with`."""
    return placed_with(*OPTIONS)(command)


def placed_with(*names: str) -> Callable[[Command], Command]:
    """Gives a command these options in place of its argument `placement`, which is checked before it runs.

    The command raises ConfigError where the device does not exist or lacks the dtype.
    """

    def checked(options: dict[str, Any]) -> Placement:
        placement = Placement(**options)
        check(placement)
        return placement

    return lambda command: _with_options(command, {name: OPTIONS[name] for name in names}, checked)


def placed_over_config(command: Command) -> Command:
    """Gives `train` the options that training takes, without defaults: its `placement` has the options that are set.

    They replace the values of a config, and are checked where the config is read.
    """
    options = {
        name: (Annotated[get_args(annotation)[0] | None, *annotation.__metadata__], None)
        for name, (annotation, _) in OPTIONS.items()
        if name != "offload"
    }
    return _with_options(
        command, options, lambda values: {name: value for name, value in values.items() if value is not None}
    )


def _with_options(
    command: Command, options: dict[str, tuple[Any, Any]], read: Callable[[dict[str, Any]], Any]
) -> Command:
    """A command whose argument `placement` is the result of `read` on these options."""

    @wraps(command)
    def run(**arguments: Any) -> None:
        values = {name: arguments.pop(name) for name in options}
        values["dtype"] = values["dtype"] and str(values["dtype"])  # of an enum
        command(placement=read(values), **arguments)

    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "placement"]
    group = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in options.items()
    ]
    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    run.__signature__ = signature.replace(parameters=[*keywords, *group])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *group)}
    return run

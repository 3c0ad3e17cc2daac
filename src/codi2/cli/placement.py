"""The options that say where a model runs, one group for every command that runs one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Annotated, Any

import typer

from codi2.placement import DTYPES, Placement, check

Dtype = StrEnum("Dtype", {name: name for name in DTYPES})  # type: ignore[misc]

DeviceOption = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1 or mps.", metavar="DEVICE")]
DtypeOption = Annotated[Dtype, typer.Option(help="Of encoder and decoders; the half ones need a device that has them.")]
BitsOption = Annotated[
    int, typer.Option(help="Of the language model's weights, 8 or 4, with bitsandbytes; 0: as they are.")
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Compile the denoising networks: slow to start, then faster.")
]
OffloadOption = Annotated[
    bool, typer.Option("--offload", help="Keep parts in main memory; each comes to the device while it works.")
]
OPTIONS: dict[str, tuple[Any, Any]] = {
    "device": (DeviceOption, "cpu"),
    "dtype": (DtypeOption, Dtype("float32")),
    "bits": (BitsOption, 0),
    "compile": (CompileOption, False),
    "offload": (OffloadOption, False),
}
"""Name → annotation and default: the fields of `Placement` that a command takes."""


def placed(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of the group in place of its argument `placement`, checked before it runs.

    The command raises ConfigError where the device does not exist or lacks the dtype.
    """

    @wraps(command)
    def run(**arguments: Any) -> None:
        chosen = {name: arguments.pop(name) for name in OPTIONS}
        placement = Placement(**{**chosen, "dtype": str(chosen["dtype"])})
        check(placement)
        command(placement=placement, **arguments)

    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "placement"]
    group = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in OPTIONS.items()
    ]
    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    run.__signature__ = signature.replace(parameters=[*keywords, *group])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *group)}
    return run

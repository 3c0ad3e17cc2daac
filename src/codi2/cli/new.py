"""`codi2 new`: the folder of a model with other components."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codi2.cli.output import check_writable


def new(
    folder: Annotated[Path, typer.Argument(help="The new folder.", metavar="DIR")],
    base: Annotated[str, typer.Option("--from", help="A preset or folder to start from.", metavar="NAME")] = "paper",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A field of its config.json, again for more: llm.id=owner/name; null removes an entry."
        ),
    ] = None,
    parts: Annotated[
        list[str] | None,
        typer.Option("--part", help="A training run: audio=RUN/export, joint=RUN/export; again for more."),
    ] = None,
) -> None:
    """Write a model's folder with other components, and check those that are on this machine.

    codi2 new my-model --from paper --set llm.id=Qwen/Qwen3-8B
    --set decoders.image.id=stabilityai/stable-diffusion-xl-base-1.0

    `doctor`, `train` (options.model) and `generate` take the folder.
    """
    from codi2.checkpoint import locate
    from codi2.derive import derived, exports_of, with_untrained, write_model
    from codi2.doctor.fit import check_fit

    check_writable(folder)
    old, weights = locate(base)
    config, kept = with_untrained(old, derived(old, settings or (), folder.resolve().name), weights is not None)
    exports = exports_of(config, parts or ())
    config = config.with_trained(*exports)
    sentences = list(check_fit(config))
    write_model(config, folder, weights, kept, exports)
    for sentence in sentences:
        print(f"note: {sentence}")
    copied = ", ".join([*kept, *exports])
    print(f"{folder}: untrained {', '.join(config.untrained) or 'nothing'}; copied {copied or 'nothing'}")

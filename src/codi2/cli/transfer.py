"""`codi2 transfer`: files → a medium of another modality, without the language model."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codi2.cli.output import ModelOption, OutOption, SeedOption, StepsOption, check_writable, progress, save_reply
from codi2.cli.placement import placed_with
from codi2.errors import PromptError
from codi2.modalities import MEDIA, SENSES
from codi2.placement import ON_CPU, Placement

if TYPE_CHECKING:
    from codi2.prompt.parts import Part


To = StrEnum("To", {name: name for name in (*MEDIA, "text")})  # type: ignore[misc]
NAMED = re.compile(rf"(text|{'|'.join(SENSES)})=(.+)", re.DOTALL)


@placed_with("device", "dtype", "compile")  # the language model is not loaded
def transfer(
    files: Annotated[list[str], typer.Argument(help="Files, or text=WORDS, depth=FILE, thermal=FILE, imu=FILE.")],
    to: Annotated[To, typer.Option(help="Modality of the result.")],
    mix: Annotated[bool, typer.Option("--mix", help="One result from all files; otherwise one from each.")] = False,
    minus: Annotated[
        list[str] | None, typer.Option(help="A file, or text=WORDS, that is subtracted; again for more.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Numbers with commas: one for each file, then for each --minus; by default 1.")
    ] = None,
    out: OutOption = Path("out"),
    seed: SeedOption = 0,
    steps: StepsOption = None,
    guidance_scale: Annotated[
        float | None, typer.Option(min=0, help="Classifier-free guidance scale; 1: no guidance.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="Text that the result should not fit.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print paths and recipes as one JSON object.")] = False,
    model: ModelOption = "tiny",
    placement: Placement = ON_CPU,
) -> None:
    """Transfer the content of files to another modality: encode, add, decode. The language model is not loaded.

    codi2 transfer dog.wav --to image

    codi2 transfer --mix dog.png rain.wav --minus text="a sunny day" --weights 1,.5,.5 --to image
    """
    import json

    check_writable(out)
    items, subtracted = [read(file) for file in files], [read(file) for file in minus or ()]
    numbers = parse_weights(weights)

    from codi2.joint_space import JointSpace, check_weights
    from codi2.joint_space import transfer as make

    scales = [abs(scale) for scale in check_weights(len(items), len(subtracted), numbers)]
    groups = [list(range(len(items)))] if mix else [[i] for i in range(len(items))]
    options = {"num_inference_steps": steps, "guidance_scale": guidance_scale, "negative_prompt": negative_prompt}
    listed = []
    with progress(shown=not as_json) as callback:
        callback("load", 0, 1)
        space = JointSpace.from_pretrained(
            model, str(to), device=placement.device, dtype=placement.dtype, compile=placement.compile
        )
        for group in groups:
            reply = make(
                *[items[i] for i in group],
                to=str(to),
                minus=subtracted,
                weights=[*[scales[i] for i in group], *scales[len(items) :]],
                model=space,
                callback=callback,
                seed=seed,
                **{key: value for key, value in options.items() if value is not None},
            )
            listed += [{**part, "recipe": reply.recipe} for part in save_reply(reply, out, "transfer")]
    if as_json:
        print(json.dumps({"parts": listed}, ensure_ascii=False))
        return
    for part in listed:
        print(part["path"])


def read(file: str) -> Part:
    """A file, or the item after `text=`, `depth=`, `thermal=` or `imu=`. Raises MediaError, PromptError."""
    from codi2.prompt.parts import Phrase
    from codi2.senses import load_as

    match = None if Path(file).exists() else NAMED.fullmatch(file)
    if match is None:
        return load_as("", file)
    if match[1] == "text":
        if not match[2].strip():
            raise PromptError("text= has no words; write text=WORDS")
        return Phrase(match[2])
    return load_as(match[1], match[2])


def parse_weights(text: str | None) -> list[float]:
    """`1,.5` → numbers. Raises PromptError."""
    try:
        return [float(number) for number in text.split(",")] if text else []
    except ValueError:
        raise PromptError(f"--weights is {text!r}; expected numbers with commas between, such as 1,.5") from None

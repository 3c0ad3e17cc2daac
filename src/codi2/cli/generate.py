"""`codi2 generate`: one prompt with its files in, one reply out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from codi2.cli.output import (
    ModelOption,
    OutOption,
    SeedOption,
    SourceOption,
    StepsOption,
    check_writable,
    progress,
    save_reply,
    say_untrained,
)
from codi2.cli.placement import placed
from codi2.placement import ON_CPU, Placement


class Want(StrEnum):
    image = "image"
    audio = "audio"
    video = "video"
    text = "text"


@placed
def generate(
    prompt: Annotated[str, typer.Argument(help="The prompt; [image0], [audio0], ... stand for the files.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Files; they fill the placeholders in order, by modality, or by name: depth0=room.png."),
    ] = None,
    out: OutOption = Path("out"),
    seed: SeedOption = 0,
    steps: StepsOption = None,
    guidance_scale: Annotated[
        float | None, typer.Option(min=0, help="How strongly the prompt steers; 1: not at all.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What the picture or sound should not be like.")] = None,
    want: Annotated[
        list[Want] | None,
        typer.Option(
            help="What the reply holds, in order; by default the model decides. Twice: a clip with its sound."
        ),
    ] = None,
    source: SourceOption = "last",
    clip_sound: Annotated[
        bool, typer.Option("--clip-sound/--no-clip-sound", help="Whether the sound of a clip is heard.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the parts and the recipe as one JSON object.")] = False,
    model: ModelOption = "tiny",
    placement: Placement = ON_CPU,
) -> None:
    """Answer a prompt of text, pictures, sounds and clips.

    codi2 generate "Given the transformation between [image0] and [image1], apply the same editing to [image2]."
    a.png b.png c.png
    """
    import json

    from codi2.prompt.grammar import assigned, parse
    from codi2.prompt.sources import numbered, renamed
    from codi2.senses import load_files

    # what can be refused is refused before the model is loaded, which takes seconds
    check_writable(out)
    names = assigned(prompt, load_files(files or [], clip_sound))
    parts = parse(prompt, names)
    source = renamed(source, names, numbered(parts))

    from codi2.model import CoDi2

    say_untrained(model)
    with progress(shown=not as_json) as callback:
        callback("load", 0, 1)
        made = CoDi2.from_pretrained(model, **vars(placement))
        reply = made.generate(
            parts,
            want=want[0].value if want and len(want) == 1 else [one.value for one in want or ()] or None,
            seed=seed,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            source=source,
            callback=callback,
        )
    listed = save_reply(reply, out)
    if as_json:
        print(json.dumps({"parts": listed, "recipe": reply.recipe}, ensure_ascii=False))
        return
    for part in listed:
        print(part["text"] if part["type"] == "text" else part["path"])

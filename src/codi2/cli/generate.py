"""`codi2 generate`: the reply to one prompt with its files."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codi2.cli.output import (
    ForceOption,
    ModelOption,
    OutOption,
    SeedOption,
    SourceOption,
    StepsOption,
    TokensOption,
    check_writable,
    follow,
    progress,
    save_reply,
    say_untrained,
    show_notes,
    starting,
)
from codi2.cli.placement import placed
from codi2.errors import PromptError
from codi2.modalities import MEDIA
from codi2.placement import ON_CPU, Placement

if TYPE_CHECKING:
    from codi2.prompt.parts import Prompt


Want = StrEnum("Want", {name: name for name in (*MEDIA, "text")})  # type: ignore[misc]


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
        float | None, typer.Option(min=0, help="Classifier-free guidance scale; 1: no guidance.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="Text that the picture or sound should not fit.")] = None,
    want: Annotated[
        list[Want] | None,
        typer.Option(help="Modality of the reply; by default the model decides. Repeat it for several, in order."),
    ] = None,
    source: SourceOption = "last",
    clip_sound: Annotated[
        bool, typer.Option("--clip-sound/--no-clip-sound", help="Whether the sound of a clip is read.")
    ] = True,
    max_tokens: TokensOption = 128,
    force: ForceOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the parts, the recipe and the notes as one JSON object.")
    ] = False,
    model: ModelOption = "tiny",
    placement: Placement = ON_CPU,
) -> None:
    """Answer a prompt of text, pictures, sounds and clips.

    codi2 generate "Given the transformation between [image0] and [image1], apply the same editing to [image2]."
    a.png b.png c.png
    """
    import json

    # errors of the request come before the model is loaded, which takes seconds
    check_writable(out)
    modalities = [modality.value for modality in want or ()]
    parts, source = check_request(model, prompt, files or [], modalities, source, clip_sound)

    say_untrained(model)

    with progress(shown=not as_json) as bar:
        bar("load", 0, 1)
        with starting():
            from codi2.model import CoDi2

            loaded = CoDi2.from_pretrained(model, on_demand=True, **vars(placement))
            from codi2.chat import Chat

        events = Chat(loaded).stream(
            parts,
            want=modalities or None,
            seed=seed,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            source=source,
            max_new_tokens=max_tokens,
        )
        reply = follow(events, bar, print_text=not as_json)
    listed = save_reply(reply, out, force=force)
    if as_json:
        report = {"parts": listed, "recipe": reply.recipe, "notes": reply.notes}
        print(json.dumps(report, ensure_ascii=False))
        return
    for part in listed:
        if part["type"] != "text":
            print(part["path"])
    show_notes(reply.notes)


def check_request(
    model: str, prompt: str, files: Sequence[str], want: Sequence[str], source: str, clip_sound: bool
) -> tuple[Prompt, str]:
    """The parts of a prompt, and the name among them of the item that the reply edits. No model is loaded.

    Raises:
        PromptError: it is empty, its placeholders and files differ, or the model does not read or make a modality.
        MediaError: a file cannot be read.
        ConfigError: there is no such model.
    """
    from codi2.locate import locate
    from codi2.prompt.grammar import assign_items, check_not_empty, parse
    from codi2.prompt.sources import name_items, rename_source
    from codi2.senses import load_files

    items = assign_items(prompt, load_files(files, clip_sound))
    parts = parse(prompt, items)
    check_not_empty(parts)
    config, _ = locate(model)
    if not_made := [modality for modality in want if modality not in ("text", *config.decoders)]:
        raise PromptError(
            f"this model makes {', '.join(config.decoders)} and text, not {not_made[0]}; ask for one of these"
        )
    reads = config.encoder.num_features
    if not_read := [part.modality for part in parts if part.modality != "text" and part.modality not in reads]:
        raise PromptError(
            f"this model reads {', '.join(reads)}, not {not_read[0]}; leave it out or name another --model"
        )
    return parts, rename_source(source, items, name_items(parts))

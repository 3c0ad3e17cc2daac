"""`codi2 evaluate`: measure a model on held-out items."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codi2.cli.output import ModelOption, OutOption, check_model, check_writable
from codi2.cli.placement import placed
from codi2.placement import ON_CPU, Placement


@placed
def evaluate(
    suite: Annotated[
        str,
        typer.Argument(
            help="cost, retrieval, true-pictures, vocoder, language (smoke: these five), prior, edits, sound-edits, "
            "pictures, sounds, audio-edit, rounds, chat, caption, perceive, subject, compose, clips, together, all; "
            "dreambench, coco-edit."
        ),
    ],
    model: ModelOption = "tiny",
    out: OutOption = Path("out/evaluate"),
    quick: Annotated[bool, typer.Option("--quick", help="Few items a figure: a first look.")] = False,
    outputs: Annotated[
        Path | None, typer.Option(help="Another system's outputs, <case>.png …: scored instead.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option(help="Your data: DreamBooth's, COCO's; with audio-edit, AudioSet's.")
    ] = None,
    dino: Annotated[str, typer.Option(help="Hub id or path of DINO; empty: facebook/dino-vits16.")] = "",
    clip: Annotated[str, typer.Option(help="Hub id or path of CLIP; empty: the suite's published one.")] = "",
    inception: Annotated[str, typer.Option(help="Weights of Inception-v3, for FID.")] = "",
    panns: Annotated[str, typer.Option(help="Weights of PANNs Cnn14 at 16 kHz, for audio-edit on AudioSet.")] = "",
    instructed: Annotated[
        Path | None,
        typer.Option(help="A decoder trained on instructions alone, for the rows without a language model."),
    ] = None,
    text_pipeline: Annotated[
        str, typer.Option(help="AudioLDM2 or a text-to-video pipeline, for the rows of captions alone.")
    ] = "",
    items: Annotated[
        int | None, typer.Option(min=2, help="Items of each kind, in place of the suite's own number.")
    ] = None,
    export: Annotated[Path | None, typer.Option(help="Folder for the cases, for another system to answer.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the items and of the answers.")] = 0,
    val: Annotated[
        bool, typer.Option("--val", help="Draw items from the validation split: for choices, not for figures.")
    ] = False,
    beside: Annotated[
        str,
        typer.Option(
            help="Another model, or the folder of an earlier run: each figure with both values and their difference."
        ),
    ] = "",
    placement: Placement = ON_CPU,
) -> None:
    """Measure a model on held-out items, as JSON and as a page."""
    check_writable(out)
    from codi2.evaluate import is_run, run

    for name in (model, *([beside] if beside and not is_run(beside) else [])):
        check_model(name)

    networks = {"dino": dino, "clip": clip, "inception": inception, "panns": panns}
    backbones = {name: place for name, place in networks.items() if place}
    run(
        suite, model, out, quick, outputs, export, source, backbones, instructed, text_pipeline, placement, items,
        seed=seed, validation=val, beside=beside or None,
    )  # fmt: skip

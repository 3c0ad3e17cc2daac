"""A sheet of 48 answers on held-out media, not chosen: the first ones drawn, whatever they look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from codi2.evaluate.case import Case
from codi2.evaluate.context import EvalContext
from codi2.evaluate.copied import nearest_training
from codi2.evaluate.suites import answers, edit_cases, from_words
from codi2.hub import write_atomic
from codi2.media import picture_bytes
from codi2.prompt.parts import Image

EACH = 16  # pictures of known concepts, of unseen concepts, and edits
COLUMNS, SIDE, GAP, LINE = 6, 64, 8, 14  # of the sheet; pixels of a picture, between cells, of a line of words
SHOWN = ("given", "answer", "true", "nearest training picture")
LETTERS = 44  # of a caption


def sheet(context: EvalContext, path: Path) -> None:
    """Writes the sheet as a PNG: in each cell, from left to right, what `SHOWN` says.

    Raises:
        WeightsError: the model has no image decoder.
        OutputError: the file cannot be written.
    """
    context.decoder("image")
    count = context.count(EACH)
    cases = [
        case
        for split in from_words.KINDS["image"].groups
        for case in from_words.captions(context, split, count, seeds=1)
    ]
    cases += [case for case in edit_cases.draw_cases(context, "image", "", count) if case.about["way"] == "words"]
    outputs: list[Image] = answers.ours(context, cases)  # type: ignore[assignment]
    nearest = [result.picture for result in nearest_training(context, outputs)]
    about = {"model": context.model.config.name, "seed": context.seed, "sheet": len(cases)}
    write_atomic(path, picture_bytes(laid_out(cases, outputs, nearest), "PNG", about))


def laid_out(cases: Sequence[Case], outputs: Sequence[Image], nearest: Sequence[Image]) -> PILImage.Image:
    """All cells in rows of `COLUMNS`, under a line that says what they hold."""
    width, height = len(SHOWN) * SIDE + GAP, SIDE + LINE + GAP
    rows = -(-len(cases) // COLUMNS)
    whole = PILImage.new("RGB", (COLUMNS * width + GAP, rows * height + LINE + 2 * GAP), "white")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(10)
    heading = f"{len(cases)} answers in the order in which they were drawn. Each: {', '.join(SHOWN)}."
    pen.text((GAP, GAP), heading, "black", font)
    for i, (case, answer, copied) in enumerate(zip(cases, outputs, nearest, strict=True)):
        left, top = GAP + i % COLUMNS * width, LINE + 2 * GAP + i // COLUMNS * height
        for k, part in enumerate((case.truth.get("source"), answer, case.target, copied)):
            if isinstance(part, Image):
                whole.paste(part.pixels.resize((SIDE, SIDE)), (left + k * SIDE, top))
        words = case.about.get("ask") or case.about["words"]
        pen.text((left, top + SIDE), words[:LETTERS], "black", font)
    return whole

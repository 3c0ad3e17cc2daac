"""A sheet of 48 answers on held-out media, not chosen: the first ones drawn, whatever they look like."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from codi2.evaluate.bench import Bench
from codi2.evaluate.case import Case
from codi2.evaluate.copied import nearest_training
from codi2.evaluate.suites import answers, edit_cases, from_words
from codi2.hub import write_atomic
from codi2.media.write import png_info
from codi2.prompt.parts import Image

EACH = 16  # pictures of known concepts, of unseen concepts, and edits
COLUMNS, SIDE, GAP, LINE = 6, 64, 8, 14  # of the sheet; pixels of a picture, between cells, of a line of words
SHOWN = ("given", "answer", "true", "nearest training picture")
LETTERS = 44  # of a caption


def sheet(bench: Bench, path: Path) -> None:
    """Writes the sheet as a PNG: in each cell, from left to right, what `SHOWN` says.

    Raises:
        WeightsError: the model has no image decoder.
        OutputError: the file cannot be written.
    """
    bench.decoder("image")
    few = 2 if bench.quick else EACH
    asked = [
        case for split in from_words.KINDS["image"].groups for case in from_words.captions(bench, split, few, seeds=1)
    ]
    asked += [case for case in edit_cases.drawn(bench, "image", "", few) if case.about["way"] == "words"]
    made: list[Image] = answers.ours(bench, asked)  # type: ignore[assignment]
    near = [one.picture for one in nearest_training(bench, made)]
    file = io.BytesIO()
    about = png_info({"model": bench.model.config.name, "seed": bench.seed, "sheet": len(asked)})
    laid_out(asked, made, near).save(file, "PNG", optimize=True, pnginfo=about)
    write_atomic(path, file.getvalue())


def laid_out(asked: Sequence[Case], made: Sequence[Image], near: Sequence[Image]) -> PILImage.Image:
    """All cells in rows of `COLUMNS`, under a line that says what they hold."""
    width, height = len(SHOWN) * SIDE + GAP, SIDE + LINE + GAP
    rows = -(-len(asked) // COLUMNS)
    whole = PILImage.new("RGB", (COLUMNS * width + GAP, rows * height + LINE + 2 * GAP), "white")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(10)
    heading = f"{len(asked)} answers in the order in which they were drawn. Each: {', '.join(SHOWN)}."
    pen.text((GAP, GAP), heading, "black", font)
    for i, (case, answer, copy) in enumerate(zip(asked, made, near, strict=True)):
        left, top = GAP + i % COLUMNS * width, LINE + 2 * GAP + i // COLUMNS * height
        for k, part in enumerate((case.truth.get("source"), answer, case.target, copy)):
            if isinstance(part, Image):
                whole.paste(part.pixels.resize((SIDE, SIDE)), (left + k * SIDE, top))
        words = case.about.get("ask") or case.about["words"]
        pen.text((left, top + SIDE), words[:LETTERS], "black", font)
    return whole

"""Draws the README's picture from what `codi2 demo --out out` wrote.

python examples/first_look.py out docs/first-look.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from codi2.demo import REQUESTS, media_folder
from codi2.media import load
from codi2.prompt.parts import Audio, Video
from codi2.prompt.parts import Image as Picture
from codi2.report import spectrogram

SIDE, WIDTH, PAD, TEXT = 96, 240, 8, 17  # pixels: pictures, spectrograms, gaps, a line of words


def tile(path: Path) -> Image.Image:
    """A picture, a sound's spectrogram, or every second frame of a clip."""
    part = load(path)
    if isinstance(part, Audio):
        return spectrogram(part, (WIDTH, SIDE))
    assert isinstance(part, Picture | Video)
    frames = part.frames[::2] if isinstance(part, Video) else (part.pixels,)
    strip = Image.new("RGB", (SIDE * len(frames), SIDE))
    for i, frame in enumerate(frames):
        strip.paste(frame.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (SIDE * i, 0))
    return strip


def first_look(out: Path) -> Image.Image:
    """Every prompt of the demo whose reply has media: its text, its media, the reply."""
    media, rows = media_folder(), []
    for number, request in enumerate(REQUESTS, start=1):
        kinds = (".png", ".wav", ".mp4")
        answers = sorted(path for path in out.glob(f"{number:02}*") if path.suffix in kinds)
        if answers:
            rows.append(
                (request.template, [tile(media / name) for name in request.files], [tile(path) for path in answers])
            )
    width = max(sum(t.width + PAD for t in inputs + outputs) for _, inputs, outputs in rows) + 40 + 2 * PAD
    sheet = Image.new("RGB", (width, len(rows) * (SIDE + TEXT + 2 * PAD) + PAD), "white")
    draw, font, y = ImageDraw.Draw(sheet), ImageFont.load_default(size=13), PAD
    for words, inputs, outputs in rows:
        draw.text((PAD, y), words, "black", font)
        x = PAD
        for picture in inputs:
            sheet.paste(picture, (x, y + TEXT))
            x += picture.width + PAD
        middle = y + TEXT + SIDE // 2
        draw.line((x + 8, middle, x + 28, middle), "black", 2)
        draw.polygon([(x + 28, middle - 5), (x + 34, middle), (x + 28, middle + 5)], "black")
        x += 40
        for picture in outputs:
            sheet.paste(picture, (x, y + TEXT))
            x += picture.width + PAD
        y += SIDE + TEXT + 2 * PAD
    return sheet


if __name__ == "__main__":
    first_look(Path(sys.argv[1])).save(sys.argv[2], optimize=True)

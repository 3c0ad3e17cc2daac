"""The page of `codi2 gallery` as one picture: a screenshot by Chromium, cut into columns.

python examples/gallery_picture.py out/gallery/index.html docs/gallery.png
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, COLUMNS, SHOWN = 900, 16_000, 4, 440  # pixels of the window; columns, and pixels of each


def screenshot(page: Path) -> Image.Image:
    """The page down to its last line."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        window = ["--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}"]
        subprocess.run(
            ["chromium", "--headless", "--no-sandbox", *window, page.resolve().as_uri()],
            check=True,
            capture_output=True,
        )
        whole = Image.open(shot).convert("RGB")
    pixels = np.asarray(whole)
    inked = (pixels != pixels[-1, 0]).any((1, 2))
    return whole.crop((0, 0, WIDTH, int(inked.nonzero()[0].max()) + 20))


def in_columns(whole: Image.Image) -> Image.Image:
    """The page cut where its rules are, so that no row of it is split, about equally long."""
    pixels = np.asarray(whole.convert("L")).astype(int)
    inner = pixels[:, 20:-20]
    rules = ((inner.max(1) - inner.min(1) < 3) & (inner[:, 0] < 250)).nonzero()[0]
    ends = [int(rules[np.abs(rules - whole.height * n / COLUMNS).argmin()]) for n in range(1, COLUMNS)]
    edges = [0, *ends, whole.height]
    parts = [whole.crop((0, top, WIDTH, bottom)) for top, bottom in pairwise(edges)]
    parts = [part.resize((SHOWN, part.height * SHOWN // WIDTH), Image.Resampling.LANCZOS) for part in parts]
    sheet = Image.new("RGB", (SHOWN * COLUMNS, max(part.height for part in parts)), "white")
    for n, part in enumerate(parts):
        sheet.paste(part, (SHOWN * n, 0))
    return sheet


if __name__ == "__main__":
    page, out = map(Path, sys.argv[1:])
    in_columns(screenshot(page)).quantize(192).save(out, optimize=True)

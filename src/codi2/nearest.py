"""The training item that is nearest to an output, which shows whether the output is a copy.

The index is a part of the weights: the caption and features (`heads.recall`) of every training item, and thumbnails of
the pictures with permissive licences (Apache-2.0, MIT, CC-BY). It is written when the encoder's heads are exported.

Letters: D joint width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from torch import Tensor

from codi2.data.items import Item
from codi2.encode.contract import Encoder
from codi2.heads.recall import FILE, Recall
from codi2.hub import atomic_path, write_atomic
from codi2.prompt.parts import Image, Part, Text

THUMB = 32  # pixels of a thumbnail's side
COLUMNS = 80  # thumbnails in a row of the sheet
PERMISSIVE = {"google", "twitter", "fluent3d"}  # sources whose pictures may be shown


class TrainingIndex:
    """Training items by modality: features, captions, sources and thumbnails."""

    def __init__(self, folder: Path) -> None:
        self.recall = Recall.load(folder.parent / FILE)
        self.entries: dict[str, list[dict[str, str]]] = json.loads((folder / "items.json").read_text(encoding="utf-8"))
        self.sheet = PILImage.open(folder / "thumbnails.webp").convert("RGB")

    def nearest(self, modality: str, joint: Tensor) -> tuple[Part, str]:
        """The item whose vector is nearest by cosine to `joint` [D].

        Returns:
            Its thumbnail (or its caption, where the licence forbids a picture), and a line of text.
        """
        row, cosine = self.recall.nearest(modality, joint)
        item = self.entries[modality][row]
        line = f"{item['caption']} ({item['source']}), cosine {cosine:.2f}"
        if "thumb" not in item:
            return Text(line), line
        y, x = divmod(int(item["thumb"]), COLUMNS)
        box = (x * THUMB, y * THUMB, (x + 1) * THUMB, (y + 1) * THUMB)
        return Image(self.sheet.crop(box).resize((64, 64), PILImage.Resampling.BICUBIC), line), line


def nearest_parts(folder: Path | None, encoder: Encoder, parts: Sequence[Part]) -> list[Part]:
    """The nearest training item of each medium of a reply; empty where the checkpoint has no index."""
    if folder is None or not (folder / "encoder" / "nearest").is_dir():
        return []
    index = TrainingIndex(folder / "encoder" / "nearest")
    media = [part for part in parts if part.modality in index.entries]
    return [index.nearest(part.modality, encoder([part]).values[0, 0].cpu())[0] for part in media]


def write_index(folder: Path, items: Mapping[str, Sequence[Item]], pixels: np.ndarray) -> None:
    """Writes the index of training items, in the order of their features.

    Args:
        items: modality → the items (`codi2.data.items.Item`).
        pixels: uint8 [M, 64, 64, 3], pictures of the corpus by `Item.row`.
    """
    entries: dict[str, list[dict[str, str]]] = {}
    thumbs: list[PILImage.Image] = []
    for modality, members in items.items():
        entries[modality] = []
        for item in members:
            entry = {"caption": item.caption, "source": item.source}
            if modality == "image" and item.source in PERMISSIVE:
                entry["thumb"] = str(len(thumbs))
                picture = PILImage.fromarray(pixels[item.row])
                thumbs.append(picture.resize((THUMB, THUMB), PILImage.Resampling.LANCZOS))
            entries[modality].append(entry)
    sheet = PILImage.new("RGB", (COLUMNS * THUMB, max(1, -(-len(thumbs) // COLUMNS)) * THUMB), "white")
    for n, thumb in enumerate(thumbs):
        sheet.paste(thumb, (n % COLUMNS * THUMB, n // COLUMNS * THUMB))
    write_atomic(folder / "items.json", json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode())
    with atomic_path(folder / "thumbnails.webp") as aside:
        sheet.save(aside, "WEBP", quality=60, method=6)

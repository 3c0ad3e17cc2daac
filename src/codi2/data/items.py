"""The corpus on disk: one line of JSON per item; pictures, sounds and clips in three arrays beside it."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from codi2.errors import DataError
from codi2.hub import home
from codi2.modalities import Modality

SCHEMA = 2
"""Version of the files that `build` writes and `load_corpus` reads."""

ARRAYS = {"image": "images.npy", "audio": "sounds.npy", "video": "clips.npy"}
"""Modality → the file of its media, one row per item."""

Split = Literal["train", "val", "test_family", "test_subject", "test_rendering", "test_style"]


@dataclass(frozen=True)
class Item:
    """One picture, sound or clip of the corpus."""

    id: str
    """`source/key`, unique."""
    modality: Modality
    row: int
    """Row of `images.npy`, `sounds.npy` or `clips.npy`."""
    file: str
    """The source file, below `<home>/sources`; the member of an archive follows a colon."""
    caption: str
    """Short lower-case noun phrase: `a cat face`, `a dog barking`."""
    concept: str
    """Normalised noun, the same in all sources and modalities: `cat`."""
    family: str
    """`category/head`: near-duplicate concepts share the head, and a held-out head is held out everywhere."""
    style: str
    """One of `world.ALL_RENDERINGS`, or photo, drawing, cartoon; sounds recorded or synthesized; clips animated."""
    group: str
    """Shared by the renderings of one emoji and by the clips (or notes) of one recording."""
    subject: str
    """The individual shown; empty if only one picture shows it."""
    source: str
    licence: str
    attribution: str
    split: Split

    @property
    def head(self) -> str:
        return self.family.rpartition("/")[2]

    @property
    def background(self) -> bool:
        """Whether it is a scene to put things on, not a thing."""
        return self.family.startswith("background/")


class Corpus:
    """Items and their media. The arrays are memory-mapped, so opening is cheap and workers share the pages."""

    def __init__(self, folder: Path, items: list[Item], version: str = ""):
        self.folder, self.items, self.version = folder, items, version

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def images(self) -> np.ndarray:
        """uint8 [N, 64, 64, 3]."""
        return np.load(self.folder / "images.npy", mmap_mode="r")

    @cached_property
    def sounds(self) -> np.ndarray:
        """int16 [M, 40960] at 16 kHz."""
        return np.load(self.folder / "sounds.npy", mmap_mode="r")

    @cached_property
    def clips(self) -> np.ndarray:
        """uint8 [V, 8, 64, 64, 3], 2.56 s."""
        return np.load(self.folder / "clips.npy", mmap_mode="r")

    def media(self, item: Item) -> np.ndarray:
        """An item's row of its array."""
        return np.ascontiguousarray(getattr(self, Path(ARRAYS[item.modality]).stem)[item.row])

    def image(self, item: Item) -> Image.Image:
        """RGB, 64×64 pixels."""
        self._is(item, "image")
        return Image.fromarray(self.media(item))

    def sound(self, item: Item) -> np.ndarray:
        """float32 [40960] in [-1, 1] at 16 kHz."""
        self._is(item, "audio")
        return self.media(item).astype(np.float32) / 32767

    @staticmethod
    def _is(item: Item, modality: str) -> None:
        if item.modality != modality:
            raise DataError(
                f"item {item.id} is of modality {item.modality}, not {modality}: ask for corpus.media(item)"
            )

    def select(
        self,
        modality: str | None = None,
        split: str | None = None,
        style: str | None = None,
        concept: str | None = None,
    ) -> list[Item]:
        """Items that match every argument except None, in the corpus's order."""
        arguments = {"modality": modality, "split": split, "style": style, "concept": concept}
        filters = {name: value for name, value in arguments.items() if value is not None}
        return [item for item in self.items if all(getattr(item, name) == value for name, value in filters.items())]

    def without(self, styles: Collection[str]) -> Corpus:
        """The corpus without the items of these styles."""
        return Corpus(self.folder, [item for item in self.items if item.style not in styles], self.version)


def dump_items(items: list[Item]) -> bytes:
    """One line of JSON per item, keys in the order of the fields."""
    return "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items).encode()


def load_corpus(path: Path | None = None) -> Corpus:
    """The corpus in `path` (default `<home>/data/tiny`).

    Raises `DataError` where it is missing, broken or of another schema version.
    """
    folder = path or home() / "data" / "tiny"
    try:
        about = json.loads((folder / "build.json").read_text(encoding="utf-8"))
        lines = (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()
        version = about["schema"]
        items = [Item(**json.loads(line)) for line in lines] if version == SCHEMA else []
    except FileNotFoundError as error:
        raise DataError(f"no corpus in {folder}: run `codi2 data fetch tiny && codi2 data build tiny`") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"the corpus in {folder} is broken ({error}): run `codi2 data build tiny` again") from error
    if version != SCHEMA:
        raise DataError(f"the corpus in {folder} has schema {version}, not {SCHEMA}: run `codi2 data build tiny` again")
    return Corpus(folder, items, str(about.get("sha256_items", "")))

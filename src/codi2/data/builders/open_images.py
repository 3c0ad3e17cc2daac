"""Composition after Kosmos-G (section 4.1): a caption's entities, cut out of the picture, are the parts of it.

From Open Images V7: pictures, captions (the jsonl of Localized Narratives, or any jsonl of `image_id` and `caption`),
and either the official masks (`*-annotations-object-segmentation.csv`, mask PNGs, class descriptions) or a segmenter.
`A cat on a couch.` → "[image0] on [image1]", each on white.
"""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from codi2.data.builders.contract import BadRecord, Builder, Draft, LeftOut, Raw, Unit, exchange
from codi2.data.builders.lines import Lines, index_lines, line_entries, ranges
from codi2.data.builders.listed import listed
from codi2.data.builders.phrases import NounPhrase, noun_phrases
from codi2.data.checks import caption, check_sides, decoded, entry_file
from codi2.data.record import Medium, Piece
from codi2.data.templates import write_prompt
from codi2.errors import DataError
from codi2.prompt.grammar import join_text
from codi2.prompt.parts import Image, Text
from codi2.prompt_json import png
from codi2.untrusted import open_inside, parse_json

LICENCE = "pictures CC-BY-2.0 (each its photographer's), annotations CC-BY-4.0"
CAPTIONS = 1_000  # a unit
SMALLEST = 0.01  # of the picture: smaller parts tell nothing
_SEGMENTS = "*annotations-object-segmentation.csv"


@dataclass(frozen=True)
class Options:
    segmenter: str = ""
    """Hub id or folder of a CLIPSeg model (CIDAS/clipseg-rd64-refined); empty: the official masks."""
    threshold: float = 0.4
    """Of the segmenter's probability: what is above belongs to the entity."""
    device: str = "cpu"
    """Where the segmenter runs: cpu, cuda, cuda:1."""
    batch: int = 16
    """Pictures whose entities are segmented together, on the device `batch` entities at once."""
    most: int = 4
    """Parts of one record, at most."""


@dataclass
class Captioned:
    """A picture with its caption and the entities in it."""

    name: str
    words: str
    whole: Medium
    picture: PILImage.Image
    phrases: list[NounPhrase]
    masks: Sequence[np.ndarray | None] = ()
    """bool [H, W] of each phrase, by the segmenter."""


class OpenImages(Builder):
    about = "a picture composed of its parts, as the caption says"
    reads = "one *.jsonl of captions (image_id, caption), <image_id>.jpg below, and the official masks with their CSVs"
    Options = Options

    def units(self) -> list[dict[str, Any]]:
        lists = listed(self.source, "*.jsonl")
        if len(lists) != 1:
            raise DataError(f"{self.source} should hold one .jsonl of captions, there are {len(lists)}")
        if not self.options.segmenter:
            self._index_masks()
        count = index_lines(self.source, lists[0], self.scratch / "captions.npy")
        (self.scratch / "captions.json").write_text(json.dumps(lists[0].name))
        return ranges(count, CAPTIONS)

    def _index_masks(self) -> None:
        tables = listed(self.source, f"**/{_SEGMENTS}")
        names = next(iter(listed(self.source, "**/*class-descriptions*.csv")), None)
        if not tables or names is None:
            missing = "class-descriptions CSV" if tables else _SEGMENTS
            raise DataError(f"{self.source} holds no {missing}; bring it, or name a segmenter with --set segmenter=…")
        described = {row[0]: row[1] for row in self._table(names) if len(row) == 2}
        places = {path.name: str(path.relative_to(self.source)) for path in listed(self.source, "**/*.png")}
        path = self.scratch / "masks.sqlite"
        path.unlink(missing_ok=True)
        database = sqlite3.connect(path)
        with database:
            database.execute("create table masks (image text, name text, file text, area real)")
            for table in tables:
                rows = _mask_rows(table.name, self._table(table), described, places)
                database.executemany("insert into masks values (?, ?, ?, ?)", rows)
            database.execute("create index by_image on masks (image)")
        database.close()

    def _table(self, path: Path) -> Iterator[list[str]]:
        """The rows of a CSV file. Raises DataError."""
        try:
            with open_inside(self.source, path) as file:
                yield from csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline=""))
        except csv.Error as error:
            raise DataError(f"{path} is no CSV file ({error}); bring it again") from error

    @cached_property
    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.scratch / 'masks.sqlite'}?mode=ro", uri=True)

    @cached_property
    def _folders(self) -> list[Path]:
        """Where pictures are looked for, the last lucky one first."""
        below = sorted(p.relative_to(self.source) for p in self.source.glob("**/*") if p.is_dir())
        return [Path("."), *below]

    @property
    def gpus(self) -> int:
        return int(bool(self.options.segmenter) and self.options.device.startswith("cuda"))

    def read(self, unit: Unit) -> Iterator[Raw | BadRecord]:
        name = json.loads((self.scratch / "captions.json").read_text())
        lines = line_entries(Lines(self.source, name, self.scratch / "captions.npy"), unit, "caption")
        if not self.options.segmenter:
            yield from lines
            return
        while some := list(islice(lines, max(1, self.options.batch))):
            yield from self._segmented(some)

    def _segmented(self, some: Sequence[Raw | BadRecord]) -> list[Raw | BadRecord]:
        """Entries with their masks, found in batches; one that cannot be read is left to `make`, which says why."""
        from codi2.data.builders.segmenter import segment

        captioned: dict[int, Captioned] = {}
        for n, raw in enumerate(some):
            if isinstance(raw, Raw):
                with suppress(Exception):  # whatever it is, it comes again
                    captioned[n] = self._captioned(raw)
        wanted = [(c.picture, phrase.text) for c in captioned.values() for phrase in c.phrases]
        options = self.options
        found = segment(options.segmenter, wanted, options.device, options.batch, options.threshold)
        for one in captioned.values():
            one.masks = list(islice(found, len(one.phrases)))
        return [
            replace(raw, entry=captioned[n]) if isinstance(raw, Raw) and n in captioned else raw
            for n, raw in enumerate(some)
        ]

    def _captioned(self, raw: Raw) -> Captioned:
        """Raises BadRecord, LeftOut."""
        try:
            entry = parse_json(raw.entry)
            name, words = str(entry["image_id"]), caption(entry["caption"]).rstrip(".")
        except (ValueError, KeyError, TypeError) as error:
            raise BadRecord("malformed", f"{raw.entry[:80]!r} is no caption: {error}") from error
        whole = self._picture(name)
        media = decoded(whole)
        assert isinstance(media, Image)
        return Captioned(name, words, whole, media.pixels, list(noun_phrases(words)))

    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        entry = raw.entry if isinstance(raw.entry, Captioned) else self._captioned(raw)
        masks = entry.masks or [self._mask(entry.name, phrase, entry.picture.size) for phrase in entry.phrases]
        pixels = np.asarray(entry.picture)
        parts: list[tuple[NounPhrase, Medium]] = []
        for phrase, mask in zip(entry.phrases, masks, strict=True):
            if mask is not None and mask.mean() >= SMALLEST and len(parts) < self.options.most:
                parts.append((phrase, Medium("png", png(cut_out(pixels, mask)), checked=True)))
        if len(parts) < 2:
            raise LeftOut("too few parts", f"{len(parts)} of {entry.words[:60]!r}")
        prompt = write_prompt("compose", draw, {"description": _described(entry.words, parts)})
        whole = Medium(entry.whole.suffix, entry.whole.data, checked=True)
        about = {"image": entry.name, "parts": [p.head for p, _ in parts]}
        yield Draft("compose", exchange(prompt, [whole]), LICENCE, about)

    def _picture(self, name: str) -> Medium:
        for n, folder in enumerate(self._folders):
            with suppress(LeftOut):
                data = entry_file(self.source, folder / f"{name}.jpg")
                self._folders.insert(0, self._folders.pop(n))
                return Medium("jpg", data)
        raise LeftOut("absent", f"no {name}.jpg")

    def _mask(self, name: str, phrase: NounPhrase, size: tuple[int, int]) -> np.ndarray | None:
        """The official one, bool [H, W], or None where there is none of this entity."""
        rows = self._database.execute(
            "select file from masks where image = ? and name = ? order by area desc, file", (name, phrase.head)
        ).fetchall()
        masks = [_read_mask(path, entry_file(self.source, path), size) for (path,) in rows]
        return np.logical_or.reduce(masks) if masks else None


def _mask_rows(
    table: str, lines: Iterator[list[str]], described: dict[str, str], places: dict[str, str]
) -> Iterator[tuple[str, str, str, float]]:
    """`(image, name, file, area)` of the masks that are there. Raises DataError."""
    header = next(lines, [])
    for column in ("MaskPath", "ImageID", "LabelName"):
        if column not in header:
            raise DataError(f"{table} has no column {column!r}; it has {', '.join(header)}")
    for line in lines:
        row = dict(zip(header, line, strict=False))
        place = places.get(row.get("MaskPath", ""))
        if place is None or "ImageID" not in row:
            continue
        label = row.get("LabelName", "")
        # `Human face` is looked for as `face`: the caption's noun
        yield row["ImageID"], (described.get(label, label or "-").lower().split() or [""])[-1], place, _area(row)


def _area(row: dict[str, str]) -> float:
    """Of the mask's box, 0 to 1; it only orders the masks, so a damaged number is no loss."""
    try:
        left, right, top, bottom = (float(row[key]) for key in ("BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax"))
    except (KeyError, TypeError, ValueError):
        return 0.0
    return (right - left) * (bottom - top)


def _read_mask(name: str, data: bytes, size: tuple[int, int]) -> np.ndarray:
    """bool [H, W] at the picture's size; masks are stored at another. Raises BadRecord."""
    try:
        with PILImage.open(io.BytesIO(data), formats=["PNG"]) as mask:
            check_sides(mask.size)
            return np.asarray(mask.convert("L").resize(size, PILImage.Resampling.NEAREST)) > 127
    except (OSError, SyntaxError, ValueError, PILImage.DecompressionBombError) as error:
        raise BadRecord("undecodable", f"mask {name}: {error}") from error


def cut_out(pixels: np.ndarray, mask: np.ndarray) -> PILImage.Image:
    """What the mask covers, on white, cropped to it: uint8 [H, W, 3] and bool [H, W] → a picture."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return PILImage.fromarray(np.where(mask[box][..., None], pixels[box], np.uint8(255)))


def _described(words: str, parts: list[tuple[NounPhrase, Medium]]) -> list[Piece]:
    """The caption with each entity's words replaced by its picture."""
    pieces: list[Any] = []
    at = 0
    for phrase, medium in parts:
        pieces += [Text(words[at : phrase.start]), medium]
        at = phrase.end
    return list(join_text([*pieces, Text(words[at:])]))  # type: ignore[arg-type]

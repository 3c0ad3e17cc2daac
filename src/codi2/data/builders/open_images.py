"""Composition as in Kosmos-G (section 4.1): the entities of a caption are cut out of the picture and form the prompt.

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
from codi2.media import picture_bytes
from codi2.prompt.grammar import join_text
from codi2.prompt.parts import Image, Text
from codi2.untrusted import open_inside, parse_json

LICENCE = "pictures CC-BY-2.0 (each its photographer's), annotations CC-BY-4.0"
CAPTIONS = 1_000  # of a unit
SMALLEST = 0.01  # least share of the picture that a part covers
_SEGMENTS = "*annotations-object-segmentation.csv"


@dataclass(frozen=True)
class Options:
    segmenter: str = ""
    """Hub id or folder of a CLIPSeg model (CIDAS/clipseg-rd64-refined); empty: the official masks."""
    threshold: float = 0.4
    """Of the segmenter's probability: pixels above it belong to the entity."""
    device: str = "cpu"
    """Of the segmenter: cpu, cuda, cuda:1."""
    batch: int = 16
    """Pictures whose entities are segmented together, and entities that are on the device at once."""
    most: int = 4
    """Most parts of a record."""


@dataclass
class CaptionedPicture:
    """A picture with its caption and the entities in it."""

    name: str
    words: str
    whole: Medium
    picture: PILImage.Image
    phrases: list[NounPhrase]
    masks: Sequence[np.ndarray | None] = ()
    """bool [H, W] of each phrase, from the segmenter."""


class OpenImages(Builder):
    about = "a picture composed of its parts, as its caption describes"
    reads = "one *.jsonl of captions (image_id, caption), <image_id>.jpg below, and the official masks with their CSVs"
    Options = Options

    def units(self) -> list[dict[str, Any]]:
        lists = listed(self.source, "*.jsonl")
        if len(lists) != 1:
            raise DataError(f"{self.source} has {len(lists)} .jsonl files; it should hold one, of captions")
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
            raise DataError(f"{self.source} holds no {missing}; add it, or name a segmenter with --set segmenter=…")
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
            raise DataError(f"{path} is not a CSV file ({error}); download it again") from error

    @cached_property
    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.scratch / 'masks.sqlite'}?mode=ro", uri=True)

    @cached_property
    def _folders(self) -> list[Path]:
        """Folders in which pictures are searched; the last one that had a picture is the first."""
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
        while entries := list(islice(lines, max(1, self.options.batch))):
            yield from self._segmented(entries)

    def _segmented(self, entries: Sequence[Raw | BadRecord]) -> list[Raw | BadRecord]:
        """Entries with their masks, computed in batches; `make` reports entries that cannot be read."""
        from codi2.data.builders.segmenter import segment

        captioned: dict[int, CaptionedPicture] = {}
        for n, raw in enumerate(entries):
            if isinstance(raw, Raw):
                with suppress(Exception):  # `make` raises it again
                    captioned[n] = self._captioned(raw)
        queries = [(c.picture, phrase.text) for c in captioned.values() for phrase in c.phrases]
        options = self.options
        masks = segment(options.segmenter, queries, options.device, options.batch, options.threshold)
        for picture in captioned.values():
            picture.masks = list(islice(masks, len(picture.phrases)))
        return [
            replace(raw, entry=captioned[n]) if isinstance(raw, Raw) and n in captioned else raw
            for n, raw in enumerate(entries)
        ]

    def _captioned(self, raw: Raw) -> CaptionedPicture:
        """The picture of a caption. Raises BadRecord, LeftOut."""
        try:
            entry = parse_json(raw.entry)
            name, words = str(entry["image_id"]), caption(entry["caption"]).rstrip(".")
        except (ValueError, KeyError, TypeError) as error:
            raise BadRecord("malformed", f"{raw.entry[:80]!r} is no caption: {error}") from error
        whole = self._picture(name)
        media = decoded(whole)
        assert isinstance(media, Image)
        return CaptionedPicture(name, words, whole, media.pixels, list(noun_phrases(words)))

    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        entry = raw.entry if isinstance(raw.entry, CaptionedPicture) else self._captioned(raw)
        masks = entry.masks or [self._mask(entry.name, phrase, entry.picture.size) for phrase in entry.phrases]
        pixels = np.asarray(entry.picture)
        parts: list[tuple[NounPhrase, Medium]] = []
        for phrase, mask in zip(entry.phrases, masks, strict=True):
            if mask is not None and mask.mean() >= SMALLEST and len(parts) < self.options.most:
                parts.append((phrase, Medium("png", picture_bytes(cut_out(pixels, mask)), checked=True)))
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
        """The official mask of an entity, bool [H, W]; None: there is none."""
        rows = self._database.execute(
            "select file from masks where image = ? and name = ? order by area desc, file", (name, phrase.head)
        ).fetchall()
        masks = [_read_mask(path, entry_file(self.source, path), size) for (path,) in rows]
        return np.logical_or.reduce(masks) if masks else None


def _mask_rows(
    table: str, lines: Iterator[list[str]], described: dict[str, str], places: dict[str, str]
) -> Iterator[tuple[str, str, str, float]]:
    """`(image, name, file, area)` of the existing masks. Raises DataError."""
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
        # `Human face` becomes `face`, the noun of a caption
        yield row["ImageID"], (described.get(label, label or "-").lower().split() or [""])[-1], place, _area(row)


def _area(row: dict[str, str]) -> float:
    """The area of a mask's box, 0 to 1; 0 for damaged numbers, as it is used only to sort masks."""
    try:
        left, right, top, bottom = (float(row[key]) for key in ("BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax"))
    except (KeyError, TypeError, ValueError):
        return 0.0
    return (right - left) * (bottom - top)


def _read_mask(name: str, data: bytes, size: tuple[int, int]) -> np.ndarray:
    """A mask, bool [H, W], resized to the picture. Raises BadRecord."""
    try:
        with PILImage.open(io.BytesIO(data), formats=["PNG"]) as mask:
            check_sides(mask.size)
            return np.asarray(mask.convert("L").resize(size, PILImage.Resampling.NEAREST)) > 127
    except (OSError, SyntaxError, ValueError, PILImage.DecompressionBombError) as error:
        raise BadRecord("undecodable", f"mask {name}: {error}") from error


def cut_out(pixels: np.ndarray, mask: np.ndarray) -> PILImage.Image:
    """The masked part of a picture on white, cropped to the mask: uint8 [H, W, 3] and bool [H, W] → a picture."""
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

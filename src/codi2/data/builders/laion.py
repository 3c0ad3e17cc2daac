"""LAION-400M in the forms of img2dataset: tars, folders of files, or parquet files with the pictures inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np

from codi2.data.builders.contract import BadRecord, Builder, Draft, LeftOut, Raw, Unit
from codi2.data.builders.listed import is_system, listed
from codi2.data.builders.paired import Paired, paired
from codi2.data.builders.parquet import columns, count_rows, picture_bytes, read_rows
from codi2.data.builders.tars import BrokenTar, members
from codi2.data.checks import entry_file, medium_of
from codi2.data.texts import decode
from codi2.errors import DataError
from codi2.untrusted import OutsideError, inside, open_inside, parse_json

ROWS = 5_000  # of a unit of a parquet file
URL = 2_000  # most characters of a URL that are stored
_PICTURES = ("jpg", "jpeg", "png", "webp", "jfif", "tif", "tiff", "bmp", "avif", "heic", "gif")
_CAPTIONS = ("caption", "TEXT", "text")  # img2dataset's name, then LAION's


class Laion(Builder):
    """Pictures from captions and captions of pictures. Licences differ by page: they are `unknown`, the URL is kept."""

    about = "pictures from captions and captions of pictures"
    reads = (
        "img2dataset output: 00000.tar (jpg, txt, json), or folders 00000/ of files, or 00000.parquet with a jpg column"
    )

    Options = Paired

    def units(self) -> list[dict[str, Any]]:
        if not self.source.is_dir():
            raise DataError(f"{self.source} is not a folder; name the --output_folder of img2dataset")
        tars = listed(self.source, "*.tar")
        if tars:
            return [{"tar": tar.name} for tar in tars]
        folders = sorted(p for p in self.source.iterdir() if p.is_dir() and p.name.isdecimal())
        if folders:
            return [{"folder": folder.name} for folder in folders]
        tables = listed(self.source, "*.parquet")
        units: list[dict[str, Any]] = []
        for table in tables:
            names = columns(self.source, table)
            if not set(_PICTURES) & set(names):
                url = next((name for name in names if name.lower() == "url"), "URL")
                words = next((name for name in _CAPTIONS if name in names), "TEXT")
                raise DataError(
                    f"{table} lists pictures but holds none (its columns are {', '.join(names)}); download them with "
                    f"`img2dataset --url_list {table.parent} --input_format parquet --url_col {url} --caption_col "
                    f"{words} --output_format webdataset --image_size 256 --output_folder raw/laion`, and name that "
                    "folder"
                )
            count = count_rows(self.source, table)
            units += [{"table": table.name, "start": s, "stop": min(s + ROWS, count)} for s in range(0, count, ROWS)]
        return units

    def read(self, unit: Unit) -> Iterator[Raw | BadRecord]:
        if "tar" in unit:
            samples = _tar_samples(self.source / unit["tar"])
        elif "folder" in unit:
            samples = _folder_samples(self.source, unit["folder"])
        else:
            samples = _table_samples(self.source, unit["table"], unit["start"], unit["stop"])
        for sample in samples:
            if isinstance(sample, BadRecord):
                yield sample
                continue
            key, parts = sample
            suffix = next((name for name in _PICTURES if parts.get(name)), "")
            if not suffix and not any(name in parts for name in ("txt", *_CAPTIONS)):
                continue  # only metadata: img2dataset could not fetch the picture
            picture = parts.get(suffix, b"")
            text = _caption(parts)
            yield Raw(key, (suffix, picture, text, parts), (picture, text if isinstance(text, bytes) else str(text)))

    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        suffix, picture, text, members = raw.entry
        if not suffix:
            raise LeftOut("absent", "no picture")
        about = _about(members)
        yield from paired(
            medium_of(f"picture.{suffix}", picture),
            _words(text),
            draw,
            self.options.ways,
            "unknown",
            {"url": str(about.get("url", ""))[:URL]},
        )


def _caption(members: Mapping[str, Any]) -> object:
    """The caption as stored: the bytes of a file, or the value of a column."""
    if "txt" in members:
        return bytes(members["txt"])
    return next((members[name] for name in _CAPTIONS if name in members), None)


def _words(text: object) -> object:
    return decode(text) if isinstance(text, bytes) else text


def _about(members: Mapping[str, Any]) -> Mapping[str, Any]:
    """The metadata of img2dataset: a JSON member, or the columns."""
    if "json" not in members:
        return members
    try:
        about = parse_json(members["json"])
    except (ValueError, TypeError) as error:
        raise BadRecord("malformed", f"its .json: {error}") from error
    return about if isinstance(about, dict) else {}


Sample = tuple[str, dict[str, Any]]


def _tar_samples(place: Path) -> Iterator[Sample | BadRecord]:
    """Adjacent members with one name are a sample. A damaged tar gives its intact samples and a bad entry."""
    key, parts = PurePosixPath(), dict[str, Any]()
    bad: BadRecord | None = None
    try:
        with open_inside(place.parent, place.name) as file:
            for member in members(file):
                path = PurePosixPath(member.name)
                if is_system(path):
                    continue
                first = path.parent / path.stem  # names may have other dots
                if first != key and (parts or bad):
                    yield bad or (f"{place.stem}-{key.name}", parts)
                    parts, bad = {}, None
                key = first
                if member.fault:
                    bad = BadRecord(*member.fault)
                parts[path.suffix[1:].lower()] = member.data
        if parts or bad:
            yield bad or (f"{place.stem}-{key.name}", parts)
    except (BrokenTar, OutsideError) as error:
        yield BadRecord("broken archive", f"{place.name}: {error}")


def _folder_samples(root: Path, name: str) -> Iterator[Sample | BadRecord]:
    samples: dict[str, dict[str, str]] = {}  # name without suffix → suffix → file
    for file in sorted(inside(root, name).iterdir()):
        if (suffix := file.suffix[1:].lower()) in (*_PICTURES, "txt", "json") and not is_system(PurePath(file.name)):
            samples.setdefault(file.stem, {})[suffix] = f"{name}/{file.name}"
    for stem, files in sorted(samples.items()):
        try:
            yield f"{name}-{stem}", {suffix: entry_file(root, path) for suffix, path in files.items()}
        except BadRecord as error:
            yield error


def _table_samples(root: Path, name: str, start: int, stop: int) -> Iterator[Sample | BadRecord]:
    for i, row in read_rows(root, name, start, stop):
        if isinstance(row, BadRecord):
            yield row
            continue
        pictures = {column: picture_bytes(row[column]) for column in _PICTURES if column in row}
        if wrong := next((c for c, data in pictures.items() if row[c] and not data), ""):
            yield BadRecord(
                "malformed", f"the column {wrong} holds {type(row[wrong]).__name__}, not the bytes of a picture"
            )
        else:
            yield f"{Path(name).stem}-{row.get('key') or i}", row | pictures

"""LAION-400M as img2dataset brings it: tars, folders of files, or parquet files with the pictures inside."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from codi2.data.builders.contract import BadRecord, Builder, Draft, LeftOut, Raw, Unit
from codi2.data.builders.paired import Paired, paired
from codi2.data.builders.parquet import columns, count_rows, read_rows
from codi2.data.record import MODALITY, Medium
from codi2.errors import DataError

ROWS = 5_000  # of a parquet file, a unit
_PICTURES = ("jpg", "jpeg", "png", "webp")
_CAPTIONS = ("caption", "TEXT", "text")  # img2dataset's own name, then LAION's


class Laion(Builder):
    """Picture and caption, both ways. The licence is each page's own, so it is `unknown` and the URL is kept."""

    about = "pictures from captions and captions of pictures"
    reads = (
        "img2dataset output: 00000.tar (jpg, txt, json), or folders 00000/ of files, or 00000.parquet with a jpg column"
    )

    Options = Paired

    def units(self) -> list[dict[str, Any]]:
        if not self.source.is_dir():
            raise DataError(f"{self.source} is no folder; name the --output_folder of img2dataset")
        tars = sorted(self.source.glob("*.tar"))
        if tars:
            return [{"tar": tar.name} for tar in tars]
        folders = sorted(p for p in self.source.iterdir() if p.is_dir() and p.name.isdecimal())
        if folders:
            return [{"folder": folder.name} for folder in folders]
        tables = sorted(self.source.glob("*.parquet"))
        units: list[dict[str, Any]] = []
        for table in tables:
            names = columns(table)
            if not set(_PICTURES) & set(names):
                raise DataError(
                    f"{table} lists pictures but holds none (its columns are {', '.join(names)}): bring them with "
                    f"`img2dataset --url_list {table.parent} --input_format parquet --url_col URL --caption_col TEXT "
                    "--output_format webdataset --image_size 256 --output_folder laion`, and name that folder"
                )
            count = count_rows(table)
            units += [{"table": table.name, "start": s, "stop": min(s + ROWS, count)} for s in range(0, count, ROWS)]
        return units

    def read(self, unit: Unit) -> Iterator[Raw | BadRecord]:
        if "tar" in unit:
            samples = _tar_samples(self.source / unit["tar"])
        elif "folder" in unit:
            samples = _folder_samples(self.source / unit["folder"])
        else:
            samples = _table_samples(self.source / unit["table"], unit["start"], unit["stop"])
        for sample in samples:
            if isinstance(sample, BadRecord):
                yield sample
                continue
            key, members = sample
            suffix = next((name for name in _PICTURES if members.get(name)), "")
            if not suffix and not any(name in members for name in ("txt", *_CAPTIONS)):
                continue  # metadata alone: img2dataset could not fetch the picture
            picture = members.get(suffix, b"")
            text = _caption(members)
            yield Raw(key, (suffix, picture, text, members), (picture, str(text)))

    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        suffix, picture, text, members = raw.entry
        if not suffix:
            raise LeftOut("absent", "no picture")
        about = _about(members)
        yield from paired(
            Medium(suffix, picture), text, draw, self.options.ways, "unknown", {"url": str(about.get("url", ""))}
        )


def _caption(members: Mapping[str, Any]) -> object:
    if "txt" in members:
        return bytes(members["txt"]).decode("utf-8", "replace")
    return next((members[name] for name in _CAPTIONS if name in members), None)


def _about(members: Mapping[str, Any]) -> Mapping[str, Any]:
    """What img2dataset noted: a JSON member, or the columns themselves."""
    if "json" not in members:
        return members
    try:
        about = json.loads(members["json"])
    except ValueError as error:
        raise BadRecord("malformed", f"its .json: {error}") from error
    return about if isinstance(about, dict) else {}


def _tar_samples(path: Path) -> Iterator[tuple[str, dict[str, Any]] | BadRecord]:
    """Members of one name are one sample; they stand together. A cut tar gives what is whole, and a bad entry."""
    key, members = "", dict[str, Any]()
    try:
        with tarfile.open(path, "r:") as archive, open(path, "rb") as file:
            for member in archive:
                name, _, suffix = Path(member.name).name.partition(".")
                if name != key and members:
                    yield f"{path.stem}-{key}", members
                    members = {}
                key = name
                if member.isfile():
                    file.seek(member.offset_data)  # what extractfile does, without its layers
                    content = file.read(member.size)
                    if len(content) < member.size:
                        raise EOFError("it ends in the middle of a file")
                    members[suffix.lower()] = content
        if members:
            yield f"{path.stem}-{key}", members
    except (tarfile.TarError, EOFError) as error:
        yield BadRecord("broken archive", f"{path.name}: {error}")


def _folder_samples(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    stems = sorted({file.stem for file in path.iterdir() if file.suffix[1:] in (*MODALITY, "txt", "json")})
    for stem in stems:
        files = {s: path / f"{stem}.{s}" for s in (*_PICTURES, "txt", "json")}
        yield f"{path.name}-{stem}", {suffix: file.read_bytes() for suffix, file in files.items() if file.is_file()}


def _table_samples(path: Path, start: int, stop: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for i, row in read_rows(path, start, stop):
        yield f"{path.stem}-{row.get('key') or i}", row

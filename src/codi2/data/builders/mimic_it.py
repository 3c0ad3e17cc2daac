"""MIMIC-IT: questions about one or several pictures, with related questions as examples (sections 4.1 and 4.2).

A part (SD, CGD, VST, …) is `<name>_instructions.json`, `{"meta": …, "data": {id: {"instruction", "answer",
"image_ids", "rel_ins_ids"}}}`, and a store of pictures in base64, `<name>.json` `{image id: …}` or `<name>.parquet`
with a `base64` column by image id. The hub's copy is parquet with the pictures in each row.
"""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np

from codi2.data.builders.contract import BadRecord, Builder, Draft, LeftOut, Raw, Unit
from codi2.data.builders.listed import listed
from codi2.data.builders.parquet import columns, count_rows, need_columns, picture_bytes, read_rows
from codi2.data.checks import caption
from codi2.data.record import Medium, Piece, Turn, suffix_in_shards
from codi2.errors import DataError, MissingDependencyError
from codi2.hub import atomic_path
from codi2.prompt.parts import Text
from codi2.untrusted import inside, open_inside

LICENCE = "MIMIC-IT terms (research only)"
INSTRUCTIONS = 1_000  # of a unit
TASKS = {
    "SD": "spot_the_difference", "CGD": "general_difference", "VST": "visual_story", "TVC": "tv_captions",
    "DC": "dense_captions", "E4D": "egocentric_video", "SN": "scene_navigation", "LA": "questions",
    "LACONV": "questions", "LACR": "questions", "LADD": "questions",
}  # fmt: skip
_PAIR = re.compile(
    rb'"([^"\\]+)"\s*:\s*"([A-Za-z0-9+/=\\\s]*)"'
)  # base64 holds no quote; some writers escape the slash


@dataclass(frozen=True)
class Options:
    shots: int = 1
    """Most related instructions that come first as examples."""


class MimicIt(Builder):
    about = "text answers about several pictures: spot the difference, what happens next, with examples before"
    reads = (
        "<name>_instructions.json and <name>.json or <name>.parquet of base64 pictures, or parquet of the hub's copy"
    )
    Options = Options

    def units(self) -> list[dict[str, Any]]:
        self._index.unlink(missing_ok=True)
        instructions = listed(self.source, "**/*_instructions.json")
        tables = [path for path in listed(self.source, "**/*.parquet") if "instruction" in columns(self.source, path)]
        if not instructions and not tables:
            raise DataError(f"{self.source} holds no MIMIC-IT; this builder reads {self.reads}")
        database = sqlite3.connect(self._index)
        with database:
            database.execute("create table pictures (id text primary key, file text, start integer, stop integer)")
            database.execute("create table instructions (place integer primary key, id text, entry text)")
            for path in instructions:
                database.executemany("insert into instructions (id, entry) values (?, ?)", _entries(self.source, path))
                for row in _pictures(self.source, _store_of(path), self.scratch):
                    database.execute("insert or ignore into pictures values (?, ?, ?, ?)", row)
            database.execute("create index by_id on instructions (id)")
        count = database.execute("select count(*) from instructions").fetchone()[0]
        database.close()
        units = [{"from": i, "to": min(i + INSTRUCTIONS, count)} for i in range(0, count, INSTRUCTIONS)]
        for table in tables:
            need_columns(self.source, table, ("id", "instruction", "answer", "images"))
            name, rows = str(table.relative_to(self.source)), count_rows(self.source, table)
            units += [
                {"table": name, "from": s, "to": min(s + INSTRUCTIONS, rows)} for s in range(0, rows, INSTRUCTIONS)
            ]
        return units

    @property
    def _index(self) -> Path:
        return self.scratch / "mimic-it.sqlite"

    @cached_property
    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self._index}?mode=ro", uri=True)

    def read(self, unit: Unit) -> Iterator[Raw | BadRecord]:
        if "table" in unit:
            for i, row in read_rows(self.source, unit["table"], unit["from"], unit["to"]):
                if isinstance(row, BadRecord):
                    yield row
                    continue
                images = row["images"] if isinstance(row["images"], list) else []
                data = [picture_bytes(picture) for picture in images]
                yield Raw(
                    str(row["id"] or i), (row, [Medium(suffix_in_shards("jpg", d), d) for d in data]), (str(row["id"]),)
                )
            return
        rows = self._database.execute(
            "select id, entry from instructions where place > ? and place <= ? order by place",
            (unit["from"], unit["to"]),
        )
        for key, line in rows:
            yield Raw(key, (json.loads(line), None), (key, line))

    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        entry, media = raw.entry
        turns: tuple[Turn, ...] = ()
        for related in self._related(entry, draw) if media is None else ():
            turns += self._turns(related, None)
        turns += self._turns(entry, media)
        prefix = raw.key.partition("_")[0].upper()
        yield Draft(TASKS.get(prefix, "questions"), turns, LICENCE, {"shots": len(turns) // 2 - 1, "part": prefix})

    def _related(self, entry: Any, draw: np.random.Generator) -> list[dict[str, Any]]:
        """Up to `shots` of the related instructions, in random order."""
        ids = _listed(entry, "rel_ins_ids")
        order = (ids[int(i)] for i in draw.permutation(len(ids)))
        rows = (self._database.execute("select entry from instructions where id = ?", (i,)).fetchone() for i in order)
        return [json.loads(row[0]) for row in islice(filter(None, rows), self.options.shots)]

    def _turns(self, entry: Any, media: list[Medium] | None) -> tuple[Turn, Turn]:
        ids = _listed(entry, "image_ids")
        question, answer = caption(entry.get("instruction")), caption(entry.get("answer"))
        if media is None:
            media = [self._picture(key) for key in ids]
        pieces: list[Piece] = []
        for medium in media:
            pieces += [medium, Text(" ")]
        return ("user", (*pieces, Text(question))), ("assistant", (Text(answer),))

    def _picture(self, key: str) -> Medium:
        """A picture of the store. Raises LeftOut: the store lacks it; BadRecord: it is not base64."""
        row = self._database.execute("select file, start, stop from pictures where id = ?", (key,)).fetchone()
        if row is None:
            raise LeftOut("absent", f"no picture {key}")
        name, start, stop = row
        try:
            data = base64.b64decode(self._mapped(Path(name))[start:stop].replace(b"\\/", b"/"))
        except ValueError as error:
            raise BadRecord("undecodable", f"picture {key} is no base64") from error
        return Medium(suffix_in_shards("jpg", data), data)

    def _mapped(self, path: Path) -> mmap:
        if path not in self._maps:
            with open(path, "rb") as file:
                self._maps[path] = mmap(file.fileno(), 0, access=ACCESS_READ)
        return self._maps[path]

    @cached_property
    def _maps(self) -> dict[Path, mmap]:
        return {}


def _listed(entry: Any, name: str) -> list[str]:
    """The ids under a name; none if there is no list. Raises BadRecord: the entry is not an object."""
    if not isinstance(entry, dict):
        raise BadRecord("malformed", f"{entry!r:.80} is no instruction")
    ids = entry.get(name)
    return [str(value) for value in ids] if isinstance(ids, list) else []


def _entries(root: Path, path: Path) -> Iterator[tuple[str, str]]:
    """`(id, entry as JSON)` of an instructions file, streamed, as files may have hundreds of MB. Raises DataError."""
    try:
        import ijson
    except ImportError as error:
        raise MissingDependencyError(
            "reading MIMIC-IT needs the package ijson, which is not installed; run pip install 'codi2[data]'"
        ) from error
    has_entries = False
    try:
        with open_inside(root, path) as file:
            for key, entry in ijson.kvitems(file, "data", use_float=True):
                has_entries = True
                # a database does not accept lone surrogates
                yield key.encode("utf-8", "backslashreplace").decode(), _dumped(entry)
    except (ijson.JSONError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is damaged or cut off ({reason}); bring it again") from error
    if not has_entries:
        raise DataError(f'{path} has no "data"; expected a MIMIC-IT file {{"meta": …, "data": {{id: …}}}}')


def _dumped(entry: Any) -> str:
    """An entry as JSON; one that is nested too deeply as null, which is not an instruction."""
    try:
        return json.dumps(entry)
    except RecursionError:
        return "null"


def _store_of(instructions: Path) -> Path:
    """The store of the pictures of an instructions file. Raises DataError."""
    name = instructions.name.removesuffix("_instructions.json")
    # LACR_T2T_instructions.json belongs to LA.parquet, so shorter names are tried too
    stems = [name, f"{name}_images", *(name[:n] for n in range(len(name) - 1, 1, -1))]
    for stem in stems:
        for suffix in (".parquet", ".json"):
            for folder in (instructions.parent, instructions.parent.parent):
                if (path := folder / f"{stem}{suffix}").is_file():
                    return path
    raise DataError(f"the pictures of {instructions} are missing; put {name}.json or {name}.parquet beside it")


def _pictures(root: Path, store: Path, scratch: Path) -> Iterator[tuple[str, str, int, int]]:
    """`(id, file, start, stop)`: the place of the base64 of each picture. Raises DataError.

    A JSON store is read in place. A parquet store, which pandas writes as one row group, is copied, as its rows cannot
    be read one by one.
    """
    place = inside(root, store)
    if not place.stat().st_size:
        raise DataError(f"{store} is empty; bring it again")
    if store.suffix == ".json":
        with open_inside(root, store) as file, mmap(file.fileno(), 0, access=ACCESS_READ) as text:
            for match in _PAIR.finditer(text):
                yield match[1].decode("utf-8", "backslashreplace"), str(place), match.start(2), match.end(2)
        return
    need_columns(root, store, ("base64",))
    index = next((name for name in columns(root, store) if name != "base64"), "")
    if not index:
        raise DataError(f"{store} has no column of image ids beside 'base64'")
    copy = (scratch / f"{store.stem}.base64").resolve()
    with atomic_path(copy) as aside, open(aside, "wb") as out:
        for _, row in read_rows(root, store):
            if isinstance(row, BadRecord):
                raise DataError(f"{store} is damaged ({row.detail}); bring it again")
            if isinstance(row["base64"], str):  # otherwise the picture is missing
                start = out.tell()
                out.write(row["base64"].encode())
                yield str(row[index]), str(copy), start, out.tell()

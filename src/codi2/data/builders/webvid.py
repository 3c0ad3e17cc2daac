"""WebVid: a CSV of captions (`videoid,contentUrl,duration,page_dir,name`) and clips at `<page_dir>/<videoid>.mp4`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from codi2.data.builders.contract import BadRecord, Builder, Draft, LeftOut, Raw, Unit
from codi2.data.builders.lines import Lines, csv_fields, csv_header, index_lines, line_entries, ranges
from codi2.data.builders.listed import listed
from codi2.data.builders.paired import Paired, paired
from codi2.data.checks import entry_file
from codi2.data.record import Medium
from codi2.errors import DataError

LICENCE = "WebVid terms (research only)"
CLIPS = 500  # of a unit
_NEEDED = ("videoid", "page_dir", "name")


class WebVid(Builder):
    about = "clips from captions and captions of clips"
    reads = "one .csv (videoid, page_dir, name, …) and the clips at <page_dir>/<videoid>.mp4, at most two folders below"

    Options = Paired

    def units(self) -> list[dict[str, Any]]:
        tables = listed(self.source, "*.csv")
        if len(tables) != 1:
            raise DataError(f"{self.source} has {len(tables)} .csv files; name a folder with one, of WebVid")
        header, between = csv_header(self.source, tables[0])
        if missing := [name for name in _NEEDED if name not in header]:
            raise DataError(f"{tables[0]} has no column {missing[0]!r}; it has {', '.join(header)}")
        count = index_lines(self.source, tables[0], self.scratch / "clips.npy", quoted=True, skip=1)
        # clips are below the folder, `videos`, or the parts of a download
        roots = [
            ".",
            *sorted({str(p.relative_to(self.source)) for d in ("*", "*/*") for p in self.source.glob(d) if p.is_dir()}),
        ]
        (self.scratch / "clips.json").write_text(
            json.dumps({"table": tables[0].name, "header": header, "between": between, "roots": roots})
        )
        return ranges(count, CLIPS)

    @cached_property
    def _plan(self) -> dict[str, Any]:
        plan: dict[str, Any] = json.loads((self.scratch / "clips.json").read_text())
        return plan

    @cached_property
    def _lines(self) -> Lines:
        return Lines(self.source, self._plan["table"], self.scratch / "clips.npy")

    @cached_property
    def _roots(self) -> list[Path]:
        """Folders of clips; the last one with a clip is the first, as adjacent rows are mostly in one folder."""
        return [Path(root) for root in self._plan["roots"]]

    def read(self, unit: Unit) -> Iterator[Raw | BadRecord]:
        yield from line_entries(self._lines, unit, "clip")

    def make(self, raw: Raw, draw: np.random.Generator) -> Iterator[Draft]:
        row = dict(zip(self._plan["header"], csv_fields(raw.entry, self._plan["between"]), strict=False))
        if any(not row.get(name) for name in _NEEDED[:2]):
            raise BadRecord("malformed", f"{raw.entry[:80]!r} has no videoid or page_dir")
        clip = self._clip(Path(row["page_dir"]) / f"{row['videoid']}.mp4")
        yield from paired(clip, row.get("name"), draw, self.options.ways, LICENCE, {"video": row["videoid"]})

    def _clip(self, place: Path) -> Medium:
        """The clip at a path. Raises LeftOut: it is missing; BadRecord: the path leads out of the source."""
        for n, root in enumerate(self._roots):
            with suppress(LeftOut):
                data = entry_file(self.source, root / place)
                self._roots.insert(0, self._roots.pop(n))
                return Medium("mp4", data)
        raise LeftOut("absent", f"no {place}")

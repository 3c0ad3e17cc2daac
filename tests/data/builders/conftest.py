from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codi2.data.build import Settings, build
from codi2.data.record import Record
from codi2.data.sets import load_report
from codi2.data.shards import open_shards


@pytest.fixture
def built(tmp_path: Path) -> Callable[..., list[Record]]:
    """Build a source and read it back: `built("laion", folder, max_bad=1, option=…)`; records by key."""

    def run(name: str, source: Path, max_bad: float = 0.0, seed: int = 0, **options: Any) -> list[Record]:
        out = tmp_path / f"out-{name}-{len(list(tmp_path.glob('out-*')))}"
        build(Settings(name, str(source), str(out), seed, options), max_bad=max_bad)
        records = [record for shard in open_shards(out, load_report(out)) for record in shard]
        return sorted(records, key=lambda record: record.key)

    return run

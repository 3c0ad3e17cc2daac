"""A part of a user's set that is kept from training."""

from __future__ import annotations

from pathlib import Path

import pytest

from codi2.data.held_out import hold_out
from codi2.data.mixture import Mixture, MixturePart
from codi2.data.record import Record
from codi2.errors import ConfigError, DataError

from ..own_set import own_set


def records(source: MixturePart) -> list[Record]:
    mixture = Mixture([source], 1)
    return [mixture.read(address) for address in mixture.every()]


def test_an_eighth_of_each_task_is_held_out_with_all_records_of_an_entry(tmp_path: Path) -> None:
    source = MixturePart(own_set(tmp_path, ["zant", "blick", "morv", "dask"] * 10, edits=20), 2.0)
    learned, held = hold_out(source, 0.125)
    entries = [{record.source for record in records(part)} for part in (learned, held)]
    assert not entries[0] & entries[1] and [len(some) for some in entries] == [35 + 18, 5 + 2]
    assert len(records(held)) == 5 * 2 + 2 and len(records(learned)) == 35 * 2 + 18
    assert learned.weight == held.weight == 2.0
    drawn = Mixture([learned], 8)
    seen = {record.source for step in range(60) for record in drawn.batch(step)}
    assert seen == entries[0]
    assert hold_out(source, 0.125) == (learned, held)


def test_what_is_named_once_is_learned(tmp_path: Path) -> None:
    source = MixturePart(own_set(tmp_path, ["zant"] * 10 + [f"gadget{n}" for n in range(10)]))
    _, held = hold_out(source, 0.25)
    assert len(records(held)) == 10 and all("gadget" not in str(record.turns) for record in records(held))


def test_what_cannot_be_divided_is_one_sentence(tmp_path: Path) -> None:
    source = MixturePart(own_set(tmp_path, ["zant"]))
    with pytest.raises(DataError, match=r"has 1 entries, too few to hold out 0.125 of each task; add more"):
        hold_out(source, 0.125)
    with pytest.raises(ConfigError, match=r"held-out share is 1.5; expected more than 0"):
        hold_out(source, 1.5)

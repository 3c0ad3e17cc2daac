"""Data sets in parts: what is kept from training, and the records of each task."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from codi2.data.mixture import Source
from codi2.data.record import Record
from codi2.data.sets import load_report
from codi2.data.shards import open_shards
from codi2.errors import ConfigError, DataError
from codi2.prompt.parts import Phrase, Text


def hold_out(source: Source, share: float, seed: int = 0) -> tuple[Source, Source]:
    """A data set in two parts, the one to learn from and the one held out: `share` of the entries of each task.

    The records of one entry (a picture from its caption, and the caption of the picture) stay together. Entries whose
    captions have words that no other has are the last to be held out: what is named once cannot be learned without
    them. Of equal ones a hash decides. Of a task with one entry nothing is held out.

    Raises:
        ConfigError: the share is not inside (0, 1).
        DataError: no task has two entries.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the held-out share is {share}; it should be more than 0 and less than 1, such as 0.125")
    places = _places(source)
    held = {entry for entries in _by_task(places).values() for entry in _chosen(entries, share, seed)}
    if not held or len(held) == len(places):
        raise DataError(
            f"{source.folder} has {len(places)} entries, too few to hold out {share:.3g} of each task; add more"
        )
    parts = [{e: p for e, p in places.items() if (e in held) is out} for out in (False, True)]
    learned, judged = (replace(source, only=_numbers(part)) for part in parts)
    return learned, judged


def by_task(source: Source) -> dict[str, Source]:
    """Task → the part of a source that has its records."""
    found: dict[str, dict[str, list[Place]]] = {}
    for entry, places in _places(source).items():
        for place in places:
            if source.only is None or place.number in source.only.get(place.shard, ()):
                found.setdefault(place.task, {}).setdefault(entry, []).append(place)
    return {task: replace(source, only=_numbers(part)) for task, part in found.items()}


@dataclass(frozen=True)
class Place:
    """Where a record is, its task, and its captions' words."""

    shard: str
    number: int
    task: str
    words: frozenset[str]


def _places(source: Source) -> dict[str, list[Place]]:
    """Entry → its records."""
    report = load_report(source.folder)
    found: dict[str, list[Place]] = {}
    for entry, shard in zip(report["shards"], open_shards(source.folder, report), strict=True):
        for number, record in enumerate(shard):
            place = Place(entry["file"], number, record.task, frozenset(_words(record)))
            found.setdefault(record.source, []).append(place)
    return found


def _words(record: Record) -> Iterator[str]:
    """What the assistant says: the user's words are a template's as well."""
    for role, pieces in record.turns:
        for piece in pieces:
            if role == "assistant" and isinstance(piece, Text | Phrase):
                yield from re.findall(r"\w+", piece.text.lower())


def _by_task(places: Mapping[str, Sequence[Place]]) -> dict[str, dict[str, set[str]]]:
    """Tasks of an entry → entry → the words of its captions."""
    found: dict[str, dict[str, set[str]]] = {}
    for entry, records in places.items():
        task = "+".join(sorted({place.task for place in records}))
        found.setdefault(task, {})[entry] = {word for place in records for word in place.words}
    return found


def _chosen(entries: Mapping[str, set[str]], share: float, seed: int) -> list[str]:
    """The entries of a task that are held out, one at least of two or more."""
    uses = Counter(word for words in entries.values() for word in words)
    left, chosen = sorted(entries, key=lambda entry: hashlib.sha256(f"{seed}:{entry}".encode()).digest()), []
    for _ in range(min(len(left) - 1, max(1, round(share * len(left))))):
        entry = min(left, key=lambda entry: sum(uses[word] == 1 for word in entries[entry]))
        left.remove(entry)
        uses.subtract(entries[entry])
        chosen.append(entry)
    return chosen


def _numbers(places: Mapping[str, Sequence[Place]]) -> dict[str, list[int]]:
    """Shard → record numbers."""
    found: dict[str, list[int]] = {}
    for records in places.values():
        for place in records:
            found.setdefault(place.shard, []).append(place.number)
    return {file: sorted(numbers) for file, numbers in found.items()}

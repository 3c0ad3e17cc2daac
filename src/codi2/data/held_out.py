"""Parts of a data set: for training and held out, or by task."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from codi2.data.mixture import MixturePart
from codi2.data.record import Record
from codi2.data.sets import load_report
from codi2.data.shards import open_shards
from codi2.errors import ConfigError, DataError
from codi2.prompt.parts import Phrase, Text


def hold_out(source: MixturePart, share: float, seed: int = 0) -> tuple[MixturePart, MixturePart]:
    """A data set in two parts, for training and held out: `share` of the entries of each task is held out.

    The records of one entry (a picture from its caption, and the caption of the picture) stay together. Entries with
    the most words that occur in no other entry are held out last, since training would lose these words. A hash decides
    between equal entries. A task with one entry has none held out.

    Raises:
        ConfigError: the share is not inside (0, 1).
        DataError: no task has two entries.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the held-out share is {share}; expected more than 0 and less than 1, such as 0.125")
    places = _places(source)
    held = {entry for entries in _by_task(places).values() for entry in _chosen(entries, share, seed)}
    if not held or len(held) == len(places):
        raise DataError(
            f"{source.folder} has {len(places)} entries, too few to hold out {share:.3g} of each task; add more"
        )
    parts = [{e: p for e, p in places.items() if (e in held) is held_out} for held_out in (False, True)]
    training_part, held_out_part = (replace(source, only=_numbers(part)) for part in parts)
    return training_part, held_out_part


def by_task(source: MixturePart) -> dict[str, MixturePart]:
    """Task → the part of a source with its records."""
    tasks: dict[str, dict[str, list[Place]]] = {}
    for entry, places in _places(source).items():
        for place in places:
            if source.only is None or place.number in source.only.get(place.shard, ()):
                tasks.setdefault(place.task, {}).setdefault(entry, []).append(place)
    return {task: replace(source, only=_numbers(part)) for task, part in tasks.items()}


@dataclass(frozen=True)
class Place:
    """The position of a record, its task, and the words of its captions."""

    shard: str
    number: int
    task: str
    words: frozenset[str]


def _places(source: MixturePart) -> dict[str, list[Place]]:
    """Entry → its records."""
    report = load_report(source.folder)
    places: dict[str, list[Place]] = {}
    for entry, shard in zip(report["shards"], open_shards(source.folder, report), strict=True):
        for number, record in enumerate(shard):
            place = Place(entry["file"], number, record.task, frozenset(_words(record)))
            places.setdefault(record.source, []).append(place)
    return places


def _words(record: Record) -> Iterator[str]:
    """The words of the assistant; those of the user are partly a template's."""
    for role, pieces in record.turns:
        for piece in pieces:
            if role == "assistant" and isinstance(piece, Text | Phrase):
                yield from re.findall(r"\w+", piece.text.lower())


def _by_task(places: Mapping[str, Sequence[Place]]) -> dict[str, dict[str, set[str]]]:
    """Tasks of an entry → entry → the words of its captions."""
    tasks: dict[str, dict[str, set[str]]] = {}
    for entry, records in places.items():
        task = "+".join(sorted({place.task for place in records}))
        tasks.setdefault(task, {})[entry] = {word for place in records for word in place.words}
    return tasks


def _chosen(entries: Mapping[str, set[str]], share: float, seed: int) -> list[str]:
    """The entries of a task that are held out: at least one if there are two or more."""
    uses = Counter(word for words in entries.values() for word in words)
    remaining, chosen = sorted(entries, key=lambda entry: hashlib.sha256(f"{seed}:{entry}".encode()).digest()), []
    for _ in range(min(len(remaining) - 1, max(1, round(share * len(remaining))))):
        entry = min(remaining, key=lambda entry: sum(uses[word] == 1 for word in entries[entry]))
        remaining.remove(entry)
        uses.subtract(entries[entry])
        chosen.append(entry)
    return chosen


def _numbers(places: Mapping[str, Sequence[Place]]) -> dict[str, list[int]]:
    """Shard → record numbers."""
    numbers_of: dict[str, list[int]] = {}
    for records in places.values():
        for place in records:
            numbers_of.setdefault(place.shard, []).append(place.number)
    return {file: sorted(numbers) for file, numbers in numbers_of.items()}

"""Sounds: add, remove, replace, by words and by examples; sounds of pictures and pictures of sounds."""

from __future__ import annotations

from codi2.data.tables import both as rows
from codi2.data.tasks.pictures import shared
from codi2.data.tasks.sampler import Task, of_row

TASKS: dict[str, Task] = {
    "mix": of_row(rows.mixed),
    "analogy_mix": of_row(rows.overlaid),
    "concept_audio": shared("audio"),
    "counterpart": of_row(rows.counterpart),
    "subject_alive": of_row(rows.alive),
    "next_with_sound": of_row(rows.next_with_sound),
    "edit_by_sound": of_row(rows.by_mood),
}

"""The rows of the gallery: how each draws its prompts, with true and wrong answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from codi2.data.record import decode_pieces
from codi2.data.tasks import clips, pictures, sequences, sounds
from codi2.data.tasks.sampler import Task, TaskExample, TaskSampler, encoded, one_round, pick
from codi2.data.templates import listing, write_prompt
from codi2.errors import DataError
from codi2.evaluate.suites.edit_cases import changed_alike, unlike
from codi2.prompt.parts import Part, Prompt, Text

WRONG = 5  # wrong answers beside the true one
TRIES = 1000
THINGS, SUBJECTS = ("test_family", "test_rendering"), ("test_subject",)
STYLES, LIGHTS, GROUNDS = ("sketch", "painted", "neon", "grey"), ("night", "fog", "rain", "snow"), ("ground",)
"""Kinds of edits (`data.edits`)."""


@dataclass(frozen=True)
class Instance:
    """One prompt, and by modality its true answer and wrong ones."""

    prompt: Prompt
    targets: Mapping[str, Part]
    wrong: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    later: Sequence[Prompt] = ()
    """Rounds that follow; the last one's answer is judged."""


Make = Callable[[TaskSampler, np.random.Generator], Instance]


@dataclass(frozen=True)
class Entry:
    """A row of the paper."""

    title: str
    where: str
    make: Make
    splits: Sequence[str] = THINGS


def from_task(task: Task, last: int = 1) -> Make:
    """Any task: the `last` media of the prompt are wrong, and the answers of other instances are."""

    def make(sampler: TaskSampler, draw: np.random.Generator) -> Instance:
        prompt, answer = (decode_pieces(pieces) for _, pieces in task(sampler, draw).turns)
        targets = {part.modality: part for part in answer}
        sources = {m: [part for part in prompt if part.modality == m][-last:] for m in targets}
        return Instance(prompt, targets, sources)

    return make


def of_kind(task: Task, fits: Callable[[TaskExample], bool]) -> Task:
    """Draws of a task until one fits. Raises DataError: none of many does."""

    def drawn(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
        for _ in range(TRIES):
            if fits(example := task(sampler, draw)):
                return example
        raise DataError(
            f"the gallery needs a special kind of this task, and none of {TRIES} draws gave it; build the corpus again"
        )

    return drawn


def changed(modality: str, kinds: Sequence[str], shots: int | None = None) -> Make:
    """A medium edited by instruction, or (`shots`) as examples show it. Wrong: as it was, under other edits."""

    def make(sampler: TaskSampler, draw: np.random.Generator) -> Instance:
        media = [sampler.array(item) for item in sampler.items(modality, draw, 1 + (shots or 0))]
        edit, after = changed_alike(kinds, draw, media)
        source = encoded(media[0])
        if shots is None:
            pieces = write_prompt("edit", draw, {"media": [source], "ask": edit.ask})
        else:
            pairs = [[encoded(b), encoded(a)] for b, a in zip(media[1:], after[1:], strict=True)]
            pieces = write_prompt("analogy", draw, {"pairs": listing(pairs, between=", "), "media": [source]})
        wrong = [media[0], *others(sampler, modality, draw, media[0], after[0])]
        prompt = decode_pieces(pieces)
        return Instance(prompt, {modality: part(after[0])}, {modality: [part(array) for array in wrong]})

    return make


def others(
    sampler: TaskSampler, modality: str, draw: np.random.Generator, media: np.ndarray, target: np.ndarray
) -> list[np.ndarray]:
    """A medium under edits that make it unlike itself, the true answer and each other."""
    known = [media, target]
    for _ in range(WRONG - 1):
        known.append(unlike(sampler, modality, draw, known, [media])[0])
    return known[2:]


def subject_in(kinds: Sequence[str]) -> Make:
    """Pictures of one individual → it in another light or place. Wrong: the true answer in others."""
    task = of_kind(pictures.subject, lambda example: example.about.get("change", {}).get("kind") in kinds)

    def make(sampler: TaskSampler, draw: np.random.Generator) -> Instance:
        example = task(sampler, draw)
        prompt, (target,) = (decode_pieces(pieces) for _, pieces in example.turns)
        plain = sampler.array(example.items[0])
        wrong = others(sampler, "image", draw, plain, np.asarray(target.pixels))  # type: ignore[union-attr]
        return Instance(prompt, {"image": target}, {"image": [part(array) for array in (plain, *wrong)]})

    return make


def conversation(sampler: TaskSampler, draw: np.random.Generator) -> Instance:
    """Three rounds, each with one more edit of one picture. Wrong: the picture after fewer of them, and others."""
    (item,) = sampler.things(draw, 1)
    steps = [("mirror",), GROUNDS]
    arrays, asks = [sampler.array(item)], list[str]()
    for kinds in (*(steps[int(i)] for i in draw.permutation(2)), LIGHTS):
        edit, after = changed_alike(kinds, draw, arrays[-1:])
        arrays += after
        asks.append(edit.ask)
    prompt = decode_pieces(write_prompt("edit", draw, {"media": [encoded(arrays[0])], "ask": asks[0]}))
    later = [(Text(f"Now {ask}."),) for ask in asks[1:]]
    wrong = [*arrays[:-1], unlike(sampler, "image", draw, arrays, arrays[2:3])[0]]
    return Instance(prompt, {"image": part(arrays[-1])}, {"image": [part(array) for array in wrong]}, later)


def sounded(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """Pictures with their sounds, all under one edit → the sound of another picture under it."""
    shots = 1 + int(draw.integers(2))
    names = [sampler.sounding[int(i)] for i in draw.choice(len(sampler.sounding), shots + 1, replace=False)]
    image_items = [pick(draw, sampler.world.by["concept"][name]) for name in names]
    audio_items = [pick(draw, sampler.world.sounds_of[name]) for name in names]
    _, after = sampler.change("audio", [sampler.array(item) for item in audio_items], draw)
    pairs = [[encoded(sampler.array(item)), encoded(clip)] for item, clip in zip(image_items, after, strict=True)]
    prompt = write_prompt("analogy_cross", draw, {"pairs": listing(pairs[1:], between=", "), "media": [pairs[0][0]]})
    return one_round("analogy_cross_audio", prompt, [pairs[0][1]], [*image_items, *audio_items])


def part(media: np.ndarray) -> Any:
    """An array as a prompt holds it."""
    return encoded(media).decode()


_POSE = of_kind(pictures.subject, lambda example: example.task == "subject_pose")
_ADDED = of_kind(sounds.overlaid, lambda example: example.about["edit"] == "add")
ENTRIES = (
    Entry("A picture in another style", "Table 1, zero-shot", changed("image", STYLES)),
    Entry("Two pictures become one scene", "Table 1, zero-shot", from_task(pictures.composed)),
    Entry("The next picture of a sequence", "Table 1, zero-shot", from_task(sequences.following)),
    Entry("Season and light, from one example", "Table 1, exemplar", changed("image", LIGHTS, shots=1)),
    Entry("Season and light, from three examples", "Table 1, exemplars", changed("image", LIGHTS, shots=3)),
    Entry("A pattern that examples share", "Table 1, concept", from_task(pictures.pattern)),
    Entry("The same individual in another pose", "Table 1, subject", from_task(_POSE, last=2), SUBJECTS),
    Entry("The same individual in another light", "Table 1, subject", subject_in(LIGHTS), SUBJECTS),
    Entry("The same individual elsewhere", "Table 1, subject", subject_in(GROUNDS), SUBJECTS),
    Entry("An echo", "Table 2, zero-shot", changed("audio", ("echo",))),
    Entry("One sound over another, learnt from pairs", "Table 2, exemplar", from_task(_ADDED)),
    Entry("A picture in the mood of a sound", "Table 3, zero-shot", from_task(sounds.edited_by_sound)),
    Entry("The next frame with its sound", "Table 3, zero-shot", from_task(sequences.approaching)),
    Entry("A picture's sound, as examples sound", "Table 3, exemplars", from_task(sounded)),
    Entry("The same individual, with its sound", "Table 3, subject", from_task(sounds.alive), THINGS),
    Entry("A clip with its sound", "Table 3, subject", from_task(clips.with_sound), THINGS),
    Entry("Three rounds of edits", "Figure 1", conversation),
)  # fmt: skip

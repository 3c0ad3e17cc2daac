"""Pictures of several: compositions, sequences, subjects, styles, shared attributes."""

from __future__ import annotations

import numpy as np

from codi2.data.items import Item
from codi2.data.scene import patterned, placed
from codi2.data.tasks import sequences
from codi2.data.tasks.sampler import Task, TaskExample, TaskSampler, distinct, encoded, one_round, pick
from codi2.data.templates import listing, series, write_prompt
from codi2.data.world import STYLES

SHOTS = 4  # examples at most
SEVERAL, NAMED = 0.35, 0.5  # shares of the compositions with two things, and with their names
SIDES, FOOT, SIZE = (0.3, 0.7), (0.8, 0.98), (0.4, 0.6)  # of a thing on a scene, of its side: middle, foot, longer side
CHANGED = 0.5  # share of the subjects that an instruction changes


def composed(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """A scene and one or two things → the things on the scene; sometimes the words name them too."""
    scene, things = pick(draw, sampler.scenes), sampler.things(draw, 1 + int(draw.random() < SEVERAL))
    across = SIDES if len(things) == 2 else [float(draw.uniform(*SIDES))]
    places = [(x, float(draw.uniform(*FOOT)), float(draw.uniform(*SIZE))) for x in across]
    whole = placed(sampler.array(scene), [sampler.array(thing) for thing in things], places)
    named = draw.random() < NAMED
    pieces = [
        [f"{item.caption} ", encoded(sampler.array(item))] if named else [encoded(sampler.array(item))]
        for item in (*things, scene)
    ]
    description = [*pieces[0], *([" and ", *pieces[1]] if len(things) == 2 else []), " on ", *pieces[-1]]
    prompt = write_prompt("compose", draw, {"description": description})
    return one_round("compose", prompt, [encoded(whole)], [*things, scene])


def restyled(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """A picture and the words for a style → the rendering of the same thing in that style."""
    first, second = _two_renderings(sampler, draw)
    source = encoded(sampler.array(first))
    prompt = write_prompt("restyle", draw, {"media": [source], "style": STYLES[second.style]})
    return one_round("restyle", prompt, [encoded(sampler.array(second))], [first, second], source)


def rendering(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """Things in two styles, and another thing in the first style → its rendering in the second."""
    before, after = _two_renderings(sampler, draw)
    styles = before.style, after.style
    both = [group for group in sampler.rendered if all(s in group for s in styles) and group[styles[0]] != before]
    shots = min(1 + int(draw.integers(SHOTS)), len(both))
    chosen = [both[int(i)] for i in draw.choice(len(both), shots, replace=False)] if shots else []
    if not chosen:
        return restyled(sampler, draw)
    shown = [[group[style] for style in styles] for group in chosen]
    pairs = [[encoded(sampler.array(item)) for item in pair] for pair in shown]
    source = encoded(sampler.array(before))
    prompt = write_prompt("analogy", draw, {"pairs": listing(pairs, between=", "), "media": [source]})
    items = [before, after, *(item for pair in shown for item in pair)]
    return one_round("analogy_rendering", prompt, [encoded(sampler.array(after))], items, source, shots=shots)


def _two_renderings(sampler: TaskSampler, draw: np.random.Generator) -> tuple[Item, Item]:
    """One thing in two styles."""
    group = pick(draw, sampler.rendered)
    first, second = draw.choice(sorted(group), 2, replace=False)
    return group[str(first)], group[str(second)]


def styled(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """Things in one style, and words → the thing that the words name, in that style."""
    shots = 2 + int(draw.integers(2))
    of_style = {style: [i for i in items if not i.background] for style, items in sampler.world.by["style"].items()}
    styles = [style for style, items in sorted(of_style.items()) if len({i.concept for i in items}) > shots]
    items = distinct(draw, of_style[pick(draw, styles)], shots + 1)
    media = [encoded(sampler.array(item)) for item in items]
    prompt = write_prompt("concept", draw, {"shots": series(media[1:]), "caption": items[0].caption})
    return one_round("concept_rendering", prompt, [media[0]], items)


def shared(modality: str) -> Task:
    """Media under one edit, and words → the thing that the words name, under that edit."""

    def task(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
        items = sampler.items(modality, draw, 3 + int(draw.integers(2)))
        edit, media = sampler.change(modality, [sampler.array(item) for item in items], draw)
        shots = series([encoded(medium) for medium in media[1:]])
        name = {"image": "concept", "audio": "concept_audio"}[modality]
        prompt = write_prompt(name, draw, {"shots": shots, "caption": items[0].caption})
        return one_round(f"concept_{modality}", prompt, [encoded(media[0])], items, change=edit.to_json())

    return task


def pattern(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """Things on one repeated ornament, and words → the thing that the words name, on that ornament."""
    ornament, *items = sampler.things(draw, 4)
    media = [encoded(patterned(sampler.array(item), sampler.array(ornament))) for item in items]
    prompt = write_prompt("concept", draw, {"shots": series(media[1:]), "caption": items[0].caption})
    return one_round("concept_pattern", prompt, [media[0]], [*items, ornament])


def subject(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """Pictures of one individual → that individual in another pose, sometimes edited by an instruction."""
    items = pick(draw, sampler.subjects)
    order = [items[int(i)] for i in draw.permutation(len(items))][:4]
    target, *others = sampler.individual(order, draw)
    shots = series([encoded(other) for other in others])
    if draw.random() >= CHANGED:
        return one_round("subject_pose", write_prompt("subject", draw, {"shots": shots}), [encoded(target)], order)
    edit, (changed,) = sampler.change("image", [target], draw)
    prompt = write_prompt("subject_changed", draw, {"shots": shots, "ask": edit.ask})
    return one_round("subject_changed", prompt, [encoded(changed)], order, change=edit.to_json())


TASKS: dict[str, Task] = {
    "compose": composed,
    **sequences.IMAGES,
    "subject": subject,
    "restyle": restyled,
    "analogy_rendering": rendering,
    "concept_rendering": styled,
    "concept_pattern": pattern,
    "concept_image": shared("image"),
}

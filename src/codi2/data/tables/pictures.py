"""Table 1: pictures. Each function draws one record of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from codi2.data.drafts import Draft, exchange
from codi2.data.record import Piece, Turn
from codi2.data.scene import counted, patterned, placed, scaled, turned
from codi2.data.tables import steps
from codi2.data.tables.factors import asks, shown, words
from codi2.data.tables.studio import Row, Studio, draft, pick, picture
from codi2.data.templates import listing, series, write_prompt
from codi2.data.world import STYLES
from codi2.prompt.parts import Text

SHOTS = 4  # examples at most
ASK_BARE = "Apply an editing to "
BARE = 0.1  # share of analogies without an example: what nobody has shown is not to be guessed at


def from_words(modality: str) -> Row:
    """A caption → what it is of."""

    def row(studio: Studio, draw: np.random.Generator) -> Draft:
        (item,) = studio.items(modality, draw, 1)
        task = f"{modality}_from_caption"
        prompt = write_prompt(task, draw, {"caption": item.caption})
        return draft(task, prompt, [studio.medium(item)], [item])

    return row


def edit(modality: str) -> Row:
    """Zero-shot: season, hue, light, background, style or effect by instruction."""

    def row(studio: Studio, draw: np.random.Generator) -> Draft:
        (item,) = studio.items(modality, draw, 1)
        change = studio.changes.look(modality, draw, 1 + int(draw.random() < 0.3))
        before = studio.changes.before(modality, draw, change, hidden=0.0)
        given = studio.medium(item, before)
        prompt = write_prompt("edit", draw, {"media": [given], "ask": asks(modality, change)})
        answer = [studio.medium(item, before | change)]
        return draft(f"edit_{modality}", prompt, answer, [item], given, change=change)

    return row


def analogy(modality: str) -> Row:
    """Exemplars: a rule of one to three factors that the examples show in part, and a medium that needs all of it."""

    def row(studio: Studio, draw: np.random.Generator) -> Draft:
        shots = 0 if draw.random() < BARE else 1 + int(draw.integers(SHOTS))
        items = studio.items(modality, draw, shots + 1)
        rule = studio.changes.rule(modality, draw)
        befores = [studio.changes.before(modality, draw, rule, hidden=0.4) for _ in items[1:]]
        pairs = [
            [studio.medium(item, before), studio.medium(item, before | rule)]
            for item, before in zip(items[1:], befores, strict=True)
        ]
        asked = studio.changes.before(modality, draw, rule, hidden=0.0)
        seen = set().union(*(shown(before, rule) for before in befores))
        given = studio.medium(items[0], asked)
        prompt = analogy_prompt(draw, pairs, given)
        return draft(
            f"analogy_{modality}", prompt, [studio.medium(items[0], asked | rule)],
            items, given, rule=rule, shots=shots, shown=sorted(seen),
        )  # fmt: skip

    return row


def analogy_prompt(draw: np.random.Generator, pairs: Sequence[Sequence[Piece]], given: Piece) -> Sequence[Piece]:
    """Examples and what to treat alike; without examples nothing says what to do."""
    if not pairs:
        return (Text(ASK_BARE), given, Text("."))
    return write_prompt("analogy", draw, {"pairs": listing(pairs, between=", "), "media": [given]})


def rendering(studio: Studio, draw: np.random.Generator) -> Draft:
    """Exemplars of a hand: the same things drawn by one and by another, true pairs."""
    shots = 1 + int(draw.integers(SHOTS))
    first, second = (str(style) for style in draw.choice(list(STYLES)[:4], 2, replace=False))
    groups = [group for group in studio.rendered if first in group and second in group]
    chosen = [groups[int(i)] for i in draw.choice(len(groups), min(shots + 1, len(groups)), replace=False)]
    items = [group[style] for group in chosen for style in (first, second)]
    media = [studio.medium(item) for item in items]
    pairs = [media[i : i + 2] for i in range(2, len(media), 2)]
    fields = {"pairs": listing(pairs, between=", "), "media": [media[0]]}
    prompt = write_prompt("analogy", draw, fields)
    return draft("analogy_rendering", prompt, [media[1]], items, media[0], rule={"rendering": second}, shots=len(pairs))


def following(studio: Studio, draw: np.random.Generator) -> Draft:
    """Next in a sequence: a count, a rotation, a growth, or a way across."""
    (item,) = studio.things(draw, 1)
    pixels, kind = studio.pixels(item), str(draw.choice(["count", "rotation", "growth", "way"]))
    length = 2 + int(draw.integers(3))  # frames given
    match kind:
        case "count":
            step = int(draw.choice(steps.COUNTS)) if length < 4 else 1
            first = 1 + int(draw.integers(steps.MOST - step * length))
            counts = [first + step * k for k in range(length + 1)]
            frames = [counted(pixels, n) for n in (counts if draw.random() < 0.7 else counts[::-1])]
        case "rotation":
            step = int(draw.choice(steps.TURNS))
            small = scaled(steps.TURNED)(pixels)
            frames = [turned(step * k)(small) for k in range(length + 1)]
        case "growth":
            sizes = steps.growing(float(draw.choice(steps.GROWTHS)), length)
            frames = [scaled(float(size))(pixels) for size in (sizes if draw.random() < 0.5 else sizes[::-1])]
        case _:
            ways = steps.way(length) * (1 if draw.random() < 0.5 else -1)
            flat = draw.random() < 0.5
            frames = [scaled(steps.ON_WAY, dx=w if flat else 0, dy=0 if flat else w)(pixels) for w in ways]
    media = [picture(frame) for frame in frames]
    prompt = write_prompt("next", draw, {"shots": series(media[:-1])})
    return draft("next_image", prompt, [media[-1]], [item], kind=kind)


def concept(studio: Studio, draw: np.random.Generator) -> Draft:
    """Concept learning: a pattern, a hand or an attribute that the examples share, drawn with another thing."""
    shots, kind = 2 + int(draw.integers(2)), str(draw.choice(["pattern", "rendering", "attribute"]))
    if kind == "rendering":
        style = str(draw.choice(list(STYLES)[:4]))
        items = studio.things(draw, shots + 1, studio.world.by["style"][style])
        media, about = [studio.medium(item) for item in items], {"rendering": style}
    elif kind == "pattern":
        ornament, *items = studio.things(draw, shots + 2)
        media = [picture(patterned(studio.pixels(item), studio.pixels(ornament))) for item in items]
        items, about = [*items, ornament], {"pattern": ornament.concept}
    else:
        about = studio.changes.look("image", draw, 1 + int(draw.integers(2)), without=frozenset({"geometry"}))
        items = studio.things(draw, shots + 1)
        media = [studio.medium(item, about) for item in items]
    fields = {"shots": series(media[1 : shots + 1]), "caption": items[0].caption}
    return draft("concept_image", write_prompt("concept", draw, fields), [media[0]], items, kind=kind, shared=about)


def poses(studio: Studio, draw: np.random.Generator) -> Draft:
    """Subject-driven: pictures of one individual → it in another pose, or in another light or on another ground."""
    items = pick(draw, studio.subjects)
    order = [items[int(i)] for i in draw.permutation(len(items))][:4]
    target, shots = order[0], [studio.medium(item) for item in order[1:]]
    if draw.random() < 0.5:
        prompt = write_prompt("subject", draw, {"shots": series(shots)})
        return draft("subject_pose", prompt, [studio.medium(target)], order)
    look = studio.changes.look("image", draw, 1, without=frozenset({"style", "hue", "geometry"}))
    prompt = write_prompt("subject_changed", draw, {"shots": series(shots), "ask": asks("image", look)})
    return draft("subject_changed", prompt, [studio.medium(target, look)], order, look=look)


def composition(studio: Studio, draw: np.random.Generator) -> Draft:
    """Things and a scene → the things in the scene, made exactly (Kosmos-G's task)."""
    scene = pick(draw, studio.scenes)
    things = studio.things(draw, 1 + int(draw.random() < 0.35))
    spread = [0.3, 0.7] if len(things) == 2 else [float(draw.uniform(0.3, 0.7))]
    places = [(x, float(draw.uniform(0.8, 0.98)), float(draw.uniform(0.4, 0.6))) for x in spread]
    whole = placed(studio.pixels(scene), [studio.pixels(thing) for thing in things], places)
    named = draw.random() < 0.5  # with the words, or with the pictures alone
    parts = [[f"{thing.caption} ", studio.medium(thing)] if named else [studio.medium(thing)] for thing in things]
    ground = [f"{scene.caption} ", studio.medium(scene)] if named else [studio.medium(scene)]
    description = [*parts[0], *([" and ", *parts[1]] if len(parts) == 2 else []), " on ", *ground]
    prompt = write_prompt("compose", draw, {"description": description})
    return draft("compose", prompt, [picture(whole)], [*things, scene])


def difference(modality: str) -> Row:
    """Two media that differ in one or two factors → what changed, in words (section 4.1's perception)."""

    def row(studio: Studio, draw: np.random.Generator) -> Draft:
        (item,) = studio.items(modality, draw, 1)
        change = studio.changes.look(modality, draw, 1 + int(draw.integers(2)))
        before = studio.changes.before(modality, draw, change, hidden=0.0)
        fields = {"first": [studio.medium(item, before)], "second": [studio.medium(item, before | change)]}
        answer = f"{item.caption[:1].upper()}{item.caption[1:]}, now {words(modality, change)}."
        return draft(
            f"difference_{modality}", write_prompt("difference", draw, fields), [Text(answer)], [item], change=change
        )

    return row


def described(modality: str) -> Row:
    """Captions as exemplars of captions: several media, each described before the next is given."""

    def row(studio: Studio, draw: np.random.Generator) -> Draft:
        items = studio.items(modality, draw, 2 + int(draw.integers(SHOTS)))
        turns: list[Turn] = []
        for item in items:
            asked = write_prompt(f"caption_{modality}", draw, {"media": [studio.medium(item)]})
            turns += exchange(asked, [Text(item.caption)])
        last = draft(f"described_{modality}", (), (), items)
        return replace(last, turns=tuple(turns))

    return row

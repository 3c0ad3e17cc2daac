"""The training tasks of section 4 on the `tiny` corpus: each draws one example, an interleaved prompt and its target.

Media stand as `Ref`s into the cached views, so that nothing is encoded while the language model trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from codi2.data import sound_transforms, transforms
from codi2.data.items import Item
from codi2.data.mixes import Mix
from codi2.data.templates import listing, write_prompt
from codi2.prompt.parts import Phrase, Text

STYLES = {
    "openmoji": "as an outlined emoji",
    "google": "as a soft emoji",
    "twitter": "as a flat emoji",
    "fluent3d": "as a glossy 3D emoji",
    "photo": "as a photo",
    "drawing": "as a drawing",
    "cartoon": "as a cartoon",
}
"""How a caption names a rendering."""
RENDERINGS = ("openmoji", "google", "twitter", "fluent3d")
"""Styles in which one concept is drawn by several hands: the true answers of an exemplar task."""
EDITS = {"image": transforms, "audio": sound_transforms}


@dataclass(frozen=True)
class Ref:
    """A medium of the corpus: a row of a cached view. Views are edits by name, or the mixes."""

    modality: str
    row: int
    view: str = "plain"


@dataclass(frozen=True)
class Example:
    """A prompt, its answer, and the medium that the answer edits."""

    task: str
    prompt: tuple[Any, ...]
    answer: Any  # Ref or Text
    source: Ref | None = None


@dataclass(frozen=True)
class World:
    """What the tasks draw from: items of some splits, and how they hang together."""

    images: Sequence[Item]
    sounds: Sequence[Item]
    mixes: Sequence[Mix] = ()
    mix_view: str = "mix"  # the cached view that holds them
    chats: Sequence[tuple[str, str]] = ()  # (question, answer) of plain text
    edit_names: dict[str, tuple[str, ...]] = field(default_factory=dict)  # modality → edits in use
    by: dict[str, dict[str, list[Item]]] = field(init=False)  # "group", "subject", "concept" → name → images
    sounds_of: dict[str, list[Item]] = field(init=False)  # concept → sounds
    names: dict[int, str] = field(init=False)  # sound row → caption
    _twins: dict[tuple[str, str], list[tuple[Item, Item]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        by: dict[str, dict[str, list[Item]]] = {"group": {}, "subject": {}, "concept": {}, "style": {}}
        for item in self.images:
            for key in by:
                by[key].setdefault(getattr(item, key), []).append(item)
        by["subject"].pop("", None)
        sounds_of: dict[str, list[Item]] = {}
        for item in self.sounds:
            sounds_of.setdefault(item.concept, []).append(item)
        object.__setattr__(self, "by", by)
        object.__setattr__(self, "sounds_of", sounds_of)
        object.__setattr__(self, "names", {item.row: item.caption for item in self.sounds})

    def twins(self, before: str, after: str) -> list[tuple[Item, Item]]:
        """The same things in two renderings."""
        if (before, after) not in self._twins:
            groups = ({item.style: item for item in items} for items in self.by["group"].values())
            self._twins[before, after] = [(g[before], g[after]) for g in groups if before in g and after in g]
        return self._twins[before, after]

    def edits(self, modality: str) -> list[Any]:
        chosen = self.edit_names.get(modality)
        return [t for t in EDITS[modality].TRANSFORMS if t.asks and (chosen is None or t.name in chosen)]

    def phrases(self) -> set[str]:
        """Every caption that a task may give as text features."""
        return {words for item in (*self.images, *self.sounds) for words in (item.caption, caption_of(item))}

    def mixed(self, i: int) -> Ref:
        return Ref("audio", i, self.mix_view)

    def base(self, i: int) -> Ref:
        return Ref("audio", self.mixes[i].base, "half")

    def items(self, modality: str) -> Sequence[Item]:
        return self.images if modality == "image" else self.sounds


def _pick(draw: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[int(draw.integers(len(options)))]


def _ref(item: Item, view: str = "plain") -> Ref:
    return Ref(item.modality, item.row, view)


def caption_of(item: Item, edit: str = "plain") -> str:
    """The words for an item: its caption, for pictures the kind of rendering, and the edit."""
    words = item.caption
    if item.modality == "image" and item.style in STYLES:
        words += f", {STYLES[item.style]}"
    extra = EDITS[item.modality].BY_NAME[edit].words
    return f"{words}, {extra}" if extra else words


def from_caption(modality: str) -> Callable[[World, np.random.Generator], Example]:
    """Caption → medium; at times the caption is given as text features (section 4.1)."""

    def task(world: World, draw: np.random.Generator) -> Example:
        item = _pick(draw, world.items(modality))
        edit = _pick(draw, world.edits(modality)).name if draw.random() < 0.15 else "plain"
        words: Any = caption_of(item, edit) if draw.random() < 0.85 else item.caption
        if edit == "plain" and draw.random() < 0.2:
            words = Phrase(words)
        prompt = write_prompt(f"{modality}_from_caption", draw, {"caption": [words]})
        return Example(f"{modality}_from_caption", prompt, _ref(item, edit))

    return task


def describe(modality: str) -> Callable[[World, np.random.Generator], Example]:
    """Medium → caption."""

    def task(world: World, draw: np.random.Generator) -> Example:
        item = _pick(draw, world.items(modality))
        prompt = write_prompt(f"caption_{modality}", draw, {"media": [_ref(item)]})
        return Example(f"caption_{modality}", prompt, Text(_sentence(item.caption)))

    return task


def edit(modality: str) -> Callable[[World, np.random.Generator], Example]:
    """Medium + instruction → edited medium. A picture's other rendering counts as an edit of its style."""

    def task(world: World, draw: np.random.Generator) -> Example:
        item = _pick(draw, world.items(modality))
        others = (
            [o for o in world.by["group"].get(item.group, []) if o.style != item.style] if modality == "image" else []
        )
        if others and draw.random() < 0.5:
            target = _pick(draw, others)
            prompt = write_prompt("restyle", draw, {"media": [_ref(item)], "style": STYLES[target.style]})
            return Example("edit_image", prompt, _ref(target), _ref(item))
        change = _pick(draw, world.edits(modality))
        prompt = write_prompt("edit", draw, {"media": [_ref(item)], "ask": str(_pick(draw, change.asks))})
        return Example(f"edit_{modality}", prompt, _ref(item, change.name), _ref(item))

    return task


def analogy(modality: str, max_shots: int = 3) -> Callable[[World, np.random.Generator], Example]:
    """Examples of a change, then a medium to change alike: the exemplar template of section 4.1."""

    def task(world: World, draw: np.random.Generator) -> Example:
        shots = 1 + int(draw.integers(max_shots))
        pairs = _pairs(world, draw, modality, shots + 1)
        (source, target), given = pairs[-1], pairs[:-1]
        fields = {"pairs": listing(given, between=", " if len(given) > 1 else ""), "media": [source]}
        return Example(f"analogy_{modality}", write_prompt("analogy", draw, fields), target, source)

    return task


def _pairs(world: World, draw: np.random.Generator, modality: str, count: int) -> list[tuple[Ref, Ref]]:
    """`count` (before, after) pairs of one change, each of another item."""
    if modality == "image" and draw.random() < 0.6:
        before, after = (str(style) for style in draw.choice(RENDERINGS, 2, replace=False))
        twins = world.twins(before, after)
        return [tuple(map(_ref, twins[int(i)])) for i in draw.choice(len(twins), count, replace=False)]  # type: ignore[misc]
    if modality == "audio" and count == 2 and len(world.mixes) and draw.random() < 0.5:
        # a sound laid over two different ones, or taken away again
        four = 4 * int(draw.integers(len(world.mixes) // 4))
        which = int(draw.integers(2))
        pairs = [(world.base(i), world.mixed(i)) for i in (four + which, four + 2 + which)]
        return pairs if draw.random() < 0.6 else [(after, before) for before, after in pairs]
    change = _pick(draw, world.edits(modality)).name
    items = world.items(modality)
    rows = draw.choice(len(items), count, replace=False)
    return [(_ref(items[int(r)]), _ref(items[int(r)], change)) for r in rows]


def add(world: World, draw: np.random.Generator) -> Example:
    """Lay a sound over another: named in words, or given."""
    i = int(draw.integers(len(world.mixes)))
    base, overlay, target = world.base(i), Ref("audio", world.mixes[i].overlay), world.mixed(i)
    if draw.random() < 0.4:
        return Example("fuse", write_prompt("fuse", draw, {"second": [overlay], "media": [base]}), target, base)
    fields = {"caption": world.names[overlay.row], "media": [base]}
    return Example("add", write_prompt("add", draw, fields), target, base)


def remove(world: World, draw: np.random.Generator) -> Example:
    """Take the named overlay out of a mix."""
    i = int(draw.integers(len(world.mixes)))
    fields = {"caption": world.names[world.mixes[i].overlay], "media": [world.mixed(i)]}
    return Example("remove", write_prompt("remove", draw, fields), world.base(i), world.mixed(i))


def replace(world: World, draw: np.random.Generator) -> Example:
    """Exchange the named overlay of a mix for another."""
    old = int(draw.integers(len(world.mixes)))
    new = old ^ 1  # mixes 2i and 2i + 1 share their base
    fields = {"caption": world.names[world.mixes[old].overlay], "other": world.names[world.mixes[new].overlay]}
    prompt = write_prompt("replace", draw, {**fields, "media": [world.mixed(old)]})
    return Example("replace", prompt, world.mixed(new), world.mixed(old))


def cross(world: World, draw: np.random.Generator) -> Example:
    """Sound of a picture, or picture of a sound, for concepts that have both."""
    shared = sorted(world.sounds_of.keys() & world.by["concept"].keys())
    concept = _pick(draw, shared)
    image, sound = _ref(_pick(draw, world.by["concept"][concept])), _ref(_pick(draw, world.sounds_of[concept]))
    if draw.random() < 0.5:
        return Example("sound_of_picture", write_prompt("sound_of_picture", draw, {"media": [image]}), sound)
    return Example("picture_of_sound", write_prompt("picture_of_sound", draw, {"media": [sound]}), image)


def concept(world: World, draw: np.random.Generator) -> Example:
    """A few pictures that share a style, and a caption to draw in it (concept learning, section 4.2)."""
    style = _pick(draw, RENDERINGS)
    *shots, target = (
        world.by["style"][style][int(r)] for r in draw.choice(len(world.by["style"][style]), 3, replace=False)
    )
    fields = {"shots": listing([[_ref(s) for s in shots]], between=""), "caption": target.caption}
    return Example("concept", write_prompt("concept", draw, fields), _ref(target))


def subject(world: World, draw: np.random.Generator) -> Example:
    """Poses of one individual → another pose of it (subject-driven learning, section 4.2)."""
    several = sorted(name for name, items in world.by["subject"].items() if len(items) > 1)
    items = world.by["subject"][_pick(draw, several)]
    order = [items[int(i)] for i in draw.permutation(len(items))][:3]
    fields = {"shots": listing([[_ref(s) for s in order[1:]]], between="")}
    return Example("subject", write_prompt("subject", draw, fields), _ref(order[0]), _ref(order[-1]))


def chat(world: World, draw: np.random.Generator) -> Example:
    """Plain text, so that the adapters keep what the base model can do."""
    question, answer = _pick(draw, world.chats)
    return Example("chat", (Text(question),), Text(answer))


def _sentence(caption: str) -> str:
    return caption[:1].upper() + caption[1:] + "."


TASKS: dict[str, Callable[[World, np.random.Generator], Example]] = {
    "image_from_caption": from_caption("image"),
    "audio_from_caption": from_caption("audio"),
    "caption_image": describe("image"),
    "caption_audio": describe("audio"),
    "edit_image": edit("image"),
    "edit_audio": edit("audio"),
    "analogy_image": analogy("image"),
    "analogy_audio": analogy("audio"),
    "add": add,
    "remove": remove,
    "replace": replace,
    "cross": cross,
    "concept": concept,
    "subject": subject,
    "chat": chat,
}

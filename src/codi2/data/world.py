"""The items of some splits, indexed by group, subject, concept and style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from codi2.data.items import Item

RENDERINGS = {
    "openmoji": "as an outlined emoji",
    "google": "as a soft emoji",
    "twitter": "as a flat emoji",
    "fluent3d": "as a glossy 3D emoji",
}
"""Emoji set → the words for it in a caption. One concept in two sets is the true answer of an exemplar task. These four
decide which families are held out."""
ADDED_RENDERINGS = {
    "emojione": "as a muted flat emoji",
    "emojione1": "as a retro emoji",
    "emojionemono": "as a black stencil emoji",
    "fxemoji": "as a playful emoji",
    "noto1": "as a blob emoji",
    "fluentflat": "as a bright flat emoji",
    "fluentmono": "as a bold black-and-white emoji",
    "streamline": "as a thin-lined emoji with a shadow",
}
"""Emoji sets that are split separately, so that they do not change the split of the other items (`split`)."""
ALL_RENDERINGS = RENDERINGS | ADDED_RENDERINGS
UNSEEN_RENDERING = "fxemoji"
"""Held out whole. It is in colour, its makers drew no other rendering (as those of `emojione1` and `noto1` did), and
it is smaller than most, so training loses little."""
STYLES = ALL_RENDERINGS | {"photo": "as a photo", "drawing": "as a drawing", "cartoon": "as a cartoon"}
"""Style of a picture → the words for it in a caption."""


@dataclass(frozen=True)
class World:
    """Items and their indexes."""

    images: Sequence[Item]
    sounds: Sequence[Item]
    by: dict[str, dict[str, list[Item]]] = field(init=False)
    """`group`, `subject`, `concept` or `style` → its name → pictures."""
    sounds_of: dict[str, list[Item]] = field(init=False)
    """Concept → sounds."""

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

"""The first four emoji sets, joined by code point."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from codi2.data.labels import clean, with_article
from codi2.data.prepare import read_picture
from codi2.data.raw import CorpusSource, RawItem


@dataclass(frozen=True)
class _EmojiSet:
    """One package of pictures, a file for each code."""

    folder: str
    suffix: str
    licence: str
    attribution: str
    upper: bool = False
    """Whether codes are in upper case in file names."""


_EMOJI_SETS = {
    "openmoji": _EmojiSet(
        "openmoji-17.0.0/package/color/svg", "svg", "CC-BY-SA-4.0", "OpenMoji, HfG Schwäbisch Gmünd", upper=True
    ),
    "google": _EmojiSet(
        "emoji-datasource-google-16.0.0/package/img/google/64", "png", "Apache-2.0", "Noto Emoji, Google"
    ),
    "twitter": _EmojiSet(
        "emoji-datasource-twitter-16.0.0/package/img/twitter/64",
        "png",
        "CC-BY-4.0",
        "Twemoji, Twitter and contributors",
    ),
    "fluent3d": _EmojiSet("lobehub-fluent-emoji-3d-1.1.0/package/assets", "webp", "MIT", "Fluent Emoji, Microsoft"),
}
"""Style → its package, licence and attribution."""
_DATA = "emojibase-data-17.0.0/package"
_SKIPPED_GROUPS = {"component", "flags"}
# Labels that do not describe the picture without a further word: `on arrow`, `male`.
_SIGN_SUBGROUPS = {"zodiac", "gender", "math", "punctuation", "currency", "religion", "av-symbol", "other-symbol",
                   "transport-sign", "alphanum"}  # fmt: skip
_GROUPS = {"family": "family", "kiss": "kiss", "couple with heart": "couple in love"}
_SIGN_WORDS = ("button", "symbol", "sign", "mark", "square", "circle", "star", "cross", "menorah")


def _names(hexcode: str) -> list[str]:
    """File stems that the packages use for one emoji: with and without the variation selector."""
    bare = "-".join(code for code in hexcode.split("-") if code != "FE0F")
    return list(dict.fromkeys([hexcode, bare, f"{bare}-FE0F", *([f"00{hexcode}"] if len(hexcode) == 2 else [])]))


def _label(label: str, subgroup: str) -> str:
    head, _, rest = label.partition(": ")
    if rest and head in _GROUPS:
        people = [with_article(person) for person in rest.split(", ")]
        label = f"{_GROUPS[head]} of {' and '.join(people)}"
    elif rest:
        label = f"{head} with {rest}" if head in {"man", "woman", "person"} else f"{head} {rest}"
    label = clean(label.replace(",", " and"))
    if label.endswith(("o’clock", "-thirty")):
        return f"clock showing {label}"
    if label.startswith("rolling on"):
        label = f"face {label}"
    sign = subgroup in _SIGN_SUBGROUPS and not label.endswith(_SIGN_WORDS)
    return f"{label} symbol" if sign else label


def labelled(root: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Code, name, subgroup and file stems of each emoji. Skin tones and flags are left out."""
    groups = json.loads((root / _DATA / "meta/groups.json").read_text(encoding="utf-8"))
    for entry in json.loads((root / _DATA / "en/data.json").read_text(encoding="utf-8")):
        if "group" not in entry or groups["groups"][str(entry["group"])] in _SKIPPED_GROUPS:
            continue
        subgroup = groups["subgroups"][str(entry["subgroup"])]
        yield entry["hexcode"].lower(), _label(entry["label"], subgroup), subgroup, _names(entry["hexcode"])


def raw_labels(root: Path) -> dict[str, str]:
    """Code → label of the data set: `person: blond hair`."""
    entries = json.loads((root / _DATA / "en/data.json").read_text(encoding="utf-8"))
    return {entry["hexcode"].lower(): entry["label"] for entry in entries}


def read(style: str, root: Path) -> Iterator[RawItem]:
    """`root` holds the unpacked packages side by side."""
    emoji_set = _EMOJI_SETS[style]
    for code, name, subgroup, names in labelled(root):
        stems = [stem if emoji_set.upper else stem.lower() for stem in names]
        path = next((p for s in stems if (p := root / emoji_set.folder / f"{s}.{emoji_set.suffix}").exists()), None)
        if path is not None:
            yield RawItem(
                key=code, modality="image", file=str(path.relative_to(root)), name=name, caption=with_article(name),
                category=subgroup, style=style, group=code, load=partial(read_picture, path),
            )  # fmt: skip


SOURCES = tuple(
    CorpusSource(style, emoji_set.licence, emoji_set.attribution, partial(read, style))
    for style, emoji_set in _EMOJI_SETS.items()
)

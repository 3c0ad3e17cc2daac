"""Further emoji sets, from the SVG bodies of Iconify's packages, joined by code point."""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import ImageOps
from PIL.Image import Image

from codi2.data.labels import with_article
from codi2.data.prepare import open_picture
from codi2.data.raw import CorpusSource, RawItem
from codi2.data.sources.emoji import labelled, raw_labels


@dataclass(frozen=True)
class EmojiSet:
    """One package of icons."""

    package: str
    """`@iconify-json/<package>`."""
    version: str
    licence: str
    attribution: str

    @property
    def folder(self) -> str:
        return f"iconify-json-{self.package}-{self.version}/package"


EMOJI_SETS = {
    "emojione": EmojiSet("emojione", "1.2.3", "CC-BY-4.0", "EmojiOne 2.3 (EmojiTwo), EmojiOne and contributors"),
    "emojione1": EmojiSet("emojione-v1", "1.2.3", "CC-BY-SA-4.0", "EmojiOne 1.5, EmojiOne"),
    "emojionemono": EmojiSet(
        "emojione-monotone", "1.2.1", "CC-BY-4.0", "EmojiOne 2.2 monotone, EmojiOne and contributors"
    ),
    "fxemoji": EmojiSet("fxemoji", "1.2.2", "Apache-2.0", "FxEmojis, Mozilla"),
    "noto1": EmojiSet("noto-v1", "1.2.5", "Apache-2.0", "Noto Emoji v1, Google"),
    "fluentflat": EmojiSet("fluent-emoji-flat", "1.2.6", "MIT", "Fluent Emoji flat, Microsoft"),
    "fluentmono": EmojiSet("fluent-emoji-high-contrast", "1.2.6", "MIT", "Fluent Emoji high contrast, Microsoft"),
    "streamline": EmojiSet("streamline-emojis", "1.2.4", "CC-BY-4.0", "Streamline Emojis, Streamline"),
}
"""Style → its package, licence and attribution."""


@cache
def _names() -> dict[str, dict[str, str]]:
    return tomllib.loads(files("codi2.data.sources").joinpath("iconify.toml").read_text(encoding="utf-8"))


def _slug(label: str) -> str:
    """`Japanese “here” button` → `japanese-here-button`, as icons are named."""
    plain = unicodedata.normalize("NFKD", label.lower()).encode("ascii", "ignore").decode()
    return "-".join(re.findall(r"[a-z0-9]+", plain))


def _squashed(code: str) -> str:
    """The character's name in Unicode without spaces, as one package names its icons; empty for a sequence."""
    name = unicodedata.name(chr(int(code, 16)), "") if "-" not in code else ""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def join(
    labels: Mapping[str, str], icons: Mapping[str, str], chars: Mapping[str, str], named: Mapping[str, str]
) -> dict[str, str]:
    """Code → name of its icon; no drawing serves two codes.

    The package's own table of code points comes first. Then follow the hand-made table, the current name, the current
    name with a number (`boy-1`), Unicode's name, and last the aliases: an alias can be another emoji's earlier name
    (`cricket` of the game).

    Args:
        labels: code (lower case, joined by `-`) → its current name.
        icons: name or alias → the drawing that it shows.
        chars: code without variation selectors → icon; may be empty.
        named: the hand-made table, icon → code; `-` leaves the icon out.
    """
    kept = {name for name in icons if named.get(name) != "-"}
    drawn = {name for name in kept if icons[name] == name}
    by_hand = {code: name for name, code in named.items() if name in drawn}
    icon_of: dict[str, str] = {}
    taken: set[str] = set()
    for names, candidates in (
        (kept, {code: chars.get(_bare(code)) for code in labels}),
        (drawn, by_hand),
        (drawn, {code: _slug(label) for code, label in labels.items()}),
        (drawn, {code: f"{_slug(label)}-1" for code, label in labels.items()}),
        (drawn, {code: _squashed(code) for code in labels}),
        (kept, {code: _slug(label) for code, label in labels.items()}),
    ):
        for code in labels:
            name = candidates.get(code)
            if code not in icon_of and name is not None and name in names and icons[name] not in taken:
                icon_of[code] = name
                taken.add(icons[name])
    return icon_of


def _bare(code: str) -> str:
    return "-".join(point for point in code.split("-") if point != "fe0f")


def read(style: str, root: Path) -> Iterator[RawItem]:
    """`root` holds the unpacked packages side by side. Skin tones and flags are left out, as in the other sets."""
    emoji_set = EMOJI_SETS[style]
    folder = root / emoji_set.folder
    book = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    chars = json.loads((folder / "chars.json").read_text(encoding="utf-8")) or {}
    icons = {name: name for name, icon in book["icons"].items() if not icon.get("hidden")}
    for alias, entry in book.get("aliases", {}).items():
        if entry["parent"] in icons:
            icons[alias] = entry["parent"] if entry.keys() == {"parent"} else alias  # else mirrored: another drawing
    emoji = {code: (name, subgroup) for code, name, subgroup, _ in labelled(root)}
    labels = {code: label for code, label in raw_labels(root).items() if code in emoji}
    tables = _names()
    icon_of = join(labels, icons, chars, tables["names"] | tables.get(emoji_set.package, {}))
    for code, icon in icon_of.items():
        name, subgroup = emoji[code]
        yield RawItem(
            key=code, modality="image", file=f"{emoji_set.folder}/icons.json:{icon}", name=name,
            caption=with_article(name), category=subgroup, style=style, group=code, load=partial(_draw, book, icon),
        )  # fmt: skip


def _draw(book: dict[str, Any], name: str) -> Image:
    """One icon of a package's `icons.json`, 256 pixels wide; shapes without a colour of their own are black."""
    alias = book.get("aliases", {}).get(name, {})
    icon = book["icons"][alias.get("parent", name)]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = (icon.get(side, book.get(side, 16)) for side in ("width", "height"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="black" '
        f'width="{width}" height="{height}" viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )
    picture = open_picture(svg.encode())
    return ImageOps.mirror(picture) if alias.get("hFlip") else picture


SOURCES = tuple(
    CorpusSource(style, emoji_set.licence, emoji_set.attribution, partial(read, style))
    for style, emoji_set in EMOJI_SETS.items()
)

"""GCompris activities: instruments and farm animals (picture and sound), words, tools, sights and sound effects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from codi2.data.labels import clean, concept_of, hand_label, sound_caption, tables, with_article
from codi2.data.prepare import open_picture, open_sound
from codi2.data.raw import CorpusSource, RawItem
from codi2.data.sources.rcc import members

_ARCHIVES = "gcompris-qt-data/usr/share/gcompris-qt/rcc"
# Picture folders, by a part of their path: style of the pictures in them that are not SVG.
_PICTURES = {
    "instruments/resource/": "drawing", "babymatch/resource/images/": "drawing",
    "farm_animals/resource/animals/": "photo", "world_animals/resource/animals/": "photo",
    "lang/resource/words_sample/": "cartoon", "explore_monuments/resource/": "photo",
    "categorization/resource/images/tools/": "photo", "categorization/resource/images/fishes/": "photo",
    "categorization/resource/images/monuments/": "photo", "categorization/resource/images/others/": "photo",
    "categorization/resource/images/renewable/": "photo",
}  # fmt: skip
_NAMES = {
    "flute traversiere": "flute", "horn": "french horn", "fusee": "rocket", "raquette": "racket", "flies": "fly",
    "tuxhelico": "helicopter", "tuxplane": "airplane", "postpoint": "mailbox", "windflag": "windsock",
    "solar": "solar panel", "football": "soccer ball", "sailingboat": "sailboat", "fishingboat": "fishing boat",
    "eggpot": "egg cup", "buffetset": "buffet set", "chickens": "chicken", "light": "light bulb", "dad": "father",
    "plier": "pliers", "tweezer": "tweezers", "blackslate": "blackboard", "le musee": "louvre museum",
    "burj": "burj khalifa", "empire state": "empire state building",
}  # fmt: skip
# Decorations, colours, numbers and words that the picture does not show.
_SKIPPED = set(
    "background farm-animals question sound error key usa egypt india france germany world-map monument numbers "
    "alphabets zero one two three four five six seven eight nine ten eleven twelve sixteen color orange-color pink "
    "yellow gray black white red blue green mauve brown animal skin neck back son brother sister friend child navajo "
    "rape geothermal".split()
)
_ACTIVITY_SOUNDS = ("instruments/resource/", "farm_animals/resource/animals/")


def _name(stem: str) -> str:
    spaced = re.sub(r"(?<=[a-z])(of|des|de|du)(?=[A-Z])", r" \1", stem)  # gatewayofIndia
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", spaced).replace("_", " ")
    name = clean(re.sub(r"\d+$", "", spaced))
    return _NAMES.get(name, name)


def _caption(name: str, member: str) -> str:
    return f"the {name}" if "monuments/" in member else with_article(name)  # monuments bear proper names


def read(root: Path) -> Iterator[RawItem]:
    for archive in sorted((root / _ARCHIVES).glob("*.rcc")):
        for member, content in members(archive):
            path, suffix = PurePosixPath(member), PurePosixPath(member).suffix
            key = member.partition("activities/")[2] or member
            file = f"{archive.relative_to(root)}:{member}"
            category = f"gcompris-{path.parent.name}"
            style = next((s for part, s in _PICTURES.items() if part in member), None)
            skipped = re.sub(r"\d+$", "", path.stem) in _SKIPPED
            if suffix in {".svg", ".webp", ".png"} and style and not skipped and "/resource/" in member:
                name = _name(path.stem)
                yield RawItem(
                    key=key, modality="image", file=file, name=name, caption=_caption(name, member), category=category,
                    style="drawing" if suffix == ".svg" else style, group=f"gcompris/{key}",
                    load=partial(open_picture, content),
                )  # fmt: skip
            if suffix in {".ogg", ".wav"} and "voices" not in member and (label := _sound_label(member, path.stem)):
                yield RawItem(
                    key=key, modality="audio", file=file, name=label[0], caption=label[1], category=category,
                    style="recorded", group=f"gcompris/{key}", load=partial(open_sound, content),
                )  # fmt: skip


def _sound_label(member: str, stem: str) -> tuple[str, str] | None:
    if not any(part in member for part in _ACTIVITY_SOUNDS):
        return hand_label("gcompris", stem)
    concept = concept_of(_name(stem))
    known = concept in tables()["sound"]
    return concept, sound_caption(concept) if known else f"{with_article(concept)} playing"


SOURCE = CorpusSource("gcompris", "GPL-3.0-or-later and free licences per file", "GCompris and its contributors", read)

"""Tux Paint stamps: photo cut-outs and drawings with an English caption, some with a sound effect."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from codi2.data.labels import clean, concept_of, sound_caption, tables, with_article
from codi2.data.prepare import read_picture, read_sound
from codi2.data.raw import CorpusSource, RawItem

_STAMPS = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
_SKIPPED = ("symbols/", "town/flags", "town/roadsigns")  # letters, digits, money and text signs
# The sound of these is speech, silence or of something else than the picture.
_NO_SOUND = (
    "symbols/", "people/", "town/", "military/", "space/", "vehicles/ship", "household/dishes/", "seasonal/hanukkah",
    "seasonal/christmas", "seasonal/halloween/spider", "animals/insects/xanthia", "animals/marsupials/wombat",
    "animals/mammals/giraffe", "animals/lizards/iguana", "animals/birds/nandou",
)  # fmt: skip
_LONGEST_NAME = 5  # words; longer first lines are sentences about the thing, so the file name is the better name
_SENTENCE = set("you use can one with is are was carry carries to who that this your our we it it's has have".split())


def read(root: Path) -> Iterator[RawItem]:
    base, renamed = root / _STAMPS, tables()["stamps"]
    for text in sorted(base.rglob("*.txt")):
        stem = str(text.relative_to(base).with_suffix(""))
        line = text.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        name = clean(line)
        if not name or len(name.split()) > _LONGEST_NAME or _SENTENCE & set(name.split()):
            name = clean("".join(" " if c in "_-0123456789" else c for c in text.stem))
        name = renamed.get(name, name)
        if name == "-":
            continue
        category = "-".join(p for p in Path(stem).parent.parts if p != "cartoon")
        picture = next((p for s in (".svg", ".png") if (p := text.with_suffix(s)).exists()), None)
        if picture is not None and not stem.startswith(_SKIPPED):
            drawn = picture.suffix == ".svg" or "cartoon" in stem or stem.startswith("seasonal/")
            yield RawItem(
                key=stem, modality="image", file=str(picture.relative_to(root)), name=name, caption=with_article(name),
                category=category, style="drawing" if drawn else "photo", group=f"stamp/{stem}",
                load=partial(read_picture, picture),
            )  # fmt: skip
        sound = text.with_suffix(".ogg")
        if sound.exists() and not stem.startswith(_NO_SOUND):
            yield RawItem(
                key=f"{stem}.ogg", modality="audio", file=str(sound.relative_to(root)), name=name,
                caption=sound_caption(concept_of(name)), category=category, style="recorded", group=f"stamp/{stem}.ogg",
                load=partial(read_sound, sound),
            )  # fmt: skip


SOURCE = CorpusSource("tuxpaint", "GPL-2.0-or-later", "Tux Paint stamps collection and its contributors", read)

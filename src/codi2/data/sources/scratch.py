"""Scratch 1.4 media: cartoon costumes (several poses of one individual), photo backgrounds, labelled sounds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from codi2.data.labels import clean, hand_label, with_article
from codi2.data.prepare import read_picture, read_sound
from codi2.data.raw import CorpusSource, RawItem

_MEDIA = "scratch/usr/share/scratch/Media"
_FOLDERS = ("Animals", "Fantasy", "People", "Things", "Transportation")
_SKIPPED = re.compile(r"^(xy-grid|atom-playground|hair\d|button|fantasy\d|wild|scoreboard|manhole|gobo)", re.I)
# Costumes whose file name is the name of a person.
_PEOPLE = {
    "woman": "anjuli anna cassy marissa nina jodi womanbun womanwaving chamak",
    "man": "amon mako calvrett dan ed jay nathan paul sam roundman squareguy football",
    "girl": "girl squaregirl",
    "boy": "boy boycurly boyshorts",
    "dancer": "thai-dancer lee-fan ballerina breakdancer ribbon-dancer",
}
_WHO = {stem: who for who, stems in _PEOPLE.items() for stem in stems.split()}
_NUMBERED = {"girl", "boy", "breakdancer"}  # girl1 and girl2 are two individuals; anna-1 and anna-2 are one
_NAMES = {
    "cub": "bear", "car-blue": "car", "car-bug": "car", "car-cow": "car", "convertible": "car", "royalperson": "king",
    "magiccarpet": "flying carpet", "tug-boat": "tugboat", "sail-boat": "sailboat", "palmtree": "palm tree",
    "partyhat": "party hat", "sunglassf": "sunglasses", "tennisball": "tennis ball", "beachball": "ball",
    "soccer": "soccer ball", "mic": "microphone", "wizardhat": "wizard hat", "bird-flying": "bird",
    "street-cleaner-mit": "street cleaner", "monkeyking": "monkey king", "marble-building": "building",
}  # fmt: skip
_SCENES = {
    "underwater": "underwater scene", "route": "country road", "beach-malibu": "beach", "building-at-mit": "building",
    "building-fireproof": "building", "mural-faro": "mural", "berkeley-mural": "mural", "all-sports-mural": "mural",
    "garden-rock": "rock garden", "stars": "starry sky", "moon": "moon surface", "the-movies": "movie theater",
    "the-movies-inside": "movie theater", "hallway_outdoors": "outdoor hallway",
}  # fmt: skip
# Costumes cut out of photographs; the others are drawn.
_PHOTOS = re.compile(
    r"^(airplane$|amon|anjuli|anna|bike|bird-flying|breakdancer|buffalo|bus|calvrett|car-|cassy|chamak|cow|crab2|"
    r"dan\d|ed$|elephant$|fire-hydrant|flower-vase|football|fortune|fruit_|grasshopper2|insect|jay|jodi|lamp|lee-fan|"
    r"lego|mako|marble|marissa|nathan|nina|palmtree|paul|referee|ribbon|sail-boat|sam$|squirrel|street-cleaner|"
    r"tennisball|thai|train|trampoline|tug-boat|umbrella|yacht)"
)
_DOING = ("walking", "standing", "sitting", "running", "dancing", "jumping", "laughing", "shouting", "thinking",
          "crouching", "screaming", "shrugging", "flying")  # fmt: skip
_POSE = re.compile(rf"-({'|'.join(_DOING[:-1])}|chillin|phone|stop|run|stand|basketball).*$")


def _costume(stem: str) -> tuple[str, str, str]:
    """File stem → (individual, name, caption): `boy4-walking-a` → (`boy4`, `boy`, `a boy walking`)."""
    doing = next((word for word in _DOING if word in stem), "")
    key = _POSE.sub("", re.sub(r"-([a-e]|\d+)$", "", stem)).lower()
    kind = re.sub(r"\d+$", "", key)
    name = _NAMES.get(key) or _NAMES.get(kind) or _WHO.get(key) or _WHO.get(kind) or re.sub("[-_]", " ", kind)
    individual = kind if kind in _WHO and kind not in _NUMBERED else key
    return individual, name, " ".join(filter(None, (with_article(name), doing)))


def _pictures(media: Path, folder: str) -> list[Path]:
    paths = sorted(p for p in (media / folder).rglob("*") if p.suffix in {".png", ".gif", ".jpg"})
    return [p for p in paths if not _SKIPPED.match(p.stem)]


def read(root: Path) -> Iterator[RawItem]:
    media = root / _MEDIA
    for folder in _FOLDERS:
        for path in _pictures(media, f"Costumes/{folder}"):
            individual, name, caption = _costume(path.stem)
            yield RawItem(
                key=f"costume/{path.stem}", modality="image", file=str(path.relative_to(root)), name=name,
                caption=caption, category=f"costume-{folder.lower()}",
                style="photo" if _PHOTOS.match(path.stem) else "cartoon", group=f"scratch/{path.stem}",
                subject=f"scratch/{individual}", load=partial(read_picture, path),
            )  # fmt: skip
    for path in _pictures(media, "Backgrounds"):
        stem = re.sub(r"-?\d*(-[ab])?$", "", path.stem)
        name = _SCENES.get(stem) or clean(stem.replace("-", " ").replace("_", " "))
        yield RawItem(
            key=f"background/{path.stem}", modality="image", file=str(path.relative_to(root)), name=name,
            caption=with_article(name), category="background", style="photo", group=f"scratch/background/{path.stem}",
            load=partial(read_picture, path),
        )  # fmt: skip
    for path in sorted(p for p in (media / "Sounds").rglob("*") if p.suffix in {".wav", ".mp3"}):
        if (label := hand_label("scratch", path.stem)) is not None:
            yield RawItem(
                key=f"sound/{path.stem}", modality="audio", file=str(path.relative_to(root)), name=label[0],
                caption=label[1], category=path.parent.name.lower(), style="recorded",
                group=f"scratch/sound/{path.stem}", load=partial(read_sound, path),
            )  # fmt: skip


SOURCE = CorpusSource("scratch", "CC-BY-SA-3.0", "Scratch 1.4 media library, MIT Media Lab", read)

"""Concepts, captions and families from names."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

_MASS = set(
    "applause art beer bread broccoli butter cheese chocolate fire fog garlic ginger gold grass hair honey lightning "
    "teeth milk money mud music percussion popcorn rain rice sake salt sand seaweed snow spaghetti sushi thunder tofu "
    "water wind wood yarn clothing lipstick soap thread algae bacon".split()
)
_SINGULAR_S = set("bus cactus octopus walrus hippopotamus glass gas compass cross abacus dress grass iris bass".split())
_COLOURS = set("red orange yellow green blue purple brown black white pink grey gray golden silver light dark".split())
_PEOPLE = set("man men woman women person people boy girl man’s woman’s men’s women’s".split())
_SIZES = set("small large medium big little medium-small old open closed front-facing".split())
_CONSONANT_SOUND = ("uni", "one", "eur", "use", "uk")
_BARE = {"a", "an", "the", "two", "three", "people", "men", "women"}
_PROPER = set("mercury venus mars jupiter saturn uranus neptune pluto santa".split())
_PREPOSITION = re.compile(
    r" (?:with|of|in|on|at|for|from|without|behind|over|and|under|above|"
    r"taking|wearing|showing|lifting|holding|playing|dancing) "
)
_PART = re.compile(r"^(?:pair|head|string|quarter|cup|bunch|slice|half|piece|baby|group|set|glass|pot) of (?:an? )?")


@cache
def tables() -> dict[str, Any]:
    """The hand-made tables of `labels.toml`."""
    return tomllib.loads(files("codi2.data").joinpath("labels.toml").read_text(encoding="utf-8"))


@cache
def _aliases() -> dict[str, str]:
    return {label: concept for concept, labels in tables()["alias"].items() for label in labels}


def clean(text: str) -> str:
    """The first sentence of a label in lower case, without article, brackets and final punctuation."""
    text = re.split(r"(?<=[a-z])[.!?—;]|, ", text.strip())[0]
    text = re.sub(r"\(.*?\)|[“”\"]", "", text).replace("_", " ").strip(" .!?").lower()
    return re.sub(r"\s+", " ", re.sub(r"^(a|an|the|some|another) ", "", text))


def concept_of(name: str) -> str:
    """The concept that a name means in every source: `cat face` and `kitten` are `cat`."""
    name = clean(name)
    return _aliases().get(name, name)


def with_article(name: str) -> str:
    """`cat` → `a cat`; plurals, mass nouns and names with their own determiner get no article."""
    words = name.split()
    if name in _PROPER:
        return name
    head = _PREPOSITION.split(name)[0].split()[-1] if words else ""
    plural = head.endswith("s") and not head.endswith(("ss", "us", "’s")) and head not in _SINGULAR_S
    if not words or plural or head in _MASS or words[0] in _BARE:
        return name
    vowel = name.startswith(("a", "e", "i", "o", "u", "hour")) and not name.startswith(_CONSONANT_SOUND)
    return f"{'an' if vowel else 'a'} {name}"


def sound_caption(concept: str) -> str:
    """The caption of a concept's sound: from the table of verbs, else `the sound of a …`."""
    return tables()["sound"].get(concept) or f"the sound of {with_article(concept)}"


def head_of(concept: str, category: str = "") -> str:
    """The head noun that near-duplicates share; all items of one head are on the same side of a split.

    `man running` and `woman running` → `running`; `red circle` → `circle`; `grinning face with big eyes` →
    `grinning`; every clock face, keycap and arrow → one head each.
    """
    if category in {"keycap", "arrow", "zodiac", "math"}:
        return category
    if re.search(r"o’clock|-thirty", concept):
        return "clock"
    core = _PREPOSITION.split(_PART.sub("", concept))[0]
    words = core.replace("’s", "").split()
    if category.startswith("face-") and words:
        return words[0]
    nouns = [w for w in words if w not in _PEOPLE] or words
    if len(nouns) > 1 and nouns[-1] in {"face", "button", "symbol", "sign"}:
        nouns = nouns[:-1]
    nouns = [w for w in nouns if w not in _COLOURS | _SIZES] or nouns
    return _singular(nouns[-1]) if nouns else concept


def _singular(word: str) -> str:
    if word in _SINGULAR_S or word.endswith(("ss", "us", "is", "as")) or not word.endswith("s") or len(word) < 4:
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("ches", "shes", "xes", "sses")) else word[:-1]


def hand_label(section: str, stem: str) -> tuple[str, str] | None:
    """(concept, caption) of a file name from a table of `labels.toml`; None: the file is left out."""
    entry = tables()[section].get(stem, "-")
    if entry == "-":
        return None
    concept, caption = entry.split(" | ")
    return concept, caption

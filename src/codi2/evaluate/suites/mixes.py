"""Requests to add, remove and replace a sound on held-out mixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from codi2.data import cache
from codi2.data.mixes import overlay
from codi2.evaluate.context import RATE, EvalContext
from codi2.prompt.parts import Audio, Prompt, Text

Kind = Literal["add", "remove", "replace"]
KINDS: tuple[Kind, ...] = ("add", "remove", "replace")


@dataclass(frozen=True)
class Edit:
    """One request, the sound that it edits, and the true result."""

    prompt: Prompt
    source: Audio
    target: Audio
    words: str  # caption of the target


def edits(context: EvalContext, kind: Kind, n: int) -> list[Edit]:
    """`n` requests, each about another mix."""
    mixes, names = context.mixes(), {item.row: item.caption for item in cache.items("audio")}
    sounds = context.corpus.sounds

    def mixed(i: int) -> Audio:
        return _audio(overlay(sounds[mixes[i].base], sounds[mixes[i].overlay], mixes[i].level_db))

    requests = []
    for i in context.shuffled(range(len(mixes)))[:n]:
        base, first = names[mixes[i].base], names[mixes[i].overlay]
        alone, both = _audio(sounds[mixes[i].base] // 2), mixed(i)
        if kind == "add":
            requests.append(Edit((Text(f"Add {first} to "), alone, Text(".")), alone, both, f"{base} and {first}"))
        elif kind == "remove":
            requests.append(Edit((Text(f"Remove {first} from "), both, Text(".")), both, alone, base))
        else:
            other = i ^ 1  # mixes 2i and 2i + 1 share their base
            second = names[mixes[other].overlay]
            prompt = (Text(f"Replace {first} with {second} in "), both, Text("."))
            requests.append(Edit(prompt, both, mixed(other), f"{base} and {second}"))
    return requests


def _audio(clip: np.ndarray) -> Audio:
    """int16 [N] → a sound."""
    return Audio(clip.astype(np.float32) / 32767, RATE)

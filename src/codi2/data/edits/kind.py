"""Kinds of edits, and the ranges of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from math import exp, log

import numpy as np

HELD_SHARE = (0.55, 0.70)
"""The part of a range that training does not draw from, as shares of its length (of its logarithm in a log range)."""
HELD_HUES = (255.0, 305.0)
"""The arc of the colour circle, in degrees, that training does not draw from: violet and purple."""


@dataclass(frozen=True)
class Span:
    """The range of one value.

    Args:
        low: smallest value.
        high: largest value.
        step: values are multiples of it, so that words can name them exactly.
        gap: values strictly between these two are never drawn, as the edit would have no effect.
        held: the closed interval inside the range that training does not draw from; None: from `HELD_SHARE`.
        log: whether draws are uniform in the logarithm.
        free: whether no part is held out (seeds, choices without an order).
    """

    low: float
    high: float
    step: float = 0.01
    gap: tuple[float, float] | None = None
    held: tuple[float, float] | None = None
    log: bool = False
    free: bool = False

    @property
    def reserved(self) -> tuple[float, float] | None:
        """The interval that training does not draw from."""
        if self.free or self.held is not None:
            return self.held
        if self.log:
            ratio = log(self.high / self.low)
            return self.low * exp(HELD_SHARE[0] * ratio), self.low * exp(HELD_SHARE[1] * ratio)
        width = self.high - self.low
        return self.low + HELD_SHARE[0] * width, self.low + HELD_SHARE[1] * width

    def holds(self, value: float) -> bool:
        """Whether a value lies in the part that training does not draw from."""
        return self.reserved is not None and self.reserved[0] <= value <= self.reserved[1]

    def draw(self, rng: np.random.Generator, held_out: bool = False) -> float:
        """A value of the training part, or of the held-out part."""
        low, high = self.reserved if held_out and self.reserved else (self.low, self.high)
        low, high = low - self.step / 2, high + self.step / 2  # so that both ends are as likely as other values
        while True:
            value = exp(rng.uniform(log(low), log(high))) if self.log else rng.uniform(low, high)
            value = round(round(value / self.step) * self.step, 4)
            inside = self.low <= value <= self.high and not (self.gap and self.gap[0] < value < self.gap[1])
            if inside and self.holds(value) == held_out:
                return value


HUE = Span(0, 359, 1, held=HELD_HUES)
LIGHT = Span(0.3, 0.82)
SEED = Span(0, 9999, 1, free=True)
DIRECTION = Span(0, 359, 1)
"""Degrees clockwise, 0 to the right."""
SLANT = Span(0, 179, 1)
"""Degrees of a line, which has no start and no end."""


@dataclass(frozen=True)
class Phrases:
    """Phrases for a kind, with placeholders in braces."""

    asks: tuple[str, ...]
    """Instructions: `turn it {angle}`."""
    words: str
    """A description of the result, for captions: `turned {angle}`."""


@lru_cache(maxsize=1)
def phrases() -> dict[str, Phrases]:
    """Kind → its phrases: lines `kind: words` of `phrases/*.txt`, each with its instructions indented below."""
    phrases_of: dict[str, Phrases] = {}
    for name in ("image.txt", "audio.txt"):
        text = (files(__package__) / "phrases" / name).read_text(encoding="utf-8")
        for block in text.replace("\n    ", "\0").splitlines():
            head, *asks = block.split("\0")
            kind, words = head.split(": ", 1)
            phrases_of[kind] = Phrases(tuple(asks), words)
    return phrases_of


def nothing(**_: float) -> dict[str, str]:
    """The words of a kind without placeholders."""
    return {}


@dataclass(frozen=True)
class Kind:
    """One kind of edit.

    Args:
        name: unique over both modalities; its phrases are in `phrases/`.
        spans: the range of each value, by the name of `apply`'s argument.
        apply: the edit: `apply(media, **values)`.
        say: `say(**values)` gives the words of each placeholder of the phrases.
        held_out: whether training never draws this kind.
    """

    name: str
    spans: Mapping[str, Span]
    apply: Callable[..., np.ndarray]
    say: Callable[..., dict[str, str]] = nothing
    held_out: bool = False

    def draw(self, rng: np.random.Generator, held_out: bool = False) -> dict[str, float]:
        """Values; with `held_out`, one of them from its held-out part."""
        names = [name for name, span in self.spans.items() if span.reserved]
        held = names[int(rng.integers(len(names)))] if held_out else ""
        return {name: span.draw(rng, name == held) for name, span in self.spans.items()}

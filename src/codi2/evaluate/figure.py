"""What an evaluation finds: figures with intervals and baselines, and examples to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from codi2.evaluate.retrieval import bootstrap
from codi2.prompt.parts import Part, Prompt


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    low: float
    """95 % bootstrap interval over the items; equal to `value` for what has no spread, such as chance."""
    high: float
    n: int
    """Items measured; 0 for what follows from the set-up."""
    unit: str = ""
    baselines: Mapping[str, Figure] = field(default_factory=dict)
    ahead: tuple[float, float] | None = None
    """Of a baseline: 95 % interval of the figure minus it, item by item."""
    bar: str = ""
    """What is asked of the figure, in words; empty where it is only reported."""
    passes: bool | None = None

    def beside(self, **others: Figure) -> Figure:
        """The figure with further baselines."""
        return replace(self, baselines={**self.baselines, **others})

    def judged(self, bar: str, passes: bool) -> Figure:
        """The figure with its bar and whether it meets it."""
        return replace(self, bar=bar, passes=bool(passes))


@dataclass(frozen=True)
class Example:
    """One case to look at: the prompt, and media by name (`target`, `ours`, and each baseline)."""

    title: str
    prompt: Prompt
    shown: Mapping[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """What one section measures."""

    figures: Sequence[Figure]
    examples: Sequence[Example] = ()


@dataclass(frozen=True)
class Section:
    """Findings under a title, or the reason why there are none."""

    title: str
    about: str
    findings: Findings = field(default_factory=lambda: Findings(()))
    unavailable: str = ""
    quoted: Mapping[str, str] = field(default_factory=dict)
    """Published figures, by system, as their authors print them."""


def mean(
    name: str, values: ArrayLike, baselines: Mapping[str, ArrayLike] | None = None, unit: str = "", seed: int = 0
) -> Figure:
    """The mean of `values` [n]; each of the `baselines` is [n] too, measured on the same items."""
    ours = np.asarray(values, dtype=np.float64)
    others: dict[str, Figure] = {}
    for other, theirs in (baselines or {}).items():
        difference = bootstrap(ours - np.asarray(theirs, dtype=np.float64), seed)
        others[other] = replace(
            mean(other, theirs, unit=unit, seed=seed), ahead=(difference["low"], difference["high"])
        )
    interval = bootstrap(ours, seed)
    return Figure(name, float(ours.mean()), interval["low"], interval["high"], len(ours), unit, others)


def known(name: str, value: float, n: int = 0, unit: str = "") -> Figure:
    """A number without spread: chance, which follows from the set-up, or a single reading."""
    return Figure(name, value, value, value, n, unit)


def mapped(figure: Figure, function: Callable[[float], float]) -> Figure:
    """A growing function of a figure, its interval and its baselines; differences do not carry over."""
    baselines = {name: mapped(other, function) for name, other in figure.baselines.items()}
    value, low, high = (function(x) for x in (figure.value, figure.low, figure.high))
    return replace(figure, value=value, low=low, high=high, baselines=baselines, ahead=None)

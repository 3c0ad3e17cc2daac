"""What an evaluation finds: figures with intervals and baselines, and examples to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from codi2.errors import DataError
from codi2.metrics.retrieval import bootstrap
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
    """What the figure should reach, in words; empty where it is only reported."""
    passes: bool | None = None
    values: tuple[float, ...] = field(default=(), repr=False, compare=False)
    """By item, of a mean: what another model on the same items is paired with."""

    def beside(self, **others: Figure) -> Figure:
        """The figure with further baselines."""
        return replace(self, baselines={**self.baselines, **others})

    def judged(self, bar: str, passes: bool) -> Figure:
        """The figure with its bar and whether it meets it."""
        return replace(self, bar=bar, passes=bool(passes))

    def within(self, low: float, high: float) -> Figure:
        """The figure, which should be from `low` to `high`."""
        return self.judged(f"{low:g} to {high:g}", low <= self.value <= high)


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
    absent: Mapping[str, str] = field(default_factory=dict)
    """Rows that could not be measured, and why."""
    networks: Mapping[str, str] = field(default_factory=dict)
    """Published networks that judged, and what tells their weights apart."""
    quoted: Mapping[str, str] = field(default_factory=dict)
    """Published figures, by system, as their authors print them."""


def mean(
    name: str, values: ArrayLike, baselines: Mapping[str, ArrayLike] | None = None, unit: str = "", seed: int = 0
) -> Figure:
    """The mean of `values` [n]; each of the `baselines` is [n] too, measured on the same items.

    Raises DataError: there are no values, a baseline has another number of them, or one is NaN or infinite: no mean is
    taken over what is left.
    """
    numbers = _measured(name, values)
    others: dict[str, Figure] = {}
    for other, other_values in (baselines or {}).items():
        rival = _measured(f"{name}, {other}", other_values)
        if len(rival) != len(numbers):
            raise DataError(f"{name}: {other} has {len(rival)} values for {len(numbers)} items; measure it on the same")
        difference = bootstrap(numbers - rival, seed)
        others[other] = replace(
            mean(other, other_values, unit=unit, seed=seed), ahead=(difference["low"], difference["high"])
        )
    interval = bootstrap(numbers, seed)
    values = tuple(numbers.tolist())
    return Figure(
        name, float(numbers.mean()), interval["low"], interval["high"], len(numbers), unit, others, values=values
    )


def group_means(values: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """Values [n] → the mean of each group, such as the seeds of a caption, which are not independent."""
    members = np.asarray(groups)
    return np.array([values[members == group].mean() for group in dict.fromkeys(groups)])


def _measured(name: str, values: ArrayLike) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        raise DataError(f"{name}: there is nothing to average")
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        raise DataError(f"{name} is {numbers[wrong[0]]} for item {wrong[0]} ({len(wrong)} of {len(numbers)} in all)")
    return numbers


def known(name: str, value: float, n: int = 0, unit: str = "") -> Figure:
    """A number without spread: chance, which follows from the set-up, or a single reading."""
    return Figure(name, value, value, value, n, unit)


def mapped(figure: Figure, function: Callable[[float], float]) -> Figure:
    """A growing function of a figure, its interval and its baselines; differences do not carry over."""
    baselines = {name: mapped(other, function) for name, other in figure.baselines.items()}
    value, low, high = (function(x) for x in (figure.value, figure.low, figure.high))
    return replace(figure, value=value, low=low, high=high, baselines=baselines, ahead=None, values=())

"""Two models on the same draws: each figure with both values and, item by item, their difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from codi2.evaluate.figure import Figure, Section, known, mean


def paired(sections: Sequence[Section], others: Sequence[Section], name: str, seed: int = 0) -> list[Section]:
    """The sections, each figure with the value of the model `name` beside it. What that model lacks is named.

    Args:
        others: its sections, of the same suites, measured on the same draws.
    """
    by_title = {section.title: section for section in others}
    return [_section(section, by_title[section.title], name, seed) for section in sections]


def _section(section: Section, other: Section, name: str, seed: int) -> Section:
    if other.unavailable:
        return replace(section, absent={**section.absent, name: other.unavailable})
    others = {figure.name: figure for figure in other.findings.figures}
    figures = [
        _figure(figure, others[figure.name], name, seed) if figure.name in others else figure
        for figure in section.findings.figures
    ]
    return replace(section, findings=replace(section.findings, figures=figures))


def _figure(figure: Figure, other: Figure, name: str, seed: int) -> Figure:
    """A figure beside the other model's; with the difference where both have the values of the same items."""
    figure = figure.beside(**{name: replace(other, name=name, baselines={}, bar="", passes=None)})
    if not figure.values and other.value > 0 and figure.n:  # of a set, such as a Fréchet distance
        return figure.beside(**{f"ours / {name}": known(f"ours / {name}", figure.value / other.value)})
    if not figure.values or len(figure.values) != len(other.values):
        return figure
    title = f"ours - {name}"
    difference = mean(title, np.subtract(figure.values, other.values), unit=figure.unit, seed=seed)
    return figure.beside(**{title: difference})

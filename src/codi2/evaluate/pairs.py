"""Two models on the same draws: each figure with both values and, item by item, their difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from codi2.evaluate.figure import Figure, Section, mean


def paired(ours: Sequence[Section], theirs: Sequence[Section], name: str, seed: int = 0) -> list[Section]:
    """Our sections with the values of the model `name` beside each figure. What it lacks is said.

    Args:
        theirs: sections of the same suite, measured on the same draws.
    """
    others = {section.title: section for section in theirs}
    return [_section(section, others[section.title], name, seed) for section in ours]


def _section(ours: Section, theirs: Section, name: str, seed: int) -> Section:
    if theirs.unavailable:
        return replace(ours, absent={**ours.absent, name: theirs.unavailable})
    others = {figure.name: figure for figure in theirs.findings.figures}
    figures = [
        _figure(one, others[one.name], name, seed) if one.name in others else one for one in ours.findings.figures
    ]
    return replace(ours, findings=replace(ours.findings, figures=figures))


def _figure(ours: Figure, theirs: Figure, name: str, seed: int) -> Figure:
    """A figure beside the other model's; with the difference where both have the values of the same items."""
    figure = ours.beside(**{name: replace(theirs, name=name, baselines={}, bar="", passes=None)})
    if not ours.values or len(ours.values) != len(theirs.values):
        return figure
    title = f"ours - {name}"
    difference = mean(title, np.subtract(ours.values, theirs.values), unit=ours.unit, seed=seed)
    return figure.beside(**{title: difference})

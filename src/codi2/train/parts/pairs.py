"""Pairs on which decoders are trained: a medium, and its source, if there is one.

A pair is a function of (seed, number) and of the training split alone. The target is a medium, possibly edited, without
a source; an edit of the source; a picture in another style; or a sound with another one added, removed or replaced. In
some pairs the source is unrelated to the target: in generation, a reply that edits nothing has the last item as source.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codi2.data import cache, edits
from codi2.data.mixes import overlay
from codi2.modalities import Modality
from codi2.train.parts.media import TrainingMedia

ALONE = 0.4  # share of the media that edit nothing
UNRELATED = 0.25  # share of those that have a source nevertheless
RESTYLED = 0.15  # share of the edits of pictures that redraw a concept in another style
MIXED = 0.45  # share of the edits of sounds that add, remove or replace a sound
EDITED_BEFORE = 0.4  # share of the sources that are edited themselves

Pair = tuple[np.ndarray | None, np.ndarray]


class TrainingPairs(TrainingMedia):
    """Draws (source, target); the source is None, or another medium, where the target edits nothing."""

    def __init__(self, modality: Modality, seed: int) -> None:
        super().__init__(modality, seed)
        groups: dict[str, dict[str, int]] = {}
        if modality == "image":
            items = cache.items(modality)
            for row in self.rows:
                groups.setdefault(items[row].group, {})[items[row].style] = int(row)
        self.styles = [sorted(rows.values()) for rows in groups.values() if len(rows) > 1]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings on which the pairs depend, for the key of a bank."""
        return {"alone": ALONE, "unrelated": UNRELATED, "restyled": RESTYLED, "mixed": MIXED, "before": EDITED_BEFORE}

    def pair(self, number: int) -> Pair:
        draw = np.random.default_rng((self.seed, number))
        row = int(draw.choice(self.rows))
        if draw.random() < ALONE:
            source = self._medium(draw, int(draw.choice(self.rows))) if draw.random() < UNRELATED else None
            return source, self._medium(draw, row)
        if self.modality == "image" and self.styles and draw.random() < RESTYLED:
            first, second = draw.choice(self.styles[draw.integers(len(self.styles))], 2, replace=False)
            return self._both(draw, np.asarray(self.media[first]), np.asarray(self.media[second]))
        if self.modality == "audio" and draw.random() < MIXED:
            return self._mixed(draw, np.asarray(self.media[row]))
        before = self._picture(draw, row) if self.modality == "image" else self._sound(draw, row)
        if draw.random() < EDITED_BEFORE:
            before = edits.draw(self.modality, draw)(before)
        return before, edits.draw(self.modality, draw)(before)

    def _both(self, draw: np.random.Generator, source: np.ndarray, target: np.ndarray) -> Pair:
        """Source and target, sometimes with the same edit."""
        if draw.random() < EDITED_BEFORE:
            edit = edits.draw(self.modality, draw)
            return edit(source), edit(target)
        return source, target

    def _mixed(self, draw: np.random.Generator, base: np.ndarray) -> Pair:
        """A sound with another one added, removed or replaced."""
        others = [np.asarray(self.media[row]) for row in draw.choice(self.rows, 2, replace=False)]
        levels = draw.uniform(-6, 6, 2)
        first, second = (overlay(base, other, float(level)) for other, level in zip(others, levels, strict=True))
        alone = (base / 2).astype(np.int16)  # as loud as it is in a mix
        pairs: list[Pair] = [(base, first), (first, alone), (first, second)]
        return pairs[draw.integers(3)]

from dataclasses import replace
from pathlib import Path

import pytest

from codi2.data import cache
from codi2.data.items import Corpus, Item
from codi2.data.world import ALL_RENDERINGS, RENDERINGS
from codi2.evaluate.context import EvalContext


def test_figures_do_not_move_with_the_renderings_that_were_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The context draws the same items, in the same order, from the corpus with the added renderings and without."""
    one = Item(
        id="x", modality="image", row=0, file="f", caption="c", concept="c", family="x/c", style="photo", group="g",
        subject="", source="s", licence="l", attribution="a", split="test_family",
    )  # fmt: skip
    items = [
        replace(one, id=f"{style}/{n}", concept=f"c{n}", style=style, row=row * 20 + n)
        for row, style in enumerate(ALL_RENDERINGS)
        for n in range(20)
    ]
    drawn = []
    for styles in (ALL_RENDERINGS, RENDERINGS):
        corpus = Corpus(tmp_path, [item for item in items if item.style in styles])
        monkeypatch.setattr(cache, "corpus", lambda corpus=corpus: corpus)
        drawn.append(EvalContext(None, seed=3).draw("image", "test_family", 12))  # type: ignore[arg-type]
    assert drawn[0] == drawn[1]

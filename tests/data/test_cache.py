"""What frozen networks make of the corpus, stored between runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codi2.data import cache
from codi2.data.edits import draw


def forget() -> None:
    cache.corpus.cache_clear()
    cache._row_keys.cache_clear()


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_a_view_has_an_edit_of_each_item_that_depends_on_its_medium_alone(modality: str, home: Path) -> None:
    plain, edited = cache.view(modality), cache.view(modality, "edited-1")
    assert edited.shape == plain.shape and edited.dtype == plain.dtype
    for row in (0, 5):
        expected = draw(modality, np.random.default_rng((int(cache._row_keys(modality)[row]), 1)))(plain[row])
        assert np.array_equal(edited[row], expected)
    assert not np.array_equal(edited, cache.view(modality, "edited-0"))
    assert [path.name for path in sorted((home / "cache").glob("*edited-1*"))] == [
        f"{modality}-edited-1-6b86b273ff-keys.npy",  # runs that were stopped look for these names
        f"{modality}-edited-1-6b86b273ff.npy",
    ]


def test_a_corpus_with_another_picture_costs_this_row_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = np.array(cache.view("image", "edited-0"))
    path = home / "data" / "tiny" / "images.npy"
    pictures = np.load(path)
    pictures[3, 20:40, 20:40] = (9, 200, 30)
    np.save(path, pictures)
    forget()
    computed: list[int] = []
    edited = cache._edited

    def counted(modality: str, row: int, number: int) -> np.ndarray:
        computed.append(row)
        return edited(modality, row, number)

    monkeypatch.setattr(cache, "_edited", counted)
    after = cache.view("image", "edited-0")
    assert computed == [3]
    assert np.array_equal(np.delete(after, 3, 0), np.delete(before, 3, 0)) and not np.array_equal(after[3], before[3])

"""CIDEr-D against the scores that pycocoevalcap 1.2 gives, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest

from codi2.errors import DataError
from codi2.evaluate.cider import cider

REFERENCES = [
    "a cat on a couch", "a dog barking", "two red apples on a table", "a man riding a horse",
    "a cat on a couch by the window",
]  # fmt: skip
CAPTIONS = [
    "a cat sits on a couch", "a dog", "three green apples on the table", "a horse riding a man",
    "a cat on a couch by the window",
]  # fmt: skip
PUBLISHED = [3.133105523015867, 3.4867686995202813, 1.7004319687425777, 4.375, 10.0]  # CiderScorer(n=4, sigma=6.0)


def test_scores_are_those_of_the_reference_implementation():
    assert cider(CAPTIONS, REFERENCES) == pytest.approx(PUBLISHED, abs=1e-9)


def test_at_the_edges():
    assert (cider([""] * 5, REFERENCES) == 0).all()
    assert np.isfinite(cider(["x"], ["x"])).all()  # one document: every word is in all of them
    with pytest.raises(DataError, match="one reference a caption, not 4 for 5"):
        cider(CAPTIONS, REFERENCES[:4])
    with pytest.raises(DataError, match="not 0 for 0"):
        cider([], [])

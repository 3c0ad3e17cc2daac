"""What frozen networks compute is stored by content: each medium once, and again with other weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codi2.config import DEBUG
from codi2.data import cache
from codi2.encode.debug import DebugEncoder
from codi2.train.encoded import Encodings, weights_key
from codi2.train.examples import ExampleSet


def test_a_medium_is_encoded_once_and_again_when_the_weights_change(task_set: Path) -> None:
    encoder = DebugEncoder(16, DEBUG.encoder.num_features)
    encodings = Encodings(lambda: encoder, weights_key(encoder), True)
    pieces = ExampleSet({str(task_set): 1.0}, encodings, 2, {"image": 1.0}, 0).batch(0)[0].pieces
    first = encodings.of(pieces)
    other = Encodings(lambda: pytest.fail("the encoder is loaded"), encodings.key, True)
    assert all((a == b).all() for a, b in zip(other.of(pieces), first, strict=True))
    assert all(value is not None for value in other.known(pieces))
    encoder.maps["image"].weight.data[0, 0] += 1
    assert weights_key(encoder) != encodings.key
    assert Encodings(lambda: encoder, weights_key(encoder), True).known(pieces) == [None] * len(pieces)


def test_a_changed_corpus_costs_only_its_new_rows(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = np.array(cache.view("image", "edited-0"))
    path = home / "data" / "tiny" / "images.npy"
    pictures = np.load(path)
    pictures[3] = 7
    np.save(path, pictures)
    cache.corpus.cache_clear()
    cache._row_keys.cache_clear()
    computed: list[int] = []

    def edited(modality: str, row: int, number: int) -> np.ndarray:
        computed.append(int(row))
        return np.full((64, 64, 3), 9, np.uint8)

    monkeypatch.setattr(cache, "_edited", edited)
    after = cache.view("image", "edited-0")
    assert computed == [3] and (after[3] == 9).all()
    assert np.array_equal(np.delete(after, 3, 0), np.delete(before, 3, 0))

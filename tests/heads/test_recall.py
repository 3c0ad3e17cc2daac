"""What nothing given shows, taken to be as the training item that comes nearest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codi2.errors import WeightsError
from codi2.heads.recall import Recall
from codi2.hub import shipped

DIM = 16


@pytest.fixture
def items() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {"image": torch.randn(40, 3, DIM, generator=draw), "audio": torch.randn(9, 2, DIM, generator=draw)}


def test_the_item_whose_joint_vector_comes_nearest(items: dict[str, torch.Tensor]) -> None:
    recall, known = Recall(items), items["image"][7]
    asked = torch.cat([3 * known[:1] + 0.1, torch.zeros(2, DIM)])
    assert recall.nearest("image", asked[0])[0] == 7
    assert torch.allclose(recall("image", asked, 1.0), known)
    assert torch.allclose(recall("image", asked, 0.5), (asked + known) / 2)
    assert torch.allclose(recall("image", asked[:1], 1.0), known[:1])
    assert not asked[1:].any()  # what was asked for is left as it was


def test_what_words_say_of_a_look_is_noticed(items: dict[str, torch.Tensor]) -> None:
    """Far from the mean of what is like it, and farther than these are from each other."""
    recall, known = Recall(items), items["image"][7]
    night = torch.stack([known[0], torch.full((DIM,), 3.0), known[2]])
    assert recall.told_more("image", night)
    assert not recall.told_more("image", night[:1])  # a joint vector alone says nothing of a look
    plain = torch.stack([known[0], *items["image"][:, 1:].mean(0)])
    assert not recall.told_more("image", plain)
    hopping = plain + torch.tensor([0.0, 0.0, 0.7])[:, None]
    assert not recall.told_more("image", hopping)
    assert Recall({"video": items["image"]}).told_more("video", hopping)  # how a clip moves is told by little


def test_what_nobody_knows_stays(items: dict[str, torch.Tensor]) -> None:
    asked = torch.randn(2, DIM)
    recall = Recall({"image": items["image"]})
    assert recall("audio", asked, 1.0) is asked
    assert not recall.told_more("audio", asked)


def test_kept_in_bytes(items: dict[str, torch.Tensor], tmp_path: Path) -> None:
    Recall(items).save(tmp_path / "recall.safetensors")
    again = Recall.load(tmp_path / "recall.safetensors").items
    for modality, known in items.items():
        rounding = known.abs().amax(-1, keepdim=True) / 254
        assert ((again[modality] - known).abs() <= rounding + 1e-6).all()
    (tmp_path / "recall.safetensors").write_bytes(b"half a file")
    with pytest.raises(WeightsError, match="damaged"):
        Recall.load(tmp_path / "recall.safetensors")


def test_the_shipped_items_are_those_that_the_index_names() -> None:
    from codi2.nearest import TrainingIndex

    index = TrainingIndex(shipped("tiny") / "encoder" / "nearest")
    assert {m: len(known) for m, known in index.recall.items.items()} == {m: len(n) for m, n in index.entries.items()}
    row = next(i for i, item in enumerate(index.entries["audio"]) if "cat" in item["caption"].split())
    assert "cat" in index.nearest("audio", index.recall.items["audio"][row, 0])[1]

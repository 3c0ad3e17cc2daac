import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from codi2.evaluate.judge import ranks, similarity
from codi2.prompt.parts import Image


def test_a_gallery_ranks_its_own_pictures_first():
    gallery = torch.randn(20, 8, generator=torch.Generator().manual_seed(0)) + 5
    assert (ranks(gallery[:7], gallery, len(gallery)) == 0).all()
    assert ranks(2 * gallery.mean(0) - gallery[:1], gallery, len(gallery)).tolist() == [
        19
    ]  # the opposite of a picture comes last


def test_similarity_does_not_count_what_all_pictures_share():
    shared = torch.full((4,), 10.0)
    ours, target = shared + torch.tensor([[1.0, 0, 0, 0]]), shared + torch.tensor([[0, 1.0, 0, 0]])
    assert torch.cosine_similarity(ours, target).item() > 0.99
    assert similarity(ours, target, shared) == pytest.approx([0], abs=1e-6)
    assert similarity(ours, ours, shared) == pytest.approx([1])


def test_the_judge_sees_each_picture_alone_and_at_one_size(judge):
    small = PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    blue = PILImage.new("RGB", (300, 300), "blue")
    pictures = [Image(small), Image(blue), Image(blue.resize((64, 64)))] * 9
    seen = judge(pictures)
    assert seen.shape == (27, 27)
    torch.testing.assert_close(seen[1], seen[2])
    torch.testing.assert_close(seen[0], judge([Image(small)])[0])

import numpy as np
import torch

from codi2.evaluate.suites.words import losses, plain_text
from codi2.model import CoDi2


def test_perplexity_sees_the_adapters_and_only_while_they_are_on():
    backbone = CoDi2.from_pretrained("debug").mllm.backbone
    text = [paragraph[:80] for paragraph in plain_text()[:3]]
    fresh = losses(backbone, text, vocabulary=backbone.first_new)
    assert np.isfinite(fresh).all() and len(fresh) == 3
    assert (losses(backbone, text) > fresh).all()  # the new tokens take some probability
    with torch.no_grad():
        for name, value in backbone.peft.named_parameters():
            if "lora_B" in name:
                value.normal_(generator=torch.Generator().manual_seed(0))
    assert np.abs(losses(backbone, text, vocabulary=backbone.first_new) - fresh).max() > 0.01
    with backbone.peft.disable_adapter():
        np.testing.assert_allclose(losses(backbone, text, vocabulary=backbone.first_new), fresh, rtol=1e-5)


def test_the_plain_text_is_prose_of_some_length():
    paragraphs = plain_text()
    assert len(paragraphs) >= 8
    assert 500 <= sum(len(paragraph.split()) for paragraph in paragraphs) <= 800

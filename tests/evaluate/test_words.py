from types import SimpleNamespace

import numpy as np
import torch

from codi2.evaluate.bench import Bench
from codi2.evaluate.suites import words
from codi2.evaluate.suites.words import holds, losses, plain_text
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


def test_a_right_answer_holds_the_word_and_not_a_part_of_another():
    assert holds("It is called ICE.", "ice") and not holds("It is nice.", "ice")
    assert holds("There are 7 days.", "seven") and holds("seven", "seven") and not holds("70", "seven")


def test_facts_are_those_of_the_base_model(monkeypatch):
    """What the base model says wrong is not asked of ours; what it says right is, ten times at most."""
    bench = Bench(CoDi2.from_pretrained("debug"))
    monkeypatch.setattr(words, "alone", lambda backbone, question: dict(words.FACTS[:12]).get(question, "no idea"))
    asked = []

    def answer(messages, options):
        asked.extend(message.parts[0].text for (message,) in messages)
        return [SimpleNamespace(text=answer if i else "no idea") for i, (_, answer) in enumerate(words.FACTS[:10])]

    monkeypatch.setattr(bench.model, "answer", answer)
    kept = words.facts(bench)
    assert asked == [question for question, _ in words.FACTS[:10]]
    assert kept.value == 0.9 and kept.n == 10 and kept.passes
    monkeypatch.undo()
    backbone = bench.model.mllm.backbone
    with backbone.peft.disable_adapter():
        assert words.alone(backbone, "Who?") == words.alone(backbone, "Who?")

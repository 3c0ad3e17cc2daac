import numpy as np
import pytest
import torch

from codi2.evaluate.context import EvalContext
from codi2.evaluate.suites import language
from codi2.evaluate.suites.language import holds, losses, plain_text
from codi2.model import CoDi2
from codi2.prompt.parts import Text


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


def test_facts_are_counted_where_the_base_model_knows_them() -> None:
    """The first ten that it gets right; an answer of ours to another question does not count."""
    context = EvalContext(None)  # type: ignore[arg-type]
    cases = language.cases(context)
    truth = [case.target for case in cases]
    base = [part if 2 <= i < 14 else Text("no idea") for i, part in enumerate(truth)]
    answers = [part if i not in (0, 5, 13) else Text("no idea") for i, part in enumerate(truth)]
    right, kept = language.score(context, cases, {"given": answers, language.BASE: base}).figures
    assert right.value == pytest.approx(17 / 20) and right.baselines[language.BASE].value == pytest.approx(12 / 20)
    assert kept.value == 0.9 and kept.n == 10 and kept.passes
    right, none = language.score(context, cases, {"given": answers, language.BASE: [Text("")] * 20}).figures
    assert none.value == 0 and none.passes is None


def test_the_base_model_answers_without_the_adapters() -> None:
    context = EvalContext(CoDi2.from_pretrained("debug"), items=2)
    backbone, cases = context.model.mllm.backbone, language.cases(context)
    before = language.base(context, cases)
    with torch.no_grad():
        for name, value in backbone.peft.named_parameters():
            if "lora_B" in name:
                value.normal_(generator=torch.Generator().manual_seed(0))
    assert language.base(context, cases) == before

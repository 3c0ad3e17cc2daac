"""Notes about settings without effect and about text that was cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from codi2 import CoDi2
from codi2.chat import Chat
from codi2.config import DEBUG
from codi2.llm.generation import FeatureSegment, TextSegment
from codi2.notes import notes_of
from codi2.reply import Options

PICTURE, WORDS = FeatureSegment("image", torch.zeros(3, 16)), TextSegment((1, 2))


def notes(*segments: FeatureSegment | TextSegment, **settings: Any) -> str:
    return " ".join(notes_of(DEBUG, Options(**settings), segments))


def test_a_seed_has_no_effect_on_text_that_is_not_sampled() -> None:
    assert "The seed has no effect" in notes(WORDS, seed=3)
    assert notes(WORDS) == notes(WORDS, seed=3, temperature=0.7) == notes(WORDS, PICTURE, seed=3) == ""


def test_a_negative_prompt_needs_guidance() -> None:
    away = {"negative_prompt": "blurry"}
    assert "negative prompt" in notes(PICTURE, guidance_scale=1.0, **away)
    assert notes(PICTURE, **away) == notes(PICTURE, guidance_scale=2.0, **away) == ""
    assert notes(WORDS, guidance_scale=1.0, **away) == "", "there is no medium"
    both = replace(DEBUG.decoders["image"], negative_in_both=True)
    config = replace(DEBUG, decoders={**DEBUG.decoders, "image": both})
    assert notes_of(config, Options(guidance_scale=1.0, **away), [PICTURE]) == ()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> CoDi2:
    return CoDi2.from_pretrained("debug")


def test_text_that_reached_its_limit_is_called_cut(model: CoDi2) -> None:
    cut = model.generate("Hello", want="text", max_new_tokens=3)
    assert ["cut after 3 tokens" in note for note in cut.notes] == [True]
    assert model.generate("Hello", want="image", max_new_tokens=3).notes == (), "no text is wanted"
    assert "cut after 2 tokens" in " ".join(Chat(model).send("Hello", want="text", max_new_tokens=2).notes)

"""What a user is told of settings that do nothing with a model, and of text that was cut."""

from __future__ import annotations

from dataclasses import replace

import pytest

from codi2 import CoDi2
from codi2.chat import Chat
from codi2.config import DEBUG, CoDi2Config
from codi2.notes import settings_notes
from codi2.reply import Options


def with_picture(**settings: object) -> CoDi2Config:
    return replace(DEBUG, decoders={**DEBUG.decoders, "image": replace(DEBUG.decoders["image"], **settings)})


ONE_STEP = with_picture(num_inference_steps=1, guidance_scale=1.0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, ()),
        ({"seed": 3}, ("the seed",)),
        ({"num_inference_steps": 1}, ()),
        ({"num_inference_steps": 20}, ("the number of steps",)),
        ({"guidance_scale": 1.0}, ()),
        ({"seed": 1, "guidance_scale": 7.5, "negative_prompt": "blurry"}, ("the seed", "guidance", "negative prompt")),
    ],
)
def test_settings_that_a_one_step_decoder_cannot_use_are_named_in_one_note(settings, named):
    notes = settings_notes(ONE_STEP, Options(want="image", **settings), [["image"]])
    assert len(notes) == bool(named)
    assert all(name in notes[0] for name in named)


def test_several_of_one_modality_are_said_to_be_alike_where_only_the_seed_tells_them_apart():
    twice = Options(want=("image", "image"))
    assert "nearly alike" in settings_notes(ONE_STEP, twice, [["image"], ["image"]])[0]
    assert settings_notes(DEBUG, twice, [["image"], ["image"]]) == ()


def test_the_config_decides_not_the_name():
    settings = Options(seed=3, num_inference_steps=20, guidance_scale=5.0, negative_prompt="blurry")
    for config in (DEBUG, replace(DEBUG, name="tiny")):
        assert settings_notes(config, settings, [["image"]]) == ()
    assert settings_notes(replace(ONE_STEP, name="debug"), settings, [["image"]])


def test_what_is_drawn_together_goes_by_the_steps_of_that():
    assert settings_notes(ONE_STEP, Options(seed=3), [["image"]])
    assert settings_notes(ONE_STEP, Options(seed=3), [["image", "audio"]]) == ()


def test_a_seed_has_no_effect_on_text_that_is_not_sampled():
    assert "seed" in settings_notes(DEBUG, Options(seed=3), [])[0]
    assert settings_notes(DEBUG, Options(seed=3, temperature=0.7), []) == settings_notes(DEBUG, Options(), []) == ()


@pytest.fixture(scope="module")
def model() -> CoDi2:
    return CoDi2.from_pretrained("debug")


def test_text_that_reached_its_limit_is_said_to_be_cut(model):
    cut = model.generate("Hello", want="text", max_new_tokens=3)
    assert ["cut after 3 tokens" in note for note in cut.notes] == [True]
    assert model.generate("Hello", want="image", max_new_tokens=3).notes == (), "no text was asked for"
    assert "cut after 2 tokens" in " ".join(Chat(model).send("Hello", want="text", max_new_tokens=2).notes)

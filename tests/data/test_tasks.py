"""Each task of section 4 on a small world: prompt, answer and source must belong together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from codi2.data.items import Item
from codi2.data.mixes import draw_mixes, overlay
from codi2.data.sound_transforms import TRANSFORMS as SOUND_TRANSFORMS
from codi2.data.tasks import TASKS, Example, Ref, World
from codi2.data.transforms import BY_NAME, TRANSFORMS, background_mask
from codi2.prompt.parts import Phrase, Text

STYLES = ("openmoji", "google", "twitter", "fluent3d")


def item(modality: Any, row: int, concept: str, style: str, group: str = "", subject: str = "") -> Item:
    return Item(
        id=f"{style}/{row}", modality=modality, row=row, file="", caption=f"a {concept}", concept=concept,
        family=f"x/{concept}", style=style, group=group, subject=subject, source=style, licence="", attribution="",
        split="train",
    )  # fmt: skip


@pytest.fixture(scope="module")
def world() -> World:
    concepts = [f"thing{n}" for n in range(8)]
    styled = [(n, s) for n in range(8) for s in range(4)]
    images = [item("image", 4 * n + s, concepts[n], STYLES[s], group=concepts[n]) for n, s in styled]
    images += [item("image", 32 + n, "hero", "cartoon", subject="scratch/hero") for n in range(3)]
    sounds = [item("audio", n, c, "recorded") for n, c in enumerate(concepts)]
    mixes = draw_mixes(np.arange(8), concepts, 40, seed=0)
    return World(images, sounds, mixes, chats=[("Hello", "Hi there")])


def draws(world: World, name: str, count: int = 60) -> list[Example]:
    draw = np.random.default_rng(1)
    return [TASKS[name](world, draw) for _ in range(count)]


def given(example: Example) -> list[Ref]:
    return [part for part in example.prompt if isinstance(part, Ref)]


@pytest.mark.parametrize("name", TASKS)
def test_prompts_are_varied_and_whole(world: World, name: str) -> None:
    examples = draws(world, name)
    for example in examples:
        assert isinstance(example.answer, Ref | Text)
        assert all(not isinstance(part, Text) or "{" not in part.text for part in example.prompt)
        if example.source is not None:
            assert example.source in given(example)
    if name != "chat":
        assert len({str(example.prompt) for example in examples}) > 30


def test_analogies_apply_one_change(world: World) -> None:
    for example in draws(world, "analogy_image"):
        *pairs, query = given(example)
        assert query == example.source
        before, after = pairs[::2], pairs[1::2]
        if example.answer.view == "plain":
            style = {ref.row % 4 for ref in (*after, example.answer)}
            assert len(style) == 1
            assert {ref.row % 4 for ref in (*before, query)} != style
        else:
            assert {ref.view for ref in (*after, example.answer)} == {example.answer.view}
            assert all(a.row == b.row for a, b in zip(before, after, strict=True))


def test_remove_undoes_add(world: World) -> None:
    for example in draws(world, "remove"):
        mix = world.mixes[example.source.row]
        assert example.source.view == "mix"
        assert example.answer == Ref("audio", mix.base, "half")
        words = "".join(part.text for part in example.prompt if isinstance(part, Text))
        assert world.names[mix.overlay] in words


def test_replace_keeps_the_base(world: World) -> None:
    for example in draws(world, "replace"):
        old, new = world.mixes[example.source.row], world.mixes[example.answer.row]
        assert old.base == new.base
        assert old.overlay != new.overlay


def test_some_captions_are_given_as_features(world: World) -> None:
    examples = draws(world, "image_from_caption", 200)
    phrases = [part for example in examples for part in example.prompt if isinstance(part, Phrase)]
    assert 10 < len(phrases) < 70
    assert {phrase.text for phrase in phrases} <= world.phrases()


def test_mixes_never_clip_and_keep_the_base_level() -> None:
    draw = np.random.default_rng(0)
    base, other = (np.round(draw.uniform(-0.9, 0.9, 4000) * 32767).astype(np.int16) for _ in range(2))
    for level in (-6.0, 0.0, 6.0):
        mix = overlay(base, other, level).astype(int)
        assert np.abs(mix).max() <= 0.91 * 32767
        left = mix - base / 2
        assert abs(np.corrcoef(left, other)[0, 1]) > 0.999


@pytest.mark.parametrize("change", SOUND_TRANSFORMS, ids=lambda change: change.name)
def test_sound_edits_keep_length_and_stay_in_range(change: object) -> None:
    clip = np.round(np.sin(np.arange(40_960) / 9) * 29_000).astype(np.int16)
    out = change.apply(clip)  # type: ignore[attr-defined]
    assert out.shape == clip.shape
    assert out.dtype == np.int16
    assert np.abs(out.astype(int)).max() <= 29_100
    assert change.name == "plain" or not np.array_equal(out, clip)  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", TRANSFORMS, ids=lambda change: change.name)
def test_picture_edits_change_the_picture(change: object) -> None:
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[10:40, 5:30] = (200, 40, 90)
    out = change.apply(pixels)  # type: ignore[attr-defined]
    assert out.shape == pixels.shape
    assert out.dtype == np.uint8
    assert change.name == "plain" or not np.array_equal(out, pixels)  # type: ignore[attr-defined]


def test_background_is_what_joins_the_border() -> None:
    pixels = np.full((16, 16, 3), 255, np.uint8)
    pixels[4:12, 4:12] = 0
    pixels[6:10, 6:10] = 255  # a white hole inside the thing
    mask = background_mask(pixels)
    assert mask[0, 0]
    assert not mask[8, 8]
    assert tuple(BY_NAME["on_blue"].apply(pixels)[8, 8]) == (255, 255, 255)

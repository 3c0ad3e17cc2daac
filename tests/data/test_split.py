from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from codi2.data.items import Item
from codi2.data.split import assign
from codi2.data.twins import give_up_twins, twins
from codi2.data.world import ADDED_RENDERINGS, RENDERINGS, UNSEEN_RENDERING


def item(id_: str, **changes) -> Item:
    fields = {
        "modality": "image", "row": 0, "file": "f", "caption": "c", "concept": id_, "family": f"x/{id_}",
        "style": "photo", "group": id_, "subject": "", "source": "s", "licence": "l", "attribution": "a",
        "split": "train",
    }  # fmt: skip
    return Item(id=id_, **fields | changes)


@pytest.fixture(scope="module")
def items() -> list[Item]:
    """400 emoji of 200 heads in four renderings, 60 individuals in two poses, 100 sounds of two recordings."""
    emoji = [
        item(f"{style}/{n}", concept=f"e{n}", family=f"animal/h{n // 2}", style=style, group=f"g{n}")
        for n in range(400)
        for style in RENDERINGS
    ]
    photos = [item(f"photo/{n}", concept=f"p{n}", family=f"stamps/h{n}") for n in range(200)]
    poses = [item(f"pose/{n}-{k}", family="costume/x", subject=f"one{n}") for n in range(60) for k in range(2)]
    sounds = [
        item(f"sound/{n}-{k}#{clip}", modality="audio", concept=f"s{n}", family=f"effect/s{n}", group=f"r{n}-{k}")
        for n in range(100)
        for k in range(2)
        for clip in range(3)
    ]
    return emoji + photos + poses + sounds


@pytest.fixture(scope="module")
def by_split(items) -> dict[str, list[Item]]:
    split, groups = assign(items, 0), defaultdict(list)
    for one in items:
        groups[split[one.id]].append(one)
    return groups


@pytest.fixture(scope="module")
def added(items) -> list[Item]:
    """The same emoji in the emoji sets that were added later."""
    return [
        replace(one, id=f"{style}/{one.group}", style=style)
        for one in items
        if one.style == next(iter(RENDERINGS))
        for style in ADDED_RENDERINGS
    ]


def test_renderings_that_are_added_leave_every_other_item_on_its_side(items, added):
    before, after = assign(items, 0), assign(added[::2] + items + added[1::2], 0)
    assert {id_: after[id_] for id_ in before} == before


def test_a_held_out_head_is_held_out_in_the_added_renderings_too(items, added):
    split, sides = assign(items + added, 0), defaultdict(set)
    for one in items + added:
        sides[one.head].add(split[one.id] == "test_family")
    assert all(len(which) == 1 for which in sides.values())
    assert {split[one.id] for one in added if split[one.id] == "test_family"}


def test_one_added_rendering_is_held_out_whole(items, added):
    split = assign(items + added, 0)
    sides = {side: {one.style for one in added if split[one.id] == side} for side in set(split.values())}
    assert sides["test_style"] == {UNSEEN_RENDERING}
    assert UNSEEN_RENDERING not in sides["train"] | sides["val"] | sides["test_rendering"]
    hidden = [one for one in added if split[one.id] == "test_rendering"]
    assert len(hidden) == len({one.group for one in hidden}) == 250
    assert {one.style for one in hidden} == set(ADDED_RENDERINGS) - {UNSEEN_RENDERING}
    left = [one for one in added if split[one.id] in {"train", "val"}]
    assert 0.01 < sum(split[one.id] == "val" for one in left) / len(left) < 0.03


def test_a_held_out_head_is_held_out_in_every_source(by_split):
    held = {one.head for one in by_split["test_family"]}
    assert 120 <= len({one.group for one in by_split["test_family"] if one.style in RENDERINGS}) <= 160
    assert any(one.id.startswith("photo/") for one in by_split["test_family"])
    assert any(one.modality == "audio" for one in by_split["test_family"])
    for name in by_split.keys() - {"test_family"}:
        assert not held & {one.head for one in by_split[name]}


def test_a_held_out_individual_is_held_out_in_every_pose(by_split):
    held = {one.subject for one in by_split["test_subject"]}
    assert len(held) == 9
    assert len(by_split["test_subject"]) == 18
    assert not held & {one.subject for one in by_split["train"]}


def test_a_held_out_rendering_leaves_the_others_known(by_split):
    emoji = [one for one in by_split["test_rendering"] if one.modality == "image"]
    assert len(emoji) == len({one.group for one in emoji}) > 200
    known = {one.group for name in ("train", "val") for one in by_split[name]}
    assert {one.group for one in emoji} <= known
    assert len({one.style for one in emoji}) == 4


def test_a_recording_is_never_cut_by_the_split(by_split):
    sides = defaultdict(set)
    for name, members in by_split.items():
        for one in members:
            if one.modality == "audio":
                sides[one.group].add(name)
    assert all(len(names) == 1 for names in sides.values())
    held = {one.concept for one in by_split["test_rendering"] if one.modality == "audio"}
    assert held <= {one.concept for name in ("train", "val") for one in by_split[name]}


def test_the_split_is_seeded_and_does_not_move_with_one_item_more(items):
    first = assign(items, 0)
    assert assign(items[::-1], 0) == first
    assert assign(items, 1) != first
    more = assign([*items, item("new", family="new/new")], 0)
    moved = sum(more[id_] != side for id_, side in first.items())
    assert moved < 0.01 * len(items)


def test_the_names_of_the_demonstrations_are_never_held_out(items):
    cats = [item(f"cat/{n}", concept="cat", family="animal/cat", style="google", group=f"c{n}") for n in range(3)]
    assert {assign(items + cats, seed)[cat.id] for seed in range(5) for cat in cats} <= {"train", "val"}


def test_a_held_out_picture_that_training_shows_too_goes_to_training():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    images[2] = np.clip(images[0].astype(int) + draw.integers(-5, 6, images[0].shape), 0, 255)
    four = [item(str(row), row=row) for row in range(4)] + [item("sound", modality="audio", row=0)]
    split = {"0": "train", "1": "val", "2": "test_rendering", "3": "test_family", "sound": "val"}
    assert give_up_twins(four, images, split) == split | {"2": "train"}


def test_an_added_picture_takes_the_side_of_a_held_out_twin_and_what_is_unseen_stays_so():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)[[0, 1, 1, 0, 0, 0]]
    styles = ["google", "twitter", "noto1", UNSEEN_RENDERING, "emojione", "emojione"]
    six = [item(str(row), row=row, style=style) for row, style in enumerate(styles)]
    split = {"0": "train", "1": "test_rendering", "2": "train", "3": "test_style", "4": "val", "5": "test_family"}
    assert give_up_twins(six, images, split) == split | {"2": "test_rendering", "4": "train"}


def test_twins_are_found_beyond_one_chunk(monkeypatch):
    monkeypatch.setattr("codi2.data.twins._CHUNK", 3)
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    images = np.concatenate([images, images[::-1]])
    all_ = [item(str(row), row=row) for row in range(16)]
    assert {one.row: other.row for one, other in twins(images, all_[:8], all_[8:]).items()} == {
        row: 15 - row for row in range(8)
    }

"""The rows of Tables 1 to 3: what each record shows, and what examples tell."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codi2.data import scene
from codi2.data.build import Settings, _open_builder, build
from codi2.data.builders.tables import ROWS
from codi2.data.items import load_corpus
from codi2.data.record import Medium, Record
from codi2.data.shards import open_shards
from codi2.data.tables import factors
from codi2.data.tables.changes import Changes
from codi2.errors import ConfigError, DataError

EDITS = {f"{what}_{kind}" for what in ("edit", "analogy") for kind in ("image", "audio", "video")}
EDITS |= {"analogy_rendering", "analogy_mix", "add", "remove", "replace", "edit_by_sound", "animate"}
"""Tasks whose answer edits what is given; others are composed of it, continue it, or are of the same subject."""


def drawn(home: Path, out: Path, **options: Any) -> list[Record]:
    settings = Settings("tables", str(home / "data" / "tiny"), str(out), options=options)
    report = build(settings)
    return [record for shard in open_shards(out, report) for record in shard]


def test_every_row_has_a_builder_and_can_be_held_out(rich_home: Path, tmp_path: Path):
    records = drawn(rich_home, tmp_path / "all", records=20 * len(ROWS))
    rows = Counter(record.task for record in records)
    table_1 = {"edit_image", "compose", "next_image", "analogy_image", "analogy_rendering", "concept_image"}
    table_2 = {"edit_audio", "analogy_audio", "analogy_mix", "concept_audio", "add", "remove", "replace", "fuse"}
    table_3 = {"edit_by_sound", "next_with_sound", "subject_alive", "analogy_cross_audio", "analogy_cross_image"}
    table_3 |= {"described_image", "described_audio"}
    assert all(len(record.turns) >= 4 for record in records if record.task.startswith("described"))
    assert table_1 | table_2 | table_3 | {"subject_pose", "subject_changed", "difference_image"} <= rows.keys()
    for record in records:
        assert (record.edits is not None) == (record.task in EDITS), record.task
        if record.edits is not None:  # the last of its kind that is given
            edited, answer = record.media[record.edits], record.media[-1]
            kinds = [m.modality for m in record.media[:-1]]
            assert record.edits == len(kinds) - 1 - kinds[::-1].index(edited.modality)
            assert edited.modality == answer.modality or record.task == "animate"
    without = drawn(rich_home, tmp_path / "without", records=200, without="next_image,compose")
    assert not {"next_image", "compose"} & {record.task for record in without}
    only = drawn(rich_home, tmp_path / "only", records=20, only="analogy_audio")
    assert {record.task for record in only} == {"analogy_audio"}
    with pytest.raises(ConfigError, match="there is no row 'weather'; there are edit_image"):
        drawn(rich_home, tmp_path / "wrong", only="weather")
    with pytest.raises(ConfigError, match="`without` names every row"):
        drawn(rich_home, tmp_path / "none", only="compose", without="compose")


def test_only_the_named_splits_are_seen(rich_home: Path, tmp_path: Path):
    split = {item.id: item.split for item in load_corpus(rich_home / "data" / "tiny").items}
    for wanted in ("train", "test_family"):
        records = drawn(rich_home, tmp_path / wanted, records=40, splits=wanted, only="analogy_image,edit_audio")
        assert {split[item] for record in records for item in record.meta["items"]} == {wanted}


def test_a_corpus_that_was_built_anew_is_another_source(rich_home: Path, tmp_path: Path):
    drawn(rich_home, tmp_path / "out", records=20)
    about = rich_home / "data" / "tiny" / "build.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"sha256_items": "another"}))
    _open_builder.cache_clear()
    with pytest.raises(DataError, match="holds a build with version of the source '', not 'another'"):
        drawn(rich_home, tmp_path / "out", records=20)


def picture(record: Record, place: int) -> np.ndarray:
    return np.asarray(record.media[place].decode().pixels)


def test_an_analogy_is_one_rule_and_examples_show_it_in_part(rich_home: Path, tmp_path: Path):
    records = drawn(rich_home, tmp_path / "out", records=300, only="analogy_image")
    by_shots: dict[int, list[float]] = {}
    for record in records:
        rule, shots = record.meta["rule"], record.meta["shots"]
        assert 1 <= len(rule) <= 3 and len(record.media) == 2 * shots + 2
        assert set(record.meta["shown"]) <= rule.keys() and bool(record.meta["shown"]) == bool(shots)
        by_shots.setdefault(shots, []).append(len(record.meta["shown"]) / len(rule))
    means = [float(np.mean(by_shots[shots])) for shots in range(5)]
    assert means[0] == 0 and means[1] < 0.85  # one example often says too little, more say more
    assert means[1] < means[2] < means[4] and means[1] < means[3]
    assert 0.04 < len(by_shots[0]) / len(records) < 0.18


def test_what_is_asked_has_nothing_of_the_rule_yet():
    draw = np.random.default_rng(0)
    for modality in ("image", "audio"):
        for n in range(400):
            changes = Changes(held_out=n % 2 == 1)
            rule = changes.rule(modality, draw)
            before = changes.before(modality, draw, rule, hidden=0.0)
            assert factors.shown(before, rule) == set(rule)
            assert changes.values[modality].keys() >= rule.keys()
            if n % 2 == 0:  # training never has the values that are held out
                assert not factors.HELD_OUT & {*rule.values(), *before.values()}
            shot = changes.before(modality, draw, rule, hidden=0.9)
            assert factors.shown(shot, rule)  # an example shows at least one factor


def test_changes_are_applied_alike_in_any_order_of_naming():
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[20:44, 20:44] = (200, 30, 30)
    look = {"light": "night", "hue": "180", "background": "green", "geometry": "small"}
    made = factors.apply("image", pixels, look)
    assert np.array_equal(made, factors.apply("image", pixels, dict(reversed(look.items()))))
    assert factors.asks("image", look).count(" and ") == 3 and "at night" in factors.words("image", look)
    assert made.mean() < 120 and not scene.is_cut_out(made)


def test_every_value_changes_its_medium():
    draw = np.random.default_rng(1)
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[10:40, 20:50] = draw.integers(0, 255, (30, 30, 3))
    tones = sum(np.sin(np.arange(40_960) * pitch) for pitch in (0.05, 0.2, 0.9))
    clip = (4000 * tones * np.linspace(1, 0, 40_960)).astype(np.int16)
    frames = np.stack([np.roll(pixels, 2 * n, axis=0) for n in range(8)])
    for modality, media in (("image", pixels), ("audio", clip), ("video", frames)):
        for factor, values in factors.FACTORS[modality].items():
            for value in values:
                made = factors.apply(modality, media, {factor: value})
                assert made.shape == media.shape and made.dtype == media.dtype
                assert np.abs(made.astype(float) - media).mean() > 0.02 * np.abs(media).mean(), (factor, value)


def test_sequences_go_on_as_they_began(rich_home: Path, tmp_path: Path):
    records = drawn(rich_home, tmp_path / "out", records=80, only="next_image")
    assert {record.meta["kind"] for record in records} == {"count", "rotation", "growth", "way"}
    for record in records:
        ink = [float((picture(record, i) < 250).any(-1).sum()) for i in range(len(record.media))]
        steps = np.diff(ink)
        if record.meta["kind"] == "count":
            assert (np.sign(steps) == np.sign(steps[0])).all() and steps.std() < 0.3 * np.abs(steps).mean()
        if record.meta["kind"] == "growth":
            assert (np.sign(steps) == np.sign(steps[0])).all()


def test_a_composition_holds_its_parts(rich_home: Path, tmp_path: Path):
    for record in drawn(rich_home, tmp_path / "out", records=20, only="compose"):
        *parts, whole = (picture(record, i) for i in range(len(record.media)))
        same = [(whole == part).all(-1).mean() for part in parts]
        assert max(same) > 0.5 and max(same) < 1  # most of the scene is there, and something stands on it


def test_sounds_come_and_go_with_the_frames(rich_home: Path, tmp_path: Path):
    for record in drawn(rich_home, tmp_path / "out", records=20, only="next_with_sound"):
        modalities = [medium.modality for medium in record.media]
        assert modalities == ["image", "audio"] * (len(modalities) // 2)
        assert [p.modality for p in record.turns[1][1]] == ["image", "audio"]
        levels = [np.abs(medium.decode().samples).max() for medium in record.media[1::2]]
        assert (np.diff(levels) > 0).all() == record.meta["nears"]


def test_an_overlay_is_added_or_taken_as_the_example_shows(rich_home: Path, tmp_path: Path):
    for record in drawn(rich_home, tmp_path / "out", records=30, only="analogy_mix"):
        waves = [medium.decode().samples.astype(np.float64) for medium in record.media]
        shown, done = waves[1] - waves[0], waves[-1] - waves[-2]
        assert np.corrcoef(shown, done)[0, 1] > 0.95


def test_a_still_picture_is_where_its_clip_begins(rich_home: Path, tmp_path: Path):
    for record in drawn(rich_home, tmp_path / "out", records=10, only="animate"):
        (still,), (clip,) = ([p for p in turn if isinstance(p, Medium)] for _, turn in record.turns)
        assert (still.modality, clip.modality, record.phase) == ("image", "video", "video")
        frames = [np.asarray(frame) for frame in clip.decode().frames]
        assert len(frames) == 8 and np.array_equal(frames[0], np.asarray(still.decode().pixels))
        assert any(not np.array_equal(frame, frames[0]) for frame in frames)
        assert clip.decode().fps == pytest.approx(3.125)


def test_the_mood_of_a_sound_changes_the_light(rich_home: Path, tmp_path: Path):
    for record in drawn(rich_home, tmp_path / "out", records=20, only="edit_by_sound"):
        before, after = (np.asarray(m.decode().pixels) for m in record.media if m.modality == "image")
        assert record.meta["mood"] in factors.LOOKS["light"]
        assert np.array_equal(after, factors.apply("image", before, {"light": record.meta["mood"]}))

"""Clips of the recipe: what is drawn, the feature of their motion, the network that draws them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_parts import no_held_out_edits

from codi2.data import cache, motions
from codi2.data.motions import loudness
from codi2.train.loop import Share
from codi2.train.parts import clips
from codi2.train.parts.clips import TrainingClips


def test_every_motion_moves_a_thing_and_keeps_its_colours() -> None:
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[20:44, 20:44] = (200, 30, 30)
    for name, course in motions.COURSES.items():
        for seed in range(4):
            poses = course(np.random.default_rng(seed))
            frames = np.stack([motions.posed(picture, *pose) for pose in poses])
            assert frames.shape == (8, 64, 64, 3) and np.abs(np.diff(frames.astype(int), axis=0)).mean() > 0.5, name
            middle = frames[4][frames[4][..., 1] < 60]
            assert len(middle) > 20 and np.abs(middle.astype(int).mean(0) - (200, 30, 30)).max() < 20, name


def test_a_pose_turns_clockwise_and_moves_right_and_down() -> None:
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[4:12, 28:36] = 0  # at the top
    dark = lambda frame: np.argwhere(frame[..., 0] < 128).mean(0)  # noqa: E731
    assert np.allclose(dark(motions.posed(picture, 1, 0, 0, 0)), (7.5, 31.5))
    assert np.allclose(dark(motions.posed(picture, 1, 90, 0, 0)), (31.5, 55.5), atol=1)
    assert np.allclose(dark(motions.posed(picture, 1, 0, 0.25, 0.5)), (39.5, 47.5), atol=1)
    assert np.allclose(dark(motions.posed(picture, 0.5, 0, 0, 0)), (19.5, 31.5), atol=1)


def test_a_thing_hops_with_its_sound() -> None:
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[20:60, 20:44] = 0
    time = np.arange(40_960) / 16_000
    tone = (20_000 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)
    frames, sound = motions.timed(picture, tone, np.random.default_rng(0))
    top = np.array([np.argwhere(frame[..., 0] < 128)[:, 0].min() for frame in frames])
    assert np.corrcoef(-top, loudness(sound))[0, 1] > 0.95


def test_clips_are_functions_of_seed_and_place(rich_home: Path) -> None:
    drawn = TrainingClips(3)
    whole = drawn.batch(5, 4)
    halves = [drawn.batch(5, 4, Share(i, 2)) for i in range(2)]
    assert np.array_equal(whole[0::2], halves[0]) and np.array_equal(whole[1::2], halves[1])
    assert not np.array_equal(whole, TrainingClips(4).batch(5, 4))
    assert whole.shape == (4, 8, 64, 64, 3) and whole.dtype == np.uint8


def test_clips_come_from_nothing_a_picture_or_a_clip(rich_home: Path) -> None:
    drawn = TrainingClips(0)
    kinds: dict[int, int] = {}
    for number in range(60):
        source, target = drawn.pair(number)
        kinds[0 if source is None else len(source)] = kinds.get(0 if source is None else len(source), 0) + 1
        if source is not None and len(source) == 1:
            assert np.array_equal(source[0], target[0])
        elif source is not None:
            assert source.shape == target.shape and not np.array_equal(source, target)
    assert kinds.keys() == {0, 1, 8} and 0 < kinds[0] < kinds[8] < kinds[1]  # most clips begin with a picture


def test_training_clips_read_nothing_held_out(rich_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out rows are replaced by a value that would be seen, and held-out draws of edits would raise."""
    shown = np.array(cache.view("image"))
    moving = np.array(cache.corpus().clips)
    for modality, media in (("image", shown), ("video", moving)):
        media[np.setdiff1d(np.arange(len(media)), cache.rows(modality, "train"))] = 77
    monkeypatch.setattr(cache, "view", lambda modality, name="plain": shown)
    monkeypatch.setattr(type(cache.corpus()), "clips", moving)
    no_held_out_edits(monkeypatch)
    pairs = [TrainingClips(0).pair(number) for number in range(40)]
    assert not any(
        (np.abs(clip.astype(int) - 77) < 2).mean() > 0.2 for pair in pairs for clip in pair if clip is not None
    )
    monkeypatch.undo()
    assert len(clips.held_out_clips()) > clips.HELD_OUT_MOVED


def test_the_changes_of_a_still_clip_are_nothing() -> None:
    from codi2.encode.tiny import clip_changes

    still = torch.full((2, 8, 64, 64, 3), 90, dtype=torch.uint8)
    assert clip_changes(still).shape == (2, 21, 32, 32) and not clip_changes(still).any()

"""Training what the decoders tell each other, on the networks of `debug`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from codi2.checkpoint import load_joint, load_one_decoder
from codi2.config import DEBUG, preset
from codi2.data.build import Settings, build
from codi2.data.record import Medium
from codi2.errors import ConfigError, DataError
from codi2.train.config import TrainConfig
from codi2.train.loop import train
from codi2.train.parts import joint
from codi2.train.rehearsal import as_worker
from codi2.train.shares import Share


@pytest.fixture
def data(rich_home: Path, tmp_path: Path) -> dict[str, float]:
    """Clips with their sounds, and pictures with theirs."""
    source, folder = str(rich_home / "data" / "tiny"), tmp_path / "data"
    options = {"records": 24, "only": "clip_in_time,next_with_sound"}
    build(Settings("tables", source, str(folder), options=options))
    return {str(folder): 1.0}


def config(data: dict[str, float], phases: dict[str, float], steps: int = 3) -> TrainConfig:
    options = {"data": data, "held_out": data, "phases": phases, "model": "debug"}
    return TrainConfig("joint", steps, batch_size=2, learning_rate=1e-2, warmup_steps=1, options=options)


def test_it_learns_and_loads_again(data: dict[str, float], tmp_path: Path) -> None:
    made = config(data, {"video": 0.5, "image": 0.5})
    recipe = joint.build(made)
    before = {name: value.clone() for name, value in recipe.decoders["video"].state_dict().items()}
    figures = train(recipe, made, tmp_path / "run")
    kinds = {f"{phase}/{m}" for phase, other in (("video", "video"), ("image", "image")) for m in (other, "audio")}
    assert set(figures) == {f"{kind}/{way}" for kind in kinds for way in ("together", "alone")}
    assert all(np.isfinite(value) for value in figures.values())
    assert all(torch.equal(before[name], value) for name, value in recipe.decoders["video"].state_dict().items())
    assert any(layer.out.weight.any() for layer in recipe.joint.attend["video"].values())

    (tmp_path / "model").mkdir()
    (tmp_path / "run" / "export").rename(tmp_path / "model" / "joint")
    decoders = {m: load_one_decoder(m, preset("debug"), None) for m in DEBUG.decoders}
    again = load_joint(DEBUG, decoders, tmp_path / "model")  # in half precision
    assert again is not None
    ours, theirs = recipe.joint.state_dict(), again.state_dict()
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-3) for name in ours)


def test_records_of_a_step_answer_alike(data: dict[str, float]) -> None:
    recipe = joint.build(config(data, {}))
    with pytest.raises(DataError, match="not together"):
        for step in range(8):
            recipe.batch(step)


def test_one_may_be_drawn_first_and_features_be_as_bad_as_regressed_ones(data: dict[str, float]) -> None:
    plain, other = (
        replace(config(data, {"video": 1.0}), options=config(data, {"video": 1.0}).options | more)
        for more in ({}, {"ahead": "audio", "ahead_share": 1.0, "noise": 0.8})
    )
    (before,), (after,) = (joint.build(made).batch(0) for made in (plain, other))
    assert not after.t["audio"].any() and torch.equal(before.t["video"], after.t["video"])
    for modality, features in before.features.items():
        near = torch.cosine_similarity(features[:, 0], after.features[modality][:, 0])
        assert (near > 0.4).all() and (near < 0.999).any()
    with pytest.raises(ConfigError, match=r"options\.ahead is 'smell'"):
        joint.build(replace(plain, options=plain.options | {"ahead": "smell"}))


def test_networks_learn_too_where_they_are_opened(data: dict[str, float], rich_home: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    options = {"records": 12, "only": "animate"}
    build(Settings("tables", str(rich_home / "data" / "tiny"), str(alone), options=options))
    made = config(data | {str(alone): 1.0}, {"video": 1.0})
    more = {"opened": ["video"], "predicted_share": 0.5, "pixel_weight": 0.5, "held_out": data}
    made = replace(made, batch_size=4, options=made.options | more)
    recipe = joint.build(made)
    kinds = {tuple(b.latents) for step in range(4) for b in recipe.batch(step)}
    assert kinds == {("video",), ("audio", "video")}
    before = {m: {n: x.clone() for n, x in recipe.unets[m].state_dict().items()} for m in ("audio", "video")}
    train(recipe, made, tmp_path / "run")
    moved = {m: any((before[m][n] != x).any() for n, x in recipe.unets[m].state_dict().items()) for m in before}
    assert moved == {"audio": False, "video": True}
    again = joint.build(made)
    again.restore(tmp_path / "run" / "export")
    ours, theirs = (one.unets["video"].state_dict() for one in (recipe, again))
    ours = {name: value.clone() for name, value in ours.items()}
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-3) for name in ours)
    half = joint.build(replace(made, options=made.options | {"gone": 0.5}))
    half.unets["video"].load_state_dict(ours)
    half.export(tmp_path / "half", {})
    again.restore(tmp_path / "half")
    for name, value in again.unets["video"].state_dict().items():
        assert torch.allclose(value, (before["video"][name] + ours[name]) / 2, rtol=1e-3, atol=1e-3), name
    with pytest.raises(ConfigError, match=r"options\.opened has 'smell'"):
        joint.build(replace(made, options=made.options | {"opened": ["smell"]}))
    with pytest.raises(DataError, match="not together"):
        shut = joint.build(replace(made, options=made.options | {"opened": []}))
        for step in range(8):
            shut.batch(step)


def test_what_nobody_has_encoded_is_encoded_where_the_run_trains(data: dict[str, float]) -> None:
    """Workers draw records without encoding; the features are those of a batch that one process draws."""
    made = config(data, {"video": 1.0})
    recipe = joint.build(made)
    encodings = recipe.lessons.encodings
    with as_worker(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "encode", lambda pieces: pytest.fail("a worker encodes"))
        (drawn,) = recipe.batch(0)
    assert not drawn.features and all(isinstance(true, Medium) for read in drawn.read.values() for true in read.true)
    (finished,) = recipe.finish([drawn])
    (known,) = recipe.batch(0)
    assert finished.features.keys() == {"video", "audio"} and not finished.read
    assert all(torch.equal(finished.features[m], known.features[m]) for m in known.features)


def test_half_precision_of_what_is_frozen_is_trained_with(data: dict[str, float], tmp_path: Path) -> None:
    made = config(data, {"video": 1.0}, steps=2)
    made = replace(made, options=made.options | {"placement": {"dtype": "bfloat16"}}, num_workers=0)
    recipe = joint.build(made)
    figures = train(recipe, made, tmp_path / "run")
    assert figures and all(np.isfinite(value) for value in figures.values())
    assert {p.dtype for p in recipe.decoders["video"].unet.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in recipe.model.parameters()} == {torch.float32}


def test_shares_of_a_batch_are_drawn_as_the_whole(data: dict[str, float]) -> None:
    recipe = joint.build(replace(config(data, {"video": 1.0}), batch_size=4))
    (whole,), (half,) = recipe.batch(2), recipe.batch(2, Share(1, 2))
    for name in ("latents", "sources", "features", "noise", "t"):
        ours, theirs = getattr(whole, name), getattr(half, name)
        assert all(torch.allclose(ours[m][1::2], theirs[m], atol=1e-5) for m in ours), name
    losses = [
        float(recipe.losses(recipe.model, recipe.batch(2, share))["loss"])
        for share in (Share(), Share(0, 2), Share(1, 2))
    ]
    assert losses[0] == pytest.approx((losses[1] + losses[2]) / 2, rel=1e-4)

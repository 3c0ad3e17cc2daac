"""Training joint attention between the decoders of `debug`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from task_set import write_task_set

from codi2.checkpoint import load_joint, load_one_decoder
from codi2.config import DEBUG, preset
from codi2.errors import DataError
from codi2.train.config import TrainConfig
from codi2.train.loop import train
from codi2.train.parts import published_joint
from codi2.train.rehearsal import as_worker
from codi2.train.shares import Share


@pytest.fixture
def data(rich_home: Path, tmp_path: Path) -> dict[str, float]:
    """Clips with their sounds, and pictures with theirs."""
    return write_task_set(rich_home, tmp_path / "data", 24, ["clip_in_time", "next_with_sound"])


def config(data: dict[str, float], phases: dict[str, float], steps: int = 3) -> TrainConfig:
    options = {"data": data, "held_out": data, "phases": phases, "model": "debug"}
    return TrainConfig("joint", steps, batch_size=2, learning_rate=1e-2, warmup_steps=1, options=options)


def test_it_learns_and_loads_again(data: dict[str, float], tmp_path: Path) -> None:
    run_config = config(data, {"video": 0.5, "image": 0.5})
    recipe = published_joint.build(run_config)
    before = {name: value.clone() for name, value in recipe.decoders["video"].state_dict().items()}
    figures = train(recipe, run_config, tmp_path / "run")
    kinds = {f"{phase}/{m}" for phase in ("video", "image") for m in (phase, "audio")}
    assert set(figures) == {f"{kind}/{way}" for kind in kinds for way in ("together", "alone")}
    assert all(np.isfinite(value) for value in figures.values())
    assert all(torch.equal(before[name], value) for name, value in recipe.decoders["video"].state_dict().items())
    assert any(layer.out.weight.any() for layer in recipe.joint.attention_layers["video"].values())

    (tmp_path / "model").mkdir()
    (tmp_path / "run" / "export").rename(tmp_path / "model" / "joint")
    decoders = {m: load_one_decoder(m, preset("debug"), None) for m in DEBUG.decoders}
    loaded = load_joint(DEBUG, decoders, tmp_path / "model")  # in half precision
    assert loaded is not None
    trained, stored = recipe.joint.state_dict(), loaded.state_dict()
    assert all(torch.allclose(trained[name], stored[name], rtol=1e-3, atol=1e-3) for name in trained)


def test_records_of_a_step_answer_with_the_same_modalities(data: dict[str, float]) -> None:
    recipe = published_joint.build(config(data, {}))
    with pytest.raises(DataError, match="all should answer with media of the same two or more modalities"):
        for step in range(8):
            recipe.batch(step)


def test_untrained_layers_change_nothing_and_others_what_they_are_appended_to(data: dict[str, float]) -> None:
    recipe = published_joint.build(config(data, {"video": 1.0}))

    def changed() -> dict[str, bool]:
        figures = recipe.validate()
        return {m: figures[f"video/{m}/together"] != figures[f"video/{m}/alone"] for m in ("audio", "video")}

    assert changed() == {"audio": False, "video": False}
    for layer in recipe.joint.attention_layers["video"].values():
        torch.nn.init.normal_(layer.out.weight)
    assert changed() == {"audio": False, "video": True}


def test_modalities_have_their_own_noise_and_timesteps(data: dict[str, float]) -> None:
    recipe = published_joint.build(config(data, {"video": 1.0}))
    clips, sounds = (recipe.batch(0).denoised[m] for m in ("video", "audio"))
    assert (clips.t != sounds.t).all()
    count = min(clips.noise[0].numel(), sounds.noise[0].numel())
    assert not torch.equal(clips.noise.flatten(1)[:, :count], sounds.noise.flatten(1)[:, :count])


def test_media_without_features_are_encoded_in_the_training_process(data: dict[str, float]) -> None:
    """Workers draw records without encoding; the features are those of a batch that one process draws."""
    recipe = published_joint.build(config(data, {"video": 1.0}))
    encodings = recipe.examples.encodings
    with as_worker(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "encode", lambda pieces: pytest.fail("a worker encodes"))
        drawn = recipe.batch(0)
    assert not any(features.any() for features in drawn.features.values())
    assert {m: list(pieces) for m, pieces in drawn.unseen.items()} == {"video": [0, 1], "audio": [0, 1]}
    finished, known = recipe.finish(drawn), recipe.batch(0)
    assert finished.features.keys() == {"video", "audio"} and not finished.unseen
    for modality, features in known.features.items():
        assert features.any() and torch.equal(finished.features[modality], features)


def test_frozen_decoders_have_the_dtype_of_the_placement(data: dict[str, float], tmp_path: Path) -> None:
    run_config = config(data, {"video": 1.0}, steps=2)
    options = run_config.options | {"placement": {"dtype": "bfloat16"}}
    run_config = replace(run_config, options=options, num_workers=0)
    recipe = published_joint.build(run_config)
    figures = train(recipe, run_config, tmp_path / "run")
    assert figures and all(np.isfinite(value) for value in figures.values())
    assert {p.dtype for p in recipe.decoders["video"].unet.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in recipe.model.parameters()} == {torch.float32}


def test_shares_of_a_batch_are_drawn_as_the_whole(data: dict[str, float]) -> None:
    recipe = published_joint.build(replace(config(data, {"video": 1.0}), batch_size=4))
    whole, half = recipe.batch(2), recipe.batch(2, Share(1, 2))
    for modality, denoised in whole.denoised.items():
        assert torch.equal(whole.features[modality][1::2], half.features[modality])
        for name in ("media", "noise", "t"):
            assert torch.equal(getattr(denoised, name)[1::2], getattr(half.denoised[modality], name)), name
    losses = [
        float(recipe.losses(recipe.model, recipe.batch(2, share))["loss"])
        for share in (Share(), Share(0, 2), Share(1, 2))
    ]
    assert losses[0] == pytest.approx((losses[1] + losses[2]) / 2, rel=1e-4)

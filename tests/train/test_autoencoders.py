"""Autoencoders, encoder heads and denoising networks on a small corpus: a step learns, exports load again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_parts import SMALL, config, denoiser_options, no_held_out_edits, small_exports

from codi2.data import cache
from codi2.encode.compact import CompactEncoder
from codi2.encode.trunks import TRUNK_CHANNELS
from codi2.train.loop import Share, train
from codi2.train.parts import autoencoder, denoiser, encoder
from codi2.train.parts.clips import TrainingClips
from codi2.train.parts.media import TrainingMedia
from codi2.train.parts.pairs import TrainingPairs
from codi2.weight_files import load_part


@pytest.mark.parametrize("part", SMALL)
def test_an_autoencoder_learns_resumes_and_loads(part: str, rich_home: Path, tmp_path: Path) -> None:
    made = config(part)
    figures = train(autoencoder.build(made), made, tmp_path / "whole")
    assert figures["psnr"] > 0 and figures["sharpness"] > 0
    halves = config(part, steps=2)
    train(autoencoder.build(halves), halves, tmp_path / "halves")
    again = train(autoencoder.build(made), made, tmp_path / "halves")
    assert (
        again["psnr"] != figures["psnr"] or again == figures
    )  # the schedule of a shorter run differs, the batches do not
    modality: Any = part.split("_")[0]
    maps = next(autoencoder.held_out_maps(modality))
    if part.endswith("features"):
        features = load_part(CompactEncoder, tmp_path / "whole/export")(maps)
        assert features.shape[2] == 16
    else:
        codec = denoiser.load_vae(modality, tmp_path / "whole/export")
        latents = codec.encode(maps)
        assert codec.patch == 2 and latents.shape[-2:] == (maps.shape[-2] // 8, maps.shape[-1] // 8)
        assert codec.decode(latents).shape == maps.shape
        assert 0.2 < float(latents.std()) < 5  # unit variance, over what it was measured on


def test_a_step_lowers_the_loss_of_its_batch(rich_home: Path) -> None:
    recipe = autoencoder.build(config("image_features"))
    batch, adam = recipe.batch(0), torch.optim.Adam(recipe.model.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = recipe.losses(recipe.model, batch)["loss"]
        losses.append(float(loss.detach()))
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert losses[-1] < 0.9 * losses[0]


def test_motion_is_not_lost(rich_home: Path) -> None:
    """Stillness is near the truth in most places of a clip; what moves has to be given back all the same."""
    recipe = autoencoder.build(config("video_features"))
    batch, adam = recipe.batch(0), torch.optim.Adam(recipe.model.parameters(), 5e-3)
    for _ in range(80):
        recipe.losses(recipe.model, batch)["loss"].backward()
        adam.step()
        adam.zero_grad()
    ours = recipe.model(batch["maps"])[0].detach()
    assert torch.corrcoef(torch.stack([ours.flatten(), batch["maps"].flatten()]))[0, 1] > 0.3


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_shares_of_a_batch_are_the_batch(modality: Any, rich_home: Path) -> None:
    media = TrainingMedia(modality, seed=3)
    whole = media.batch(5, 4)
    halves = [media.batch(5, 4, Share(i, 2)) for i in range(2)]
    assert np.array_equal(whole[0::2], halves[0]) and np.array_equal(whole[1::2], halves[1])
    assert np.array_equal(whole, TrainingMedia(modality, seed=3).batch(5, 4))
    assert not np.array_equal(whole, TrainingMedia(modality, seed=4).batch(5, 4))


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_training_media_and_pairs_read_nothing_held_out(
    modality: Any, rich_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out rows are replaced by a value that would be seen, and held-out draws of edits would raise."""
    seen = np.array(cache.view(modality))
    held = np.setdiff1d(np.arange(len(seen)), cache.rows(modality, "train"))
    seen[held] = 77
    monkeypatch.setattr(cache, "view", lambda m, name="plain": seen)
    no_held_out_edits(monkeypatch)
    media, pairs = TrainingMedia(modality, 0), TrainingPairs(modality, 0)
    drawn = [*media.batch(0, 40), *(medium for n in range(60) for medium in pairs.pair(n) if medium is not None)]
    assert not any((np.abs(medium.astype(int) - 77) < 2).mean() > 0.2 for medium in drawn)


def test_pairs_edit_some_and_draw_others_alone(rich_home: Path) -> None:
    for modality in ("image", "audio"):
        pairs = [TrainingPairs(modality, 0).pair(n) for n in range(40)]  # type: ignore[arg-type]
        alone = sum(source is None for source, _ in pairs)
        assert 8 <= alone <= 24
        assert any(source is not None and not np.array_equal(source, target) for source, target in pairs)


@pytest.fixture
def exports(rich_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a denoising network stands on."""
    return small_exports(tmp_path, monkeypatch)


@pytest.mark.parametrize("modality", ["image", "audio", "video"])
def test_a_denoiser_learns_and_loads(modality: str, exports: dict[str, str], tmp_path: Path) -> None:
    made = config(f"{modality}_denoiser", denoiser_options(modality, exports, samples=40))
    recipe = denoiser.build(made)
    figures = train(recipe, made, tmp_path / "run")
    assert {"edit", "alone", "joint_edit", "others_alone", "no_feature_alone", "text_alone"} <= set(figures)
    batches = [recipe.batch(step) for step in range(12)]
    features = torch.cat([b.features for b in batches]).flatten(1).any(1)
    sources = torch.cat([b.source for b in batches]).flatten(1).any(1)
    assert 0 < (~features).sum() < 24 and 0 < sources.sum() < 48  # some are withheld, most are not
    batches = [recipe.batch(step) for step in range(60)]
    features = torch.cat([b.features for b in batches]).flatten(1).any(1)
    texts = torch.cat([b.text for b in batches]).any(1)
    assert texts.any() and not (texts & features).any()  # words are read where there are no features
    assert len(recipe.samples()) == (0 if modality == "audio" else 2 * denoiser.SHOWN)
    assert (tmp_path / "run/export/unet/config.json").is_file() and (tmp_path / "run/export/conditioner").is_dir()


class RandomAnswers:
    """Training pairs whose features are sampled by a prior that knows nothing."""

    def __init__(self, modality: Any, folder: Path, seed: int, split: str) -> None:
        self.pairs = TrainingClips(seed) if modality == "video" else TrainingPairs(modality, seed)
        self.slots = {"image": 4, "audio": 3, "video": 5}[modality]

    def pair(self, number: int) -> Any:
        return self.pairs.pair(number)

    @torch.inference_mode()
    def features(self, places: Any) -> torch.Tensor:
        return torch.stack([torch.full((self.slots, 16), 100.0 + place) for place in places])

    def depends(self) -> dict[str, Any]:
        return {"model": "random"}


@pytest.mark.parametrize("modality", ["image", "video"])
def test_a_denoiser_adapts_to_sampled_features(modality: str, exports: dict[str, str], tmp_path: Path) -> None:
    options = denoiser_options(modality, exports)
    first = denoiser.build(config(f"{modality}_denoiser", options))
    first.export(tmp_path / "first", {})
    made = config(f"{modality}_denoiser", options | {"model": str(tmp_path), "answers": 6, "answers_share": 0.5}, 1)
    recipe = denoiser.DenoiserRecipe(made, answers=RandomAnswers)
    sampled = torch.cat([recipe.batch(step).features for step in range(12)])[:, 0, 0] >= 100
    assert 10 < sampled.sum() < 38  # about half, less those that are withheld
    levels = torch.cat([recipe.batch(step).noise_level for step in range(12)])
    assert not levels[sampled].any() and levels[~sampled].any()
    figures = train(recipe, made, tmp_path / "run", start=str(tmp_path / "first"))
    assert np.isfinite(figures["sampled"])
    report = json.loads((tmp_path / "run/export/unet/training.json").read_text())
    assert "unet/diffusion_pytorch_model.safetensors" in report["start_sha256"] and report["core_hours"] >= 0


def test_joint_attention_learns_on_both_decoders(exports: dict[str, str], tmp_path: Path) -> None:
    """A clip and a sound that are drawn beside each other, from the decoders' own exports."""
    from codi2.diffuse.joint import JointAttention
    from codi2.diffuse.vocoder import ISTFTVocoder
    from codi2.train.parts import joint_attention
    from codi2.weight_files import export_module

    stands = dict(exports)
    for modality in joint_attention.MODALITIES:
        one = config(f"{modality}_denoiser", denoiser_options(modality, exports))
        denoiser.build(one).export(tmp_path / modality, {})
        stands[modality] = str(tmp_path / modality)
    export_module(ISTFTVocoder(channels=16, blocks=1), tmp_path / "vocoder", {})
    made = config("joint_attention", stands | {"vocoder": str(tmp_path / "vocoder"), "samples": 8})
    joint = joint_attention.build(made)
    before = {name: value.clone() for name, value in joint.decoders["video"].state_dict().items()}
    figures = train(joint, made, tmp_path / "joint")
    assert {"video_together", "audio_alone", "synchrony", "synchrony_separate", "synchrony_other_sound"} <= set(figures)
    assert all(np.isfinite(value) for value in figures.values())
    assert all(torch.equal(before[name], value) for name, value in joint.decoders["video"].state_dict().items())
    again = load_part(JointAttention, tmp_path / "joint/export")
    assert any(layer.out.weight.any() for layer in again.attention_layers["video"].values())
    with_motion = torch.cat([joint.batch(step).features["video"][:, -1].flatten(1).any(1) for step in range(10)])
    assert 5 < with_motion.sum() < 35  # the motion feature of some clips is withheld


def test_encoder_heads_learn_and_export(rich_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trunk_features(modality: str, name: str = "plain") -> np.ndarray:
        draw = np.random.default_rng(len(modality) + len(name))
        return draw.normal(size=(len(cache.items(modality)), 4, TRUNK_CHANNELS[modality])).astype(np.float16)

    def phrase_features(texts: list[str]) -> np.ndarray:
        rows = [np.random.default_rng(sum(map(ord, text))).normal(size=(1, 384)) for text in texts]
        return np.array(rows, dtype=np.float16)

    monkeypatch.setattr(cache, "trunk_features", trunk_features)
    monkeypatch.setattr(cache, "phrase_features", phrase_features)
    made = config("encoder", {"dim": 16, "edited_views": 1})
    recipe = encoder.build(made)
    figures = train(recipe, made, tmp_path / "run")
    assert 0 <= figures["text_image_recall_5"] <= 1
    before = {name: value.clone() for name, value in recipe.heads.state_dict().items()}
    recipe.restore(tmp_path / "run/export")
    assert all(torch.allclose(value, before[name], atol=1e-2) for name, value in recipe.heads.state_dict().items())

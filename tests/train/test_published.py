"""Published decoders on records: their networks are given in training what they are given when they sample."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image as PILImage
from test_paper_path import build as paper
from torch import Tensor

from codi2.data.build import Settings, build
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.families.audioldm2 import PEAK, levelled
from codi2.diffuse.load import TRAINED, load_trained, trained_state
from codi2.diffuse.sampling import SampleOptions, seeded_noise
from codi2.errors import ConfigError
from codi2.model import CoDi2
from codi2.prompt.parts import Audio, Image, Part
from codi2.tensors import read_tensors
from codi2.train.config import TrainConfig, load_config, options_of
from codi2.train.encoded import Encodings, weights_key
from codi2.train.loop import Share, train
from codi2.train.parts import published
from codi2.train.parts.draw import DROPPED, draw_dropped, noised_features

MODALITIES = ("image", "audio", "video")
SEEDS = [11, 12, 13, 14]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CoDi2:
    model = paper(tmp_path_factory.mktemp("paper"))
    for decoder in model.decoders.values():  # so that a source makes a difference
        with torch.no_grad():
            decoder.unet.conv_in.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Edits and captions of pictures and clips that are no squares, and of quiet sounds of several lengths."""
    folder, draw = tmp_path_factory.mktemp("mine"), np.random.default_rng(0)
    lines = []
    for i in range(6):
        for kind in ("png", "wav", "webp"):
            pair = (f"a{i}.{kind}", f"b{i}.{kind}")
            for name in pair:
                frames = [PILImage.fromarray(draw.integers(0, 255, (40, 60, 3), dtype=np.uint8)) for _ in range(4)]
                if kind == "png":
                    frames[0].save(folder / name)
                elif kind == "webp":
                    frames[0].save(folder / name, save_all=True, append_images=frames[1:], duration=100, lossless=True)
                else:
                    soundfile.write(folder / name, 0.1 + 0.05 * draw.standard_normal(6_000 + 900 * i), 16_000)
            lines.append({"source": pair[0], "instruction": f"make it number {i}", "target": pair[1]})
            lines.append({"file_name": pair[1], "text": f"the thing of number {i}"})
    (folder / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    build(Settings("jsonl", str(folder / "list.jsonl"), str(folder / "set")))
    return {str(folder / "set"): 1.0}


Make = Callable[..., published.PublishedRecipe]


@pytest.fixture
def make(model: CoDi2, data: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setenv("CODI2_HOME", str(tmp_path / "home"))
    encodings = Encodings(lambda: model.encoder, weights_key(model.encoder), reads_words=False)
    monkeypatch.setattr(published, "locate", lambda name: (model.config, None))
    monkeypatch.setattr(published, "encodings_for", lambda config, folder: encodings)
    monkeypatch.setattr(published, "load_one_decoder", lambda modality, config, folder: model.decoders[modality])

    def build_it(modality: str, steps: int = 3, **options: Any) -> published.PublishedRecipe:
        told = {"modality": modality, "data": data, "held_out": data, **options}
        return published.build(TrainConfig("published", steps, 4, 1e-2, warmup_steps=1, options=told))

    return build_it


class Seen:
    """What a network was given, call by call."""

    def __init__(self, decoder: Decoder) -> None:
        self.calls: list[tuple[Tensor, Tensor, dict[str, Any]]] = []
        self.handle = decoder.unet.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, network: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.calls.append((given[0].detach().clone(), torch.as_tensor(given[1]), named))


def attended(condition: dict[str, Any], row: int) -> list[Tensor]:
    """What a network can tell of a row's condition: states without those that are masked."""
    mask = condition.get("encoder_attention_mask_1")
    values = {name: value[row] for name, value in condition.items() if name != "encoder_attention_mask_1"}
    if mask is not None:
        values["encoder_hidden_states_1"] = values["encoder_hidden_states_1"][mask[row].bool()]
    return [values[name] for name in sorted(values)]


def step_with_edits(recipe: published.PublishedRecipe) -> int:
    """A step whose first sample edits and whose others do not all."""
    for step in range(200):
        batch, examples = recipe.batch(step), recipe.examples.batch(step)
        edits = [example.record.edits is not None for example in examples]
        if 0 in batch.denoised.edited.tolist() and not all(edits) and not batch.denoised.unconditional[0]:
            return step
    raise AssertionError("no such step")


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_network_is_given_in_training_what_it_is_given_when_it_samples(make: Make, modality: str):
    recipe = make(modality)
    decoder, step = recipe.decoder, step_with_edits(recipe)
    batch, examples = recipe.batch(step), recipe.examples.batch(step)
    count, channels = len(examples), decoder.latent_shape[0]
    blur = seeded_noise(batch.features.shape[1:], [seed + 1 for seed in SEEDS], torch.device("cpu"), torch.float32)
    batch.denoised.feature_noise, batch.denoised.unconditional = blur, torch.tensor([False, True, False, True])
    seen = Seen(decoder)
    recipe.losses(recipe.model, batch)

    sources: list[Part | None] = [None] * count
    for n in batch.denoised.edited.tolist():
        item = examples[n].source(modality, decoder.codec.others)
        assert item is not None
        sources[n] = examples[n].medium(item).decode()
    state = decoder.sampler_state(batch.features, SEEDS, SampleOptions(sources=sources))
    state.denoise(state.latents, state.timestep(0))
    seen.handle.remove()

    (x, t, trained), (sampled_x, sampled_t, sampled) = seen.calls
    assert len(sampled_x) == 3 * count and x.shape[1:] == sampled_x.shape[1:]
    assert trained.keys() == sampled.keys()
    assert float(t.min()) >= 0 and float(t.max()) <= float(decoder.process.times(1000, torch.Generator()).max())
    assert sampled_t.dtype == t.dtype
    for n in range(count):
        branch = (1 if batch.denoised.unconditional[n] else 2) * count + n
        assert torch.equal(x[n, channels:], sampled_x[branch, channels:]), "the source"
        assert x[n, channels:].any() == (sources[n] is not None)
        for ours, theirs in zip(attended(trained, n), attended(sampled, branch), strict=True):
            torch.testing.assert_close(ours, theirs, msg=f"the condition of sample {n}")
    if modality == "image":
        assert decoder.config.noise_level == 499
        levels = trained["class_labels"][:, recipe.width :]
        assert torch.equal(levels[0], levels[2]) and not levels[1].any()


@pytest.mark.parametrize("modality", MODALITIES)
def test_samples_are_trained_without_feature_and_source_at_the_rates_of_guidance(make: Make, modality: str):
    recipe = make(modality)
    edits = alone = bare = 0
    for step in range(60):
        batch = recipe.batch(step)
        edits += sum(example.record.edits is not None for example in recipe.examples.batch(step))
        alone += len(batch.denoised.edited)
        bare += int(batch.denoised.unconditional.sum())
    assert 0.02 < bare / 240 < 0.2 and 0.8 < alone / edits < 1


def test_a_share_draws_what_the_whole_batch_has(make: Make):
    recipe = make("image")
    whole, half = recipe.batch(3), recipe.batch(3, Share(1, 2))
    for name in ("media", "t", "noise", "feature_noise", "unconditional"):
        assert torch.equal(getattr(whole.denoised, name)[1::2], getattr(half.denoised, name)), name
    assert torch.equal(whole.features[1::2], half.features)


def test_rates_are_those_of_instruct_pix2pix():
    feature, source = draw_dropped(np.random.default_rng(0), 100_000)
    assert sum(DROPPED.values()) == pytest.approx(1)
    for rows, rate in ((feature & ~source, 0.05), (source & ~feature, 0.05), (feature & source, 0.05)):
        assert float(rows.float().mean()) == pytest.approx(rate, abs=0.005)


def test_pictures_are_cropped_as_the_encoder_crops_them(model: CoDi2):
    wide = np.full((40, 80, 3), 255, np.uint8)
    wide[:, 12:68] = (200, 30, 30)  # the centre square, and what a filter sees beside it
    given = model.decoders["image"].codec.read([Image(PILImage.fromarray(wide))])
    size = model.decoders["image"].latent_shape[-1] * 2
    assert given.shape == (1, size, size, 3)
    assert (given == torch.tensor([200, 30, 30], dtype=torch.uint8)).all(), "neither white bars nor what is beside"


def test_sounds_have_the_level_of_the_published_data():
    quiet = Audio((0.2 + 0.01 * np.sin(np.arange(8_000) * 0.3)).astype(np.float32), 16_000)
    wave = levelled(quiet, 12_000)
    assert np.abs(wave).max() == pytest.approx(PEAK, abs=1e-3) and abs(wave[:8_000].mean()) < 1e-3
    assert not wave[8_000:].any(), "padding is silence, and not part of the mean"
    assert not levelled(Audio(np.zeros(800, np.float32), 16_000), 1_000).any()


@pytest.mark.parametrize("trained", ["head", "network"])
def test_a_decoder_learns_by_itself_and_comes_back(make: Make, model: CoDi2, tmp_path: Path, trained: str):
    decoder = model.decoders["audio"]
    before = {name: value.clone() for name, value in trained_state(decoder, with_network=True).items()}
    try:
        recipe = make("audio", trained=trained)
        figures = train(recipe, recipe.config, tmp_path / "out")
        assert {"own_feature", "others_feature", "no_feature", "no_source/own_feature"} <= figures.keys()
        after = trained_state(decoder, with_network=True)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert any("head" in name for name in changed) and any("conv_in" in name for name in changed)
        assert any("mid_block" in name for name in changed) == (trained == "network")
        kept = {name: value.detach().clone() for name, value in after.items()}
        with torch.no_grad():
            for name in changed:
                after[name].zero_()
        load_trained(decoder, tmp_path / "out" / "export" / TRAINED)
        for name in changed:
            torch.testing.assert_close(
                trained_state(decoder, with_network=True)[name], kept[name], atol=1e-2, rtol=1e-2
            )
    finally:  # the model is shared by the tests of this file
        with torch.no_grad():
            for name, value in trained_state(decoder, with_network=True).items():
                value.requires_grad_(False).copy_(before[name])


def test_lora_learns_on_the_attention_and_is_exported_as_part_of_the_weights(
    make: Make, model: CoDi2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    decoder, fresh = copy.deepcopy(model.decoders["audio"]), copy.deepcopy(model.decoders["audio"])
    monkeypatch.setattr(published, "load_one_decoder", lambda modality, config, folder: decoder)
    recipe = make("audio", trained="lora", lora_rank=2)
    before = {name: value.clone() for name, value in trained_state(decoder, with_network=True).items()}
    assert before.keys() == trained_state(fresh, with_network=True).keys(), "names are those of a network without LoRA"
    train(recipe, recipe.config, tmp_path / "out")
    assert not any("lora" in name for name in read_tensors(tmp_path / "out" / "export" / TRAINED))
    load_trained(fresh, tmp_path / "out" / "export" / TRAINED)
    changed = {
        n for n, value in trained_state(fresh, with_network=True).items() if (value - before[n]).abs().max() > 2e-3
    }
    assert any("to_q" in name for name in changed) and any("head" in name for name in changed)
    assert not any("resnets" in name for name in changed)
    batch = recipe.batch(0)
    with torch.no_grad():
        ours = recipe.losses(recipe.model, batch)["loss"]
        recipe.decoder = fresh
        torch.testing.assert_close(recipe.losses(recipe.model, batch)["loss"], ours, atol=2e-3, rtol=2e-3)


def test_features_are_noised_in_training_alone_and_keep_their_norm(make: Make):
    plain, noised = make("audio"), make("audio", feature_noise=0.9)
    batch = noised.batch(0)
    ours, theirs = plain.batch(0).features, noised_features(batch.features, batch.amount, batch.augmentation_noise)
    assert not torch.allclose(ours, theirs) and (theirs.norm(dim=-1) / ours.norm(dim=-1) - 1).abs().max() < 0.8
    assert plain.validate() == noised.validate()
    with torch.no_grad():  # the loop calls `finish` for every batch, and `batch` too if there are no workers
        losses = [float(noised.losses(noised.model, b)["loss"]) for b in (batch, noised.finish(batch))]
    assert losses[0] == losses[1]
    absent = noised_features(torch.zeros(1, 1, 4), torch.ones(1, 1, 1), torch.randn(1, 1, 4))
    assert not absent.any()


@pytest.mark.parametrize(("stage", "trained"), [("6_fidelity_image", "network"), ("6_fidelity_audio", "lora")])
def test_the_configs_of_pairs_are_of_this_part(stage: str, trained: str):
    config = load_config(Path(__file__).parents[2] / "configs" / "paper" / f"{stage}.toml")
    assert config.part == "published" and options_of(published.PublishedOptions, config).trained == trained


def test_what_cannot_be_trained_so_is_one_sentence(make: Make, model: CoDi2, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(
        ConfigError, match=r"options\.modality is 'smell', but paper has decoders of image, audio, video"
    ):
        make("smell")
    with pytest.raises(ConfigError, match=r"options\.trained is 'half'; expected 'head', 'network' or 'lora'"):
        make("image", trained="half")
    from codi2.checkpoint import load_one_decoder, locate

    monkeypatch.setattr(published, "locate", locate)
    monkeypatch.setattr(published, "load_one_decoder", load_one_decoder)
    with pytest.raises(ConfigError, match="the image decoder of 'debug' is not a published pipeline; name a model"):
        make("image", model="debug")

"""Published towers as the encoder, with classes of transformers and small random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from codi2.config import EncoderConfig
from codi2.encode.towers import TowersEncoder, load_towers
from codi2.errors import ConfigError, WeightsError
from codi2.prompt.parts import Audio, Image, Phrase, Video

from .small_towers import picture_tower, sound_tower

COUNTS = {"image": 1, "audio": 1, "video": 1, "phrase": 1}
D_IMAGE, D_AUDIO = 16, 12


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EncoderConfig:
    folder = tmp_path_factory.mktemp("towers")
    towers = {"image": str(picture_tower(folder / "siglip")), "audio": str(sound_tower(folder / "clap"))}
    return EncoderConfig("towers", COUNTS, towers=towers)


@pytest.fixture(scope="module")
def encoder(config: EncoderConfig) -> TowersEncoder:
    return load_towers(config)


def picture(seed: int = 0) -> Image:
    return Image(PILImage.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)))


def sound(seconds: float = 0.5, rate: int = 8_000, seed: int = 0) -> Audio:
    noise = np.random.default_rng(seed).normal(0, 0.1, int(seconds * rate))
    return Audio(noise.astype(np.float32), rate)


def test_each_tower_fills_its_part_of_the_vector(encoder: TowersEncoder) -> None:
    assert encoder.dim == D_IMAGE + D_AUDIO
    parts = {
        "image": picture(),
        "video": Video((picture(1).pixels, picture(2).pixels), 8),
        "audio": sound(),
        "phrase": Phrase("a Dog"),
    }
    for modality, part in parts.items():
        values = encoder([part])
        assert values.shape == (1, 1, encoder.dim)
        assert float(values.norm()) == pytest.approx(1.0, abs=1e-5)
        has_image, has_audio = bool(values[..., :D_IMAGE].any()), bool(values[..., D_IMAGE:].any())
        assert (has_image, has_audio) == (modality != "audio", modality in ("audio", "phrase"))


def test_vectors_are_those_of_transformers_own_model(config: EncoderConfig, encoder: TowersEncoder) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(config.towers["image"])
    pixels = np.asarray(picture().pixels.resize((16, 16), PILImage.Resampling.BICUBIC), dtype=np.float32)
    with torch.no_grad():
        expected = model.get_image_features(torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None]).pooler_output[
            0
        ]
    vector = encoder([picture()])[0, 0, :D_IMAGE]
    assert float(torch.cosine_similarity(expected, vector, dim=0)) > 0.999


def test_a_batch_gives_what_single_parts_give_and_always_the_same(encoder: TowersEncoder) -> None:
    for parts in ([picture(1), picture(2)], [sound(), sound(5.0, seed=1)], [Phrase("a"), Phrase("two dogs")]):
        together = encoder(parts)
        alone = torch.cat([encoder([part]) for part in parts])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        assert torch.equal(encoder(parts), together)  # long sounds are not cut at random
        assert not torch.allclose(together[0], together[1], atol=1e-4)


def test_only_words_are_in_both_spaces(encoder: TowersEncoder) -> None:
    image, audio, words = (encoder([part])[:, 0] for part in (picture(), sound(), Phrase("a dog")))
    assert not encoder.within(audio, "image").any() and not encoder.within(image, "audio").any()
    assert torch.equal(encoder.within(image, "video"), image)
    for modality, place in (("image", slice(0, D_IMAGE)), ("audio", slice(D_IMAGE, None))):
        kept = encoder.within(words, modality)
        assert kept[:, place].any() and int((kept != 0).sum()) == int((kept[:, place] != 0).sum())


@pytest.mark.parametrize("kind", ["siglip2", "clip"])
def test_other_image_towers_are_loaded(kind: str, tmp_path: Path) -> None:
    towers = {"image": str(picture_tower(tmp_path, kind))}
    encoder = load_towers(EncoderConfig("towers", {"image": 1, "phrase": 1}, towers=towers))
    assert encoder.dim == 16
    assert encoder([picture(), picture(1)]).shape == (2, 1, 16)
    assert encoder([Phrase("a dog")]).any()


def test_a_config_that_does_not_fit_is_refused_in_one_sentence(config: EncoderConfig, tmp_path: Path) -> None:
    swapped = {"image": config.towers["audio"]}
    with pytest.raises(ConfigError, match=r"encoder\.towers\.image is .*a clap, which reads audio"):
        load_towers(replace(config, towers=swapped))
    with pytest.raises(ConfigError, match="'depth', but the towers read audio, image, phrase, video"):
        load_towers(replace(config, num_features={**COUNTS, "depth": 1}))
    with pytest.raises(ConfigError, match=r"num_features\['image'\] is 5"):
        load_towers(replace(config, num_features={**COUNTS, "image": 5}))
    with pytest.raises(ConfigError, match=r"encoder\.towers\.image"):
        load_towers(replace(config, towers={}))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ConfigError, match="a llama; choose one of siglip"):
        load_towers(replace(config, towers={"image": str(tmp_path)}))
    with pytest.raises(WeightsError, match="nowhere"):
        load_towers(replace(config, towers={"image": str(tmp_path / "nowhere")}))

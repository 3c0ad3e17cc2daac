"""The encoder of `tiny` on real media: its trunks, its heads, and the order of its features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from PIL import ImageEnhance

from codi2.encode.tiny import TinyEncoder, load_tiny
from codi2.encode.trunks import Head
from codi2.hub import shipped
from codi2.media import load, load_audio, load_image
from codi2.prompt.parts import Audio, Image, Part, Phrase, Video

MEDIA = Path(__file__).parents[2] / "examples" / "media"
NORM = 16.0  # sqrt(256)


@pytest.fixture(scope="module")
def encoder() -> TinyEncoder:
    return load_tiny(shipped("tiny") / "encoder", 256)


def picture(name: str = "tiger.png") -> Image:
    return load_image(MEDIA / name)


def similarity(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.cosine_similarity(a, b, dim=-1))


@pytest.mark.parametrize(
    ("part", "count"),
    [(picture(), 4), (load_audio(MEDIA / "crow.wav"), 6), (load(MEDIA / "rabbit.webp"), 5), (Phrase("a red apple"), 1)],
    ids=["image", "audio", "video", "phrase"],
)
def test_the_first_feature_is_the_joint_vector(encoder: TinyEncoder, part: Part, count: int) -> None:
    """All features have a mean square of 1; words have the joint vector alone."""
    features = encoder([part])
    assert features.shape == (1, count, 256)
    assert features[0, 0].norm().item() == pytest.approx(NORM, abs=1e-3)
    assert features.square().mean().item() == pytest.approx(1, abs=0.01)
    joint = encoder([part], 1)
    assert joint.shape == (1, 1, 256) and torch.allclose(joint[0, 0], features[0, 0], atol=1e-4)


def test_a_darker_picture_has_nearly_the_same_joint_vector(encoder: TinyEncoder) -> None:
    bright, other = picture(), picture("goose-google.png")
    dark = Image(ImageEnhance.Brightness(bright.pixels.convert("RGB")).enhance(0.6))
    values = encoder([bright, dark, other])[:, 0]
    assert similarity(values[0], values[1]) > 0.8 > similarity(values[0], values[2])


def test_loudness_is_in_the_compact_features_alone(encoder: TinyEncoder) -> None:
    sound = load_audio(MEDIA / "crow.wav")
    values = encoder([sound, Audio(sound.samples / 4, sound.rate)])
    change = (values[0] - values[1]).norm(dim=-1)
    assert change[0] < 0.5 and change[1:].norm() > 1


def test_features_of_a_clip_begin_with_those_of_its_first_frame(encoder: TinyEncoder) -> None:
    pixels = np.asarray(picture().pixels.convert("RGB").resize((64, 64)))
    shifts = [0, 2, 4, 6, 6, 4, 2, 0]
    moving = Video(tuple(PILImage.fromarray(np.roll(pixels, shift, axis=1)) for shift in shifts), 3.125)
    still = Video((PILImage.fromarray(pixels),) * 8, 3.125)
    first = encoder([Image(PILImage.fromarray(pixels))])[0]
    for clip in (moving, still):
        assert torch.allclose(encoder([clip])[0, :4], first, atol=1e-3)
    assert (encoder([moving])[0, 4] - encoder([still])[0, 4]).norm() > 1


def test_no_words_become_a_special_token(encoder: TinyEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = encoder.trunks["phrase"]
    read: list[torch.Tensor] = []
    forward = trunk.net.forward
    monkeypatch.setattr(
        trunk.net, "forward", lambda input_ids, **more: read.append(input_ids) or forward(input_ids=input_ids, **more)
    )
    encoder([Phrase("a cat [SEP] [PAD] [CLS] [MASK]")])
    special = torch.tensor(trunk.tokenizer.all_special_ids)
    assert torch.isin(read[0], special).sum() == 2, "the first and the last, which the tokenizer sets"


def test_a_text_has_the_same_vector_beside_a_longer_one(encoder: TinyEncoder) -> None:
    texts = [Phrase("rain"), Phrase("a small red boat on a lake in the morning")]
    together, alone = encoder(texts)[0], encoder(texts[:1])[0]
    assert torch.allclose(together, alone, atol=1e-3)


def test_trunks_keep_where_and_when(encoder: TinyEncoder) -> None:
    """Quadrants of a picture row by row, quarters of a sound in order."""
    pixels = torch.full((5, 64, 64, 3), 255, dtype=torch.uint8)
    for row, (y, x) in enumerate([(8, 8), (8, 40), (40, 8), (40, 40)], start=1):
        pixels[row, y : y + 16, x : x + 16] = 0
    quadrants = encoder.trunks["image"](pixels)
    assert quadrants.shape == (5, 4, 1280)
    assert (quadrants[1:] - quadrants[0]).norm(dim=-1).argmax(1).tolist() == [0, 1, 2, 3]
    wave = np.zeros(40_960, np.float32)
    wave[32_000:38_000] = np.random.default_rng(0).uniform(-1, 1, 6_000)
    quarters = encoder.trunks["audio"](torch.from_numpy(wave)[None])
    assert quarters.shape == (1, 4, 512)
    assert (quarters[0] - quarters[0, 0]).norm(dim=-1).argmax() == 3


@pytest.mark.parametrize(("pool", "seen"), [("mean", [1.0, 2.0]), ("max", [2.0, 3.0])])
def test_a_head_pools_spans_of_normalised_channels(pool: str, seen: list[float]) -> None:
    head = Head(2, 4, pool=pool)
    head.mean.fill_(1.0)
    head.std.fill_(2.0)
    spans = torch.tensor([[[1.0, 3.0], [5.0, 7.0]]])  # normalised: (0, 1) and (2, 3)
    expected = torch.nn.functional.normalize(head.joint(torch.tensor([seen])), dim=-1) * 2
    assert torch.allclose(head(spans), expected[:, None], atol=1e-6)
    assert head(spans).shape == (1, 1, 4)

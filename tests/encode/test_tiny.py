"""The encoder of `tiny` as it is shipped: what its features keep of real media."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch import nn

from codi2.data import transforms
from codi2.encode.appearance import NUM_CELLS, cells, fit_components, fit_discriminants
from codi2.encode.tiny import TinyEncoder, load_heads, load_trunk
from codi2.hub import shipped
from codi2.media import load_audio, load_image
from codi2.prompt.parts import Audio, Image, Phrase, Video

MEDIA = Path(__file__).parents[2] / "examples" / "media"


@pytest.fixture(scope="module")
def encoder() -> TinyEncoder:
    heads = load_heads(shipped("tiny") / "encoder" / "heads.safetensors", 256)
    return TinyEncoder({modality: load_trunk(modality) for modality in TinyEncoder.modalities}, heads)


def picture() -> Image:
    return load_image(sorted(MEDIA.glob("*.png"))[0])


def cosines(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    return torch.cosine_similarity(a, b, dim=-1).tolist()


def test_a_picture_by_night_is_the_same_thing_and_looks_different(encoder: TinyEncoder) -> None:
    day = picture()
    small = np.asarray(day.pixels.convert("RGB").resize((64, 64)))
    night = Image(PILImage.fromarray(transforms.BY_NAME["night"].apply(small)))
    values = encoder([Image(PILImage.fromarray(small)), night]).values
    assert values.shape == (2, 3, 256)
    assert torch.allclose(values[:, 0].norm(dim=-1), torch.tensor(16.0), atol=1e-3)
    joint, appearance, _ = cosines(values[0], values[1])
    assert joint > 0.6
    assert appearance < joint - 0.2


def test_half_as_loud_is_the_same_sound_and_another_appearance(encoder: TinyEncoder) -> None:
    sound = load_audio(sorted(MEDIA.glob("*.wav"))[0])
    values = encoder([sound, Audio(sound.samples / 4, sound.rate)]).values
    assert values.shape == (2, 2, 256)
    joint, appearance = (values[0] - values[1]).norm(dim=-1).tolist()
    assert joint < 0.5
    assert appearance > 1


def test_what_was_drawn_is_made_to_agree_with_what_it_should_look_or_sound_like(encoder: TinyEncoder) -> None:
    sound = load_audio(sorted(MEDIA.glob("*.wav"))[0])
    trunk = encoder.trunks["audio"]
    maps = trunk.mel(trunk.read([Audio(sound.samples / 8, sound.rate)]))
    told = encoder([sound]).values

    def apart(drawn: torch.Tensor) -> float:
        token = encoder.heads["audio"].appearance(cells(drawn))
        return float((token - told[:, 1]).square().mean())

    some, all_of_it = (encoder.agree("audio", maps, told, share) for share in (0.5, 1.0))
    assert apart(all_of_it) < 0.1 * apart(maps)
    assert apart(all_of_it) < apart(some) < apart(maps)
    finer = (maps - all_of_it).diff(dim=-1).abs().amax()
    assert finer < 0.5 * maps.diff(dim=-1).abs().amax()  # what moves is smooth
    absent = torch.stack([told[:, 0], torch.zeros_like(told[:, 0])], dim=1)
    assert torch.equal(encoder.agree("audio", maps, absent, 1.0), maps)
    assert encoder.agree("audio", maps, told[:, :1], 1.0) is maps
    clips = torch.zeros(1, 3, 8, 64, 64)
    assert encoder.agree("video", clips, told, 1.0) is clips


def test_a_hand_keeps_its_manner_wherever_the_picture_stands(encoder: TinyEncoder) -> None:
    """Two hands draw broccoli; one of the drawings is moved by three pixels. Appearance takes the move for more."""
    google, fluent = (load_image(MEDIA / f"broccoli-{hand}.png") for hand in ("google", "fluent"))
    pixels = np.asarray(google.pixels.convert("RGB").resize((64, 64)))
    moved = Image(PILImage.fromarray(np.roll(pixels, 3, axis=1)))
    values = encoder([Image(PILImage.fromarray(pixels)), moved, fluent]).values
    by_move, by_hand = (values[0] - values[1:]).norm(dim=-1)
    assert by_move[2] < 0.5 * by_hand[2]
    assert by_move[2] / by_hand[2] < by_move[1] / by_hand[1]


def test_a_clip_is_where_its_pictures_are_and_moves_as_it_does(encoder: TinyEncoder) -> None:
    small = np.asarray(picture().pixels.convert("RGB").resize((64, 64)))
    moved = [np.roll(small, shift, axis=1) for shift in (0, 2, 4, 6, 6, 4, 2, 0)]
    still, there, back = (
        Video(tuple(PILImage.fromarray(frame) for frame in frames), 3.125)
        for frames in ([small] * 8, moved, [frame[:, ::-1] for frame in moved])
    )
    clips = encoder([still, there, back]).values
    seen = encoder([Image(PILImage.fromarray(small))]).values
    assert clips.shape == (3, 3, 256)
    assert min(cosines(clips[0, :2], seen[0, :2])) > 0.999
    assert cosines(clips[1, :1], seen[0, :1])[0] > 0.8
    by_motion = (clips[0, 2] - clips[1:, 2]).norm(dim=-1)
    assert by_motion.min() > 1 and (clips[1, 2] - clips[2, 2]).norm() > 1


def test_words_have_the_joint_vector_alone(encoder: TinyEncoder) -> None:
    assert encoder([Phrase("a red apple"), Phrase("rain")]).values.shape == (2, 1, 256)


def test_no_words_become_a_special_token(encoder: TinyEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = encoder.trunks["phrase"]
    read: list[torch.Tensor] = []
    honest = trunk.net.forward
    monkeypatch.setattr(
        trunk.net, "forward", lambda input_ids, **more: read.append(input_ids) or honest(input_ids=input_ids, **more)
    )
    encoder([Phrase("a cat [SEP] [PAD] [CLS] [MASK]")])
    special = torch.tensor(trunk.tokenizer.all_special_ids)
    assert torch.isin(read[0], special).sum() == 2, "the first and the last, which the tokenizer sets"


def test_cells_are_means_and_spreads() -> None:
    maps = torch.zeros(1, 3, 64, 64)
    maps[:, :, :4, :2] = 1  # half of the first cell
    found = cells(maps)
    assert found.shape == (1, NUM_CELLS["image"])
    mean, spread = found.view(2, 3, 16, 16)
    assert torch.allclose(mean[:, 0, 0], torch.tensor(0.5))
    assert torch.allclose(spread[:, 0, 0], torch.tensor(1.0))  # 2 × 0.5
    assert not mean[:, 1:].any()
    assert not spread[:, 1:].any()


def test_discriminants_keep_what_tells_kinds_apart() -> None:
    """Three kinds differ a little in two numbers; the others vary a thousand times as much and say nothing."""
    torch.manual_seed(0)
    kinds = torch.arange(1500) % 3
    samples = torch.randn(1500, 8) * torch.tensor([0.1, 0.1, *[100.0] * 6]) + 3
    samples[:, :2] += torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])[kinds]
    token = nn.Linear(8, 16)
    assert fit_discriminants(token, samples, kinds) > 0.9
    found = token(samples)
    assert found.square().mean().item() == pytest.approx(1, abs=1e-2)
    assert torch.linalg.matrix_rank(found, rtol=1e-3) == 2
    means = torch.stack([found[kinds == k].mean(0) for k in range(3)])
    assert (torch.cdist(found, means).argmin(1) == kinds).float().mean() > 0.99


def test_components_keep_the_strongest_directions_at_mean_square_one() -> None:
    torch.manual_seed(0)
    samples = torch.randn(2000, 3) @ torch.randn(3, 20) * 5 + 7 + 0.01 * torch.randn(2000, 20)
    token = nn.Linear(20, 3)
    assert fit_components(token, samples) > 0.999
    found = token(samples)
    assert found.square().mean().item() == pytest.approx(1, abs=1e-3)
    assert found.mean(0).abs().max() < 1e-3
    assert torch.allclose(torch.corrcoef(found.T), torch.eye(3), atol=1e-2)
    assert found.var(0).argmax() == 0

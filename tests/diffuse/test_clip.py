"""The decoder of clips: where it starts from that of pictures, and what it reads as a source."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from codi2.diffuse.build import new_decoder, new_patches, new_unet, new_vae
from codi2.diffuse.decoder import Decoder, Sampling
from codi2.diffuse.load import clip_codec, load_decoder, save_decoder
from codi2.media.prepare import spread
from codi2.prompt.parts import Image, Video

DIM, SLOTS, CHANNELS = 16, 3, (16, 32)


def decoder() -> Decoder:
    torch.manual_seed(0)
    made = new_decoder(new_patches("video", 4), (48, 8, 16, 16), CHANNELS, DIM, SLOTS)
    return made.eval().requires_grad_(False)


def picture(colour: str) -> Image:
    return Image(PILImage.new("RGB", (64, 64), colour))


def test_in_space_it_has_the_names_and_shapes_of_the_network_for_pictures() -> None:
    flat = new_unet("image", (48, 16, 16), CHANNELS, DIM, SLOTS).state_dict()
    deep = new_unet("video", (48, 8, 16, 16), CHANNELS, DIM, SLOTS).state_dict()
    shared = {name for name in flat if name in deep and deep[name].shape == flat[name].shape}
    assert {name.split(".")[0] for name in flat.keys() - shared} == {"class_embedding"}


def test_before_it_learns_frames_do_not_see_each_other() -> None:
    made = decoder()
    torch.nn.init.normal_(made.unet.conv_out.weight, std=0.1)
    latents, features = torch.randn(1, 48, 8, 16, 16), torch.randn(1, SLOTS, DIM)
    level, source, t = torch.zeros(1, dtype=torch.long), torch.zeros(1, 48, 8, 16, 16), torch.tensor([500])
    other = latents.clone()
    other[:, :, 1:] += 1
    first = [made.denoise(x, t, features, level, source, None)[:, :, 0] for x in (latents, other)]
    # group normalisation is over all frames of a clip: nothing else ties them together
    assert (first[0] - first[1]).abs().mean() < 0.5 * first[0].abs().mean()


def test_a_picture_is_a_source_in_which_nothing_moves() -> None:
    made = decoder()
    assert made.codec.reads == ("video", "image")
    still = made.codec.to_tensor([picture("red")])
    assert still.shape == (1, 3, 8, 64, 64) and torch.equal(still[:, :, 0], still[:, :, 7])
    (clip,) = made.generate(torch.randn(1, SLOTS, DIM), [0], sources=[picture("red")], num_inference_steps=1)
    assert isinstance(clip, Video) and len(clip.frames) == 8 and clip.frames[0].size == (64, 64)
    assert 2.5 < len(clip.frames) / clip.fps < 2.6  # seconds, as a sound


def test_what_begins_as_a_picture_moves_more_and_a_clip_as_it_did() -> None:
    made = decoder()
    torch.nn.init.normal_(made.unet.conv_out.weight, std=0.1)
    red, blue = picture("red"), picture("blue")
    clip = Video((*(red.pixels,) * 4, *(blue.pixels,) * 4), 3.125)

    def moves(source: Image | Video | None) -> float:
        features = torch.ones(1, SLOTS, DIM)
        latents = made.generate_latents(features, [0], sources=[source], num_inference_steps=1, guidance_scale=1)
        return float(latents.diff(dim=2).abs().mean())

    before = [moves(source) for source in (red, clip, None)]
    made.sampling = replace(made.sampling, motion_scale=2.0)
    assert [moves(source) / was for source, was in zip((red, clip, None), before, strict=True)] == pytest.approx(
        [2, 1, 1]
    )


def test_frames_are_spread_evenly() -> None:
    frames = [PILImage.new("L", (1, 1), n) for n in range(15)]
    assert [frame.getpixel((0, 0)) for frame in spread(frames, 8)] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert len(spread(frames[:3], 8)) == 8


def test_it_is_saved_and_loaded_whole(tmp_path) -> None:
    made = decoder()
    save_decoder(made, tmp_path / "video")
    again = load_decoder("video", tmp_path / "video", Sampling(num_inference_steps=1))
    features = torch.randn(1, SLOTS, DIM)
    ours, theirs = (m.generate(features, [3], num_inference_steps=1)[0] for m in (made, again))
    apart = np.asarray(ours.frames[5], int) - np.asarray(theirs.frames[5], int)
    assert np.abs(apart).mean() < 2  # of 255: half precision


def test_a_network_of_clips_reads_its_features_in_every_way() -> None:
    """The noise level by the class labels, the motion by cross-attention and, as a map, beside each frame."""
    torch.manual_seed(0)
    codec = clip_codec(new_vae("image", (8, 8, 8), 4, 2))
    decoder = new_decoder(codec, (4, 8, 8, 8), (8, 16), 16, 5, (4, 4, 4)).eval()
    latents, features = torch.randn(1, 4, 8, 8, 8), torch.randn(1, 5, 16)
    t, level = torch.tensor([500]), torch.tensor([0])

    def drawn(features: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return decoder.denoise(latents, t, features, level, torch.zeros_like(latents), None)

    first = drawn(features, level)
    assert first.shape == latents.shape
    assert not torch.allclose(first, drawn(features, level + 300))
    other = features.clone()
    other[:, 4] = torch.randn(16)
    assert not torch.allclose(first, drawn(other, level))
    maps = decoder.conditioner.maps(features, latents)
    assert maps is not None and torch.equal(maps[0, 3, 0, ::2, ::2].flatten(), features[0, 4])
    assert torch.equal(maps[:, :, 0], maps[:, :, 7])

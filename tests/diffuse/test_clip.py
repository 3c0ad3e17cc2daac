"""The decoder of clips: weights shared with the image decoder, sources, motion, and files."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image as PILImage

from codi2.config import DecoderConfig
from codi2.diffuse.build import debug_decoder, new_decoder, new_unet, new_vae
from codi2.diffuse.decoder import Decoder, first_frames
from codi2.diffuse.load import clip_codec, load_decoder, save_decoder
from codi2.diffuse.sampling import SampleOptions
from codi2.media.prepare import spread
from codi2.prompt.parts import Image, Video

DIM, SLOTS, CHANNELS = 16, 3, (16, 32)
SHAPE = (4, 8, 16, 16)  # of latents


def decoder() -> Decoder:
    torch.manual_seed(0)
    fresh = new_decoder(
        clip_codec(new_vae("image", (8, 8, 8), 4)), SHAPE, CHANNELS, DIM, SLOTS, DecoderConfig(kind="debug")
    )
    return fresh.eval().requires_grad_(False)


def picture(colour: str) -> Image:
    return Image(PILImage.new("RGB", (64, 64), colour))


def test_the_spatial_layers_have_the_names_and_shapes_of_the_image_network() -> None:
    image = new_unet("image", (4, 16, 16), CHANNELS, DIM, SLOTS).state_dict()
    video = new_unet("video", SHAPE, CHANNELS, DIM, SLOTS).state_dict()
    shared = {name for name in image if name in video and video[name].shape == image[name].shape}
    assert {name.split(".")[0] for name in image.keys() - shared} == {"class_embedding"}


def test_in_an_untrained_network_frames_do_not_attend_to_each_other() -> None:
    network = decoder()
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1)
    latents, features = torch.randn(1, *SHAPE), torch.randn(1, SLOTS, DIM)
    level, source, t = torch.zeros(1, dtype=torch.long), torch.zeros(1, *SHAPE), torch.tensor([500])
    other = latents.clone()
    other[:, :, 1:] += 1
    first = [network.denoise(x, t, features, level, source, None)[:, :, 0] for x in (latents, other)]
    # group normalisation is over all frames of a clip; nothing else connects them
    assert (first[0] - first[1]).abs().mean() < 0.5 * first[0].abs().mean()


def test_a_picture_as_a_source_is_a_clip_without_motion() -> None:
    video = decoder()
    assert video.codec.reads == ("video", "image")
    still = video.codec.to_tensor([picture("red")])
    assert still.shape == (1, 3, 8, 64, 64) and torch.equal(still[:, :, 0], still[:, :, 7])
    features = torch.randn(1, SLOTS, DIM)
    (clip,) = video.generate(features, [0], SampleOptions(sources=[picture("red")], num_inference_steps=1))
    assert isinstance(clip, Video) and len(clip.frames) == 8 and clip.frames[0].size == (64, 64)
    assert 2.5 < len(clip.frames) / clip.fps < 2.6  # seconds, as a sound


def test_a_first_frame_has_the_features_of_a_clip_without_its_motion() -> None:
    pictures = debug_decoder("image", DIM, SLOTS, DecoderConfig(kind="debug", num_inference_steps=1))
    features = torch.randn(2, SLOTS + 1, DIM, generator=torch.Generator().manual_seed(0))
    frames, same = first_frames(pictures, features, [5, 6]), pictures.generate(features[:, :SLOTS], [5, 6])
    assert [np.asarray(frame.pixels).tolist() for frame in frames] == [np.asarray(f.pixels).tolist() for f in same]


def test_frames_are_spread_evenly() -> None:
    frames = [PILImage.new("L", (1, 1), n) for n in range(15)]
    assert [frame.getpixel((0, 0)) for frame in spread(frames, 8)] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert len(spread(frames[:3], 8)) == 8


def test_a_decoder_is_saved_and_loaded(tmp_path) -> None:
    video = decoder()
    save_decoder(video, tmp_path / "video")
    again = load_decoder("video", tmp_path / "video", DecoderConfig(kind="debug", num_inference_steps=1))
    features = torch.randn(1, SLOTS, DIM)
    original, reloaded = (m.generate(features, [3], SampleOptions(num_inference_steps=1))[0] for m in (video, again))
    difference = np.asarray(original.frames[5], int) - np.asarray(reloaded.frames[5], int)
    assert np.abs(difference).mean() < 2  # of 255: half precision


def test_a_network_of_clips_depends_on_noise_level_motion_and_map() -> None:
    """Class labels hold the noise level, cross-attention reads the motion, and the map is beside each frame."""
    torch.manual_seed(0)
    codec = clip_codec(new_vae("image", (8, 8, 8), 4, 2))
    decoder = new_decoder(codec, (4, 8, 8, 8), (8, 16), 16, 5, DecoderConfig(kind="debug"), (4, 4, 4)).eval()
    latents, features = torch.randn(1, 4, 8, 8, 8), torch.randn(1, 5, 16)
    t, level = torch.tensor([500]), torch.tensor([0])

    def denoised(features: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return decoder.denoise(latents, t, features, level, torch.zeros_like(latents), None)

    first = denoised(features, level)
    assert first.shape == latents.shape
    assert not torch.allclose(first, denoised(features, level + 300))
    other = features.clone()
    other[:, 4] = torch.randn(16)
    assert not torch.allclose(first, denoised(other, level))
    maps = decoder.conditioner.maps(features, latents)
    assert maps is not None and torch.equal(maps[0, 3, 0, ::2, ::2].flatten(), features[0, 4])
    assert torch.equal(maps[:, :, 0], maps[:, :, 7])

"""Networks of a decoder with random weights, from a few sizes. Training starts from them; `debug` uses them untrained.

Letters: c latent channels, h w latent size, K slots, D joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from codi2.config import DecoderConfig
from codi2.diffuse.clip import ClipCodec
from codi2.diffuse.codec import AudioCodec, Codec, ImageCodec
from codi2.diffuse.conditioner import Conditioner, label_dim
from codi2.diffuse.decoder import Decoder
from codi2.tensors import channels_last, groups_of

# height and width of a codec's input: pixels, or mel frames and bins
SIZES = {"image": (64, 64), "audio": (160, 64), "video": (64, 64)}
INPUT_CHANNELS = {"image": 3, "audio": 1, "video": 3}
FRAMES, FPS = 8, 3.125  # of a clip of `tiny`, which is as long as a sound: 2.56 s


def new_vae(modality: str, channels: Sequence[int], latent_channels: int, patch: int = 1) -> Any:
    """A small `AutoencoderKL` without attention; every level but the last halves the sides.

    Args:
        patch: side of the patches that become input channels; the codec cuts media into patches.
    """
    from diffusers import AutoencoderKL

    levels = len(channels)
    return AutoencoderKL(
        in_channels=INPUT_CHANNELS[modality] * patch**2,
        out_channels=INPUT_CHANNELS[modality] * patch**2,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=groups_of(channels),
        sample_size=max(SIZES[modality]),
        mid_block_add_attention=False,
    ).to(memory_format=torch.channels_last)


def new_unet(
    modality: str,
    latent_shape: Sequence[int],
    channels: Sequence[int],
    dim: int,
    num_slots: int,
    map_shape: Sequence[int] = (),
) -> Any:
    """The denoising network for latents [c, h, w] or [c, F, h, w], with attention on all levels but the first.

    Its input is the noisy latent, the source's latent (the fidelity path of section 5.1), and the map of the compact
    features, if there is one.
    """
    from diffusers import AudioLDM2UNet2DConditionModel, UNet2DConditionModel

    in_channels, labels = 2 * latent_shape[0] + sum(map_shape[:1]), label_dim(dim, num_slots)
    if modality == "video":
        return new_clip_unet(latent_shape, channels, dim, in_channels, labels)
    latent_channels, height, width = latent_shape
    deeper = len(channels) - 1
    network_class = UNet2DConditionModel if modality == "image" else AudioLDM2UNet2DConditionModel
    return network_class(
        in_channels=in_channels,
        out_channels=latent_channels,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * deeper),
        up_block_types=(*["CrossAttnUpBlock2D"] * deeper, "UpBlock2D"),
        norm_num_groups=groups_of(channels),
        # as UNet3DConditionModel does it, so that a video network can start from these weights
        use_linear_projection=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=labels,
        sample_size=(height, width),
        cross_attention_dim=dim,
        attention_head_dim=8,
    ).to(memory_format=torch.channels_last)


def new_clip_unet(latent_shape: Sequence[int], channels: Sequence[int], dim: int, in_channels: int, labels: int) -> Any:
    """The same for clips [c, F, h, w]: its spatial layers have the names and shapes of the image network's.

    Its temporal layers start as the identity, so that it initially draws each frame as the image network does.

    Args:
        labels: L, width of the class labels, which are read with the timestep.
    """
    from diffusers import UNet3DConditionModel

    latent_channels, _, height, _ = latent_shape
    deeper = len(channels) - 1
    unet = UNet3DConditionModel(
        in_channels=in_channels,
        out_channels=latent_channels,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        down_block_types=("DownBlock3D", *["CrossAttnDownBlock3D"] * deeper),
        up_block_types=(*["CrossAttnUpBlock3D"] * deeper, "UpBlock3D"),
        norm_num_groups=groups_of(channels),
        sample_size=height,
        cross_attention_dim=dim,
        attention_head_dim=8,
        time_cond_proj_dim=labels,
    )
    for name, module in unet.named_modules():
        if name.endswith("proj_out") and ("temp_attentions" in name or "transformer_in" in name):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return channels_last(unet)


def new_decoder(
    codec: Codec,
    latent_shape: Sequence[int],
    channels: Sequence[int],
    dim: int,
    num_slots: int,
    config: DecoderConfig,
    map_shape: Sequence[int] = (),
) -> Decoder:
    """A decoder with random weights on a given codec. `latent_shape` is [c, h, w], of clips [c, F, h, w].

    It predicts the sample. To keep parts of the source, the network then copies its input at every noise level; a
    velocity would need (alpha z - source) / sigma.
    """
    from diffusers import DPMSolverMultistepScheduler

    unet = new_unet(codec.modality, latent_shape, channels, dim, num_slots, map_shape)
    scheduler = DPMSolverMultistepScheduler(1000, beta_schedule="squaredcos_cap_v2", prediction_type="sample")
    conditioner = Conditioner(dim, num_slots, dim, map_shape=tuple(map_shape))
    return Decoder(unet, conditioner, codec, scheduler, config)


def debug_decoder(modality: str, dim: int, num_slots: int, config: DecoderConfig) -> Decoder:
    """A decoder with a few thousand random weights, for fast runs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = new_vae(modality, (8, 8, 8), latent_channels=4)
        codec: Codec
        height, width = SIZES[modality]
        shape: tuple[int, ...] = (4, height // 4, width // 4)
        if modality == "image":
            codec = ImageCodec(vae)
        elif modality == "video":
            codec, shape = ClipCodec(vae, FRAMES, height, width, fps=FPS, padded=True), (4, FRAMES, *shape[1:])
        else:
            from codi2.diffuse.vocoder import ISTFTVocoder
            from codi2.media.mel import MelSpectrogram

            codec = AudioCodec(vae, MelSpectrogram(), ISTFTVocoder(channels=16, blocks=1))
        decoder = new_decoder(codec, shape, (8, 16), dim, num_slots, config)
    return decoder.eval().requires_grad_(False)

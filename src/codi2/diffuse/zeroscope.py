"""The video decoder of `paper`: zeroscope_v2_576w, conditioned on a regressed feature (section 5.1).

Its network attends to CLIP's 77 states of a prompt; a trained linear map of the feature takes their place.

Letters: B batch, K slots, D feature width (1024), L states (77), W their width (1024), F frames, c channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor, nn

from codi2.diffuse.codec import Codec, pixels_to_tensor
from codi2.diffuse.condition import Condition
from codi2.diffuse.decoder import Decoder, Sampling
from codi2.diffuse.load import load_parts, widened
from codi2.diffuse.words import TextStates
from codi2.prompt.parts import Part, Video

FPS = 8.0  # of the clips that the network was trained on


class ZeroscopeCondition(Condition):
    """Features [B, K, D], of which the joint vector counts → states [B, L, W]; without a feature, the words' states.

    Args:
        dim: D.
        words: CLIP's text encoder.
    """

    def __init__(self, dim: int, words: TextStates) -> None:
        super().__init__()
        self.length, self.width = words.tokenizer.model_max_length, words.text_encoder.config.hidden_size
        self.head = nn.Linear(dim, self.length * self.width)
        self.text = words

    def read_words(self, prompt: str) -> Tensor:
        states: Tensor = self.text(prompt)
        return states

    @property
    def no_words(self) -> Tensor:
        return self.read_words("")

    def noised(self, features: Tensor, noise: Tensor, noise_level: Tensor) -> Tensor:
        """As they are: this network has no noise levels of features."""
        return features

    def forward(self, features: Tensor, noise_level: Tensor, text: Tensor | None = None) -> dict[str, Tensor]:
        joint = features[:, 0]
        words = self.no_words.expand(len(joint), -1, -1) if text is None else text
        present = (joint.abs().amax(1) > 0)[:, None, None]
        states = self.head(joint).unflatten(1, (self.length, self.width))
        return {"encoder_hidden_states": torch.where(present, states, words.to(joint))}


class ClipCodec(Codec):
    """Clips of a set length and size, frame by frame: tensors [B, 3, F, H, W], latents [B, c, F, h, w]."""

    modality = "video"

    def __init__(self, vae: Any, frames: int, height: int, width: int) -> None:
        super().__init__(vae)
        self.frames, self.height, self.width = frames, height, width

    def to_tensor(self, parts: Sequence[Part]) -> Tensor:
        clips = [self._read(part) for part in parts if isinstance(part, Video)]
        return torch.stack(clips, dim=0).to(self.vae.device, self.vae.dtype)

    def _read(self, clip: Video) -> Tensor:
        """[3, F, H, W]: frames spread evenly over the clip, cropped to the shape of the network's."""
        chosen = np.linspace(0, len(clip.frames) - 1, self.frames).round().astype(int)
        frames = [np.asarray(_cover(clip.frames[i], self.width, self.height)) for i in chosen]
        return pixels_to_tensor(np.stack(frames)).permute(1, 0, 2, 3)

    def to_parts(self, tensor: Tensor) -> list[Part]:
        pixels = ((tensor.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).cpu().numpy()
        return [Video(tuple(PILImage.fromarray(frame) for frame in clip), FPS) for clip in pixels]

    def encode(self, tensor: Tensor) -> Tensor:
        return self.encode_source(tensor) * self.vae.config.scaling_factor

    def encode_source(self, tensor: Tensor) -> Tensor:
        frames = tensor.transpose(1, 2)  # [B, F, 3, H, W]
        latents = self.vae.encode(frames.flatten(0, 1)).latent_dist.mode()
        return latents.unflatten(0, frames.shape[:2]).transpose(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        frames = latents.transpose(1, 2)
        pixels = self.vae.decode(frames.flatten(0, 1) / self.vae.config.scaling_factor).sample
        return pixels.unflatten(0, frames.shape[:2]).transpose(1, 2)


def _cover(frame: PILImage.Image, width: int, height: int) -> PILImage.Image:
    """The frame at `width` × `height`, its middle where its shape is another."""
    from PIL import ImageOps

    return ImageOps.fit(frame.convert("RGB"), (width, height), PILImage.Resampling.LANCZOS)


def zeroscope_decoder(
    parts: dict[str, Any], dim: int, frames: int, height: int, width: int, sampling: Sampling
) -> Decoder:
    """A decoder of the parts of a `TextToVideoSDPipeline`, by their names there, for features of width `dim`."""
    unet, vae = parts["unet"], parts["vae"]
    some = unet.conv_in.weight
    words = TextStates(parts["tokenizer"], parts["text_encoder"], padded=True)
    condition = ZeroscopeCondition(dim, words).to(some.device, some.dtype)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    codec = ClipCodec(vae, frames, height, width)
    shape = (unet.config.out_channels, frames, height // factor, width // factor)
    decoder = Decoder(widened(unet), condition, codec, parts["scheduler"], sampling, latent_shape=shape)
    return decoder.eval().requires_grad_(False)


def load_zeroscope(
    source: str | Path,
    dim: int,
    frames: int,
    height: int,
    width: int,
    sampling: Sampling,
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    """The decoder in a folder or repo in the layout of `TextToVideoSDPipeline`, with a fresh head.

    Raises:
        WeightsError: a part is missing or does not fit its config.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    classes = {
        "unet": UNet3DConditionModel,
        "vae": AutoencoderKL,
        "scheduler": DDIMScheduler,
        "tokenizer": CLIPTokenizer,
        "text_encoder": CLIPTextModel,
    }
    return zeroscope_decoder(load_parts(source, classes, dtype), dim, frames, height, width, sampling)

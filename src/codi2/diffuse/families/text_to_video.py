"""The video decoder of `paper`: ModelScope's text-to-video network, of which zeroscope_v2_576w is one (section 5.1).

The network attends to CLIP's 77 states of a prompt; a trained linear map of the feature replaces them.

Letters: B batch, K slots, D feature width (1024), L states (77), W their width (1024), F frames, c channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codi2.config import DecoderConfig
from codi2.diffuse.clip import ClipCodec
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.load import load_parts, widened
from codi2.diffuse.words import TextStates, WordsConditioner


class TextToVideoConditioner(WordsConditioner):
    """Features [B, K, D], of which the joint vector is used → states [B, L, W]; without a feature, the words' states.

    Args:
        dim: D.
        words: CLIP's text encoder.
    """

    def __init__(self, dim: int, words: TextStates) -> None:
        super().__init__(words)
        self.length, self.width = words.tokenizer.model_max_length, words.text_encoder.config.hidden_size
        self.head = nn.Linear(dim, self.length * self.width)

    def forward(self, features: Tensor, noise_level: Tensor, text: Tensor | None = None) -> dict[str, Any]:
        joint = features[:, 0]
        words = self.no_words.expand(len(joint), -1, -1) if text is None else text
        present = (joint.abs().amax(1) > 0)[:, None, None]
        states = self.head(joint).unflatten(1, (self.length, self.width))
        return {"encoder_hidden_states": torch.where(present, states, words.to(joint))}


def text_to_video_decoder(parts: dict[str, Any], dim: int, config: DecoderConfig) -> Decoder:
    """A decoder of the parts of a `TextToVideoSDPipeline`, by their names there, for features of width `dim`."""
    unet, vae = parts["unet"], parts["vae"]
    weight = unet.conv_in.weight
    words = TextStates(parts["tokenizer"], parts["text_encoder"], padded=True)
    condition = TextToVideoConditioner(dim, words).to(weight.device, weight.dtype)
    frames, height, width = config.length, config.height or config.size, config.size
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    codec = ClipCodec(vae, frames, height, width)
    shape = (unet.config.out_channels, frames, height // factor, width // factor)
    decoder = Decoder(widened(unet), condition, codec, parts["scheduler"], config, latent_shape=shape)
    return decoder.eval().requires_grad_(False)


def load(source: str | Path, config: DecoderConfig, dim: int, dtype: torch.dtype) -> Decoder:
    """The decoder in a folder or repo in the layout of `TextToVideoSDPipeline`, with an untrained head."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    classes = {
        "unet": UNet3DConditionModel,
        "vae": AutoencoderKL,
        "scheduler": DDIMScheduler,
        "tokenizer": CLIPTokenizer,
        "text_encoder": CLIPTextModel,
    }
    return text_to_video_decoder(load_parts(source, classes, dtype), dim, config)

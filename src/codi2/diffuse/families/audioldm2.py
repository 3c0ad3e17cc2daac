"""The audio decoder of `paper`: AudioLDM2, conditioned on a regressed feature (section 5.1, appendix B.1).

The network attends to eight states that a GPT-2 computes from a prompt, and to T5's states of the words. Here a trained
linear map of the feature replaces the states of GPT-2, and T5 reads the negative prompt.

Letters: B batch, K slots, D feature width (1024), G states of GPT-2 (8), W their width (768), L words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi2.config import DecoderConfig
from codi2.diffuse.codec import Codec
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.load import load_parts, widened
from codi2.diffuse.words import TextStates, WordsConditioner
from codi2.media.mel import MelSpectrogram
from codi2.prompt.parts import Audio, Part

NUM_STATES, STATE_WIDTH = 8, 768  # of the GPT-2 in AudioLDM2
RATE, HOP = 16_000, 160
PEAK = 0.5  # of full scale


class AudioLDM2Conditioner(WordsConditioner):
    """Features [B, K, D], of which the joint vector is used, and words [B, L, 1024] → both kinds of states.

    Args:
        dim: D.
        words: T5.
    """

    def __init__(self, dim: int, words: TextStates, states: int = NUM_STATES, width: int = STATE_WIDTH) -> None:
        super().__init__(words)
        self.head = nn.Linear(dim, states * width)
        self.states = states

    def forward(self, features: Tensor, noise_level: Tensor, text: Tensor | None = None) -> dict[str, Any]:
        """An absent feature, all zeros, gives the head's trained bias."""
        joint = features[:, 0]
        words = (self.no_words if text is None else text).to(joint).expand(len(joint), -1, -1)
        return {
            "encoder_hidden_states": self.head(joint).unflatten(1, (self.states, -1)),
            "encoder_hidden_states_1": words,
            "encoder_attention_mask_1": (words.abs().amax(-1) > 0).long(),  # all-zero rows are padding
        }


class AudioLDM2Codec(Codec):
    """Sounds of a set length as log-mel spectrograms [B, 1, frames, 64], and back by HiFi-GAN.

    Every sound is scaled to the level of the published data: mean 0, peak .5.
    """

    modality = "audio"
    time = "rows"
    channels = 1

    def __init__(self, vae: Any, vocoder: Any, frames: int) -> None:
        super().__init__(vae)
        self.vocoder, self.frames = vocoder, frames
        self.mel = MelSpectrogram(rate=RATE, hop=HOP, bins=vocoder.config.model_in_dim)

    def read(self, parts: Sequence[Part]) -> Tensor:
        """float32 waveforms [B, N]."""
        clips = [levelled(part, self.frames * HOP) for part in parts if isinstance(part, Audio)]
        return torch.from_numpy(np.stack(clips))

    def prepare(self, numbers: Tensor) -> Tensor:
        return self.mel.denormalize(self.mel(numbers)).to(self.vae.dtype)

    def to_parts(self, tensor: Tensor) -> list[Part]:
        waves = self.vocoder(tensor.squeeze(1))[:, : self.frames * HOP]
        return [Audio(wave, RATE) for wave in waves.float().clamp(-1, 1).cpu().numpy()]

    def encode_source(self, tensor: Tensor) -> Tensor:
        return self.vae.encode(tensor).latent_dist.mode()


def levelled(sound: Audio, length: int) -> np.ndarray:
    """A sound as AudioLDM's data code reads it (`normalize_wav`), float32 [length] at 16 kHz: without its mean, peak at
    PEAK, then padded with silence. Silence stays silence."""
    from codi2.media import to_clip

    wave = to_clip(sound, RATE, length)
    audible = wave[: max(1, round(sound.seconds * RATE))]
    audible -= audible.mean()
    audible *= PEAK / (np.abs(audible).max() + 1e-8)
    return wave


def audioldm2_decoder(parts: dict[str, Any], dim: int, config: DecoderConfig) -> Decoder:
    """A decoder of the parts of an `AudioLDM2Pipeline`, by their names there, for features of width `dim`.

    Args:
        config: its `length` is the number of frames of the spectrogram, 100 a second.
    """
    unet, vae, vocoder = parts["unet"], parts["vae"], parts["vocoder"]
    weight = unet.conv_in.weight
    # the network's first cross-attention reads the states of GPT-2; None stands for self-attention
    widths = [w for w in unet.config.cross_attention_dim[0] if w is not None]
    condition = AudioLDM2Conditioner(
        dim, TextStates(parts["tokenizer_2"], parts["text_encoder_2"], padded=False), width=widths[0]
    ).to(weight.device, weight.dtype)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (unet.config.out_channels, config.length // factor, vocoder.config.model_in_dim // factor)
    codec = AudioLDM2Codec(vae, vocoder, config.length)
    decoder = Decoder(widened(unet), condition, codec, parts["scheduler"], config, latent_shape=shape)
    return decoder.eval().requires_grad_(False)


def load(source: str | Path, config: DecoderConfig, dim: int, dtype: torch.dtype) -> Decoder:
    """The decoder in a folder or repo in the layout of `AudioLDM2Pipeline`, with an untrained head."""
    from diffusers import AudioLDM2UNet2DConditionModel, AutoencoderKL, DDIMScheduler
    from transformers import SpeechT5HifiGan, T5EncoderModel, T5TokenizerFast

    classes = {
        "unet": AudioLDM2UNet2DConditionModel,
        "vae": AutoencoderKL,
        "vocoder": SpeechT5HifiGan,
        "scheduler": DDIMScheduler,
        "tokenizer_2": T5TokenizerFast,
        "text_encoder_2": T5EncoderModel,
    }
    return audioldm2_decoder(load_parts(source, classes, dtype), dim, config)

"""The image decoder of `paper`: Stable Diffusion 2.1 unCLIP, conditioned on a regressed feature (appendix B.1).

The feature takes the place of CLIP's image embedding: noised at a noise level, beside a sinusoid of that level, it is
the class embedding. Cross-attention sees the negative prompt's words.

Letters: B batch, K slots, D feature width (1024), L words (77), W width of their states (1024).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding
from PIL import Image as PILImage
from torch import Tensor

from codi2.config import DecoderConfig
from codi2.diffuse.codec import ImageCodec, cover
from codi2.diffuse.decoder import Decoder, Sampling
from codi2.diffuse.load import load_parts, widened
from codi2.diffuse.words import TextStates, WordsCondition
from codi2.errors import WeightsError


class UnclipCondition(WordsCondition):
    """Features [B, K, D], of which the joint vector counts, and words [B, L, W] → class labels [B, 2·D] and states.

    Args:
        normalizer: `StableUnCLIPImageNormalizer`, mean and spread of the embeddings that the network was trained on.
        levels: the noise schedule of embeddings.
    """

    def __init__(self, normalizer: Any, levels: Any, words: TextStates) -> None:
        super().__init__(words)
        self.normalizer, self.levels = normalizer, levels
        self._norm: float | None = None

    def expected_norm(self) -> float:
        """Root mean squared norm of the embeddings of training, from the normaliser's statistics."""
        if self._norm is None:
            mean, std = self.normalizer.mean.detach().float(), self.normalizer.std.detach().float()
            self._norm = float((mean.square() + std.square()).sum().sqrt())
        return self._norm

    def noised(self, features: Tensor, noise: Tensor, noise_level: Tensor) -> Tensor:
        """Always mixed, at level 0 too, as the network was trained: scaled to unit variance, noised, scaled back."""
        mean, std = self.normalizer.mean, self.normalizer.std
        mixed: Tensor = self.levels.add_noise((features - mean) / std, noise, noise_level) * std + mean
        return mixed

    def forward(self, features: Tensor, noise_level: Tensor, text: Tensor | None = None) -> dict[str, Any]:
        joint = features[:, 0]
        sinusoid = get_timestep_embedding(noise_level, joint.shape[1], flip_sin_to_cos=True, downscale_freq_shift=0)
        labels = torch.cat([joint, sinusoid.to(joint)], dim=1)
        labels = labels * (joint.abs().amax(1, keepdim=True) > 0)  # zeros are the unconditional embedding
        states = self.no_words.to(joint).expand(len(joint), -1, -1) if text is None else text.to(joint)
        return {"class_labels": labels, "encoder_hidden_states": states}


class UnclipCodec(ImageCodec):
    """Pictures of the network's size, cropped as ImageBind and CLIP crop them: shorter side, centre square. What the
    feature does not tell is not drawn either. Sources are given to the fidelity path unscaled, as in InstructPix2Pix.
    """

    def __init__(self, vae: Any, size: int) -> None:
        super().__init__(vae)
        self.size = size

    def fit(self, pixels: PILImage.Image) -> PILImage.Image:
        return cover(pixels, self.size, self.size)

    def encode_source(self, tensor: Tensor) -> Tensor:
        return self.vae.encode(tensor).latent_dist.mode()


def unclip_decoder(parts: dict[str, Any], sampling: Sampling) -> Decoder:
    """A decoder of the parts of a `StableUnCLIPImg2ImgPipeline`, by their names there."""
    unet, vae = parts["unet"], parts["vae"]
    condition = UnclipCondition(
        parts["image_normalizer"],
        parts["image_noising_scheduler"],
        TextStates(parts["tokenizer"], parts["text_encoder"], padded=True),
    )
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    codec = UnclipCodec(vae, unet.config.sample_size * factor)
    return Decoder(widened(unet), condition, codec, parts["scheduler"], sampling).eval().requires_grad_(False)


def load(source: str | Path, config: DecoderConfig, dim: int, sampling: Sampling, dtype: torch.dtype) -> Decoder:
    """The decoder in a folder or repo in the layout of `StableUnCLIPImg2ImgPipeline`.

    Raises:
        WeightsError: its embeddings are not `dim` wide.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
    from transformers import CLIPTextModel, CLIPTokenizer

    classes = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "image_normalizer": StableUnCLIPImageNormalizer,
        "image_noising_scheduler": DDPMScheduler,
        "scheduler": DDIMScheduler,
        "tokenizer": CLIPTokenizer,
        "text_encoder": CLIPTextModel,
    }
    parts = load_parts(source, classes, dtype)
    width = parts["image_normalizer"].mean.shape[1]
    if width != dim:
        raise WeightsError(
            f"the decoder {str(source)!r} takes embeddings of {width} numbers, and the features are {dim}: "
            "choose one whose width is that of heads.feature_dim"
        )
    return unclip_decoder(parts, sampling)

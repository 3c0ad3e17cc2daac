"""The image decoder of `paper`: Stable Diffusion 2.1 unCLIP, conditioned on a regressed feature (appendix B.1).

The feature replaces CLIP's image embedding: the class embedding is the noised feature and a sinusoid of its noise
level. Cross-attention reads the negative prompt's words.

Letters: B batch, K slots, D feature width (1024), L words (77), W width of their states (1024).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from PIL import Image as PILImage
from torch import Tensor, nn

from codi2.config import DecoderConfig
from codi2.diffuse.codec import ImageCodec
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.load import load_parts, widened
from codi2.diffuse.words import TextStates, WordsConditioner
from codi2.media.prepare import cover


class UnclipConditioner(WordsConditioner):
    """Features [B, K, D], of which the joint vector is used, and words [B, L, W] → class labels [B, 2·D] and states.

    Args:
        normalizer: `StableUnCLIPImageNormalizer`, mean and standard deviation of the embeddings of training.
        levels: the noise schedule of embeddings.
        dim: D; None: the width of embeddings. If D is another width, a trained linear map converts features.
    """

    def __init__(self, normalizer: Any, levels: Any, words: TextStates, dim: int | None = None) -> None:
        super().__init__(words)
        self.normalizer, self.levels = normalizer, levels
        self._norm: float | None = None
        self.embedding: int = normalizer.mean.shape[-1]
        self.head: nn.Linear | None = None
        if dim not in (None, self.embedding):
            self.head = nn.Linear(dim, self.embedding, bias=False).to(normalizer.mean.device, normalizer.mean.dtype)

    def embedding_width(self, dim: int) -> int:
        return self.embedding

    def mapped(self, features: Tensor) -> Tensor:
        """Mapped vectors have the norm of embeddings; an absent feature stays all zeros."""
        if self.head is None:
            return features
        return F.normalize(self.head(features.to(self.head.weight.dtype)), dim=-1) * self.expected_norm()

    def expected_norm(self) -> float:
        """Root mean squared norm of the embeddings of training, from the normaliser's statistics."""
        if self._norm is None:
            mean, std = self.normalizer.mean.detach().float(), self.normalizer.std.detach().float()
            self._norm = float((mean.square() + std.square()).sum().sqrt())
        return self._norm

    def noised(self, features: Tensor, noise: Tensor, noise_level: Tensor) -> Tensor:
        """Scaled to unit variance, noised and scaled back; at level 0 too, as in the network's training."""
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
    """Pictures of the network's size, cropped as by ImageBind and CLIP to the centre square. So the decoder draws what
    the feature describes. The sources of the fidelity path are not scaled, as in InstructPix2Pix.
    """

    def __init__(self, vae: Any, size: int) -> None:
        super().__init__(vae)
        self.size = size

    def fit(self, pixels: PILImage.Image) -> PILImage.Image:
        return cover(pixels, self.size, self.size)

    def encode_source(self, tensor: Tensor) -> Tensor:
        return self.vae.encode(tensor).latent_dist.mode()


def unclip_decoder(parts: dict[str, Any], config: DecoderConfig, dim: int | None = None) -> Decoder:
    """A decoder of the parts of a `StableUnCLIPImg2ImgPipeline`, by their names there, for features of width `dim`; by
    default of its embeddings' own."""
    unet, vae = parts["unet"], parts["vae"]
    condition = UnclipConditioner(
        parts["image_normalizer"],
        parts["image_noising_scheduler"],
        TextStates(parts["tokenizer"], parts["text_encoder"], padded=True),
        dim,
    )
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    codec = UnclipCodec(vae, unet.config.sample_size * factor)
    return Decoder(widened(unet), condition, codec, parts["scheduler"], config).eval().requires_grad_(False)


def load(source: str | Path, config: DecoderConfig, dim: int, dtype: torch.dtype) -> Decoder:
    """The decoder in a folder or repo in the layout of `StableUnCLIPImg2ImgPipeline`."""
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
    return unclip_decoder(load_parts(source, classes, dtype), config, dim)

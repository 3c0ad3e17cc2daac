"""The autoencoders: the VAE in whose latents a decoder works, and the compact one, whose latent is a feature.

Both learn to reconstruct media: pictures, log-mel spectrograms or the differences of adjacent frames of clips, original
and edited. Their latents differ.

| part | latent | exported |
|---|---|---|
| `image_vae`, `audio_vae` | a sample of the posterior, with a KL penalty | the `AutoencoderKL` |
| `image_features`, `audio_features`, `video_features` | S vectors, layer-normalised, with noise | the encoder alone |

Letters: B batch, C channels, H W size, c h w the latent's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codi2.data import cache
from codi2.diffuse.build import FRAMES, INPUT_CHANNELS, SIZES, new_vae
from codi2.diffuse.codec import edges
from codi2.encode.compact import CompactDecoder, CompactEncoder
from codi2.encode.tiny import clip_changes
from codi2.encode.trunks import ImageTrunk, load_trunk
from codi2.modalities import Modality
from codi2.tensors import device_of
from codi2.train.config import TrainConfig, options_of
from codi2.train.contract import Recipe
from codi2.train.parts.clips import TrainingClips, batches, held_out_clips
from codi2.train.parts.draw import torch_at
from codi2.train.parts.media import TrainingMedia, held_out_media
from codi2.train.parts.reconstruction import Perception, change_terms, reconstruction_terms, total
from codi2.train.shares import WHOLE, Share
from codi2.weight_files import export_module, restore_module

PATCH = 2  # side of the patches that are the input of the first level
NOISE = 0.1  # standard deviation added to compact features, which have unit variance
KL_WEIGHT = 5e-4  # on the mean KL per number of a VAE's latent
MAPS: dict[str, tuple[int, int, int]] = {
    **{modality: (INPUT_CHANNELS[modality], *SIZES[modality]) for modality in ("image", "audio")},
    "video": (3 * (FRAMES - 1), SIZES["video"][0] // 2, SIZES["video"][1] // 2),
}
"""C, H, W of an autoencoder's input."""
PERCEPTION_SIZE = 96  # pixels of a side to which pictures are enlarged for the trunk


@dataclass(frozen=True)
class AutoencoderOptions:
    channels: tuple[int, ...] = (48, 96, 160)  # of each level; each level but the last halves the sides
    latent_channels: int = 16  # c
    perception_weight: float = 0.5  # of the comparison of pictures through the encoder's trunk
    feature_dim: int = 256  # D, of compact features

    def latent_shape(self, modality: Modality) -> tuple[int, int, int]:
        """[c, h, w]."""
        height, width = (side // (PATCH * 2 ** (len(self.channels) - 1)) for side in MAPS[modality][1:])
        return self.latent_channels, height, width


class VAE(nn.Module):
    """An `AutoencoderKL` on patches: maps [B, C, H, W] ↔ latents [B, c, h, w]."""

    def __init__(self, modality: Modality, options: AutoencoderOptions) -> None:
        super().__init__()
        self.net = new_vae(modality, options.channels, options.latent_channels, PATCH)

    def encode(self, maps: Tensor) -> Any:
        """The posterior."""
        return self.net.encode(F.pixel_unshuffle(maps, PATCH)).latent_dist

    def decode(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(self.net.decode(latents).sample, PATCH)

    def forward(self, maps: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The reconstructed maps, and the penalty on the latent []. Without `noise` [B, c, h, w]: from the mode."""
        posterior = self.encode(maps)
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        mean, log = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean**2 + log.exp() - 1 - log).mean()
        return self.decode(latents), KL_WEIGHT * kl


class Compact(nn.Module):
    """A compact autoencoder: maps [B, C, H, W] ↔ features [B, S, D]."""

    def __init__(self, modality: Modality, options: AutoencoderOptions) -> None:
        super().__init__()
        shape, channels = options.latent_shape(modality), tuple(options.channels)
        self.encoder = CompactEncoder(MAPS[modality][0], shape, channels, PATCH, options.feature_dim)
        self.decoder = CompactDecoder(dict(self.encoder.config))

    def forward(self, maps: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `VAE`; the noise is [B, c, h, w] too."""
        features = self.encoder(maps)
        if noise is not None:
            features = features + NOISE * noise.flatten(1).view_as(features)
        return self.decoder(features), features.new_zeros(())


class AutoencoderRecipe(Recipe):
    divides = True

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.options = config, options_of(AutoencoderOptions, config)
        modality, _, kind = config.part.partition("_")
        self.modality: Modality = cast(Modality, modality)
        self.media = TrainingClips(config.seed) if modality == "video" else TrainingMedia(self.modality, config.seed)
        torch.manual_seed(config.seed)
        self.model: VAE | Compact = (VAE if kind == "vae" else Compact)(self.modality, self.options)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.perception: Perception | None = None
        if self.modality == "image" and self.options.perception_weight:
            trunk = load_trunk("image")
            assert isinstance(trunk, ImageTrunk)
            self.perception = Perception(trunk.net, PERCEPTION_SIZE)
        self.frozen = self.perception

    def batch(self, step: int, share: Share = WHOLE) -> dict[str, Tensor]:
        size = self.config.batch_size
        maps = maps_of(self.modality, self.media.batch(step, size, share))
        shape = (size, *self.options.latent_shape(self.modality))
        noise = torch.randn(shape, generator=torch_at(self.config.seed, step))
        return {"maps": maps, "noise": noise[share.rows(size)]}

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = batch["maps"].contiguous(memory_format=torch.channels_last)
        reconstructed, penalty = self.model(maps, batch["noise"])
        if self.modality == "video":
            terms = change_terms(reconstructed, maps)
            return {"loss": terms["square"] + 2 * terms["tone"] + penalty, **terms}
        terms = reconstruction_terms(reconstructed, maps)
        if self.perception is not None:
            terms["perception"] = self.perception(reconstructed, maps)
        perception = self.options.perception_weight * terms.get("perception", penalty.new_zeros(()))
        return {"loss": total(terms) + perception + penalty, **terms, "penalty": penalty}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """On the split `val`: PSNR in dB, mean absolute gradient divided by that of the true media, distance in the
        trunk's features, and for clips the correlation with the true differences, which is 0 if all motion is lost."""
        psnr, own_edges, true_edges, distances, correlations = [], [], [], [], []
        for held in held_out_maps(self.modality):
            maps = held.to(device_of(self.model))
            reconstructed = self.model(maps)[0].clamp(-1, 1)
            psnr.append(10 * torch.log10(4 / (reconstructed - maps).square().mean((1, 2, 3)).clamp(min=1e-6)))
            own_edges.append(edges(reconstructed))
            true_edges.append(edges(maps))
            pair = torch.stack([reconstructed.flatten(), maps.flatten()]).float()
            correlations.append(float(torch.corrcoef(pair)[0, 1]))
            if self.perception is not None:
                distances.append(float(self.perception(reconstructed, maps)))
        figures = {"psnr": float(torch.cat(psnr).mean())}
        figures["sharpness"] = float(torch.cat(own_edges).mean() / torch.cat(true_edges).mean())
        if self.modality == "video":
            figures["correlation"] = sum(correlations) / len(correlations)
        return figures | ({"perception": sum(distances) / len(distances)} if distances else {})

    @torch.no_grad()
    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        if isinstance(self.model, Compact):
            export_module(self.model.encoder, folder, provenance)
            return
        inputs = (self.batch(step)["maps"].to(device_of(self.model)) for step in range(16))
        latents = [self.model.encode(maps).mode() for maps in inputs]
        # diffusion needs latents of unit variance
        self.model.net.register_to_config(scaling_factor=float(1 / torch.cat(latents).std()))
        export_module(self.model.net, folder, provenance)

    def restore(self, folder: Path) -> None:
        restore_module(self.model.encoder if isinstance(self.model, Compact) else self.model.net, folder)


def maps_of(modality: Modality, media: np.ndarray) -> Tensor:
    """Media → the input of an autoencoder [B, C, H, W]; for clips uint8 [B, F, 64, 64, 3] the differences of frames."""
    return clip_changes(torch.from_numpy(media)) if modality == "video" else cache.codec_inputs(modality, media)


def held_out_maps(modality: Modality) -> Iterator[Tensor]:
    """Batches [B, C, H, W] of the split `val`."""
    if modality != "video":
        return held_out_media(modality)
    return (maps_of(modality, clips) for clips in batches(held_out_clips()))


def build(config: TrainConfig) -> AutoencoderRecipe:
    return AutoencoderRecipe(config)

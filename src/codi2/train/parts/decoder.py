"""The diffusion decoders, on cached features and latents, with the fidelity path in the same run (section 5.1).

A sample is a target and, at a set rate, a source: another rendering of the same concept or the same item under another
edit. The network sees the target's feature (sometimes noised, sometimes its joint vector alone, sometimes nothing),
the source's latent, and at times the caption.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi2.data import cache
from codi2.diffuse.build import new_decoder
from codi2.diffuse.load import load_codec, load_decoder
from codi2.encode.tiny import load_heads
from codi2.hub import shipped
from codi2.train.config import TrainConfig
from codi2.train.parts.draw import numpy_at, torch_at


@dataclass(frozen=True)
class DecoderOptions:
    modality: str
    channels: tuple[int, ...] = (96, 128, 176)  # of the UNet's levels
    views: tuple[str, ...] = ("plain",)
    plain_share: float = 0.5  # of targets that are unedited
    source_share: float = 0.4  # of samples that are given a source
    drop_feature: float = 0.1  # rate of the unconditional branch
    drop_patches: float = 0.3  # rate of the joint vector alone
    caption_share: float = 0.3  # of samples that are given their caption
    noised_share: float = 0.5  # of features that are noised
    max_noise_level: int = 500  # of 1000
    dim: int = 256
    weights: str = ""  # folder with encoder heads and codec; empty: the shipped ones
    start: str = ""  # folder of a decoder to start from


@dataclass
class Batch:
    latents: Tensor  # [B, c, h, w]
    source: Tensor  # [B, c, h, w], zeros: none
    features: Tensor  # [B, T, D]
    noise_level: Tensor  # [B]
    text: Tensor  # [B, D]
    t: Tensor  # [B]
    noise: Tensor  # as latents


class DecoderRecipe:
    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.options = options = DecoderOptions(**config.options)
        weights = Path(options.weights) if options.weights else shipped("tiny")
        folder = weights / options.modality
        self.heads = load_heads(weights / "encoder" / "heads.safetensors", options.dim)
        items = cache.items(options.modality)
        self.features = np.stack([_features(self.heads, options.modality, view) for view in options.views])
        self.latents = np.stack([cache.latents(options.modality, folder, view) for view in options.views])
        self.text = _text(self.heads, [item.caption for item in items])
        self.train = cache.rows(options.modality, "train")
        self.siblings = _siblings(items, self.train)
        torch.manual_seed(config.seed)
        codec = load_codec(options.modality, folder)
        if options.start:
            self.decoder = load_decoder(options.modality, Path(options.start), codec=codec)
        else:
            self.decoder = new_decoder(codec, self.latents.shape[2:], options.channels, options.dim, self.features.shape[2])
        for part in (self.decoder.unet, self.decoder.conditioner):
            part.requires_grad_(True)
        self.model = nn.ModuleDict({"unet": self.decoder.unet, "conditioner": self.decoder.conditioner})

    def batch(self, step: int) -> Batch:
        draw, size = numpy_at(self.config.seed, step), self.config.batch_size
        rows = draw.choice(self.train, size)
        plain = draw.random(size) < self.options.plain_share
        views = np.where(plain, 0, draw.integers(len(self.options.views), size=size))
        source_rows, source_views = self._sources(draw, rows, views)
        return self._assemble(rows, views, source_rows, source_views, draw, torch_at(self.config.seed, step))

    def _sources(self, draw: np.random.Generator, rows: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A source for each target: −1 where there is none."""
        source_rows, source_views = np.full(len(rows), -1), np.zeros(len(rows), dtype=np.int64)
        for i in np.flatnonzero(draw.random(len(rows)) < self.options.source_share):
            others = self.siblings.get(int(rows[i]), ())
            if views[i] == 0 and len(others):
                source_rows[i] = draw.choice(others)  # another rendering of the concept
            elif views[i] != 0 or len(self.options.views) > 1:
                source_rows[i] = rows[i]  # the same item under another edit, mostly none
                source_views[i] = draw.choice(np.delete(np.arange(len(self.options.views)), views[i])) if views[i] == 0 else 0
        return source_rows, source_views

    def _assemble(
        self,
        rows: np.ndarray,
        views: np.ndarray,
        source_rows: np.ndarray,
        source_views: np.ndarray,
        draw: np.random.Generator,
        generator: torch.Generator,
    ) -> Batch:
        options, size = self.options, len(rows)
        latents = torch.from_numpy(self.latents[views, rows].astype(np.float32))
        source = torch.from_numpy(self.latents[source_views, source_rows].astype(np.float32))
        source[source_rows < 0] = 0
        features = torch.from_numpy(self.features[views, rows].astype(np.float32))
        levels = draw.integers(1, options.max_noise_level, size=size) * (draw.random(size) < options.noised_share)
        noise_level = torch.from_numpy(levels)
        conditioner = self.decoder.conditioner
        features = conditioner.noised(features, torch.randn(features.shape, generator=generator), noise_level)
        features[draw.random(size) < options.drop_patches, 1:] = 0
        features[draw.random(size) < options.drop_feature] = 0
        text = self.text[rows].clone()
        text[draw.random(size) >= options.caption_share] = 0
        t = torch.from_numpy(draw.integers(self.decoder.scheduler.config.num_train_timesteps, size=size))
        noise = torch.randn(latents.shape, generator=generator)
        return Batch(latents, source, features, noise_level, text, t, noise)

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        b = batch
        loss = self.decoder.loss(b.latents, b.noise, b.t, b.features, b.noise_level, b.source, b.text)
        return {"loss": loss.mean()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss on held-out renderings: with the true feature, with another item's, and with a source as well."""
        rows = cache.rows(self.options.modality, "test_rendering", "val")[:128]
        t = torch.linspace(20, 980, len(rows)).long()
        latents = torch.from_numpy(self.latents[0, rows].astype(np.float32))
        features = torch.from_numpy(self.features[0, rows].astype(np.float32))
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        level, nothing = torch.zeros(len(rows), dtype=torch.long), torch.zeros_like(latents)

        def loss(features: Tensor) -> float:
            return float(self.decoder.loss(latents, noise, t, features, level, nothing).mean())

        joint_only = torch.cat([features[:, :1], torch.zeros_like(features[:, 1:])], dim=1)
        return {
            "loss": loss(features),
            "joint_only": loss(joint_only),
            "others_feature": loss(features.roll(7, dims=0)),
            "unconditional": loss(torch.zeros_like(features)),
        }

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        from codi2.train.export import export_module

        export_module(self.decoder.unet, folder / "unet", provenance)
        export_module(self.decoder.conditioner, folder / "conditioner", provenance)
        self.decoder.scheduler.save_pretrained(folder / "scheduler")


@torch.inference_mode()
def _features(heads: nn.ModuleDict, modality: str, view: str) -> np.ndarray:
    trunk = cache.trunk_features(modality, view)
    return np.concatenate([heads[modality](torch.from_numpy(x.astype(np.float32))).half().numpy() for x in np.array_split(trunk, 32)])


@torch.no_grad()
def _text(heads: nn.ModuleDict, captions: list[str]) -> Tensor:
    return heads["phrase"](torch.from_numpy(cache.phrase_features(captions).astype(np.float32)))[:, 0].clone()


def _siblings(items: list[Any], train: np.ndarray) -> dict[int, list[int]]:
    """Row → rows of the other renderings of the same concept, training items only."""
    groups: dict[str, list[int]] = {}
    for row in train:
        groups.setdefault(items[row].group, []).append(int(row))
    return {row: [other for other in rows if other != row] for rows in groups.values() for row in rows}


def build(config: TrainConfig) -> DecoderRecipe:
    return DecoderRecipe(config)

"""Parts other than the language model at their published sizes on the virtual GPU: see `full_size`."""

from __future__ import annotations

import torch
from torch import nn

from codi2.config import PRESETS
from codi2.diffuse.joint import joint_attention
from codi2.dry_run import parts
from codi2.dry_run.virtual import DEVICE
from codi2.train.config import TrainConfig, options_of
from codi2.train.full_size import published_decoders, zeros_of
from codi2.train.parts import captions, published, published_joint
from codi2.train.parts.diffusion_loss import for_training
from codi2.train.parts.language_batch import DiffusionBatch
from codi2.train.place import placement_of

WORDS = 77  # token ids of a caption, as both CLIP and ImageBind read it


class FullDecoder(published.PublishedRecipe):
    """As `PublishedRecipe`, without weights and data."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.options = config, options_of(published.PublishedOptions, config)
        self.placement = placement_of(config)
        model, modality = PRESETS[self.options.model], self.options.modality
        published.check_modality(modality, model)
        self.slots, self.width, self.phases = model.heads.num_slots[modality], model.heads.feature_dim, (modality,)
        decoder = published_decoders(self.width)[modality]
        with torch.device("meta"):  # where LoRA is made
            self.decoder = self._decoder(decoder)
        self.frozen = for_training(self.decoder)

    def fabricated(self, phase: str, ranks: int) -> published.PublishedBatch:
        """One process's batch of a pass: zeros, in the sizes of a real batch."""
        count = max(1, self.config.batch_size // (ranks * self.config.accumulate))
        denoised: DiffusionBatch = zeros_of(self.decoder, phase, count, self.width)
        features = torch.zeros(count, self.slots, self.width)
        return published.PublishedBatch(denoised, features, {}, torch.zeros(count, 1, 1), features)

    def finish(self, batch: published.PublishedBatch) -> published.PublishedBatch:
        return batch


class FullCaptions(captions.CaptionRecipe):
    """As `CaptionRecipe`; of the networks that make the states of a caption, only the largest runs (CLIP's, T5's)."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.options = config, options_of(captions.CaptionOptions, config)
        self.dtype = placement_of(config).dtype
        model, modality = PRESETS[self.options.model], self.options.modality
        published.check_modality(modality, model)
        self.width, self.phases = model.heads.feature_dim, (modality,)
        self._take(published_decoders(self.width)[modality])
        with torch.device("meta"):
            words = parts.clip_text() if modality == "video" else parts.t5_encoder()
            self.imagebind, self.words = parts.imagebind(), words
        self.frozen = nn.ModuleList([self.imagebind, words]).requires_grad_(False)

    def fabricated(self, phase: str, ranks: int) -> captions.CaptionBatch:
        """One process's batch of a pass."""
        count = max(1, self.config.batch_size // (ranks * self.config.accumulate))
        return captions.CaptionBatch([""] * count, torch.zeros(count, dtype=torch.bool))

    @torch.no_grad()
    def finish(self, batch: captions.CaptionBatch) -> captions.CaptionBatch:
        ids = torch.zeros(len(batch.captions), WORDS, dtype=torch.long, device=DEVICE)
        self.imagebind("text", ids)
        self.words(ids)
        batch.features = torch.zeros(len(ids), 1, self.width)
        batch.states = torch.zeros(len(ids), self.head.out_features)
        return batch


class FullJoint(published_joint.PublishedJointRecipe):
    """As `PublishedJointRecipe`, on clips with their sound."""

    phases = ("video",)

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.options = config, options_of(published_joint.PublishedJointOptions, config)
        model = PRESETS[self.options.model]
        self.width, self.slots = model.heads.feature_dim, model.heads.num_slots
        decoders = published_decoders(self.width)
        with torch.device("meta"):
            layers = joint_attention(decoders)
        self._take(decoders, layers)

    def fabricated(self, phase: str, ranks: int) -> published_joint.PublishedJointBatch:
        """One process's batch of a pass: zeros, in the sizes of a real batch."""
        count = max(1, self.config.batch_size // (ranks * self.config.accumulate))
        denoised = {m: zeros_of(self.decoders[m], m, count, self.width) for m in ("audio", "video")}
        features = {m: torch.zeros(count, self.slots[m], self.width) for m in denoised}
        return published_joint.PublishedJointBatch(denoised, features, {})

    def finish(self, batch: published_joint.PublishedJointBatch) -> published_joint.PublishedJointBatch:
        return batch

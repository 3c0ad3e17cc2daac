"""The diffusion decoders, on cached features and latents, with the fidelity path in the same run (section 5.1).

A sample is what a task of section 4 answers with, and the source that the task edits, if it has one. The network sees
the target's feature (sometimes noised, sometimes its joint vector alone, sometimes nothing), the source's latent at a
set rate, and at times the caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi2.data import cache
from codi2.data.tasks import TASKS, Example, Ref, caption_of
from codi2.diffuse.build import new_decoder
from codi2.diffuse.decoder import Sampling
from codi2.diffuse.load import load_codec
from codi2.encode.tiny import ImageTrunk, load_trunk
from codi2.errors import ConfigError
from codi2.prompt.parts import Phrase
from codi2.train.config import TrainConfig
from codi2.train.parts.draw import numpy_at, torch_at
from codi2.train.parts.reconstruction import Perception, reconstruction_terms, total
from codi2.train.parts.store import Store, weights_folder, world


@dataclass(frozen=True)
class DecoderOptions:
    modality: str
    tasks: dict[str, float] = field(default_factory=dict)  # task → share of the samples
    channels: tuple[int, ...] = (48, 128, 192)  # of the UNet's levels
    drop_source: float = 0.25  # rate at which a task's source is withheld
    drop_feature: float = 0.1  # rate of the unconditional branch
    joint_alone: float = 0.15  # rate at which all but the joint vector is withheld
    no_appearance: float = 0.0  # rate at which the appearance token is
    caption_share: float = 0.3  # of samples that are given their caption
    noised_share: float = 0.5  # of features that are noised
    max_noise_level: int = 500  # of 1000
    from_noise_share: float = 0.0  # of the samples are at the last timestep, beside those that are there by chance
    predicted: int = 0  # examples whose feature is a predicted one; 0: true features only
    predicted_by: str = "language_model"  # the trained one, or least_squares
    predicted_share: float = 0.5  # of the samples, where there are such examples
    feature_norm: float = 16.0  # that a predicted joint vector is brought to, as when the model generates
    dim: int = 256
    weights: str = ""  # folder with encoder heads and codec; empty: the shipped ones
    looked_at: int = (
        0  # samples a step whose estimate is decoded and compared as media; the codec learns to decode them
    )
    diffusion_weight: float = 1.0  # of L_DM
    pixel_weight: float = 1.0  # of the comparison number by number
    perception_weight: float = 0.3  # of the comparison through the frozen trunk, for pictures
    aligned_weight: float = 1.0  # therein, of maps compared place by place
    manner_weight: float = 0.0  # therein, of maps compared by their channels' means and spreads
    direction_weight: float = 0.0  # therein, of the way from the source to the estimate
    perception_shift: int = 0  # most pixels that both pictures are moved by before the trunk sees them
    sight_weight: float = 0.1  # of reading a source's appearance token back from its latents


@dataclass
class Batch:
    latents: Tensor  # [B, c, h, w]
    source: Tensor  # [B, c, h, w], zeros: none
    features: Tensor  # [B, T, D]
    noise_level: Tensor  # [B]
    text: Tensor  # [B, D]
    t: Tensor  # [B]
    noise: Tensor  # as latents
    source_appearance: Tensor  # [B, D], zeros: no source
    media: Tensor  # [looked_at, channels, H, W]: the first samples as the codec reads them
    source_media: Tensor  # likewise their sources; white where there is none
    shift: tuple[int, int] = (0, 0)  # of the pictures that the trunk compares
    mirrored: bool = False  # are they


class DecoderRecipe:
    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.options = options = DecoderOptions(**config.options)
        weights = weights_folder(options.weights)
        self.store = Store(weights, options.dim)
        self.world = world(("train",), "mix", {})
        self.items = {item.row: item for item in cache.items(options.modality)}
        self.store.learn_phrases(sorted(self.world.phrases() | {caption_of(item) for item in self.items.values()}))
        if options.predicted:
            from codi2.train.parts.predicted import draw_examples

            self.foretold = draw_examples(self.world, options.tasks, options.modality, options.predicted, config.seed)
            predictions = self._predictions(weights)
        codec = load_codec(options.modality, weights / options.modality)
        torch.manual_seed(config.seed)
        first = Ref(options.modality, 0)
        shape, num_slots = self.store.latents(first).shape, len(self.store.features(first))
        self.decoder = new_decoder(codec, shape, options.channels, options.dim, num_slots)
        if options.predicted:
            self.decoder.sampling = Sampling(feature_norm=options.feature_norm)
            self.predictions = self.decoder.rescaled(predictions)
        trained = ("unet", "conditioner", "draft")
        self.model = nn.ModuleDict({name: getattr(self.decoder, name).requires_grad_(True) for name in trained})
        self.perception: nn.Module | None = None
        if options.looked_at:
            # only the way out of the latents learns: the way in stays, and with it all cached latents
            vae = codec.vae
            self.model["codec"] = nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
            if options.modality == "image" and options.perception_weight:
                trunk = load_trunk("image")
                assert isinstance(trunk, ImageTrunk)
                self.perception = Perception(
                    trunk.net,
                    aligned=options.aligned_weight,
                    manner=options.manner_weight,
                    direction=options.direction_weight,
                )

    def _predictions(self, weights: Path) -> Tensor:
        """[predicted, K, D]: the features of the foretold examples. Raises ConfigError when nobody can predict them."""
        if self.options.predicted_by == "least_squares":
            from codi2.train.parts.foretold import least_squares_features

            return least_squares_features(self.store, self.foretold)
        if self.options.predicted_by != "language_model":
            raise ConfigError(
                f"predicted_by is {self.options.predicted_by!r}; it should be language_model or least_squares"
            )
        from codi2.train.parts.predicted import predicted_features

        return predicted_features(weights, self.store, self.foretold)

    def batch(self, step: int) -> Batch:
        options, draw, size = self.options, numpy_at(self.config.seed, step), self.config.batch_size
        names = list(options.tasks)
        shares = np.array(list(options.tasks.values()), dtype=np.float64)
        chosen = draw.choice(len(names), size, p=shares / shares.sum())
        examples = [self._example(names[i], draw) for i in chosen]
        told: dict[int, Tensor] = {}  # samples that get a predicted feature
        if options.predicted:
            for i in np.flatnonzero(draw.random(size) < options.predicted_share).tolist():
                j = int(draw.integers(options.predicted))
                examples[i], told[i] = self.foretold[j], self.predictions[j]
        keep = draw.random(size) >= options.drop_source
        sources = [
            e.source if k and e.source and e.source.modality == options.modality else None
            for e, k in zip(examples, keep, strict=True)
        ]
        batch = self._assemble(
            [example.answer for example in examples], sources, draw, torch_at(self.config.seed, step)
        )

        levels = draw.integers(1, options.max_noise_level, size=size) * (draw.random(size) < options.noised_share)
        batch.noise_level = torch.from_numpy(levels)
        noise = torch.randn(batch.features.shape, generator=torch_at(self.config.seed + 1, step))
        batch.features = self.decoder.conditioner.noised(batch.features, noise, batch.noise_level)
        batch.features[draw.random(size) < options.joint_alone, 1:] = 0
        for i, feature in told.items():
            batch.noise_level[i], batch.features[i] = 0, 0
            batch.features[i, : len(feature)] = feature
        batch.features[draw.random(size) < options.drop_feature] = 0
        batch.text[draw.random(size) >= options.caption_share] = 0
        if options.no_appearance:
            batch.features[draw.random(size) < options.no_appearance, 1] = 0
        if options.from_noise_share:
            last = self.decoder.diffusion.config.num_train_timesteps - 1
            batch.t[draw.random(size) < options.from_noise_share] = last
        if most := options.perception_shift:
            down, right = draw.integers(-most, most + 1, size=2).tolist()
            batch.shift, batch.mirrored = (down, right), bool(draw.random() < 0.5)
        return batch

    def _example(self, task: str, draw: np.random.Generator) -> Example:
        """One of a task's examples that are answered in the decoder's modality."""
        while (example := TASKS[task](self.world, draw)).answer.modality != self.options.modality:
            pass
        return example

    def _assemble(
        self, targets: list[Ref], sources: list[Ref | None], draw: np.random.Generator, generator: torch.Generator
    ) -> Batch:
        latents = torch.stack([self.store.latents(ref) for ref in targets])
        blank = torch.zeros_like(latents[0])
        return Batch(
            latents=latents,
            source=torch.stack([blank if ref is None else self.store.latents(ref) for ref in sources]),
            features=torch.stack([self.store.features(ref) for ref in targets]),
            noise_level=torch.zeros(len(targets), dtype=torch.long),
            text=torch.stack([self._text(ref) for ref in targets]),
            t=torch.from_numpy(draw.integers(self.decoder.diffusion.config.num_train_timesteps, size=len(targets))),
            noise=torch.randn(latents.shape, generator=generator),
            source_appearance=torch.stack(
                [torch.zeros(self.options.dim) if ref is None else self.store.features(ref)[1] for ref in sources]
            ),
            media=self._media(targets[: self.options.looked_at]),
            source_media=self._media(sources[: self.options.looked_at] if self.options.direction_weight else []),
        )

    def _media(self, refs: Sequence[Ref | None]) -> Tensor:
        """[n, channels, H, W]: as the codec reads them; white for no medium."""
        if not refs:
            return torch.empty(0)
        blank = np.full_like(cache.view(self.options.modality)[0], 255)
        media = np.stack([blank if ref is None else self.store.media(ref) for ref in refs])
        return cache.codec_inputs(self.options.modality, media)

    def _text(self, ref: Ref) -> Tensor:
        """[D]: the caption's feature; zeros for a mix, which has none."""
        if ref.view in cache.MIXES:
            return torch.zeros(self.options.dim)
        return self.store.features(Phrase(caption_of(self.items[ref.row])))[0]

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        b = batch
        loss, estimate = self.decoder.loss_and_estimate(
            b.latents, b.noise, b.t, b.features, b.noise_level, b.source, b.text
        )
        withheld = (b.source == 0).flatten(1).all(1)
        losses = {"no_source": _mean(loss[withheld]), "source": _mean(loss[~withheld])}
        losses["sight"] = self._sight(b, ~withheld)
        whole = self.options.diffusion_weight * loss.mean() + self.options.sight_weight * losses["sight"]
        if len(b.media):
            ours = self.decoder.codec.decode(estimate[: len(b.media)])
            losses |= reconstruction_terms(ours, b.media)
            whole = whole + self.options.pixel_weight * total(losses)
            if self.perception is not None:
                source = b.source_media if len(b.source_media) else None
                edits = ~withheld[: len(b.media)]
                losses["perception"] = self.perception(ours, b.media, source, edits, b.shift, b.mirrored)
                whole = whole + self.options.perception_weight * losses["perception"]
        return {"loss": whole, **losses}

    def _sight(self, b: Batch, given: Tensor) -> Tensor:
        """How far the draft's reading of the sources is from their appearance tokens."""
        draft = self.decoder.draft
        assert draft is not None
        sketched = (b.source[given].flatten(1) @ draft.paint.weight).detach()  # what the paint is, others decide
        return _mean((draft.see(sketched) - b.source_appearance[given]).square().mean(1))

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss on held-out items without a source: with their feature, its joint vector alone, another's, and none."""
        rows = cache.rows(self.options.modality, "test_rendering", "val")[:128]
        refs = [Ref(self.options.modality, int(row)) for row in rows]
        b = self._assemble(refs, [None] * len(refs), np.random.default_rng(0), torch.Generator().manual_seed(0))
        t = torch.linspace(20, 980, len(refs)).long()

        def loss(features: Tensor) -> float:
            return float(self.decoder.loss(b.latents, b.noise, t, features, b.noise_level, b.source).mean())

        joint_only = torch.cat([b.features[:, :1], torch.zeros_like(b.features[:, 1:])], dim=1)
        return {
            "loss": loss(b.features),
            "joint_only": loss(joint_only),
            "others_feature": loss(b.features.roll(7, dims=0)),
            "unconditional": loss(torch.zeros_like(b.features)),
        }

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        from codi2.train.export import export_module

        for name, part in self._parts().items():
            export_module(part, folder / name, provenance)
        self.decoder.scheduler.save_pretrained(folder / "scheduler")

    def restore(self, folder: Path) -> None:
        from codi2.train.export import restore_module

        for name, part in self._parts().items():
            if name != "vae" or (folder / name).is_dir():  # a run that left the codec alone exported none
                restore_module(part, folder / name)

    def _parts(self) -> dict[str, Any]:
        """What the run trains, by the folder that it is kept in."""
        parts = {name: getattr(self.decoder, name) for name in ("unet", "conditioner", "draft")}
        return {**parts, "vae": self.decoder.codec.vae} if self.options.looked_at else parts


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, len(values))


def build(config: TrainConfig) -> DecoderRecipe:
    return DecoderRecipe(config)

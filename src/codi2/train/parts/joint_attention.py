"""Trains joint attention between the denoisers of clips and sounds (CoDi, arXiv:2305.11846), which synchronises them.

The denoisers are frozen. In a sample, the motion of an object is timed to the onsets of a sound. Each modality has its
own timestep. The condition of a clip has its motion feature, another clip's, or none, because a motion that the prior
samples is not timed to the sound that is drawn with it.

Letters: B samples, c h w latent size, F frames, K features, D joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi2.config import TINY
from codi2.data import cache, motions
from codi2.data.scene import is_cut_out
from codi2.diffuse.codec import AudioCodec
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.joint import JointAttention, joint_attention, sample_together
from codi2.diffuse.load import load_decoder
from codi2.diffuse.sampling import SampleOptions
from codi2.diffuse.vocoder import ISTFTVocoder
from codi2.prompt.parts import Audio, Video
from codi2.tensors import device_of
from codi2.train.bank import bank
from codi2.train.config import TrainConfig, options_of
from codi2.train.contract import Recipe
from codi2.train.parts.clips import first_frames
from codi2.train.parts.denoiser import DenoiserOptions, FrozenNetworks
from codi2.train.parts.draw import draw_dropped, epoch_order, numpy_at, torch_at
from codi2.train.place import training_device
from codi2.train.shares import WHOLE, Share
from codi2.weight_files import export_module, load_part, restore_module

MODALITIES = ("video", "audio")
VALIDATED, DRAWN = 48, 16  # held-out samples, and how many of them are drawn
FIRST_FRAME = 0.95  # share of the clips whose source is their first frame; in generation all have one
MOTION = {"own": 0.3, "another's": 0.4, "none": 0.3}  # motion features in the condition of a clip, and their shares
FAMILIAR = 0.5  # share of the samples whose sound is that of the object
UNTIMED = 5  # one of this many training samples has a motion of its own: not all that is drawn together is timed
TRIES = 8


@dataclass(frozen=True)
class JointOptions:
    encoder: str = ""  # this and the next six: exports
    image_features: str = ""
    video_features: str = ""
    audio_features: str = ""
    image_vae: str = ""
    audio_vae: str = ""
    vocoder: str = ""
    video: str = ""  # exports of the denoisers
    audio: str = ""
    samples: int = 6000  # that are drawn and encoded once, and used in every epoch

    def of(self, modality: str) -> DenoiserOptions:
        """The exports on which the denoiser of this modality depends."""
        if modality == "audio":
            return DenoiserOptions(self.encoder, self.audio_features, vae=self.audio_vae)
        return DenoiserOptions(self.encoder, self.image_features, self.video_features, self.image_vae)


@dataclass
class JointBatch:
    """By modality."""

    latents: dict[str, Tensor]  # [B, c, h, w], of clips [B, c, F, h, w]
    source: dict[str, Tensor]  # likewise, zeros: none
    features: dict[str, Tensor]  # [B, K, D]
    t: dict[str, Tensor]  # [B]
    noise: dict[str, Tensor]  # as latents


class TimedPairs:
    """Draws objects with a motion timed to a sound: frames uint8 [F, 64, 64, 3] and samples int16 [40960].

    Args:
        seed: of all random choices.
        split: of the corpus; in `train` every `UNTIMED`-th motion is not timed.
    """

    def __init__(self, seed: int, split: str) -> None:
        self.seed, self.split = seed, split
        self.pictures, self.sounds = cache.rows("image", split), cache.rows("audio", split)
        concepts: dict[str, list[int]] = {}
        for row in self.sounds:
            concepts.setdefault(cache.items("audio")[row].concept, []).append(int(row))
        pairs = [(int(row), concepts.get(cache.items("image")[row].concept)) for row in self.pictures]
        self.familiar = [(row, sounds) for row, sounds in pairs if sounds]

    def is_timed(self, number: int) -> bool:
        return self.split != "train" or number % UNTIMED > 0

    def pair(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        draw = np.random.default_rng((self.seed, number))
        for _ in range(TRIES):
            row, sounds = int(draw.choice(self.pictures)), self.sounds
            if self.familiar and draw.random() < FAMILIAR:
                row, sounds = self.familiar[draw.integers(len(self.familiar))]  # type: ignore[assignment]
            picture = np.asarray(cache.view("image")[row])
            if is_cut_out(picture):
                break
        sound = np.asarray(cache.view("audio")[draw.choice(sounds)])
        return motions.timed(picture, sound, draw) if self.is_timed(number) else (motions.draw(picture, draw), sound)


class JointRecipe(Recipe):
    model: JointAttention
    divides = True

    def __init__(self, config: TrainConfig, encodings: dict[str, FrozenNetworks] | None = None) -> None:
        self.config, self.options = config, options_of(JointOptions, config)
        networks = encodings or {m: FrozenNetworks(m, self.options.of(m)) for m in MODALITIES}  # type: ignore[arg-type]
        self.depends = {f"{m}/{name}": digest for m in MODALITIES for name, digest in networks[m].depends().items()}
        self.encodings = nn.ModuleDict(networks).to(training_device(config))
        self.pairs = pairs = TimedPairs(config.seed, "train")
        depends = {**self.depends, "seed": config.seed, "untimed": UNTIMED, "corpus": cache.corpus().version}
        self.encoded = bank("timed", depends, self.options.samples, lambda places: self._encode(pairs, places))
        with torch.no_grad():
            self.held_out = self._encode(TimedPairs(1, "val"), range(VALIDATED))
        self.encodings.to("cpu")  # not needed on the device any more
        self.decoders = {m: self._decoder(m, networks[m]) for m in MODALITIES}
        self.unets = {m: decoder.unet for m, decoder in self.decoders.items()}
        torch.manual_seed(config.seed)
        self.model = joint_attention(self.decoders)
        self.frozen = nn.ModuleDict(self.decoders)

    def _decoder(self, modality: str, encoding: FrozenNetworks) -> Decoder:
        codec = encoding.codec
        if isinstance(codec, AudioCodec) and self.options.vocoder:
            codec.vocoder = load_part(ISTFTVocoder, Path(self.options.vocoder))
        return load_decoder(modality, Path(getattr(self.options, modality)), TINY.decoders[modality], codec)

    def _encode(self, pairs: TimedPairs, places: Sequence[int]) -> dict[str, Tensor]:
        """`video_latents`, `audio_features`, …: a row for each of the numbered pairs, on the CPU."""
        drawn = {place: pairs.pair(place) for place in places}
        tensors: dict[str, Tensor] = {}
        for index, modality in enumerate(MODALITIES):
            encoding = self.encodings[modality]
            assert isinstance(encoding, FrozenNetworks)
            values = encoding.many(lambda place, index=index: (None, drawn[place][index]), places)  # type: ignore[misc]
            tensors |= {f"{modality}_{name}": values[name] for name in ("latents", "features")}
        return tensors

    def batch(self, step: int, share: Share = WHOLE) -> JointBatch:
        draw, size = numpy_at(self.config.seed, step), self.config.batch_size
        places = epoch_order(self.config.seed, step, size, self.options.samples)
        generator = torch_at(self.config.seed, step)
        rows = share.rows(size)
        motions_of = draw.choice(list(MOTION), size, p=list(MOTION.values()))
        motions_of[[not self.pairs.is_timed(int(place)) for place in places]] = "own"  # else nothing says its motion
        others = draw.integers(self.options.samples, size=size)
        has_first_frame = torch.from_numpy(draw.random(size) < FIRST_FRAME)
        without_feature, without_source = draw_dropped(draw, size)
        encoded = {key: value[places].float() for key, value in self.encoded.items()}
        motion = self.encoded["video_features"][others, -1].float()
        features = encoded["video_features"]
        features[torch.from_numpy(motions_of == "another's"), -1] = motion[torch.from_numpy(motions_of == "another's")]
        features[torch.from_numpy(motions_of == "none"), -1] = 0
        batch = JointBatch({}, {}, {}, {}, {})
        for modality in MODALITIES:
            latents, decoder = encoded[f"{modality}_latents"], self.decoders[modality]
            source = self._first_frame(latents, has_first_frame) if modality == "video" else torch.zeros_like(latents)
            features = encoded[f"{modality}_features"]
            features[without_feature] = 0
            source[without_source] = 0
            batch.latents[modality], batch.source[modality] = latents[rows], source[rows]
            batch.features[modality] = features[rows]
            batch.t[modality] = decoder.process.times(size, generator)[rows]
            batch.noise[modality] = torch.randn(latents.shape, generator=generator)[rows]
        return batch

    def _first_frame(self, latents: Tensor, has_first_frame: Tensor) -> Tensor:
        """Sources of clips [B, c, F, h, w], scaled as by `encode_source`: the first frame in all frames, or zeros."""
        factor = self.decoders["video"].codec.vae.config.scaling_factor
        still = latents[:, :, :1].expand_as(latents) / factor
        return still * has_first_frame.view(-1, 1, 1, 1, 1)

    def losses(self, model: nn.Module, batch: JointBatch) -> dict[str, Tensor]:
        losses = self._joint_losses(batch)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def _joint_losses(self, b: JointBatch) -> dict[str, Tensor]:
        """L_DM of the denoisers with joint attention."""
        noisy = {m: self.decoders[m].noisy(x, b.noise[m], b.t[m]) for m, x in b.latents.items()}
        with self.model.attached(noisy, b.t, self.unets):
            return self._separate_losses(b)

    def _separate_losses(self, b: JointBatch) -> dict[str, Tensor]:
        """L_DM of each denoiser."""
        losses = {}
        for m, x in b.latents.items():
            level = torch.zeros_like(b.t[m])
            losses[m] = self.decoders[m].loss(x, b.noise[m], b.t[m], b.features[m], level, b.source[m]).mean()
        return losses

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """L_DM on held-out samples without motion features, with joint attention and without; and the correlation of
        motion and loudness of drawn samples, with joint attention, without, and with another sample's sound."""
        device, generator = device_of(self.model), torch.Generator().manual_seed(0)
        held = {key: value.float().to(device) for key, value in self.held_out.items()}
        held["video_features"][:, -1] = 0
        first = torch.ones(VALIDATED, dtype=torch.bool, device=device)
        b = JointBatch({}, {}, {}, {}, {})
        for m in MODALITIES:
            b.latents[m], b.features[m] = held[f"{m}_latents"], held[f"{m}_features"]
            b.source[m] = self._first_frame(b.latents[m], first) if m == "video" else torch.zeros_like(b.latents[m])
            b.t[m] = self.decoders[m].process.times(VALIDATED, generator).to(device)
            b.noise[m] = torch.randn(b.latents[m].shape, generator=generator).to(device)
        figures = {f"{m}_together": float(x) for m, x in self._joint_losses(b).items()}
        figures |= {f"{m}_alone": float(x) for m, x in self._separate_losses(b).items()}
        if self.options.vocoder:
            figures |= self._synchrony({m: b.features[m][:DRAWN] for m in MODALITIES})
        return figures

    def _synchrony(self, features: dict[str, Tensor]) -> dict[str, float]:
        pairs = TimedPairs(1, "val")
        frames = first_frames([pairs.pair(i)[0] for i in range(DRAWN)])
        options = {"video": SampleOptions(sources=frames), "audio": SampleOptions()}
        lead = TINY.joint.lead if TINY.joint else {}

        def states() -> dict[str, Any]:
            return {m: self.decoders[m].sampler_state(x, range(DRAWN), options[m]) for m, x in features.items()}

        joint = sample_together(self.model, self.decoders, states(), lambda done, of: None, lead)
        separate = {m: self.decoders[m].generate_latents(x, range(DRAWN), options[m]) for m, x in features.items()}
        other = {"video": joint["video"], "audio": joint["audio"].roll(1, dims=0)}
        samples = {"synchrony": joint, "synchrony_separate": separate, "synchrony_other_sound": other}
        return {name: self._correlation(latents) for name, latents in samples.items()}

    def _correlation(self, latents: dict[str, Tensor]) -> float:
        """Mean correlation of the motion of clips and the loudness of their sounds."""
        clips, sounds = (self.decoders[m].media(latents[m]) for m in MODALITIES)
        values = []
        for clip, sound in zip(clips, sounds, strict=True):
            assert isinstance(clip, Video) and isinstance(sound, Audio)
            values.append(motions.synchrony(np.stack([np.asarray(frame) for frame in clip.frames]), sound.samples))
        return float(np.mean(values))

    def provenance(self) -> dict[str, Any]:
        return {"frozen_sha256": self.depends, "corpus": cache.corpus().version}

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        export_module(self.model, folder, provenance)

    def restore(self, folder: Path) -> None:
        restore_module(self.model, folder)


def build(config: TrainConfig) -> JointRecipe:
    return JointRecipe(config)

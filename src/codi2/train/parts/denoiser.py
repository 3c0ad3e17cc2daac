"""Trains the denoising network of a decoder, in the latents of its VAE, with the fidelity path (section 5.1).

It reads the noisy latent, the source's latent, and the features of the target: in the class embedding, by
cross-attention, and the compact ones as a map. Features are noised and dropped, and sources are dropped, as
classifier-free guidance needs it.

The latents of a clip are those of its frames in the VAE of pictures; one network works over space and time. The source
of a clip is a clip or its first frame.

`model` is for the last part of a decoder's training: some samples are answers of training records, with the features
that the model samples for them (`sampled`) in place of the true ones. For a decoder that edits by instruction alone, a
baseline, all are, with the joint vectors of the instructions.

Letters: B samples, c h w latent size (of clips c F h w), K features, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from codi2.config import TINY
from codi2.data import cache, edits
from codi2.diffuse.build import new_decoder
from codi2.diffuse.codec import AudioCodec, Codec, ImageCodec, edges
from codi2.diffuse.load import clip_codec
from codi2.diffuse.sampling import SampleOptions
from codi2.encode.compact import CompactEncoder
from codi2.encode.tiny import TinyEncoder, load_joint_heads
from codi2.encode.trunks import load_trunk
from codi2.hub import sha256_of
from codi2.media.mel import MelSpectrogram
from codi2.modalities import Modality
from codi2.prompt.parts import Part
from codi2.tensors import device_of, masked_mean
from codi2.train.bank import SHARD, bank
from codi2.train.config import TrainConfig, options_of
from codi2.train.contract import Recipe
from codi2.train.parts.clips import TrainingClips, first_frames, held_out_pairs
from codi2.train.parts.draw import draw_dropped, epoch_order, numpy_at, torch_at
from codi2.train.parts.pairs import Pair, TrainingPairs
from codi2.train.parts.sampled import Answers, InstructedAnswers, SampledAnswers
from codi2.train.place import training_device
from codi2.train.shares import WHOLE, Share
from codi2.weight_files import export_module, load_part, restore_module

CALL = 100  # samples per call of the frozen networks
SHOWN, VALIDATED = 16, 192  # held-out media
JOINT_ALONE = 0.1  # rate at which the compact features are dropped
MOTION_DROPPED = 0.15  # rate at which the last feature of a clip, its motion, is dropped
NAMED = 0.5  # share of the samples without features that have the joint vector as their text, as negative prompts do
ADAPTATION_SEED = 100  # is added to the run's for the noise of an adaptation: the run before it had the same pairs
ANSWERS_SEED = 3  # is added to the run's: the language model and the prior have trained on records of the run's seed
NOISED, MAX_NOISE_LEVEL = 0.5, 500  # share of the features that are noised; largest of 1000 levels


@dataclass(frozen=True)
class DenoiserOptions:
    encoder: str = ""  # export of the encoder's heads
    features: str = ""  # export of the compact encoder, of clips that of pictures
    motion: str = ""  # export of the compact encoder of a clip's changes
    vae: str = ""  # export of the VAE
    samples: int = 60_000  # pairs that are drawn and encoded once, and used in every epoch
    channels: tuple[int, ...] = (128, 256)  # of the network's levels
    model: str = ""  # a whole model; it samples the features of `answers` records
    answers: int = 4000
    answers_share: float = 0.5  # of the samples


@dataclass
class DenoiserBatch:
    latents: Tensor  # [B, c, h, w]
    source: Tensor  # [B, c, h, w], zeros: none
    features: Tensor  # [B, K, D]
    text: Tensor  # [B, D], zeros: none
    noise_level: Tensor  # [B]
    t: Tensor  # [B]
    noise: Tensor  # [B, c, h, w]


class FrozenNetworks(nn.Module):
    """The frozen networks that compute the latents and features on which a denoising network is trained."""

    def __init__(self, modality: Modality, options: DenoiserOptions) -> None:
        super().__init__()
        self.modality = modality
        heads = Path(options.encoder) / "heads.safetensors"
        exports = {"features": options.features, "vae": options.vae}
        trunk = "audio" if modality == "audio" else "image"
        compact = {trunk: load_part(CompactEncoder, Path(options.features))}
        if modality == "video":
            exports["motion"] = options.motion
            compact["video"] = load_part(CompactEncoder, Path(options.motion))
        self.files = {"heads": heads, **{name: _weights(Path(export)) for name, export in exports.items()}}
        joint = load_joint_heads(heads, compact[trunk].config["dim"])
        self.encoder = TinyEncoder({trunk: load_trunk(trunk)}, joint, compact)
        self.codec = load_vae(modality, Path(options.vae))
        self.requires_grad_(False).eval()

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """[M, h, w] of the compact features as a map: those of a clip's first frame, then those of its motion."""
        shapes = [tuple(compact.config["latent_shape"]) for compact in self.encoder.compact.values()]
        return sum(shape[0] for shape in shapes), *shapes[0][1:]

    def depends(self) -> dict[str, str]:
        return {name: sha256_of(path) for name, path in self.files.items()}

    def forward(self, pairs: Sequence[Pair]) -> dict[str, Tensor]:
        """Latents of targets and sources [B, c, h, w], zeros without a source, and features of targets, on the device
        of the networks."""
        sources, targets = zip(*pairs, strict=True)
        media, device = np.stack(targets), device_of(self)
        latents = self.codec.encode(self._codec_inputs(media).to(device))
        source = torch.zeros_like(latents)
        for length in {len(medium) for medium in sources if medium is not None}:  # a picture is a clip of one frame
            rows = [i for i, medium in enumerate(sources) if medium is not None and len(medium) == length]
            inputs = self._codec_inputs(np.stack([sources[i] for i in rows]))
            source[rows] = self.codec.encode_source(inputs.to(device)).expand_as(latents[rows])
        return {"latents": latents, "source": source, "features": self._features(media).to(device)}

    def _codec_inputs(self, media: np.ndarray) -> Tensor:
        if self.modality == "video":
            return self.codec.prepare(torch.from_numpy(media))
        return cache.codec_inputs(self.modality, media)

    def _features(self, media: np.ndarray) -> Tensor:
        device = device_of(self)
        if self.modality == "video":
            return self.encoder.video(torch.from_numpy(media).to(device))
        inputs = torch.from_numpy(media) if self.modality == "image" else cache.waveforms(media)
        return self.encoder.encode(self.modality, inputs.to(device))

    def many(self, pair: Callable[[int], Pair], places: Sequence[int]) -> dict[str, Tensor]:
        """`forward` of numbered pairs, on the CPU."""
        calls = [self([pair(i) for i in places[k : k + CALL]]) for k in range(0, len(places), CALL)]
        return {key: torch.cat([call[key].cpu() for call in calls]) for key in calls[0]}


class DenoiserRecipe(Recipe):
    model: nn.ModuleDict
    divides = True

    def __init__(
        self, config: TrainConfig, encoding: FrozenNetworks | None = None, answers: type[Answers] = SampledAnswers
    ) -> None:
        self.config, self.options = config, options_of(DenoiserOptions, config)
        modality = cast(Modality, config.part.partition("_")[0])
        self.encoding = encoding = (encoding or FrozenNetworks(modality, self.options)).to(training_device(config))
        pairs: TrainingClips | TrainingPairs
        pairs = TrainingClips(config.seed) if modality == "video" else TrainingPairs(modality, config.seed)
        depends = {
            **encoding.depends(),
            "seed": config.seed,
            "edits": cache.EDITS_VERSION,
            "pairs": pairs.settings,
            "corpus": cache.corpus().version,
        }
        # a run of less than an epoch needs the first pairs only
        used = -(-config.steps * config.batch_size // SHARD) * SHARD
        count = min(used, self.options.samples)
        self.encoded = bank(f"{modality}-pairs", depends, count, lambda places: encoding.many(pairs.pair, places))
        self.held_out = encoding.many(_held_out_pairs(modality), range(VALIDATED))
        self.noise_seed = config.seed + (ADAPTATION_SEED if self.options.model else 0)
        self.answered: dict[str, Tensor] = {}  # as `encoded`, with sampled features
        self.held_out_answers: dict[str, Tensor] = {}
        if self.options.model:
            self._read_answers(answers, depends)
        encoding.to("cpu")  # not needed on the device any more
        torch.manual_seed(config.seed)
        shape, slots = self.encoded["latents"].shape[1:], self.encoded["features"].shape[1]
        self.decoder = new_decoder(
            encoding.codec,
            shape,
            self.options.channels,
            encoding.encoder.dim,
            slots,
            TINY.decoders[modality],
            encoding.map_shape,
        )
        parts = {"unet": self.decoder.unet, "conditioner": self.decoder.conditioner}
        self.model = nn.ModuleDict({name: part.requires_grad_(True) for name, part in parts.items()})

    def _read_answers(self, kind: type[Answers], depends: dict[str, Any]) -> None:
        modality, folder, seed = self.encoding.modality, Path(self.options.model), self.config.seed
        answers = kind(modality, folder, seed + ANSWERS_SEED, "train")
        compute = partial(_encoded_answers, self.encoding, answers)
        self.answered = bank(f"{modality}-answers", depends | answers.depends(), self.options.answers, compute)
        held_out = kind(modality, folder, 1, "val")
        self.held_out_answers = _encoded_answers(self.encoding, held_out, range(VALIDATED // 2))

    def batch(self, step: int, share: Share = WHOLE) -> DenoiserBatch:
        draw, size = numpy_at(self.noise_seed, step), self.config.batch_size
        places = self._places(step)
        shape = (size, *self.encoded["latents"].shape[1:])
        noise = torch.randn(shape, generator=torch_at(self.noise_seed, step))
        feature_noise = torch.randn(
            (size, *self.encoded["features"].shape[1:]), generator=torch_at(self.noise_seed + 1, step)
        )
        t = self.decoder.process.times(size, torch_at(self.noise_seed + 2, step))
        levels = draw.integers(1, MAX_NOISE_LEVEL, size=size) * (draw.random(size) < NOISED)
        without_feature, without_source = draw_dropped(draw, size)
        alone = draw.random(size) < JOINT_ALONE
        still = draw.random(size) < MOTION_DROPPED * (len(shape) == 5)
        named = without_feature.numpy() & (draw.random(size) < NAMED)
        rows = share.rows(size)
        latents, source, features = (
            self.encoded[key][places[rows]].float() for key in ("latents", "source", "features")
        )
        noise_level = torch.from_numpy((levels * ~named)[rows])
        features = self.decoder.conditioner.noised(features, feature_noise[rows], noise_level)
        if self.answered:
            place = epoch_order(self.config.seed + 3, step, size, self.options.answers)
            replaced = torch.from_numpy(draw.random(size) < self.options.answers_share)[rows]
            for key, values in (("latents", latents), ("source", source), ("features", features)):
                values[replaced] = self.answered[key][place[rows]][replaced].float()
            noise_level[replaced] = 0
        text = features[:, 0] * torch.from_numpy(named[rows])[:, None]
        features[torch.from_numpy(alone[rows]), 1:] = 0
        features[torch.from_numpy(still[rows]), -1] = 0
        features[without_feature[rows]] = 0
        source[without_source[rows]] = 0
        return DenoiserBatch(latents, source, features, text, noise_level, t[rows], noise[rows])

    def _places(self, step: int) -> np.ndarray:
        """The pairs of a step [B]. Pairs are random, so the first epoch has them in the order of their numbers."""
        size, samples = self.config.batch_size, self.options.samples
        numbers = np.arange(step * size, (step + 1) * size)
        return np.where(numbers < samples, numbers, epoch_order(self.config.seed, step, size, samples))

    def losses(self, model: nn.Module, batch: DenoiserBatch) -> dict[str, Tensor]:
        b = batch
        loss = self.decoder.loss(b.latents, b.noise, b.t, b.features, b.noise_level, b.source, b.text)
        edits = b.source.flatten(1).any(1)
        return {"loss": loss.mean(), "edit": masked_mean(loss, edits), "alone": masked_mean(loss, ~edits)}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """L_DM on held-out pairs with their features, the joint vector alone, another pair's features, none, and with
        the joint vector as text in their place; on held-out records with the features that the model samples."""
        device = device_of(self.decoder.unet)
        held = {key: value.float().to(device) for key, value in self.held_out.items()}
        count = len(held["latents"])
        noise = torch.randn(held["latents"].shape, generator=torch.Generator().manual_seed(0)).to(device)
        t = self.decoder.process.times(count, torch.Generator().manual_seed(1)).to(device)
        features, edits = held["features"], held["source"].flatten(1).any(1)
        level = torch.zeros(count, dtype=torch.long, device=device)
        blank = torch.zeros_like(features)
        alone = torch.cat([features[:, :1], blank[:, 1:]], dim=1)
        conditions = {
            "": (features, None),
            "joint_": (alone, None),
            "others_": (features.roll(7, dims=0), None),
            "no_feature_": (blank, None),
            "text_": (blank, features[:, 0]),
        }
        figures: dict[str, float] = {}
        for name, (condition, text) in conditions.items():
            loss = self.decoder.loss(held["latents"], noise, t, condition, level, held["source"], text)
            figures |= {f"{name}edit": float(loss[edits].mean()), f"{name}alone": float(loss[~edits].mean())}
        if self.held_out_answers:
            held = {key: value.float().to(device) for key, value in self.held_out_answers.items()}
            rows = slice(len(held["latents"]))
            loss = self.decoder.loss(
                held["latents"], noise[rows], t[rows], held["features"], level[rows], held["source"]
            )
            figures["sampled"] = float(loss.mean())
        return figures | (self._drawn_figures() if self.encoding.modality == "video" else {})

    def _drawn_figures(self) -> dict[str, float]:
        """Motion and sharpness of drawn clips, divided by those of the decoded true clips."""
        drawn, truth = (self.decoder.codec.decode(latents) for latents in self._drawn())
        motion, sharpness = ((f(drawn) / f(truth)).item() for f in (_motion, _sharpness))
        return {"motion": motion, "sharpness": sharpness}

    def _drawn(self) -> tuple[Tensor, Tensor]:
        """Latents of a few held-out media: drawn from their features, of clips from the first frame too, and true."""
        device, modality = device_of(self.decoder.unet), self.encoding.modality
        self.decoder.codec.to(device)
        held = {key: value[:SHOWN].float().to(device) for key, value in self.held_out.items()}
        pair, seeds = _held_out_pairs(modality), range(len(held["features"]))
        first = first_frames([pair(i)[1] for i in seeds]) if modality == "video" else None
        options = SampleOptions(sources=first)
        return self.decoder.generate_latents(held["features"], seeds, options), held["latents"]

    @torch.no_grad()
    def samples(self) -> dict[str, Part]:
        """A few held-out targets and what is drawn for them; none for sounds, as there is no vocoder."""
        codec = self.decoder.codec
        if isinstance(codec, AudioCodec):
            return {}
        drawn, latents = self._drawn()
        kinds = {"target": latents, "drawn": drawn}
        parts = {kind: codec.to_parts(codec.decode(latents)) for kind, latents in kinds.items()}
        return {f"{i}/{kind}": pictures[i] for kind, pictures in parts.items() for i in range(len(pictures))}

    def provenance(self) -> dict[str, Any]:
        return {"frozen_sha256": self.encoding.depends(), "corpus": cache.corpus().version}

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        for name, part in self.model.items():
            export_module(part, folder / name, provenance)
        self.decoder.scheduler.save_pretrained(folder / "scheduler")

    def restore(self, folder: Path) -> None:
        for name, part in self.model.items():
            restore_module(part, folder / name)


def load_vae(modality: Modality, folder: Path) -> Codec:
    """The codec on a trained VAE, for clips that of pictures; the codec of sounds has no vocoder."""
    from diffusers import AutoencoderKL

    vae = load_part(AutoencoderKL, folder)
    if modality == "video":
        return clip_codec(vae)
    return ImageCodec(vae) if modality == "image" else AudioCodec(vae, MelSpectrogram(), None)


def _weights(folder: Path) -> Path:
    return folder / "diffusion_pytorch_model.safetensors"


def _held_out_pairs(modality: Modality) -> Callable[[int], Pair]:
    """Pairs of the split `val` with training edits."""
    if modality == "video":
        return held_out_pairs()
    rows, media = cache.rows(modality, "val"), cache.view(modality)

    def pair(number: int) -> Pair:
        draw, target = np.random.default_rng((1, number)), np.asarray(media[rows[number % len(rows)]])
        return (None, target) if number % 2 else (target, edits.draw(modality, draw)(target))

    return pair


def _encoded_answers(encoding: FrozenNetworks, answers: Answers, places: Sequence[int]) -> dict[str, Tensor]:
    """As `FrozenNetworks.many`, with sampled features."""
    encoded, features = encoding.many(answers.pair, places), answers.features(places)
    if encoding.modality == "video":  # a request to bring a picture to life leaves the motion open
        features = torch.cat([features[:, :-1], encoded["features"][:, -1:]], dim=1)
    return encoded | {"features": features}


def _motion(clips: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring frames [] of clips [B, C, F, H, W]."""
    return clips.clamp(-1, 1).diff(dim=2).abs().mean()


def _sharpness(clips: Tensor) -> Tensor:
    """Mean absolute gradient [] of the frames of clips [B, C, F, H, W]."""
    return edges(clips.clamp(-1, 1).transpose(1, 2).flatten(0, 1)).mean()


def build(config: TrainConfig) -> DenoiserRecipe:
    by_instruction = config.part.endswith("_instructed")
    return DenoiserRecipe(config, answers=InstructedAnswers if by_instruction else SampledAnswers)

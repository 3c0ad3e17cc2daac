"""The diffusion decoders, with the fidelity path in the same run (section 5.1).

A sample is what a record of a data set answers with, and the item that the answer edits, if there is one. The network
sees the answer's feature (sometimes noised, sometimes its joint vector alone, sometimes nothing, sometimes as the
language model predicts it), the source's latent, and at times the user's words.

Letters: B samples, c h w latent size, T features, K slots, D joint width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi2.checkpoint import load_one_decoder, locate
from codi2.config import CoDi2Config
from codi2.data.find import find_set
from codi2.diffuse.build import new_decoder, new_patches
from codi2.diffuse.codec import AudioCodec, Codec
from codi2.diffuse.decoder import Sampling, first_frames
from codi2.diffuse.load import load_codec, load_vocoder
from codi2.encode.tiny import AudioTrunk, ImageTrunk, load_trunk
from codi2.prompt.parts import Part
from codi2.train.config import TrainConfig, options_of
from codi2.train.features.use import StoredLatents
from codi2.train.lessons import Lesson, Lessons, encodings_for, read_stores
from codi2.train.loop import WHOLE, Share
from codi2.train.parts.draw import numpy_at, torch_at
from codi2.train.parts.reconstruction import (
    Hearing,
    Perception,
    frames_of,
    loudness_term,
    motion_term,
    reconstruction_terms,
    total,
)

VALIDATED, SHOWN = 96, 4  # held-out samples
SEEN_FRAMES = 2  # of a clip, compared through the frozen trunk in a step


@dataclass(frozen=True)
class DecoderOptions:
    modality: str
    data: dict[str, float] = field(default_factory=dict)  # data set → share of the samples
    held_out: dict[str, float] = field(default_factory=dict)  # the same, of what it is validated on
    channels: tuple[int, ...] = (48, 128, 192)  # of the UNet's levels
    patch: int = 0  # side of the patches that the latents are; 0: the codec of `model`
    partly: bool = False  # whether what has another shape in `start` begins anew: a trunk goes on with other latents
    drop_source: float = 0.25  # rate at which a source is withheld
    drop_feature: float = 0.1  # rate of the unconditional branch
    joint_alone: float = 0.15  # rate at which all but the joint vector is withheld
    no_source_alone: float = 0.0  # the same, of samples without a source: nothing tells how what is asked for sounds
    no_appearance: float = 0.0  # rate at which the appearance token is
    no_manner: float = 0.0  # rate at which the third token is: a picture's manner, or the motion of a clip
    words_share: float = 0.3  # of samples that are given the user's words
    by_words: bool = False  # the user's words are all that it is told: a baseline without a language model
    noised_share: float = 0.5  # of features that are noised
    max_noise_level: int = 500  # of 1000
    from_noise_share: float = 0.0  # of the samples are at the last timestep, beside those that are there by chance
    predicted: int = 0  # steps whose records the language model has answered; 0: true features only
    predicted_share: float = 0.5  # of the samples, where there are such
    predicted_edits: bool = False  # of edits alone: what nothing given shows is recalled, and so told as it is
    feature_norm: float = 16.0  # that a predicted joint vector is brought to, as when the model generates
    model: str = "tiny"  # preset or folder: its encoder, its codec, and the language model that predicts
    features: str | Sequence[str] = ""  # folders that `codi2 data encode` made; empty: those beside the data sets
    begun: float = 0.0  # of clips that nothing was given for, the share that begins as the decoder of pictures draws it
    looked_at: int = 0  # samples a step whose estimate is decoded and compared as media
    diffusion_weight: float = 1.0  # of L_DM
    pixel_weight: float = 1.0  # of the comparison number by number
    perception_weight: float = 0.3  # of the comparison through the frozen trunk, for pictures and frames
    loudness_weight: float = 0.0  # of how loud a sound's windows are
    hearing_weight: float = 0.0  # of the comparison of sounds through the frozen trunk
    heard_at: int = 4  # samples a step that are compared so, of those that are looked at: first those without a source
    motion_weight: float = 1.0  # of what changes from frame to frame
    aligned_weight: float = 1.0  # therein, of maps compared place by place
    manner_weight: float = 0.0  # therein, of maps compared by their channels' means and spreads
    direction_weight: float = 0.0  # therein, of the way from the source to the estimate
    perception_shift: int = 0  # most pixels that both pictures are moved by before the trunk sees them
    gone: float = 1.0  # share of the way from the weights that it went on from, of what is exported (arXiv:2109.01903)
    sight_weight: float = 0.1  # of reading a source's appearance token back from its latents


@dataclass
class Batch:
    latents: Tensor  # [B, c, h, w]
    source: Tensor  # [B, c, h, w], zeros: none
    features: Tensor  # [B, T, D]
    noise_level: Tensor  # [B]
    text: Tensor  # [B, D], what the text slot is given
    words: Tensor  # [B, D], of the user
    t: Tensor  # [B]
    noise: Tensor  # as latents
    source_appearance: Tensor  # [B, D], zeros: no source
    media: Tensor  # [looked_at, channels, H, W]: the first samples as the codec reads them
    source_media: Tensor  # likewise their sources; white where there is none
    shift: tuple[int, int] = (0, 0)  # of the pictures that the trunk compares
    mirrored: bool = False  # are they
    frames: tuple[int, ...] = ()  # of clips, those that the trunk compares


class DecoderRecipe:
    divides = True

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.options = options = options_of(DecoderOptions, config)
        model_config, folder = locate(options.model)
        encodings = encodings_for(model_config, folder)
        read_stores(encodings, model_config, options)
        dim, num_slots = model_config.heads.feature_dim, model_config.heads.num_slots[options.modality]
        phases = {options.modality: 1.0}
        self.lessons = Lessons(options.data, encodings, config.batch_size, phases, config.seed)
        self.held_out = Lessons(options.held_out or options.data, encodings, VALIDATED, phases, config.seed + 1)
        codec = self._codec(model_config, folder)
        self.stored = StoredLatents(codec, [find_set(name) for name in {**options.data, **options.held_out}])
        torch.manual_seed(config.seed)
        some = self.lessons.batch(0)[:1]
        shape = self._latents(codec, [_part(some[0], some[0].answer(options.modality))])[0].shape
        self.decoder = new_decoder(codec, shape, options.channels, dim, num_slots)
        self.decoder.sampling = Sampling(feature_norm=options.feature_norm)
        if options.predicted:
            from codi2.train.parts.predicted import predicted_features

            some = [lesson for step in range(options.predicted) for lesson in self.lessons.batch(step)]
            some = [lesson for lesson in some if self._edits(lesson)] if options.predicted_edits else some
            self.foretold = some
            self.predictions = self.decoder.rescaled(predicted_features(options.model, some, options.modality))
        self.pictures = load_one_decoder("image", model_config, folder and folder / "image") if options.begun else None
        self.began: dict[str, dict[str, Tensor]] = {}  # by part, what the run went on from
        trained = ("unet", "conditioner", "draft")
        self.model = nn.ModuleDict({name: getattr(self.decoder, name).requires_grad_(True) for name in trained})
        self.perception: Perception | None = None
        self.hearing: Hearing | None = None
        if options.looked_at:
            self._look(codec)

    def _codec(self, model_config: CoDi2Config, folder: Path | None) -> Codec:
        modality, patch = self.options.modality, self.options.patch
        trained = folder / modality if folder else None
        if not patch:
            return load_codec(modality, trained) if trained else load_one_decoder(modality, model_config, None).codec
        codec = new_patches(modality, patch)
        if isinstance(codec, AudioCodec) and trained:
            codec.vocoder = load_vocoder(trained)
        return codec

    def _look(self, codec: Codec) -> None:
        """Estimates are decoded and compared as media."""
        options, vae = self.options, codec.vae
        if not options.patch:  # only the way out of the latents learns: the way in stays
            self.model["codec"] = nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
        if options.modality in ("image", "video") and options.perception_weight:
            trunk = load_trunk("image")
            assert isinstance(trunk, ImageTrunk)
            self.perception = Perception(
                trunk.net,
                aligned=options.aligned_weight,
                manner=options.manner_weight,
                direction=options.direction_weight,
            )
        if isinstance(codec, AudioCodec) and options.hearing_weight:
            trunk = load_trunk("audio")
            assert isinstance(trunk, AudioTrunk) and codec.vocoder is not None
            self.hearing = Hearing(copy.deepcopy(codec.vocoder), trunk.net)

    def batch(self, step: int, share: Share = WHOLE) -> Batch:
        """Everything is drawn for the whole batch; media are read for the share alone."""
        options, draw, size = self.options, numpy_at(self.config.seed, step), self.config.batch_size
        lessons = self.lessons.batch(step)
        told: dict[int, Tensor] = {}  # samples that get a predicted feature
        if options.predicted:
            for i in np.flatnonzero(draw.random(size) < options.predicted_share).tolist():
                j = int(draw.integers(len(self.foretold)))
                lessons[i], told[i] = self.foretold[j], self.predictions[j]

        def chance(rate: float) -> Tensor:
            """Which samples of the share are concerned, at this rate."""
            return torch.from_numpy(draw.random(size) < rate)[rows]

        rows = share.rows(size)
        last = self.decoder.diffusion.config.num_train_timesteps - 1
        keep = ~chance(options.drop_source)
        t = torch.from_numpy(draw.integers(last + 1, size=size))[rows]
        batch = self._assemble([lessons[i] for i in rows], keep.tolist(), t, share)
        noise = torch.randn((size, *batch.latents.shape[1:]), generator=torch_at(self.config.seed, step))
        batch.noise = noise[rows]

        looks = batch.features.clone()  # that a first picture is drawn of
        levels = draw.integers(1, options.max_noise_level, size=size) * (draw.random(size) < options.noised_share)
        batch.noise_level = torch.from_numpy(levels)[rows]
        blur = torch.randn((size, *batch.features.shape[1:]), generator=torch_at(self.config.seed + 1, step))
        batch.features = self.decoder.conditioner.noised(batch.features, blur[rows], batch.noise_level)
        batch.features[chance(options.joint_alone), 1:] = 0
        for k, i in enumerate(rows):
            if i in told:
                batch.noise_level[k], batch.features[k] = 0, 0
                batch.features[k, : len(told[i])] = told[i]
                looks[k] = batch.features[k]
        if options.begun:
            self._begin(batch, looks, chance(options.begun) & (batch.source == 0).flatten(1).all(1), draw)
        if options.no_source_alone:
            batch.features[chance(options.no_source_alone) & (batch.source == 0).flatten(1).all(1), 1:] = 0
        batch.features[chance(options.drop_feature)] = 0
        batch.text[~chance(options.words_share)] = 0
        batch.features[chance(options.no_appearance), 1] = 0
        batch.features[chance(options.no_manner), 2:] = 0
        if options.by_words:
            self._tell_words(batch)
        batch.t[chance(options.from_noise_share)] = last
        if most := options.perception_shift:
            down, right = draw.integers(-most, most + 1, size=2).tolist()
            batch.shift, batch.mirrored = (down, right), bool(draw.random() < 0.5)
        if batch.latents.ndim == 5:
            batch.frames = tuple(draw.choice(batch.latents.shape[2], SEEN_FRAMES, replace=False).tolist())
        return batch

    def sources(self, step: int) -> list[str]:
        """The records of a step, for reports."""
        return [f"{lesson.record.source}:{lesson.record.key}" for lesson in self.lessons.batch(step)]

    def _begin(self, batch: Batch, looks: Tensor, chosen: Tensor, draw: np.random.Generator) -> None:
        """The chosen clips begin as pictures of what `looks` [B, T, D] say of them, as when they are generated."""
        assert self.pictures is not None
        if rows := chosen.nonzero().flatten().tolist():
            codec, seeds = self.decoder.codec, draw.integers(1 << 30, size=len(rows)).tolist()
            drawn = first_frames(self.pictures, looks[rows], seeds)
            batch.source[rows] = self._encoded(codec, codec.to_tensor(drawn))
            batch.source_appearance[rows] = looks[rows, 1]

    def _tell_words(self, batch: Batch) -> None:
        """The words' vector stands in for the joint one and fills the text slot; nothing else is told."""
        batch.text = batch.words
        batch.features = torch.zeros_like(batch.features)
        batch.features[:, 0] = batch.words
        batch.noise_level = torch.zeros_like(batch.noise_level)

    def _assemble(self, lessons: Sequence[Lesson], keep: Sequence[bool], t: Tensor, share: Share = WHOLE) -> Batch:
        modality, codec = self.options.modality, self.decoder.codec
        answers = [lesson.answer(modality) for lesson in lessons]
        sources = [x.source(modality, codec.others) if kept else None for x, kept in zip(lessons, keep, strict=True)]
        words = [lesson.words(modality) for lesson in lessons]
        told = [lesson.features[i] for lesson, i in zip(lessons, answers, strict=True)]
        blank = torch.zeros(self.decoder.conditioner.config["dim"])
        count = self.options.looked_at // share.count
        latents, media = self._latents_and_media(list(zip(lessons, answers, strict=True)), count)
        source, source_media = torch.zeros_like(latents), torch.ones_like(media)
        rows = [n for n, i in enumerate(sources) if i is not None]
        if rows:
            edited = [(lesson, i) for lesson, i in zip(lessons, sources, strict=True) if i is not None]
            source[rows], given = self._latents_and_media(edited, count)
            if len(given) and len(media):
                source_media[rows] = given
        seen = [blank if i is None else lesson.features[i][1] for lesson, i in zip(lessons, sources, strict=True)]
        said = torch.stack([blank if i is None else x.features[i][0] for x, i in zip(lessons, words, strict=True)])
        return Batch(
            latents=latents,
            source=source,
            features=torch.stack(told),
            noise_level=torch.zeros(len(lessons), dtype=torch.long),
            text=said.clone(),
            words=said,
            t=t,
            noise=torch.zeros_like(latents),
            source_appearance=torch.stack(seen),
            media=media[:count],
            source_media=source_media[:count] if self.options.direction_weight else torch.empty(0),
        )

    def _latents_and_media(self, items: Sequence[tuple[Lesson, int]], looked_at: int) -> tuple[Tensor, Tensor]:
        """Latents of items of lessons, and the items as the codec reads them: none where they are not looked at and the
        latents were encoded before.
        """
        codec = self.decoder.codec
        stored = None if looked_at else self.stored.of([lesson.medium(i) for lesson, i in items])
        if stored is not None:
            return stored, stored.new_zeros(0)
        media = codec.to_tensor([_part(lesson, i) for lesson, i in items])
        return self._encoded(codec, media), media

    def _edits(self, lesson: Lesson) -> bool:
        """Whether its answer has a source."""
        return lesson.source(self.options.modality, self.decoder.codec.others) is not None

    def _latents(self, codec: Codec, parts: Sequence[Part]) -> Tensor:
        return self._encoded(codec, codec.to_tensor(parts))

    @torch.no_grad()
    def _encoded(self, codec: Codec, tensor: Tensor) -> Tensor:
        return codec.encode(tensor)

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
            losses |= reconstruction_terms(frames_of(ours), frames_of(b.media))
            whole = whole + self.options.pixel_weight * total(losses)
            if isinstance(self.decoder.codec, AudioCodec) and self.options.loudness_weight:
                losses["loudness"] = loudness_term(ours, b.media, self.decoder.codec.mel.half_range)
                whole = whole + self.options.loudness_weight * losses["loudness"]
            if self.hearing is not None:
                told = withheld[: len(ours)].int().argsort(descending=True, stable=True)[: self.options.heard_at]
                losses["hearing"] = self.hearing(ours[told], b.media[told])
                whole = whole + self.options.hearing_weight * losses["hearing"]
            if ours.ndim == 5:
                losses["motion"] = motion_term(ours, b.media)
                whole = whole + self.options.motion_weight * losses["motion"]
            if self.perception is not None:
                source = frames_of(b.source_media, b.frames) if len(b.source_media) else None
                edits = (~withheld[: len(b.media)]).repeat_interleave(max(1, len(b.frames)))
                pair = frames_of(ours, b.frames), frames_of(b.media, b.frames)
                losses["perception"] = self.perception(*pair, source, edits, b.shift, b.mirrored)
                whole = whole + self.options.perception_weight * losses["perception"]
        return {"loss": whole, **losses}

    def _sight(self, b: Batch, given: Tensor) -> Tensor:
        """How far the draft's reading of the sources is from their appearance tokens, over all samples."""
        draft = self.decoder.draft
        assert draft is not None
        sources = b.source[given]
        seen = sources.mean(2) if sources.ndim == 5 else sources  # a clip's appearance is the mean of its frames'
        sketched = (seen.flatten(1) @ draft.paint.weight).detach()  # what the paint is, others decide
        return (draft.see(sketched) - b.source_appearance[given]).square().mean(1).sum() / len(b.latents)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """On held-out records: L_DM with their feature, its joint vector alone, another's and none, with and without a
        source; and how far what is drawn in one step is from the answer, beside a copy of the source.
        """
        lessons = self.held_out.batch(0)
        figures: dict[str, float] = {}
        for name, kept in (("source", True), ("no_source", False)):
            chosen = [x for x in lessons if self._edits(x)] if kept else lessons
            if not chosen:
                continue
            b = self._assemble(chosen, [kept] * len(chosen), torch.linspace(20, 980, len(chosen)).long())
            b.noise = torch.randn(b.latents.shape, generator=torch.Generator().manual_seed(0))
            if self.options.by_words:
                self._tell_words(b)
            else:
                b.text = torch.zeros_like(b.text)
            ways = {"": b.features, "others_feature_": b.features.roll(7, dims=0)}
            if not kept:
                alone = torch.cat([b.features[:, :1], torch.zeros_like(b.features[:, 1:])], dim=1)
                ways |= {"joint_only_": alone, "unconditional_": torch.zeros_like(b.features)}
            for way, features in ways.items():
                loss = self.decoder.loss(b.latents, b.noise, b.t, features, b.noise_level, b.source, b.text)
                figures[f"{way}{name}"] = float(loss.mean())
            b.t = torch.full_like(b.t, self.decoder.diffusion.config.num_train_timesteps - 1)
            _, drawn = self.decoder.loss_and_estimate(
                b.latents, b.noise, b.t, b.features, b.noise_level, b.source, b.text
            )
            figures[f"drawn_{name}"] = float((drawn - b.latents).abs().mean())
            if kept:
                figures["copied_source"] = float((b.source - b.latents).abs().mean())
        return figures

    @torch.no_grad()
    def samples(self) -> dict[str, Part]:
        """What is drawn in one step of a few held-out answers, beside them; sounds where there is a vocoder."""
        codec = self.decoder.codec
        if isinstance(codec, AudioCodec) and codec.vocoder is None:
            return {}
        lessons = self.held_out.batch(0)[:SHOWN]
        last = torch.full((len(lessons),), self.decoder.diffusion.config.num_train_timesteps - 1)
        b = self._assemble(lessons, [True] * len(lessons), last)
        b.noise = torch.randn(b.latents.shape, generator=torch.Generator().manual_seed(0))
        _, drawn = self.decoder.loss_and_estimate(b.latents, b.noise, b.t, b.features, b.noise_level, b.source, b.text)
        kinds = {"source": b.source, "drawn": drawn, "target": b.latents}
        parts = {kind: codec.to_parts(codec.decode(latents)) for kind, latents in kinds.items()}
        return {f"{i}/{kind}": some[i] for i in range(len(lessons)) for kind, some in parts.items()}

    def provenance(self) -> dict[str, Any]:
        return {"data_sha256": self.lessons.provenance()}

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        from codi2.weight_files import export_module

        for name, part in self._parts().items():
            began = self.began.get(name, {})
            if began:
                part, after = copy.deepcopy(part), part.state_dict()
                part.load_state_dict({n: torch.lerp(x, after[n].to(x), self.options.gone) for n, x in began.items()})
            export_module(part, folder / name, provenance)
        self.decoder.scheduler.save_pretrained(folder / "scheduler")

    def restore(self, folder: Path) -> None:
        from codi2.weight_files import restore_module

        partly = self.options.partly
        for name, part in self._parts().items():
            # a run that left the codec alone exported none, and other latents have another
            if name != "vae" or (not partly and (folder / name).is_dir()):
                restore_module(part, folder / name, partly)
        if self.options.gone < 1:
            parts = self._parts().items()
            self.began = {name: {n: x.clone() for n, x in part.state_dict().items()} for name, part in parts}

    def _parts(self) -> dict[str, Any]:
        """What the run trains, by the folder that it is kept in."""
        parts = {name: getattr(self.decoder, name) for name in ("unet", "conditioner", "draft")}
        kept = self.options.looked_at or self.options.patch
        return {**parts, "vae": self.decoder.codec.vae} if kept else parts


def _part(lesson: Lesson, item: int | None) -> Part:
    assert item is not None
    return lesson.medium(item).decode()


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, len(values))


def build(config: TrainConfig) -> DecoderRecipe:
    return DecoderRecipe(config)

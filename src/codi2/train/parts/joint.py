"""The layers between the decoders: what one hears and sees of the other while both draw.

A record answers with media of two or more modalities that belong together: a clip in which a thing moves whenever it
is heard, a picture with its sound. The decoders stay as they are, or (`opened`) their networks learn too, to do what
they are told; records that answer with one medium then keep them what they were.

Letters: B samples, K slots, D joint width; latents are [B, c, h, w], of clips [B, c, F, h, w].
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from codi2.checkpoint import load_joint, load_joint_networks, load_one_decoder, locate
from codi2.data.record import Medium
from codi2.diffuse.build import FRAMES
from codi2.diffuse.decoder import first_frames
from codi2.encode.tiny import ImageTrunk, load_trunk
from codi2.errors import ConfigError, DataError
from codi2.heads.projection import fit_features
from codi2.tensors import device_of, to_device
from codi2.train.config import TrainConfig, options_of
from codi2.train.lessons import Lesson, Lessons, check_held_out, encodings_for, read_stores
from codi2.train.loop import WHOLE, Share
from codi2.train.parts.diffusion_loss import for_training, save_memory
from codi2.train.parts.draw import numpy_at, torch_at
from codi2.train.parts.reconstruction import Perception, frames_of, motion_term, reconstruction_terms, total
from codi2.train.place import mixed, placement_of

VALIDATED = 16  # held-out samples of each phase
SEEN_FRAMES = 2  # of a clip, compared through the frozen trunk in a step


@dataclass(frozen=True)
class JointOptions:
    data: dict[str, float] = field(default_factory=dict)  # data set → share of the samples
    held_out: dict[str, float] = field(default_factory=dict)  # the same, of what it is validated on
    phases: dict[str, float] = field(default_factory=dict)  # phase → share of the steps; empty: all mixed
    drop_rest: float = 0.6  # rate at which what features tell beside content and looks, as of movement, is withheld
    ahead: str = ""  # what is drawn first (`joint.lead`): its noise is gone in `ahead_share` of the samples
    ahead_share: float = 0.7
    noise: float = 0.0  # most noise on the features: regressed ones are no true ones
    predicted_share: float = 0.0  # of the samples have the features that the language model predicts
    opened: tuple[str, ...] = ()  # modalities whose own networks learn too
    gone: float = 1.0  # share of the way from what those were, of what is exported of them (arXiv:2109.01903)
    pixel_weight: float = 0.0  # of what those draw, compared number by number, and of what moves in it
    perception_weight: float = 0.0  # of the comparison of two of a clip's frames through the encoder's trunk
    gradient_checkpointing: bool = False  # less memory for more work
    model: str = "tiny"  # preset or folder: its encoder and its decoders, which stay as they are but for `opened`
    features: str | Sequence[str] = ""  # folders that `codi2 data encode` made; empty: those beside the data sets


@dataclass
class Read:
    """Answers of one modality with their sources, as the codec reads them, and what their features are made of."""

    media: Tensor  # [B, …]
    given: list[int]  # those that have a source
    sources: Tensor | None  # […] of these
    begun: list[int]  # those that begin as a picture, drawn from these seeds
    seeds: list[int]
    true: list[Tensor | Medium]  # [K, D] of each answer; an answer that nobody has encoded yet
    predicted: dict[int, Tensor]  # [K, D] in place of some of these
    amount: Tensor  # [B, 1, 1] of the noise on the features
    blur: Tensor  # [B, K, D], that noise
    withheld: Tensor  # bool [B, K, 1]


@dataclass
class Batch:
    """By modality."""

    read: dict[str, Read]  # before `finish`
    latents: dict[str, Tensor]
    sources: dict[str, Tensor]  # as latents, zeros: none
    features: dict[str, Tensor]  # [B, K, D]
    noise: dict[str, Tensor]  # as latents
    blur: dict[str, Tensor]  # [B, K, width], of decoders whose features have a noise level
    t: dict[str, Tensor]  # [B], each its own: one may be ahead of the other
    media: dict[str, Tensor]  # of the opened, as the codec reads them
    frames: tuple[int, ...] = ()  # of clips, those that the trunk compares


class JointRecipe:
    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.options = options = options_of(JointOptions, config)
        check_held_out(config.part, options.held_out)
        self.dtype = placement_of(config).dtype
        self.divides = not options.opened  # else parts of a batch may answer with other modalities
        model_config, folder = locate(options.model)
        if model_config.joint is None:
            raise ConfigError(f"the model {options.model!r} has no [joint]: its config should name the modalities")
        modalities = model_config.joint.modalities
        if options.ahead and options.ahead not in modalities:
            raise ConfigError(f"options.ahead is {options.ahead!r}; it should be one of {', '.join(modalities)}")
        self.decoders = {m: load_one_decoder(m, model_config, folder and folder / m) for m in modalities}
        for modality, network in load_joint_networks(self.decoders, folder).items():
            self.decoders[modality] = self.decoders[modality].with_network(network)
        if options.gradient_checkpointing:
            self.decoders = {m: save_memory(decoder) for m, decoder in self.decoders.items()}
        torch.manual_seed(config.seed)
        joint = load_joint(model_config, self.decoders, folder)
        assert joint is not None
        self.joint = joint
        if unknown := sorted({*options.opened} - {*modalities}):
            raise ConfigError(f"options.opened has {unknown[0]!r}; it should have some of {', '.join(modalities)}")
        opened = {m: self.decoders[m].unet for m in options.opened}
        self.began = {m: copy.deepcopy(unet) for m, unet in opened.items()}
        self.model = nn.ModuleDict({"joint": joint, **opened}).train().requires_grad_(True)
        # clips that nothing was given for begin as pictures, as they will when they are drawn
        begins = any(d.sampling.first_frame for d in self.decoders.values()) and "image" in model_config.decoders
        self.pictures = load_one_decoder("image", model_config, folder and folder / "image") if begins else None
        self.unets = {m: decoder.unet for m, decoder in self.decoders.items()}
        encodings = encodings_for(model_config, folder)
        read_stores(encodings, model_config, options)
        counts, width = model_config.encoder.num_features, model_config.heads.feature_dim
        self.shapes = {m: (counts[m], width) for m in modalities}  # of an answer's features
        phases = options.phases or None
        self.lessons = Lessons(options.data, encodings, config.batch_size, phases, config.seed)
        self.held_out = {
            phase: Lessons(options.held_out, encodings, VALIDATED, {phase: 1.0} if phase else None, 1)
            for phase in options.phases or [""]
        }
        self.perception: Perception | None = None
        if options.perception_weight:
            trunk = load_trunk("image")
            assert isinstance(trunk, ImageTrunk)
            self.perception = Perception(trunk.net)
        # text encoders, and what makes media, take no part where no network is opened
        kept = [decoder if options.opened else for_training(decoder) for decoder in self.decoders.values()]
        others = [part for part in (self.pictures, self.perception) if part is not None]
        self.frozen = nn.ModuleList([*kept, *others])
        self.predictions: dict[str, dict[str, Tensor]] = {}  # place of a record → by modality [K, D]
        if options.predicted_share:
            self._predict(self.lessons.of_steps(range(config.steps)))

    def _predict(self, lessons: Sequence[Lesson]) -> None:
        """What the language model predicts of every record whose media are drawn together."""
        from codi2.train.parts.predicted import predicted_features

        for modality in self.decoders:
            kinds = (_answered(lesson, self.decoders) for lesson in lessons)
            some = [x for x, kind in zip(lessons, kinds, strict=True) if modality in kind and len(kind) > 1]
            if not some:
                continue
            found = predicted_features(self.options.model, some, modality)
            for lesson, features in zip(some, found, strict=True):
                self.predictions.setdefault(lesson.place, {})[modality] = features

    def batch(self, step: int, share: Share = WHOLE) -> list[Batch]:
        """The records that answer with the same modalities are drawn together."""
        made = self._read(step, share)
        return made if get_worker_info() else self.finish(made)

    def _read(self, step: int, share: Share) -> list[Batch]:
        size, draw = self.config.batch_size, numpy_at(self.config.seed, step)
        last = min(decoder.diffusion.config.num_train_timesteps for decoder in self.decoders.values())
        t = {m: torch.from_numpy(draw.integers(last, size=size)) for m in self.decoders}
        if self.options.ahead:
            t[self.options.ahead][torch.from_numpy(draw.random(size) < self.options.ahead_share)] = 0
        places, lessons = share.rows(size), self.lessons.batch(step, share.index, share.count)
        frames = tuple(draw.choice(FRAMES, SEEN_FRAMES, replace=False).tolist())
        kinds = [_answered(lesson, self.decoders) for lesson in lessons]
        fewest = 1 if self.options.opened else 2
        if (len(set(kinds)) > 1 and not self.options.opened) or min(map(len, kinds)) < fewest:
            raise DataError(
                f"the records of a step answer with {', '.join(map(str, sorted(set(kinds))))}: not together"
            )
        made = []
        for kind in sorted(set(kinds)):
            rows = [i for i, own in enumerate(kinds) if own == kind]
            numbers = [step * size + places[i] for i in rows]
            times = {m: x[[places[i] for i in rows]] for m, x in t.items()}
            batch = self._assemble([lessons[i] for i in rows], times, self.config.seed, numbers, self.options)
            batch.frames = frames
            made.append(batch)
        return made

    def sources(self, step: int) -> list[str]:
        """The records of a step, for reports."""
        return [f"{lesson.record.source}:{lesson.record.key}" for lesson in self.lessons.batch(step)]

    def _assemble(
        self, lessons: Sequence[Lesson], t: dict[str, Tensor], seed: int, numbers: Sequence[int], options: JointOptions
    ) -> Batch:
        """A sample's draws are functions of the seed and its number, whatever the others of its share are."""
        batch = Batch({}, {}, {}, {}, {}, {}, t, {})
        draws, generators = [numpy_at(seed + 1, n) for n in numbers], [torch_at(seed, n) for n in numbers]

        def chance(rate: float) -> Tensor:
            return torch.tensor([draw.random() < rate for draw in draws])

        def normal(*shape: int) -> Tensor:
            return torch.stack([torch.randn(shape, generator=generator) for generator in generators])

        told = chance(options.predicted_share)
        told &= torch.tensor([lesson.place in self.predictions for lesson in lessons])
        for modality in _answered(lessons[0], self.decoders):
            decoder = self.decoders[modality]
            codec, answers = decoder.codec, [lesson.answer(modality) for lesson in lessons]
            sources = [lesson.source(modality, codec.others) for lesson in lessons]
            given = [n for n, i in enumerate(sources) if i is not None]
            begun, seeds = [], []
            if decoder.sampling.first_frame and self.pictures is not None:
                begun = [n for n, i in enumerate(sources) if i is None]
                seeds = [int(draws[n].integers(1 << 30)) for n in begun]
            amount = options.noise * torch.stack([torch.rand(1, 1, generator=x) for x in generators])
            shape = self.shapes[modality]
            blur = normal(*shape)
            predicted = {n: self.predictions[lessons[n].place][modality] for n in told.nonzero().flatten().tolist()}
            known = 2 if codec.time != "rows" else 1  # what it is and, of what is seen, how it looks
            withheld = chance(options.drop_rest) & ~told
            media = [lesson.medium(i) for lesson, i in zip(lessons, answers, strict=True)]
            true = self.lessons.encodings.known(media)
            batch.read[modality] = Read(
                codec.read([medium.decode() for medium in media]),
                given,
                codec.read([lessons[n].medium(sources[n]).decode() for n in given]) if given else None,  # type: ignore[arg-type]
                begun,
                seeds,
                [medium if value is None else value for medium, value in zip(media, true, strict=True)],
                predicted,
                amount,
                blur,
                withheld[:, None, None] & (torch.arange(shape[0]) >= known)[:, None],
            )
            batch.noise[modality] = normal(*decoder.latent_shape)
            if decoder.sampling.noise_level:
                batch.blur[modality] = normal(shape[0], decoder.conditioner.embedding_width(shape[1]))
        return batch

    @torch.no_grad()
    def finish(self, batches: list[Batch]) -> list[Batch]:
        """Media → latents, where the codecs are; pictures that clips begin as are drawn there.

        What nobody has encoded yet is encoded there as well.
        """
        device = device_of(self.model)
        for b in batches:
            for modality, read in b.read.items():
                codec, features = self.decoders[modality].codec, self._features(read)
                media = codec.prepare(read.media.to(device))
                latents = codec.encode(media)
                if modality in self.options.opened:
                    b.media[modality] = media
                sources = torch.zeros_like(latents)
                if read.sources is not None:
                    sources[read.given] = codec.encode_source(codec.prepare(read.sources.to(device))).to(sources)
                if read.begun and self.pictures is not None:
                    pictures = first_frames(self.pictures, features[read.begun].to(device), read.seeds)
                    sources[read.begun] = codec.encode_source(codec.to_tensor(pictures))
                b.features[modality] = features * ~read.withheld
                b.latents[modality], b.sources[modality] = latents, sources
            b.read = {}
        return batches

    def _features(self, read: Read) -> Tensor:
        """What the decoders are told of the answers [B, K, D]: noised, some of them predicted."""
        unseen = [true for true in read.true if isinstance(true, Medium)]
        encoded = iter(self.lessons.encodings.encode_on(device_of(self.model), unseen) if unseen else ())
        features = torch.stack([next(encoded) if isinstance(true, Medium) else true for true in read.true])
        features = (1 - read.amount**2).sqrt() * features + read.amount * read.blur * (features != 0)
        for n, predicted in read.predicted.items():
            features[n] = fit_features(predicted[None], features.shape[1])[0]
        return features

    def losses(self, model: nn.Module, batch: list[Batch]) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        whole = []
        for b in batch:
            alone = len(b.latents) == 1
            with mixed(self.dtype, device_of(self.model)):
                found = self._apart(b) if alone else self._together(b)
            losses |= {f"{m}/alone" if alone else m: x for m, x in found.items()}
            whole.append(torch.stack(list(found.values())).sum() * len(next(iter(b.latents.values()))))
        count = sum(len(next(iter(b.latents.values()))) for b in batch)
        return {"loss": torch.stack(whole).sum() / count, **losses}

    def _together(self, b: Batch) -> dict[str, Tensor]:
        """L_DM of decoders that hear and see each other."""
        noisy = {m: self.decoders[m].noisy(x, b.noise[m], b.t[m]) for m, x in b.latents.items()}
        with self.joint.between(noisy, b.t, self.unets):
            return self._apart(b)

    def _apart(self, b: Batch) -> dict[str, Tensor]:
        """L_DM of each decoder, and how far from the truth is what the opened draw."""
        losses = {}
        for m, x in b.latents.items():
            decoder, features = self.decoders[m], self.decoders[m].rescaled(b.features[m])
            features, level = decoder.at_noise_level(features, b.blur.get(m, features))  # as in `Decoder.sampler_state`
            error, drawn = decoder.loss_and_estimate(x, b.noise[m], b.t[m], features, level, b.sources[m])
            losses[m] = error.mean()
            if m in b.media and self.options.pixel_weight and torch.is_grad_enabled():
                losses |= {f"{m}/{kind}": value for kind, value in self._seen(m, drawn, b).items()}
        return losses

    def _seen(self, modality: str, drawn: Tensor, b: Batch) -> dict[str, Tensor]:
        """The weighted terms of latents that were drawn [B, c, …], as media."""
        ours, truth, options = self.decoders[modality].codec.decode(drawn), b.media[modality], self.options
        pixels = total(reconstruction_terms(frames_of(ours), frames_of(truth)))
        if ours.ndim == 5:
            pixels = pixels + motion_term(ours, truth)
        terms = {"pixels": options.pixel_weight * pixels}
        if self.perception is not None and modality != "audio":
            seen = self.perception(frames_of(ours, b.frames), frames_of(truth, b.frames))
            terms["perception"] = options.perception_weight * seen
        return terms

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """L_DM on held-out records, of the decoders together and of each by itself."""
        figures: dict[str, float] = {}
        for phase, lessons in self.held_out.items():
            t = dict.fromkeys(self.decoders, torch.linspace(20, 980, VALIDATED).long())
            options = JointOptions(drop_rest=self.options.drop_rest)
            (batch,) = self.finish([self._assemble(lessons.batch(0), t, 0, range(VALIDATED), options)])
            batch = to_device(batch, device_of(self.model))
            name = f"{phase}/" if phase else ""
            with mixed(self.dtype, device_of(self.model)):
                figures |= {f"{name}{m}/together": float(x) for m, x in self._together(batch).items()}
                figures |= {f"{name}{m}/alone": float(x) for m, x in self._apart(batch).items()}
        return figures

    def provenance(self) -> dict[str, Any]:
        return {"data_sha256": self.lessons.provenance()}

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        from codi2.weight_files import export_module

        export_module(self.joint, folder, provenance)
        for modality, before in self.began.items():
            unet, after = copy.deepcopy(before), self.unets[modality].state_dict()
            gone = {n: torch.lerp(x, after[n].to(x), self.options.gone) for n, x in before.state_dict().items()}
            unet.load_state_dict(gone)
            export_module(unet, folder / modality / "unet", provenance)

    def restore(self, folder: Path) -> None:
        from codi2.weight_files import restore_module

        restore_module(self.joint, folder)
        for modality in self.options.opened:
            if (folder / modality).is_dir():  # else they go on from the model's
                restore_module(self.unets[modality], folder / modality / "unet")
                self.began[modality] = copy.deepcopy(self.unets[modality])


def _answered(lesson: Lesson, modalities: Mapping[str, Any]) -> tuple[str, ...]:
    """What the assistant answers with, of these modalities."""
    kinds = {piece.modality for role, piece in lesson.items if role == "assistant"}
    return tuple(m for m in modalities if m in kinds)


def build(config: TrainConfig) -> JointRecipe:
    return JointRecipe(config)

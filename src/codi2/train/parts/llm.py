"""The language model: LoRA, the rows of the new tokens and the projections, on cached features (sections 3.2, B.2).

Phases of text, image, audio and video alternate step by step, as in B.2. Over the last part of the run the diffusion
loss of the frozen decoders joins in, its gradient reaching the LoRA weights through the regressed feature.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from codi2.checkpoint import load_one_decoder, locate
from codi2.data.chat import load_chats, load_prose
from codi2.data.record import Medium
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.load import trained_modules
from codi2.diffuse.recompute import checkpoint_gradients
from codi2.encode.contract import Encoder
from codi2.heads.loss import codi2_loss
from codi2.llm.mllm import MLLM, stack_features
from codi2.prompt.layout import IGNORE, MODALITIES, Batch, Message, TokenSequence, collate, layout_for
from codi2.prompt.parts import Phrase, Text
from codi2.tensors import device_of, to_device
from codi2.train.config import TrainConfig, options_of
from codi2.train.lessons import Lesson, Lessons, check_held_out, encodings_for
from codi2.train.loop import WHOLE, Share
from codi2.train.parts.draw import numpy_at, torch_at
from codi2.train.parts.language_batch import Denoised, Drawn, Drift, Kept
from codi2.train.parts.predicted import own_predictions
from codi2.train.place import placement_of, training_device

KEPT_TOKENS = 64  # of a piece of prose that is kept
SLOTS = ("joint", "appearance", "manner")  # what the slots of an item hold, in order
VALIDATED, MOST_VALIDATED = 16, 384  # lessons of a held-out batch; that it is validated on in all


@dataclass(frozen=True)
class LLMOptions:
    data: dict[str, float] = field(default_factory=dict)  # data set → share of the examples
    held_out: dict[str, float] = field(default_factory=dict)  # the same, of what it is validated on
    phases: dict[str, float] = field(default_factory=dict)  # phase → share of the steps; empty: all mixed
    loss: str = "paper"  # or released
    alpha: float = 1.0  # weight of the MSE
    diffusion_share: float = 0.2  # last part of the run that has L_DM; 0: none
    diffusion_items: int = 4  # answers a step that L_DM is computed on, over all processes
    decoder_heads: bool = False  # whether what projects features into published decoders learns from L_DM as well (B.2)
    fed_noise: float = 1.0  # most noise on the target's features when they are fed back (teacher forcing)
    lookahead: int = 32  # batches that are drawn together and sorted by length, so that little is padding
    kept_texts: int = 0  # plain texts a step on which the model is held to what it was without its adapters
    keep_weight: float = 1.0  # of that: the divergence from the base model, in nats a token
    gradient_checkpointing: bool = False  # less memory for more work
    leave: str = ""  # folder of the part `leave` that the way out starts from; empty: as it is
    model: str = "tiny"  # preset or folder: its encoder, its language model, and the decoders of L_DM


class LLMRecipe:
    divides = True

    def __init__(self, config: TrainConfig) -> None:
        from codi2.llm.backbone import load_backbone

        self.config = config
        self.options = options = options_of(LLMOptions, config)
        self.placement = replace(placement_of(config), device=str(training_device(config)))
        base, self.folder = locate(options.model)
        heads = replace(base.heads, loss=options.loss, alpha=options.alpha)  # type: ignore[arg-type]
        self.codi2_config = replace(base, heads=heads)
        self.lessons, held_out = self._data()
        torch.manual_seed(config.seed)
        self.mllm = MLLM(load_backbone(base.llm, self.placement), heads)
        if options.gradient_checkpointing:
            self.mllm.backbone.checkpoint_gradients()
        if options.leave:
            self._start_leave()
        self.layout = layout_for(self.codi2_config, self.mllm.backbone.tokenizer)
        self._held_out = held_out
        self.kept = self._kept_texts(self.lessons.encodings.encoder) if options.kept_texts else []
        self.decoders = self._decoders(self.folder) if options.diffusion_share else {}
        self._take_parts()
        self._block: tuple[int, list[list[tuple[Lesson, TokenSequence]]]] = (-1, [])

    @property
    def block(self) -> int:
        """Steps that are drawn together: they are best drawn by one process."""
        return self.options.lookahead

    def _take_parts(self) -> None:
        """What is trained, and what takes turns."""
        self.in_turn = {m: _for_training(decoder) for m, decoder in self.decoders.items()}
        self.in_equal_numbers = {"options.diffusion_items": self.options.diffusion_items} if self.decoders else {}
        self.model = nn.ModuleDict({"mllm": self.mllm})
        if self.options.decoder_heads:
            heads_of = {m: nn.ModuleList(trained_modules(decoder)) for m, decoder in self.decoders.items()}
            self.model["decoders"] = nn.ModuleDict(heads_of).requires_grad_(True)

    def _data(self) -> tuple[Lessons, Lessons]:
        """What it learns from and what it is validated on. Raises ConfigError: one is not named."""
        options, config = self.options, self.config
        check_held_out(config.part, options.held_out)
        encodings = encodings_for(self.codi2_config, self.folder)
        lessons = Lessons(options.data, encodings, config.batch_size, options.phases or None, config.seed)
        return lessons, Lessons(options.held_out, encodings, VALIDATED, None, 1)

    @cached_property
    def held_out(self) -> dict[str, list[Lesson]]:
        return held_out_by_task(self._held_out)

    def _start_leave(self) -> None:
        from codi2.train.parts.leave import load_leave

        load_leave(self.mllm.leave, Path(self.options.leave))

    def _decoders(self, folder: Path | None) -> dict[str, Decoder]:
        config = self.codi2_config
        return {m: self._ready(load_one_decoder(m, config, folder and folder / m)) for m in config.decoders}

    def _ready(self, decoder: Decoder) -> Decoder:
        """A decoder that L_DM's gradient passes with little memory."""
        if self.options.gradient_checkpointing:
            checkpoint_gradients(decoder.unet)
            if hasattr(decoder.codec.vae, "enable_slicing"):
                decoder.codec.vae.enable_slicing()  # it encodes the pictures of a clip one by one
        return decoder

    def _kept_texts(self, encoder: Encoder) -> list[Kept]:
        """Prose without a template, and answers to questions that are asked as users ask, words once more as a phrase.

        The base model reads the same questions in its own template, without the phrase.
        """
        tokenizer = self.mllm.backbone.tokenizer
        kept = []
        for text in load_prose():
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0, :KEPT_TOKENS]
            prose = TokenSequence(ids, torch.cat([torch.tensor([IGNORE]), ids[1:]]), (), (), ())
            kept.append(Kept(prose, prose))
        plain = copy.copy(self.layout)
        plain.reads_words = False
        for question, answer in load_chats():
            turns = [Message("user", (Text(question),)), Message("assistant", (Text(answer),))]
            asked = self.layout(turns)
            with torch.no_grad():
                phrases = tuple(encoder(asked.items).values) if asked.items else ()
            kept.append(Kept(plain(turns), asked, phrases))
        return kept

    def batch(self, step: int, share: Share = WHOLE) -> Drawn:
        """The noise is drawn for the whole batch and its slots and labels are counted: the share's losses are weighted
        by how much of the batch it holds, so that a token counts as much in one process as in many.
        """
        block, place = divmod(step, self.options.lookahead)
        if self._block[0] != block:
            self._block = (block, self._draw_block(block))
        pairs = self._block[1][place]
        noise = self._noise([lesson for lesson, _ in pairs], step)
        denoised = self._denoised_rows([lesson for lesson, _ in pairs], step)
        totals = [(*_counts(sequence), i in denoised) for i, (_, sequence) in enumerate(pairs)]
        mine, rows = share.of(pairs), share.rows(len(pairs))
        held = np.array([totals[i] for i in rows]).sum(0) * share.count / np.maximum(np.array(totals).sum(0), 1)
        lessons = [lesson for lesson, _ in mine]
        batch = collate([sequence for _, sequence in mine], self.mllm.backbone.pad_id)
        features, unseen = self._known_features(lessons)
        amount, blur = (torch.cat(values) for values in zip(*(noise[i] for i in rows), strict=True))
        answers = torch.zeros(len(features), 1, 1)
        answers[batch.slot_item[batch.predicted]] = self.options.fed_noise
        chosen = [
            (n, lesson, row) for n, (lesson, row) in enumerate(zip(lessons, rows, strict=True)) if row in denoised
        ]
        drawn = Drawn(
            replace(batch, items=()),  # what is in them is not needed any more
            features,
            amount * answers,
            blur[:, : features.shape[1]],
            self._denoised(chosen, lessons, batch, step),
            self._drift_texts(step),
            tuple(held.tolist()),
            unseen,
        )
        return drawn if get_worker_info() else self.finish(drawn)

    def finish(self, drawn: Drawn) -> Drawn:
        """Encodes what nobody has encoded yet, where this process trains; the encoder is there as long as it takes."""
        if not drawn.unseen:
            return drawn
        encoded = self.lessons.encodings.encode_on(device_of(self.mllm.enter), list(drawn.unseen.values()))
        for item, value in zip(drawn.unseen, encoded, strict=True):
            drawn.features[item, : len(value)] = value
        drawn.unseen = {}
        return drawn

    def _known_features(self, lessons: Sequence[Lesson]) -> tuple[Tensor, dict[int, Medium | Phrase]]:
        """Features [N, T, D] of the items of lessons, zeros where they are not known, and those that are not."""
        pieces = [piece for lesson in lessons for piece in lesson.pieces]
        known = self.lessons.encodings.known(pieces)
        counts, dim = self.codi2_config.encoder.num_features, self.codi2_config.heads.feature_dim
        features = torch.zeros(len(pieces), max((counts[p.modality] for p in pieces), default=1), dim)
        for row, value in zip(features, known, strict=True):
            if value is not None:
                row[: len(value)] = value
        return features, {i: piece for i, piece in enumerate(pieces) if known[i] is None}

    def _denoised_rows(self, lessons: Sequence[Lesson], step: int) -> range:
        """Which lessons of a step's batch L_DM is taken of, one answer of each.

        They are neighbours among those that have such an answer, which come first: so every process has as many.
        """
        if not self.decoders or step < self.config.steps * (1 - self.options.diffusion_share):
            return range(0)
        able = sum(bool(self._answers(lesson)) for lesson in lessons)
        count = min(able, self.options.diffusion_items)
        first = int(numpy_at(self.config.seed + 2, step).integers(able - count + 1))
        return range(first, first + count)

    def _answers(self, lesson: Lesson) -> list[int]:
        """The media of a lesson that L_DM can be taken of."""
        items = enumerate(lesson.items)
        return [i for i, (role, piece) in items if role == "assistant" and piece.modality in self.decoders]

    def _denoised(
        self, chosen: Sequence[tuple[int, Lesson, int]], lessons: Sequence[Lesson], batch: Batch, step: int
    ) -> dict[str, Denoised]:
        """Of lessons with their places in the share and in the whole batch."""
        first = np.cumsum([0, *(len(lesson.items) for lesson in lessons)])
        slot_items = batch.slot_item[batch.predicted].tolist()
        groups: dict[str, list[tuple[Lesson, int, int, int]]] = {}
        for place, lesson, row in chosen:
            # of a sample's own, whatever the others of its share are
            seed, answers = step * self.config.batch_size + row, self._answers(lesson)
            item = int(numpy_at(self.config.seed + 3, seed).choice(answers))
            groups.setdefault(lesson.items[item][1].modality, []).append((lesson, item, int(first[place]) + item, seed))
        made = {}
        for modality, group in groups.items():
            decoder = self.decoders[modality]
            codec = decoder.codec
            given = [lesson.source(modality, codec.others, item) for lesson, item, _, _ in group]
            rows = [n for n, source in enumerate(given) if source is not None]
            sources = [group[n][0].medium(given[n]).decode() for n in rows]  # type: ignore[arg-type]
            drawing = [torch_at(self.config.seed + 1, seed) for *_, seed in group]
            t = torch.cat([decoder.process.times(1, generator) for generator in drawing])
            media = codec.read([lesson.medium(item).decode() for lesson, item, _, _ in group])
            made[modality] = Denoised(
                torch.tensor([[k for k, i in enumerate(slot_items) if i == item] for _, _, item, _ in group]),
                media,
                torch.tensor(rows, dtype=torch.long),
                codec.read(sources) if rows else media[:0],
                t,
                torch.stack([torch.randn(decoder.latent_shape, generator=generator) for generator in drawing]),
            )
        return made

    def _noise(self, lessons: Sequence[Lesson], step: int) -> list[tuple[Tensor, Tensor]]:
        """Of each lesson's items: how much, [n, 1, 1], and the noise itself [n, T, D]."""
        generator, width = torch_at(self.config.seed, step), self.codi2_config.heads.feature_dim
        counts = self.codi2_config.encoder.num_features
        most = max((counts[piece.modality] for lesson in lessons for piece in lesson.pieces), default=1)
        return [
            (torch.rand(n, 1, 1, generator=generator), torch.randn(n, most, width, generator=generator))
            for n in (len(lesson.items) for lesson in lessons)
        ]

    def sources(self, step: int) -> list[str]:
        """The records of a step, for reports."""
        block, place = divmod(step, self.options.lookahead)
        pairs = self._draw_block(block)[place]
        return [f"{lesson.record.source}:{lesson.record.key}" for lesson, _ in pairs]

    def _draw_block(self, block: int) -> list[list[tuple[Lesson, TokenSequence]]]:
        """The batches of `lookahead` steps. Those of one phase exchange lessons: each then has some of like length.

        In a batch those come first that L_DM can be taken of.
        """
        steps = range(block * self.options.lookahead, (block + 1) * self.options.lookahead)
        batches: list[list[tuple[Lesson, TokenSequence]]] = [[] for _ in steps]
        phases = [self.lessons.mixture.phase(step) for step in steps]
        draw, size = numpy_at(self.config.seed, block), self.config.batch_size
        for phase in dict.fromkeys(phases):
            mine = [i for i, name in enumerate(phases) if name == phase]
            drawn = [lesson for i in mine for lesson in self.lessons.batch(steps[i])]
            pairs = sorted(((lesson, self._lay_out(lesson)) for lesson in drawn), key=lambda pair: len(pair[1].ids))
            for i, k in zip(mine, draw.permutation(len(mine)).tolist(), strict=True):
                batches[i] = sorted(pairs[k * size : (k + 1) * size], key=lambda pair: not self._answers(pair[0]))
        return batches

    def _lay_out(self, lesson: Lesson) -> TokenSequence:
        """Media stay encoded: where they are and of which kind is all that a layout asks for."""
        return self.layout([Message(role, pieces) for role, pieces in lesson.record.turns])  # type: ignore[arg-type]

    def _collate(self, lessons: Sequence[Lesson], sequences: Sequence[TokenSequence]) -> tuple[Batch, Tensor]:
        batch = collate(sequences, self.mllm.backbone.pad_id)
        features = [value for lesson in lessons for value in lesson.features]
        return batch, stack_features(features, self.codi2_config.heads.feature_dim)

    def _fed(self, drawn: Drawn) -> Tensor:
        """What the slots are fed: answers' features are noised, since at generation they are the model's own."""
        features, amount = drawn.features, drawn.amount
        present = features.abs().amax(-1, keepdim=True) > 0
        return ((1 - amount**2).sqrt() * features + amount * drawn.noise) * present

    def losses(self, model: nn.Module, drawn: Drawn) -> dict[str, Tensor]:
        taught = self.mllm(drawn.batch, drawn.features, self._fed(drawn))
        diffusion = [self._diffusion(m, denoised, taught.prediction) for m, denoised in drawn.denoised.items()]
        losses = codi2_loss(
            self.codi2_config.heads,
            taught.prediction,
            taught.target,
            taught.logits,
            taught.labels,
            torch.cat(diffusion) if diffusion else None,
            drawn.held,
        )
        if drawn.drift is not None:
            losses["drift"] = self._drift(drawn.drift)
            losses["loss"] = losses["loss"] + self.options.keep_weight * losses["drift"]
        return losses

    def _drift_texts(self, step: int) -> Drift | None:
        """The texts of a step. Every share sees all of the few: their mean is that of each."""
        if not self.kept:
            return None
        rows = numpy_at(self.config.seed + 1, step).choice(len(self.kept), self.options.kept_texts, replace=False)
        texts, pad = [self.kept[int(i)] for i in rows], self.mllm.backbone.pad_id
        phrases = [phrase for text in texts for phrase in text.phrases]
        plain, asked = (
            replace(collate(some, pad), items=()) for some in ([x.plain for x in texts], [x.asked for x in texts])
        )
        return Drift(plain, asked, stack_features(phrases, self.codi2_config.heads.feature_dim))

    def _drift(self, texts: Drift) -> Tensor:
        """How far the model has gone from the base model on plain texts: mean divergence of a token, in nats."""
        known = self.mllm.backbone.first_new
        with torch.no_grad(), self.mllm.backbone.peft.disable_adapter():
            base = self._scores(texts.plain, texts.phrases[:0])[:, :known].float().log_softmax(-1)
        ours = self._scores(texts.asked, texts.phrases).float().log_softmax(-1)[:, :known]
        return nn.functional.kl_div(ours, base, log_target=True, reduction="batchmean")

    def _scores(self, batch: Batch, features: Tensor) -> Tensor:
        """What the language model, as it is now, expects at the labels of a batch [labels, V]."""
        hidden = self.mllm.backbone(self.mllm.rows(batch, features), batch.mask)
        return self.mllm.backbone.logits(hidden[batch.label_sample, batch.label_position - 1])

    def _diffusion(self, modality: str, denoised: Denoised, prediction: Tensor) -> Tensor:
        """L_DM of a few answers [n], through a frozen decoder."""
        decoder, dtype = self.decoders[modality], getattr(torch, self.placement.dtype)
        codec = decoder.codec
        with torch.no_grad():
            latents = codec.encode(codec.prepare(denoised.media))
            source = torch.zeros_like(latents)
            if len(denoised.given):
                source = source.index_put(
                    (denoised.given,), codec.encode_source(codec.prepare(denoised.sources)).to(source)
                )
        features = decoder.rescaled(prediction[denoised.slots])
        level = torch.zeros(len(latents), dtype=torch.long, device=latents.device)
        # what of a decoder is trained is in float32, the rest in the dtype of the placement
        mixed = nullcontext() if dtype is torch.float32 else torch.autocast(latents.device.type, dtype)
        with mixed:
            return decoder.loss(latents, denoised.noise, denoised.t, features, level, source)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Cosines to the true features, and text loss, on held-out records by task."""
        figures: dict[str, float] = {}
        device = device_of(self.mllm.enter)
        for task, lessons in self.held_out.items():
            batch, features = to_device(self._collate(lessons, [self._lay_out(lesson) for lesson in lessons]), device)
            if batch.slot_predicted.any():
                kinds = batch.item_modality[batch.slot_item[batch.slot_predicted]].unique()
                if len(kinds) > 1:
                    continue
                items, predicted = own_predictions(self.mllm, batch, features)
                count = self.codi2_config.heads.num_slots[MODALITIES[int(kinds)]]
                cosines = torch.cosine_similarity(predicted, features[items], dim=-1).mean(0).tolist()
                figures |= {f"{task}/{slot}": cosine for slot, cosine in zip(SLOTS, cosines[:count], strict=False)}
            else:
                taught = self.mllm(batch, features)
                figures[f"{task}/loss"] = float(nn.functional.cross_entropy(taught.logits.float(), taught.labels))
        return figures

    def provenance(self) -> dict[str, Any]:
        return {"data_sha256": self.lessons.provenance()}

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        import json

        from codi2 import __version__
        from codi2.checkpoint import save_language
        from codi2.diffuse.load import save_decoder
        from codi2.hub import write_atomic

        if self.folder is not None:  # a whole model: what this run does not train is that of the one it is for
            for part in self.folder.iterdir():
                if part.is_dir() and part.name in ("encoder", *self.codi2_config.decoders):
                    shutil.copytree(part, folder / part.name, dirs_exist_ok=True)
        save_language(self.mllm, folder)
        if self.options.decoder_heads:
            for modality, decoder in self.decoders.items():
                save_decoder(decoder, folder / modality)
        write_atomic(folder / "config.json", self.codi2_config.to_json().encode())
        (folder / "adapter" / "training.json").write_text(
            json.dumps({"codi2": __version__, **provenance}, indent=1) + "\n"
        )

    def restore(self, folder: Path) -> None:
        from codi2.checkpoint import load_language
        from codi2.diffuse.load import TRAINED, load_trained

        load_language(self.mllm, folder)
        if self.options.decoder_heads:
            for modality, decoder in self.decoders.items():
                load_trained(decoder, folder / modality / TRAINED)


def _counts(sequence: TokenSequence) -> tuple[int, int]:
    """Predicted slots and text labels."""
    return sum(slot.predicted for slot in sequence.slots), int((sequence.labels != IGNORE).sum())


def held_out_by_task(lessons: Lessons) -> dict[str, list[Lesson]]:
    """The first lessons of one pass over held-out records, by task: MOST_VALIDATED at most, and all that are read."""
    found: dict[str, list[Lesson]] = {}
    for step in range(min(-(-lessons.mixture.total // VALIDATED), MOST_VALIDATED // VALIDATED)):
        for lesson in lessons.batch(step):
            found.setdefault(lesson.record.task, []).append(lesson)
    return dict(sorted(found.items()))


def _for_training(decoder: Decoder) -> nn.Module:
    """What of a decoder L_DM runs through: neither text encoders, whose states are kept, nor the ways back to media."""
    _ = decoder.conditioner.no_words  # read by a text encoder, once
    if decoder.sampling.feature_norm is None:
        _ = decoder.conditioner.expected_norm()  # read from its statistics, once
    codec = decoder.codec
    parts = [decoder.unet, _without(decoder.conditioner, "text"), _without(codec.vae, "decoder", "post_quant_conv")]
    return nn.ModuleList([*parts, *(x for x in (getattr(codec, "mel", None), decoder.draft) if x is not None)])


def _without(module: nn.Module, *names: str) -> nn.Module:
    """The same module as it looks without some of its children."""
    other = copy.copy(module)
    other._modules = {name: child for name, child in module._modules.items() if name not in names}
    return other


def build(config: TrainConfig) -> LLMRecipe:
    return LLMRecipe(config)

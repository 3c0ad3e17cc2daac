"""The language model: LoRA, the rows of the new tokens and the projections, on cached features (sections 3.2, B.2).

Phases of text, image, audio and video alternate step by step, as in B.2. Over the last part of the run the diffusion
loss of the frozen decoders joins in, its gradient reaching the LoRA weights through the regressed feature.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi2.checkpoint import load_one_decoder, locate
from codi2.config import Placement
from codi2.data.chat import load_chats, load_prose
from codi2.diffuse.load import trained_modules
from codi2.encode.contract import Encoder
from codi2.heads.loss import codi2_loss
from codi2.llm.mllm import MLLM, stack_features
from codi2.prompt.layout import IGNORE, MODALITIES, Batch, Message, TokenSequence, collate, layout_for
from codi2.prompt.parts import Text
from codi2.train.config import TrainConfig, options_of
from codi2.train.lessons import Lesson, Lessons, encodings_for
from codi2.train.loop import WHOLE, Share
from codi2.train.parts.draw import numpy_at, torch_at
from codi2.train.parts.predicted import own_predictions

KEPT_TOKENS = 64  # of a piece of prose that is kept
SLOTS = ("joint", "appearance", "manner")  # what the slots of an item hold, in order
VALIDATED, PER_TASK = 16, 24  # lessons of a held-out batch; of a task


@dataclass(frozen=True)
class LLMOptions:
    data: dict[str, float] = field(default_factory=dict)  # data set → share of the examples
    held_out: dict[str, float] = field(default_factory=dict)  # the same, of what it is validated on
    phases: dict[str, float] = field(default_factory=dict)  # phase → share of the steps; empty: all mixed
    loss: str = "paper"  # or released
    alpha: float = 1.0  # weight of the MSE
    diffusion_share: float = 0.2  # last part of the run that has L_DM; 0: none
    diffusion_items: int = 4  # items a step that L_DM is computed on
    decoder_heads: bool = False  # whether what projects features into published decoders learns from L_DM as well (B.2)
    fed_noise: float = 1.0  # most noise on the target's features when they are fed back (teacher forcing)
    lookahead: int = 32  # batches that are drawn together and sorted by length, so that little is padding
    kept_texts: int = 0  # plain texts a step on which the model is held to what it was without its adapters
    keep_weight: float = 1.0  # of that: the divergence from the base model, in nats a token
    gradient_checkpointing: bool = False  # less memory for more work
    placement: dict[str, Any] = field(default_factory=dict)  # fields of `Placement`: bits, dtype, device
    leave: str = ""  # folder of the part `leave` that the way out starts from; empty: as it is
    model: str = "tiny"  # preset or folder: its encoder, its language model, and the decoders of L_DM


@dataclass(frozen=True)
class Kept:
    """A text that the model is held to what the base model says of it: both have the same labels."""

    plain: TokenSequence  # as the base model reads it
    asked: TokenSequence  # as ours does
    phrases: tuple[Tensor, ...] = ()  # features [T, D] of the items of `asked`


@dataclass
class Drawn:
    """A step's batch."""

    lessons: list[Lesson]
    batch: Batch
    features: Tensor  # [N, T, D]
    fed: Tensor  # [N, T, D]
    step: int
    rows: list[int]  # the share's places in the whole batch
    denoised: list[int]  # places in the whole batch of the lessons that L_DM is taken of
    held: tuple[float, ...]  # slots, labels and denoised media of the share, each over its equal part of the batch's

    def sample(self, item: int) -> int:
        """Which lesson item `item` of the batch is of."""
        return int(self.batch.item_sample[item])

    def place(self, item: int) -> tuple[Lesson, int]:
        """The lesson that item `item` of the batch is of, and which of its items it is."""
        sample = self.sample(item)
        return self.lessons[sample], item - sum(len(lesson.items) for lesson in self.lessons[:sample])


class LLMRecipe:
    divides = True

    def __init__(self, config: TrainConfig) -> None:
        from codi2.llm.backbone import load_backbone

        self.config = config
        self.options = options = options_of(LLMOptions, config)
        base, self.folder = locate(options.model)
        heads = replace(base.heads, loss=options.loss, alpha=options.alpha)  # type: ignore[arg-type]
        self.codi2_config = replace(base, heads=heads)
        torch.manual_seed(config.seed)
        placement = Placement(**options.placement)
        self.mllm = MLLM(load_backbone(base.llm, placement), heads)
        if options.gradient_checkpointing:
            self.mllm.backbone.checkpoint_gradients()
        if options.leave:
            self._start_leave()
        self.layout = layout_for(self.codi2_config, self.mllm.backbone.tokenizer)
        encodings = encodings_for(self.codi2_config, self.folder)
        self.lessons = Lessons(options.data, encodings, config.batch_size, options.phases or None, config.seed)
        self.held_out = held_out_by_task(Lessons(options.held_out or options.data, encodings, VALIDATED, None, 1))
        self.kept = self._kept_texts(encodings.encoder) if options.kept_texts else []
        self.decoders = self._decoders(self.folder) if options.diffusion_share else {}
        self.model = nn.ModuleDict({"mllm": self.mllm})
        if options.decoder_heads:
            heads_of = {m: nn.ModuleList(trained_modules(decoder)) for m, decoder in self.decoders.items()}
            self.model["decoders"] = nn.ModuleDict(heads_of).requires_grad_(True)
        self._block: tuple[int, list[list[tuple[Lesson, TokenSequence]]]] = (-1, [])

    def _start_leave(self) -> None:
        from codi2.train.parts.leave import load_leave

        load_leave(self.mllm.leave, Path(self.options.leave))

    def _decoders(self, folder: Path | None) -> dict[str, Any]:
        return {m: load_one_decoder(m, self.codi2_config, folder and folder / m) for m in self.codi2_config.decoders}

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
        denoised = numpy_at(self.config.seed + 2, step).permutation(len(pairs))[: self.options.diffusion_items]
        totals = [
            (*_counts(sequence), self._answers(lesson) * (i in denoised)) for i, (lesson, sequence) in enumerate(pairs)
        ]
        mine, rows = share.of(pairs), share.rows(len(pairs))
        lessons = [lesson for lesson, _ in mine]
        batch, features = self._collate(lessons, [sequence for _, sequence in mine])
        held = np.array([totals[i] for i in rows]).sum(0) * share.count / np.maximum(np.array(totals).sum(0), 1)
        fed = self._fed(batch, features, [noise[i] for i in rows])
        return Drawn(lessons, batch, features, fed, step, rows, denoised.tolist(), tuple(held.tolist()))

    def _answers(self, lesson: Lesson) -> int:
        """How many media of a lesson L_DM can be taken of."""
        return sum(role == "assistant" and piece.modality in self.decoders for role, piece in lesson.items)

    def _noise(self, lessons: Sequence[Lesson], step: int) -> list[tuple[Tensor, Tensor]]:
        """Of each lesson's items: how much, [n, 1, 1], and the noise itself [n, T, D]."""
        generator, width = torch_at(self.config.seed, step), self.codi2_config.heads.feature_dim
        most = max(len(value) for lesson in lessons for value in lesson.features)
        return [
            (torch.rand(n, 1, 1, generator=generator), torch.randn(n, most, width, generator=generator))
            for n in (len(lesson.features) for lesson in lessons)
        ]

    def sources(self, step: int) -> list[str]:
        """The records of a step, for reports."""
        return [f"{x.record.source}:{x.record.key}" for x in self.batch(step).lessons]

    def _draw_block(self, block: int) -> list[list[tuple[Lesson, TokenSequence]]]:
        """The batches of `lookahead` steps. Those of one phase exchange lessons: each then has some of like length."""
        steps = range(block * self.options.lookahead, (block + 1) * self.options.lookahead)
        batches: list[list[tuple[Lesson, TokenSequence]]] = [[] for _ in steps]
        phases = [self.lessons.mixture.phase(step) for step in steps]
        draw, size = numpy_at(self.config.seed, block), self.config.batch_size
        for phase in dict.fromkeys(phases):
            mine = [i for i, name in enumerate(phases) if name == phase]
            drawn = [lesson for i in mine for lesson in self.lessons.batch(steps[i])]
            pairs = sorted(((lesson, self._lay_out(lesson)) for lesson in drawn), key=lambda pair: len(pair[1].ids))
            for i, k in zip(mine, draw.permutation(len(mine)).tolist(), strict=True):
                batches[i] = pairs[k * size : (k + 1) * size]
        return batches

    def _lay_out(self, lesson: Lesson) -> TokenSequence:
        """Media stay encoded: where they are and of which kind is all that a layout asks for."""
        return self.layout([Message(role, pieces) for role, pieces in lesson.record.turns])  # type: ignore[arg-type]

    def _collate(self, lessons: Sequence[Lesson], sequences: Sequence[TokenSequence]) -> tuple[Batch, Tensor]:
        batch = collate(sequences, self.mllm.backbone.pad_id)
        features = [value for lesson in lessons for value in lesson.features]
        return batch, stack_features(features, self.codi2_config.heads.feature_dim)

    def _fed(self, batch: Batch, features: Tensor, drawn: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """What the slots are fed: answers' features are noised, since at generation they are the model's own."""
        answers = torch.zeros(len(features), dtype=torch.bool)
        answers[batch.slot_item[batch.slot_predicted]] = True
        amount, noise = (torch.cat(values) for values in zip(*drawn, strict=True))
        amount = amount * self.options.fed_noise * answers[:, None, None]
        present = features.abs().amax(-1, keepdim=True) > 0
        return ((1 - amount**2).sqrt() * features + amount * noise[:, : features.shape[1]]) * present

    def losses(self, model: nn.Module, drawn: Drawn) -> dict[str, Tensor]:
        taught = self.mllm(drawn.batch, drawn.features, drawn.fed)
        diffusion = None
        if self.decoders and drawn.step >= self.config.steps * (1 - self.options.diffusion_share):
            diffusion = self._diffusion(drawn, taught)
        heads = self.codi2_config.heads
        losses = codi2_loss(
            heads, taught.prediction, taught.target, taught.logits, taught.labels, diffusion, drawn.held
        )
        if self.kept:
            losses["drift"] = self._drift(drawn)
            losses["loss"] = losses["loss"] + self.options.keep_weight * losses["drift"]
        return losses

    def _drift(self, drawn: Drawn) -> Tensor:
        """How far the model has gone from the base model on plain texts: mean divergence of a token, in nats."""
        # every share sees all of the few texts: their mean is that of each
        rows = numpy_at(self.config.seed + 1, drawn.step).choice(len(self.kept), self.options.kept_texts, replace=False)
        texts, known = [self.kept[int(i)] for i in rows], self.mllm.backbone.first_new
        with torch.no_grad(), self.mllm.backbone.peft.disable_adapter():
            base = self._scores([text.plain for text in texts])[:, :known].float().log_softmax(-1)
        phrases = [phrase for text in texts for phrase in text.phrases]
        ours = self._scores([text.asked for text in texts], phrases).float().log_softmax(-1)[:, :known]
        return nn.functional.kl_div(ours, base, log_target=True, reduction="batchmean")

    def _scores(self, sequences: Sequence[TokenSequence], features: Sequence[Tensor] = ()) -> Tensor:
        """What the language model, as it is now, expects at the labels of sequences [labels, V]."""
        backbone, batch = self.mllm.backbone, collate(sequences, self.mllm.backbone.pad_id)
        given = stack_features(list(features), self.codi2_config.heads.feature_dim)
        hidden = backbone(self.mllm.rows(batch, given), batch.mask)
        sample, position = (batch.labels != IGNORE).nonzero(as_tuple=True)
        return backbone.logits(hidden[sample, position - 1])

    def _diffusion(self, drawn: Drawn, taught: Any) -> Tensor | None:
        """L_DM of a few answers, through the frozen decoders."""
        losses = []
        for modality, decoder in self.decoders.items():
            items, predicted = taught.of(modality)
            chosen = [i for i, item in enumerate(items.tolist()) if drawn.rows[drawn.sample(item)] in drawn.denoised]
            if not chosen:
                continue
            asked = [drawn.place(int(items[i])) for i in chosen]
            targets = [lesson.medium(item).decode() for lesson, item in asked]
            latents = decoder.codec.encode(decoder.codec.to_tensor(targets))
            source = torch.zeros_like(latents)
            for row, (lesson, item) in enumerate(asked):
                if (given := lesson.source(modality, decoder.codec.others, item)) is not None:
                    medium = [lesson.medium(given).decode()]
                    source[row] = decoder.codec.encode_source(decoder.codec.to_tensor(medium))[0]
            # of a sample's own, whatever the others of its share are
            size = self.config.batch_size
            seeds = [drawn.step * size + drawn.rows[drawn.sample(int(items[i]))] for i in chosen]
            drawing = [torch_at(self.config.seed + 1, seed) for seed in seeds]
            t = torch.cat([decoder.process.times(1, generator) for generator in drawing])
            noise = torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in drawing])
            features = decoder.rescaled(predicted[chosen])
            losses.append(decoder.loss(latents, noise, t, features, torch.zeros(len(chosen), dtype=torch.long), source))
        return torch.cat(losses) if losses else None

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Cosines to the true features, and text loss, on held-out records by task."""
        figures: dict[str, float] = {}
        for task, lessons in self.held_out.items():
            batch, features = self._collate(lessons, [self._lay_out(lesson) for lesson in lessons])
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
    """Up to PER_TASK lessons of each task, of one pass over held-out records."""
    found: dict[str, list[Lesson]] = {}
    for step in range(-(-lessons.mixture.total // VALIDATED)):
        for lesson in lessons.batch(step):
            some = found.setdefault(lesson.record.task, [])
            if len(some) < PER_TASK:
                some.append(lesson)
    return dict(sorted(found.items()))


def build(config: TrainConfig) -> LLMRecipe:
    return LLMRecipe(config)

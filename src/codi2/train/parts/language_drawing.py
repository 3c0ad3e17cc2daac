"""Draws the batches of the language model's training: the examples, their layout, and their random values.

The steps of a block that have the same phase exchange examples, so that each step has examples of similar length and
little padding. Examples are exchanged within lanes, so that a process reads its own lanes and not the whole batch: lane
k of L holds the rows k, k + L, … of every step's batch.

N: items, T: features of an item, D: joint width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codi2.config import CoDi2Config
from codi2.data.record import Medium
from codi2.diffuse.decoder import Decoder
from codi2.prompt.layout import IGNORE, Batch, Layout, Message, TokenSequence, collate
from codi2.prompt.parts import Phrase
from codi2.train.config import TrainConfig
from codi2.train.drawn import DrawnExamples
from codi2.train.examples import ExampleSet, TrainingExample
from codi2.train.parts.denoised import draw_denoised
from codi2.train.parts.draw import numpy_at, torch_at
from codi2.train.parts.drift import drift_texts
from codi2.train.parts.language_batch import DiffusionBatch, Drift, KeptText, LanguageBatch
from codi2.train.shares import Share

if TYPE_CHECKING:
    from codi2.train.parts.llm import LLMOptions

Pair = tuple[TrainingExample, TokenSequence]


class Drawing:
    """Batches as functions of the config's seed, the step and the share.

    Args:
        pad_id: token that fills short sequences.
        decoders: of L_DM, by modality; only their codecs' `read` is used here.
        kept: texts on which the model should predict as the base model does.
    """

    def __init__(
        self,
        config: TrainConfig,
        options: LLMOptions,
        model: CoDi2Config,
        examples: ExampleSet | DrawnExamples,
        layout: Layout,
        pad_id: int,
        decoders: Mapping[str, Decoder],
        kept: Sequence[KeptText],
    ) -> None:
        self.config, self.options, self.model, self.examples, self.layout = config, options, model, examples, layout
        self.pad_id, self.decoders, self.kept = pad_id, decoders, kept
        # one answer of each lane is denoised, so processes with equally many lanes have equally many answers
        self.lanes = min(config.batch_size, max(1, options.diffusion_items))
        self._block = -1
        self._read: dict[int, list[list[Pair]]] = {}  # lane → its pairs in each step of the block

    def draw(self, step: int, share: Share) -> LanguageBatch:
        """A share of a step's batch; `unseen` has the items that are not encoded yet."""
        size = self.config.batch_size
        rows = share.rows(size)
        lanes = {lane: self._lane(step, lane) for lane in sorted({row % self.lanes for row in rows})}
        pairs = {row: pair for lane in lanes.values() for row, pair in lane.items()}
        denoised = {self._denoised_row(step, lane, pairs) for lane, pairs in lanes.items()}
        examples, sequences = [pairs[row][0] for row in rows], [pairs[row][1] for row in rows]
        batch = collate(sequences, self.pad_id)
        features, unseen = self._known_features(examples)
        amount, noise = self._noise(examples, [step * size + row for row in rows], features)
        answers = torch.zeros(len(features), 1, 1)
        answers[batch.slot_item[batch.predicted]] = 1
        denoised_rows = [(n, row) for n, row in enumerate(rows) if row in denoised]
        return LanguageBatch(
            replace(batch, items=()),  # the media are not needed any more
            features,
            amount * answers,
            noise,
            self._denoised(denoised_rows, examples, batch, step),
            self._drift_texts(step),
            torch.tensor([len(batch.predicted), int((batch.labels != IGNORE).sum()), len(denoised_rows)]).float(),
            unseen,
        )

    @property
    def dim(self) -> int:
        return self.model.heads.feature_dim

    def _lane(self, step: int, lane: int) -> dict[int, Pair]:
        """Row in a step's batch → pair, for the rows of a lane."""
        block, place = divmod(step, self.options.lookahead)
        if block != self._block:
            self._block, self._read = block, {}
        if lane not in self._read:
            self._read[lane] = self._exchanged(block, lane)
        return {lane + n * self.lanes: pair for n, pair in enumerate(self._read[lane][place])}

    def _exchanged(self, block: int, lane: int) -> list[list[Pair]]:
        """A lane's pairs in each step of a block. The same step has the longest examples in all lanes."""
        steps = range(block * self.options.lookahead, (block + 1) * self.options.lookahead)
        phases = [self.examples.phase(step) for step in steps]
        draw = numpy_at(self.config.seed, block)
        batches: list[list[Pair]] = [[] for _ in steps]
        for phase in dict.fromkeys(phases):
            places = [i for i, name in enumerate(phases) if name == phase]
            examples = [example for i in places for example in self.examples.batch(steps[i], lane, self.lanes)]
            pairs = sorted(
                ((example, self.lay_out(example)) for example in examples), key=lambda pair: len(pair[1].ids)
            )
            size = len(pairs) // len(places)
            for i, k in zip(places, draw.permutation(len(places)).tolist(), strict=True):
                batches[i] = pairs[k * size : (k + 1) * size]
        return batches

    def lay_out(self, example: TrainingExample) -> TokenSequence:
        """The layout of a example; media are not decoded, as a layout needs only their positions and modalities."""
        return self.layout([Message(role, pieces) for role, pieces in example.record.turns])  # type: ignore[arg-type]

    def _answers(self, example: TrainingExample) -> list[int]:
        """The media of a example on which L_DM can be computed: those of the last turn, whose source is named."""
        return [i for i in example.answers if example.items[i][1].modality in self.decoders]

    def _denoised_row(self, step: int, lane: int, pairs: Mapping[int, Pair]) -> int | None:
        """The row of a lane on one answer of which L_DM is computed; None: no row has an answer, or L_DM is off."""
        if not self.options.diffusion_items or step < self.config.steps * (1 - self.options.diffusion_share):
            return None
        candidates = [row for row, (example, _) in pairs.items() if self._answers(example)]
        draw = numpy_at(self.config.seed + 2, step * self.lanes + lane)
        return candidates[int(draw.integers(len(candidates)))] if candidates else None

    def _drift_texts(self, step: int) -> Drift | None:
        draw = numpy_at(self.config.seed + 1, step)
        return drift_texts(self.kept, draw, self.options.kept_texts, self.pad_id, self.dim) if self.kept else None

    def _known_features(self, examples: Sequence[TrainingExample]) -> tuple[Tensor, dict[int, Medium | Phrase]]:
        """Features [N, T, D] of the items of examples, zeros where they are not encoded, and the items that are not."""
        pieces = [piece for example in examples for piece in example.pieces]
        known = self.examples.encodings.known(pieces)
        counts = self.model.encoder.num_features
        features = torch.zeros(len(pieces), max((counts[p.modality] for p in pieces), default=1), self.dim)
        for row, value in zip(features, known, strict=True):
            if value is not None:
                row[: len(value)] = value
        return features, {i: piece for i, piece in enumerate(pieces) if known[i] is None}

    def _noise(
        self, examples: Sequence[TrainingExample], seeds: Sequence[int], features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Amount [N, 1, 1] and noise [N, T, D] of each item, which depend on the example's seed only."""
        counts = self.model.encoder.num_features
        amounts, noise, first = [torch.zeros(0, 1, 1)], torch.zeros_like(features), 0
        for example, seed in zip(examples, seeds, strict=True):
            generator, n = torch_at(self.config.seed, seed), len(example.items)
            most = max((counts[piece.modality] for piece in example.pieces), default=0)
            amounts.append(torch.rand(n, 1, 1, generator=generator))
            noise[first : first + n, :most] = torch.randn(n, most, self.dim, generator=generator)
            first += n
        return torch.cat(amounts), noise

    def _denoised(
        self, denoised_rows: Sequence[tuple[int, int]], examples: Sequence[TrainingExample], batch: Batch, step: int
    ) -> dict[str, DiffusionBatch]:
        """One answer of each of `denoised_rows`, which are places in the share and rows in the whole batch."""
        first = np.cumsum([0, *(len(example.items) for example in examples)])
        slot_items = batch.slot_item[batch.predicted].tolist()
        groups: dict[str, list[tuple[TrainingExample, int, int, int]]] = {}
        for place, row in denoised_rows:
            # the seed depends on the row only, not on the share
            example, seed = examples[place], step * self.config.batch_size + row
            item = int(numpy_at(self.config.seed + 3, seed).choice(self._answers(example)))
            groups.setdefault(example.items[item][1].modality, []).append(
                (example, item, int(first[place]) + item, seed)
            )
        batches = {}
        for modality, group in groups.items():
            slots = torch.tensor([[k for k, i in enumerate(slot_items) if i == place] for _, _, place, _ in group])
            answers = [(example, item, seed) for example, item, _, seed in group]
            batches[modality] = draw_denoised(
                self.decoders[modality], answers, slots, self.dim, self.config.seed, self.options.decoder_heads
            )
        return batches

    def sources(self, step: int) -> list[str]:
        """The records of a step, for reports, in the order of its rows."""
        pairs = dict(sorted(chain(*(self._lane(step, lane).items() for lane in range(self.lanes))), key=itemgetter(0)))
        return [f"{example.record.source}:{example.record.key}" for example, _ in pairs.values()]

"""Generation: a step loop in which text is sampled and the features of media follow by force (section 3.2).

When the model emits a begin token, K slots follow: the hidden state before a slot predicts its feature, which is
projected back in as the slot's row. The end token comes by force, then text again. Samples of a batch are at
different points of this; each step feeds one row for each, and a batch gives what single runs give.

B: samples, W: width of the language model, D: joint space, V: vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from codi2.errors import PromptError
from codi2.heads.projection import Memory, fit_features
from codi2.llm.mllm import MLLM
from codi2.llm.stops import first
from codi2.prompt.layout import BEGIN, END, MODALITIES, Batch
from codi2.prompt.parts import Text
from codi2.stopping import check_stop


@dataclass(frozen=True)
class ReplyOptions:
    """How one reply is made."""

    want: tuple[str, ...] | None = None  # what the reply must hold, in order; (): text, if any; None: free
    makes: tuple[str, ...] = MODALITIES  # modalities that can be made; others are never begun
    max_new_tokens: int = 256  # text and begin tokens; an item that has begun is always completed
    max_items: int = 4  # media of a free reply
    temperature: float = 0.0  # of the text; 0: greedy
    top_p: float = 1.0  # tokens are drawn from the smallest set of this probability
    stop: tuple[str, ...] = ()  # strings at which the reply ends; they are no part of it
    seed: int = 0  # of the draws


@dataclass(frozen=True)
class TextSegment:
    """Token ids of a stretch of text, without special tokens."""

    ids: tuple[int, ...]
    kept: int | None = None  # characters before the string that ended the reply, where one did


@dataclass(frozen=True)
class FeatureSegment:
    """A generated item: features float32 [K, D] of one modality."""

    modality: str
    features: Tensor
    recalled: bool = False  # whether they are those of a training item
    states: Tensor | None = None  # [K, W], the language model's before each slot: what a prior reads


Segment = TextSegment | FeatureSegment

Listener = Callable[[int, int, int], bool]
"""Called with the sample, each text token or begin token that it says, and the place of the stretch of text or of the
medium in the reply, from 0; True at a text token ends its turn."""


def text_of(segment: TextSegment, tokenizer: Any) -> Text:
    """The words of a stretch of text."""
    return Text(tokenizer.decode(segment.ids)[: segment.kept], segment.ids)


class Conversation:
    """What the model has read and written so far, for a batch of conversations: KV cache and media.

    A later round feeds only what is new; see `llm.reading`.
    """

    def __init__(self, mllm: MLLM, size: int = 1) -> None:
        from transformers import DynamicCache

        device = next(mllm.parameters()).device
        slots, dim = max(mllm.config.num_slots.values()), mllm.config.feature_dim
        self.mllm = mllm
        self.cache: Any = DynamicCache(config=mllm.backbone.model.config)
        self.mask = torch.zeros(size, 0, dtype=torch.bool, device=device)  # [B, past], False at padding
        self.memory = Memory(
            torch.zeros(0, mllm.backbone.width, device=device),
            torch.zeros(0, slots, dim, device=device),
            torch.zeros(0, dtype=torch.long, device=device),
            torch.zeros(0, dtype=torch.long, device=device),
        )

    def advance(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Feed `rows` [B, L, W], padding where `mask` [B, L] is False; the hidden states [B, L, W]."""
        past = self.mask.sum(1, keepdim=True)
        positions = (past + mask.cumsum(1) - 1).clamp(min=0)
        self.mask = torch.cat([self.mask, mask], dim=1)
        return self.mllm.backbone(rows, self.mask, positions, self.cache)

    def read(self, batch: Batch, features: Tensor) -> Tensor:
        """Feed a batch, padded on the left, with the features [N, T, D] of its items; its hidden states [B, L, W]."""
        hidden = self.advance(self.mllm.rows(batch, features), batch.mask)
        self.remember(self.mllm.memory(batch, hidden, features))
        return hidden

    def remember(self, items: Memory) -> None:
        self.memory = self.memory.extend(items)

    @property
    def mark(self) -> tuple[int, int]:
        """Where it stands: positions and items, for `rewind`."""
        return self.mask.shape[1], len(self.memory.sample)

    def rewind(self, mark: tuple[int, int]) -> bool:
        """Back to where it stood at `mark`. False, and nothing is done, where the cache has forgotten the way: sliding
        windows drop what is behind them."""
        positions, items = mark
        if any(getattr(layer, "is_sliding", False) for layer in self.cache.layers):
            return False
        if positions < self.mask.shape[1]:
            self.cache.crop(positions - self.mask.shape[1])  # how many are to go, as a negative number
        self.mask = self.mask[:, :positions]
        self.memory = self.memory.first(items)
        return True


@torch.no_grad()
def generate(
    conversation: Conversation,
    batch: Batch,
    features: Tensor,
    options: Sequence[ReplyOptions],
    listen: Listener | None = None,
) -> list[list[Segment]]:
    """Read what is new in each conversation and write its reply, as segments in order.

    `batch` is padded on the left and ends with the opened turn of the assistant; `features` [N, T, D] are those of its
    items; `options` has one entry for each sample. The model should be in eval mode. Raises PromptError when the
    conversation grows beyond the model's `max_length`, or for a wanted modality that the model cannot generate.
    """
    mllm = conversation.mllm
    length = int(conversation.mask.sum(1).max()) + batch.ids.shape[1]
    if length > mllm.backbone.max_length:
        raise PromptError(
            f"The conversation takes {length} positions, the model reads {mllm.backbone.max_length}; start a new one."
        )
    writers = [_Writer(mllm, option, partial(listen, b) if listen else None) for b, option in enumerate(options)]
    newest = conversation.read(batch, features)[:, -1]  # [B, W], of the row that was fed last
    while fed := _next_rows(conversation, writers, newest):
        check_stop()
        samples = torch.tensor(list(fed), device=newest.device)
        rows = torch.zeros_like(newest).index_copy(0, samples, torch.stack(list(fed.values())))
        mask = torch.zeros(len(writers), dtype=torch.bool, device=newest.device).index_fill(0, samples, True)
        newest = conversation.advance(rows[:, None], mask[:, None])[:, 0]
        for b in fed:
            if (item := writers[b].ended) is not None:
                made = fit_features(item.features[None], conversation.memory.features.shape[1])
                kind = samples.new_tensor([MODALITIES.index(item.modality)])
                conversation.remember(Memory(newest[b : b + 1], made, samples.new_tensor([b]), kind))
    return [writer.segments for writer in writers]


def _next_rows(conversation: Conversation, writers: list[_Writer], newest: Tensor) -> dict[int, Tensor]:
    """The row [W] that each unfinished sample feeds next."""
    mllm, rows = conversation.mllm, {}
    in_item = [b for b, writer in enumerate(writers) if writer.features_left]
    if in_item:
        at = torch.tensor(in_item, device=newest.device)
        modality = at.new_tensor([MODALITIES.index(writers[b].modality) for b in in_item])
        number = at.new_tensor([len(writers[b].features) for b in in_item])
        visible = conversation.memory.sample == at[:, None]
        features = mllm.output_projection(newest[at], modality, number, conversation.memory, visible)
        for b, feature, row in zip(in_item, features, mllm.input_projection(features, modality), strict=True):
            writers[b].features.append(feature)
            writers[b].states.append(newest[b].clone())
            rows[b] = row.to(newest.dtype)

    tokens = {b: writer.forced() for b, writer in enumerate(writers) if b not in rows and not writer.done}
    free = [b for b, token in tokens.items() if token is None]
    if free:
        for b, scores in zip(free, mllm.backbone.logits(newest[free]).float(), strict=True):
            tokens[b] = writers[b].choose(scores)
    said = {b: token for b, token in tokens.items() if token is not None and writers[b].say(token)}
    if said:
        embedded = mllm.backbone.embed(torch.tensor(list(said.values()), device=newest.device))
        rows |= dict(zip(said, embedded, strict=True))
    return rows


class _Writer:
    """Where one sample is in its reply."""

    def __init__(self, mllm: MLLM, options: ReplyOptions, listen: Callable[[int, int], bool] | None = None) -> None:
        self.listen = listen
        self.tokenizer = mllm.backbone.tokenizer
        token_id = self.tokenizer.convert_tokens_to_ids
        self.options = options
        self.num_slots = mllm.config.num_slots
        for modality in options.want or ():
            if modality not in self.num_slots and modality != "text":
                raise PromptError(
                    f"This model cannot generate {modality}; it can generate {', '.join(self.num_slots)}."
                )
        self.eos_id = mllm.backbone.eos_id
        self.special = list(mllm.backbone.new_ids)
        self.begin = {token_id(BEGIN[m]): m for m in self.num_slots if m in options.makes}
        self.end = {m: token_id(END[m]) for m in self.num_slots}
        self.generator = torch.Generator().manual_seed(options.seed)
        self.wanted = list(options.want or ())  # media that have not begun, text that has not ended
        self.queue: list[int] = []  # to come by force
        self.budget = options.max_new_tokens
        self.closed = False  # the model has ended its turn
        self.said: list[list[int] | FeatureSegment] = []
        self.kept: int | None = None  # characters of the last stretch of text, where a string has ended it
        self.modality = ""  # of the item that has begun
        self.features: list[Tensor] = []  # its features so far, [D] each
        self.states: list[Tensor] = []  # the states that they were regressed from, [W] each
        self.ended: FeatureSegment | None = None  # the item that the last token ended

    @property
    def features_left(self) -> int:
        return self.num_slots[self.modality] - len(self.features) if self.modality else 0

    @property
    def done(self) -> bool:
        return self.closed or (self.budget <= 0 and not self.queue and not set(self.wanted) - {"text"})

    @property
    def segments(self) -> list[Segment]:
        last = len(self.said) - 1
        return [
            part if isinstance(part, FeatureSegment) else TextSegment(tuple(part), self.kept if place == last else None)
            for place, part in enumerate(self.said)
        ]

    def forced(self) -> int | None:
        """The next token where it is not the model's choice: the edges of wanted media, which begin where a wanted text
        before them has ended."""
        if self.queue:
            return self.queue.pop(0)
        while self.wanted and self.wanted[0] == "text" and self.budget <= 0:
            self.wanted.pop(0)
        if not self.wanted or self.wanted[0] == "text":
            return None
        modality = self.wanted.pop(0)
        self.queue = [self.end[modality]]
        return int(self.tokenizer.convert_tokens_to_ids(BEGIN[modality]))

    def choose(self, scores: Tensor) -> int:
        """The next token from the model's scores [V]. A wanted text has words before the model can end it."""
        must_speak = self.wanted[:1] == ["text"] and not self.speaks
        if must_speak:
            scores[self.eos_id] = -torch.inf
        token = self._own(scores)
        if token == self.eos_id and self.wanted:
            while self.wanted[:1] == ["text"]:
                self.wanted.pop(0)
            if (begins := self.forced()) is not None:
                self.budget += 1  # nothing was said
                return begins
        return token

    @property
    def speaks(self) -> bool:
        """Whether the stretch of text that is being written has words."""
        last = self.said[-1] if self.said else None
        return isinstance(last, list) and bool(self.tokenizer.decode(last).strip())

    def _own(self, scores: Tensor) -> int:
        self.budget -= 1
        items = sum(isinstance(part, FeatureSegment) for part in self.said)
        may_begin = self.options.want is None and items < self.options.max_items
        banned = [token for token in self.special if not (may_begin and token in self.begin)]
        scores[banned] = -torch.inf
        if self.options.temperature == 0:
            return int(scores.argmax())
        # the best score is 0 before it is divided: by a temperature near 0 it would be infinite, and all others NaN
        scores = (scores - scores.max()) / self.options.temperature
        return _draw(scores, self.options.top_p, self.generator)

    def say(self, token: int) -> bool:
        """Note `token`; False if it ends the turn and is not to be fed: the chat template will repeat it."""
        self.ended = None
        if token == self.eos_id:
            self.closed = True
        elif token in self.begin:
            self.modality = self.begin[token]
            if self.listen:
                self.listen(token, len(self.said))
            if not self.queue:
                self.queue = [self.end[self.modality]]
        elif self.modality:  # the only token that can come in an item is its end
            states = torch.stack(self.states)
            self.ended = FeatureSegment(self.modality, torch.stack(self.features), states=states)
            self.said.append(self.ended)
            self.modality, self.features, self.states = "", [], []
        else:
            if not self.said or not isinstance(self.said[-1], list):
                self.said.append([])
            words = self.said[-1]
            assert isinstance(words, list)
            words.append(token)
            if self.options.stop:
                self.kept = first(self.tokenizer.decode(words), self.options.stop)
            left = self.listen is not None and self.listen(token, len(self.said) - 1)
            if left or self.kept is not None:
                self.budget, self.queue, self.wanted = 0, [], []
        return not self.closed


def _draw(scores: Tensor, top_p: float, generator: torch.Generator) -> int:
    """A token from the smallest set of tokens that holds the probability `top_p`."""
    probabilities, order = scores.softmax(-1).cpu().sort(descending=True)
    kept = probabilities.cumsum(0) - probabilities < top_p
    kept[0] = True  # at top_p = 0 too
    return int(order[torch.multinomial(probabilities * kept, 1, generator=generator)])

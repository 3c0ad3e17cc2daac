"""Generation: a step loop that samples text and predicts the features of media (section 3.2).

After a begin token, K slots are generated next: the hidden state before a slot predicts its feature, and the projected
feature is the slot's input row. The end token follows, then text again. The samples of a batch may be at different
points of a reply; each step feeds one row per sample, and a batch gives what single runs give.

B: samples, W: width of the language model, D: joint space, V: vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from codi2.cancellation import check_cancelled
from codi2.errors import PromptError
from codi2.llm.mllm import MLLM
from codi2.llm.stops import find_stop
from codi2.prompt.layout import BEGIN, END, MODALITIES, Batch
from codi2.prompt.parts import Text


@dataclass(frozen=True)
class GenerationOptions:
    """How one reply is made."""

    want: tuple[str, ...] | None = None  # modalities of the reply, in order; (): text only; None: the model decides
    makes: tuple[str, ...] = MODALITIES  # modalities that can be generated; others are never begun
    max_new_tokens: int = 256  # text and begin tokens; an item that has begun is always completed
    max_items: int = 4  # most media of a reply where `want` is None
    temperature: float = 0.0  # of the text; 0: greedy
    top_p: float = 1.0  # tokens are sampled from the smallest set of this probability
    stop: tuple[str, ...] = ()  # strings at which the reply ends; the reply does not contain them
    seed: int = 0  # of the sampled tokens


@dataclass(frozen=True)
class TextSegment:
    """Token ids of a stretch of text, without special tokens."""

    ids: tuple[int, ...]
    kept: int | None = None  # characters before a stop string; None: the text holds none


@dataclass(frozen=True)
class FeatureSegment:
    """A generated item: features float32 [K, D] of one modality."""

    modality: str
    features: Tensor
    states: Tensor | None = None  # [K, W], hidden states before each slot: the prior's condition


Segment = TextSegment | FeatureSegment

Listener = Callable[[int, int, int], bool]
"""Called with the index of the sample, each text or begin token that it generates, and the index of the segment in the
reply; True at a text token ends the turn."""


def text_of(segment: TextSegment, tokenizer: Any) -> Text:
    """The words of a stretch of text."""
    return Text(tokenizer.decode(segment.ids)[: segment.kept], segment.ids)


class CachedConversation:
    """State of a batch of conversations: the KV cache.

    A later round feeds only what is new; see `llm.reading`.
    """

    def __init__(self, mllm: MLLM, size: int = 1) -> None:
        from transformers import DynamicCache

        device = next(mllm.parameters()).device
        self.mllm = mllm
        self.cache: Any = DynamicCache(config=mllm.backbone.model.config)
        self.mask = torch.zeros(size, 0, dtype=torch.bool, device=device)  # [B, past], False at padding

    def advance(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Feed `rows` [B, L, W], padding where `mask` [B, L] is False; the hidden states [B, L, W]."""
        past = self.mask.sum(1, keepdim=True)
        positions = (past + mask.cumsum(1) - 1).clamp(min=0)
        self.mask = torch.cat([self.mask, mask], dim=1)
        return self.mllm.backbone(rows, self.mask, positions, self.cache)

    def read(self, batch: Batch, features: Tensor) -> Tensor:
        """Feed a batch, padded on the left, with the features [N, T, D] of its items; its hidden states [B, L, W]."""
        return self.advance(self.mllm.rows(batch, features), batch.mask)

    @property
    def positions(self) -> int:
        """The number of positions that were fed, for `rewind`."""
        return self.mask.shape[1]

    def rewind(self, positions: int) -> bool:
        """Returns to the state after `positions`. False, and no change, for a cache with sliding windows: it has
        dropped the earlier positions."""
        if any(getattr(layer, "is_sliding", False) for layer in self.cache.layers):
            return False
        if positions < self.mask.shape[1]:
            self.cache.crop(positions - self.mask.shape[1])  # negative: the number of positions to remove
        self.mask = self.mask[:, :positions]
        return True


@torch.no_grad()
def generate(
    conversation: CachedConversation,
    batch: Batch,
    features: Tensor,
    options: Sequence[GenerationOptions],
    listen: Listener | None = None,
) -> list[list[Segment]]:
    """Read the new messages of each conversation and generate the replies, as segments in order.

    Args:
        batch: padded on the left; ends with the opened turn of the assistant.
        features: [N, T, D] of the batch's items.
        options: one entry for each sample.
    Raises:
        PromptError: the conversation is longer than the model's `max_length`, or the model cannot generate a wanted
            modality.

    The model should be in eval mode.
    """
    mllm = conversation.mllm
    length = int(conversation.mask.sum(1).max()) + batch.ids.shape[1]
    if length > mllm.backbone.max_length:
        raise PromptError(
            f"the conversation has {length} positions, but the model reads {mllm.backbone.max_length}; start a new one"
        )
    writers = [_Writer(mllm, option, partial(listen, b) if listen else None) for b, option in enumerate(options)]
    newest = conversation.read(batch, features)[:, -1]  # [B, W], hidden state of the last row
    while fed := _next_rows(conversation, writers, newest):
        check_cancelled()
        samples = torch.tensor(list(fed), device=newest.device)
        rows = torch.zeros_like(newest).index_copy(0, samples, torch.stack(list(fed.values())))
        mask = torch.zeros(len(writers), dtype=torch.bool, device=newest.device).index_fill(0, samples, True)
        newest = conversation.advance(rows[:, None], mask[:, None])[:, 0]
    return [writer.segments for writer in writers]


def _next_rows(conversation: CachedConversation, writers: list[_Writer], newest: Tensor) -> dict[int, Tensor]:
    """Sample → its next input row [W], for each unfinished sample."""
    mllm, rows = conversation.mllm, {}
    in_item = [b for b, writer in enumerate(writers) if writer.features_left]
    if in_item:
        samples = torch.tensor(in_item, device=newest.device)
        modality = samples.new_tensor([MODALITIES.index(writers[b].modality) for b in in_item])
        features = mllm.predict(newest[samples], modality)
        for b, feature, row in zip(in_item, features, mllm.input_projection(features, modality), strict=True):
            writers[b].features.append(feature)
            writers[b].states.append(newest[b].clone())
            rows[b] = row.to(newest.dtype)

    tokens = {b: writer.forced() for b, writer in enumerate(writers) if b not in rows and not writer.done}
    free = [b for b, token in tokens.items() if token is None]
    if free:
        for b, scores in zip(free, mllm.backbone.logits(newest[free]).float(), strict=True):
            tokens[b] = writers[b].choose(scores)
    continuing = {b: token for b, token in tokens.items() if token is not None and writers[b].append(token)}
    if continuing:
        embedded = mllm.backbone.embed(torch.tensor(list(continuing.values()), device=newest.device))
        rows |= dict(zip(continuing, embedded, strict=True))
    return rows


class _Writer:
    """The reply of one sample while it is generated."""

    def __init__(
        self, mllm: MLLM, options: GenerationOptions, listen: Callable[[int, int], bool] | None = None
    ) -> None:
        self.listen = listen
        self.tokenizer = mllm.backbone.tokenizer
        token_id = self.tokenizer.convert_tokens_to_ids
        self.options = options
        self.num_slots = mllm.config.num_slots
        for modality in options.want or ():
            if modality not in self.num_slots and modality != "text":
                raise PromptError(f"this model cannot generate {modality}; it can generate {', '.join(self.num_slots)}")
        self.eos_id = mllm.backbone.eos_id
        self.special = list(mllm.backbone.new_ids)
        self.begin = {token_id(BEGIN[m]): m for m in self.num_slots if m in options.makes}
        self.end = {m: token_id(END[m]) for m in self.num_slots}
        self.generator = torch.Generator().manual_seed(options.seed)
        self.wanted = list(options.want or ())  # media that have not begun, text that has not ended
        self.queue: list[int] = []  # tokens that come next, whatever the scores
        self.budget = options.max_new_tokens
        self.closed = False  # the model has ended its turn
        self.parts: list[list[int] | FeatureSegment] = []
        self.kept: int | None = None  # characters of the last text before a stop string
        self.modality = ""  # of the item that has begun
        self.features: list[Tensor] = []  # its features so far, [D] each
        self.states: list[Tensor] = []  # the hidden states that predicted them, [W] each

    @property
    def features_left(self) -> int:
        return self.num_slots[self.modality] - len(self.features) if self.modality else 0

    @property
    def done(self) -> bool:
        return self.closed or (self.budget <= 0 and not self.queue and not set(self.wanted) - {"text"})

    @property
    def segments(self) -> list[Segment]:
        last = len(self.parts) - 1
        return [
            part if isinstance(part, FeatureSegment) else TextSegment(tuple(part), self.kept if n == last else None)
            for n, part in enumerate(self.parts)
        ]

    def forced(self) -> int | None:
        """The next token where the model has no choice: begin and end tokens of wanted media. A wanted medium begins
        once the wanted text before it has ended. None: the model chooses."""
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
        """The next token from the model's scores [V]. A wanted text cannot end before it has words."""
        must_write = self.wanted[:1] == ["text"] and not self.has_words
        if must_write:
            scores[self.eos_id] = -torch.inf
        token = self._sample(scores)
        if token == self.eos_id and self.wanted:
            while self.wanted[:1] == ["text"]:
                self.wanted.pop(0)
            if (begins := self.forced()) is not None:
                self.budget += 1  # the end token is not part of the reply
                return begins
        return token

    @property
    def has_words(self) -> bool:
        """Whether the current segment of text has words."""
        last = self.parts[-1] if self.parts else None
        return isinstance(last, list) and bool(self.tokenizer.decode(last).strip())

    def _sample(self, scores: Tensor) -> int:
        self.budget -= 1
        items = sum(isinstance(part, FeatureSegment) for part in self.parts)
        may_begin = self.options.want is None and items < self.options.max_items
        banned = [token for token in self.special if not (may_begin and token in self.begin)]
        scores[banned] = -torch.inf
        if self.options.temperature == 0:
            return int(scores.argmax())
        # subtract the maximum first: divided by a temperature near 0 a positive score would be infinite, others NaN
        scores = (scores - scores.max()) / self.options.temperature
        return _sample_token(scores, self.options.top_p, self.generator)

    def append(self, token: int) -> bool:
        """Adds `token` to the reply. False if it ends the turn; it is not fed then, as the chat template repeats it."""
        if token == self.eos_id:
            self.closed = True
        elif token in self.begin:
            self.modality = self.begin[token]
            if self.listen:
                self.listen(token, len(self.parts))
            if not self.queue:
                self.queue = [self.end[self.modality]]
        elif self.modality:  # the only token that can come within an item is its end token
            states = torch.stack(self.states)
            self.parts.append(FeatureSegment(self.modality, torch.stack(self.features), states))
            self.modality, self.features, self.states = "", [], []
        else:
            if not self.parts or not isinstance(self.parts[-1], list):
                self.parts.append([])
            text = self.parts[-1]
            assert isinstance(text, list)
            text.append(token)
            if self.options.stop:
                self.kept = find_stop(self.tokenizer.decode(text), self.options.stop)
            stopped = self.listen is not None and self.listen(token, len(self.parts) - 1)
            if stopped or self.kept is not None:
                self.budget, self.queue, self.wanted = 0, [], []
        return not self.closed


def _sample_token(scores: Tensor, top_p: float, generator: torch.Generator) -> int:
    """A token from the smallest set of tokens whose probabilities sum to `top_p`."""
    probabilities, order = scores.softmax(-1).cpu().sort(descending=True)
    kept = probabilities.cumsum(0) - probabilities < top_p
    kept[0] = True  # for top_p = 0
    return int(order[torch.multinomial(probabilities * kept, 1, generator=generator)])

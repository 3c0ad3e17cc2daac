"""From a conversation to token ids and slots (section 3.1).

A media item becomes `<image> s1 ... sT </image>`: a begin token, T slots for the encoder's features, and an end token.
The sound of a clip follows the clip as an audio item without a name. Text is tokenized apart from the chat template and
without special tokens, so "<image>" in a prompt stays text. A layout has no state that a call changes, so any number of
threads may share it.

B: conversations, L: tokens and slots of the longest, N: media items and S: slots of all conversations together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from codi2.config import CoDi2Config
from codi2.errors import PromptError
from codi2.modalities import MEDIA, SENSES
from codi2.prompt.grammar import join_text
from codi2.prompt.parts import Part, Phrase, Prompt, Text
from codi2.prompt.sources import with_clip_sounds
from codi2.prompt.tokens import TokenIds
from codi2.prompt.turns import turn_pieces
from codi2.tensors import to_device

MODALITIES = (*MEDIA, "phrase", *SENSES)
"""Modalities that become slots; a modality's index in this tuple stands for it in tensors."""

_TAGS = {modality: "feature" if modality == "phrase" else modality for modality in MODALITIES}
BEGIN = {modality: f"<{tag}>" for modality, tag in _TAGS.items()}
END = {modality: f"</{tag}>" for modality, tag in _TAGS.items()}


def special_tokens(senses: Sequence[str] = ()) -> tuple[str, ...]:
    """The tokens that are added to a language model's vocabulary, in order, with those of the senses that it reads."""
    known = [modality for modality in MODALITIES if modality not in SENSES or modality in senses]
    return tuple(token for modality in known for token in (BEGIN[modality], END[modality]))


SPECIAL_TOKENS = special_tokens()

IGNORE = -100
"""Label of a position that carries no text loss."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    parts: Prompt


@dataclass(frozen=True)
class Slot:
    """A position whose embedding is a projected feature."""

    position: int  # in the token sequence
    item: int  # index in `TokenSequence.items`
    number: int  # of the item's feature, from 0
    predicted: bool  # in an assistant's message: the hidden state before `position` predicts the feature


@dataclass(frozen=True)
class TokenSequence:
    """A conversation, or a stretch of one, as the language model reads it."""

    ids: Tensor  # int64 [L]; at slots the id of the begin token, whose embedding is replaced
    labels: Tensor  # int64 [L]: the id itself in assistant text, begin tokens and end of turn; IGNORE elsewhere
    items: tuple[Part, ...]  # media in reading order
    ends: tuple[int, ...]  # position of each item's end token
    slots: tuple[Slot, ...]
    turns: tuple[int, ...] = ()  # positions at which the contents of the assistant's messages begin, in order

    def stretches(self) -> list[TokenSequence]:
        """The sequence cut where each turn of the assistant begins; L positions in all.

        A conversation is always read in these stretches, so that cached hidden states are equal to those of a new
        reading.
        """
        edges = [0, *(turn for turn in self.turns if 0 < turn < len(self.ids)), len(self.ids)]
        return [self._between(start, end) for start, end in pairwise(edges)]

    def _between(self, start: int, end: int) -> TokenSequence:
        items = [i for i, position in enumerate(self.ends) if start <= position < end]
        first = items[0] if items else 0
        slots = [slot for slot in self.slots if start <= slot.position < end]
        return TokenSequence(
            self.ids[start:end],
            self.labels[start:end],
            tuple(self.items[i] for i in items),
            tuple(self.ends[i] - start for i in items),
            tuple(replace(slot, position=slot.position - start, item=slot.item - first) for slot in slots),
        )


@dataclass(frozen=True)
class Batch:
    """Sequences of different lengths, padded; items and slots are flat over the batch with their addresses."""

    ids: Tensor  # int64 [B, L]
    labels: Tensor  # int64 [B, L]
    mask: Tensor  # bool [B, L], False at padding
    items: tuple[Part, ...]  # [N]
    item_sample: Tensor  # int64 [N], row of the batch
    item_modality: Tensor  # int64 [N], index in MODALITIES
    slot_item: Tensor  # int64 [S], index in `items`
    slot_number: Tensor  # int64 [S], number of the item's feature
    slot_position: Tensor  # int64 [S]
    slot_predicted: Tensor  # bool [S]
    # indices, computed here since a GPU has to synchronise to count them
    predicted: Tensor  # int64 [P], the slots that the model predicts
    label_sample: Tensor  # int64 [M], of each position that has a label
    label_position: Tensor  # int64 [M]

    @property
    def slot_sample(self) -> Tensor:
        """int64 [S], row of the batch."""
        return self.item_sample[self.slot_item]

    @property
    def slot_modality(self) -> Tensor:
        """int64 [S], index in MODALITIES."""
        return self.item_modality[self.slot_item]

    def to(self, device: torch.device | str) -> Batch:
        return to_device(self, device)


class Layout:
    """Lays conversations out for one tokenizer.

    Args:
        tokenizer: a Hugging Face tokenizer that has the SPECIAL_TOKENS and a chat template.
        num_features: slots (T) of a user's item, by modality.
        num_slots: slots (K) of an assistant's item, by modality.
        max_length: positions.
        system_prompt: of conversations without their own; None leaves it to the template.
        reads_words: whether a user's message ends with its text again, as one phrase for the encoder.
    """

    def __init__(
        self,
        tokenizer: Any,
        num_features: Mapping[str, int],
        num_slots: Mapping[str, int],
        max_length: int,
        system_prompt: str | None = None,
        reads_words: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.token_ids = TokenIds(tokenizer)
        self.system_prompt = system_prompt
        self.reads_words = reads_words
        self.num_features = num_features
        self.num_slots = num_slots
        self.max_length = max_length
        self.max_characters = max_length * max(map(len, tokenizer.get_vocab()))
        """Limit of a prompt's characters: those of `max_length` longest tokens."""
        self._marks: dict[str, tuple[int, int]] = {}
        # training has few kinds of conversations, and without a cache their templates would take most of the time
        self._templates = lru_cache(maxsize=256)(self._template_ids)

    def __call__(self, messages: Sequence[Message], *, reply: bool = False) -> TokenSequence:
        """Lay `messages` out; `reply` opens the assistant's turn at the end.

        Raises PromptError for media that cannot stand where they are, for turns that the chat template refuses and for
        more than `max_length` positions.
        """
        self.check_length(messages)
        sequence = self._lay_out(messages, reply)
        if len(sequence.ids) > self.max_length:
            raise PromptError(
                f"the prompt takes {len(sequence.ids)} positions, the model reads at most {self.max_length}; shorten it"
            )
        return sequence

    def check_length(self, messages: Sequence[Message]) -> None:
        """Raises PromptError for a text of more than `max_characters`, before it is tokenized."""
        characters = sum(len(part.text) for message in messages for part in message.parts if isinstance(part, Text))
        if characters > self.max_characters:
            raise PromptError(
                f"the prompt has {characters} characters, which take more than {self.max_length} positions, the model "
                f"reads at most {self.max_length}; shorten it"
            )

    def marks(self, modality: str) -> tuple[int, int]:
        """Ids of the begin and end token of a modality's items."""
        if modality not in self._marks:
            begin, end = self.tokenizer.convert_tokens_to_ids([BEGIN[modality], END[modality]])
            self._marks[modality] = begin, end
        return self._marks[modality]

    def measure(self, messages: Sequence[Message]) -> int:
        """The number of positions of `messages` and the opening of the assistant's turn, without a limit. Raises as the
        layout does."""
        return len(self._lay_out(messages, True).ids)

    def _lay_out(self, messages: Sequence[Message], reply: bool) -> TokenSequence:
        if self.system_prompt is not None and messages[0].role != "system":
            messages = [Message("system", (Text(self.system_prompt),)), *messages]
        writer = _Writer(self)
        for i, ids in enumerate(self._templates(tuple(message.role for message in messages), reply)):
            writer.template(ids, closes_reply=i > 0 and messages[i - 1].role == "assistant")
            if i < len(messages):
                parts, by_model = join_text(messages[i].parts), messages[i].role == "assistant"
                writer.parts(
                    with_clip_sounds(parts) if "audio" in self.num_features and not by_model else parts, by_model
                )
                if self.reads_words and messages[i].role == "user":
                    writer.parts(words_of(parts), by_model=False)
        return writer.done(reply)

    def _template_ids(self, roles: tuple[str, ...], reply: bool) -> list[list[int]]:
        """The chat template's token ids before the message of each role, and after the last."""
        return [self.token_ids.of_template(piece) for piece in turn_pieces(self.tokenizer, roles, reply)]


def layout_for(config: CoDi2Config, tokenizer: Any) -> Layout:
    """The layout of a model."""
    llm, encoder = config.llm, config.encoder
    return Layout(
        tokenizer,
        encoder.num_features,
        config.heads.num_slots,
        llm.max_length,
        system_prompt=llm.system_prompt,
        reads_words=encoder.reads_words,
    )


def words_of(prompt: Prompt) -> Prompt:
    """A message's text as one phrase; empty where it has none."""
    text = " ".join(" ".join(part.text for part in prompt if isinstance(part, Text)).split())
    return (Phrase(text),) if text else ()


class _Writer:
    """Collects one TokenSequence from left to right."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.items: list[Part] = []
        self.ends: list[int] = []
        self.slots: list[Slot] = []
        self.turns: list[int] = []

    def template(self, ids: list[int], closes_reply: bool) -> None:
        eos = self.layout.tokenizer.eos_token_id
        labelled = ids.index(eos) + 1 if closes_reply and eos in ids else 0  # the model learns to end its turn
        self.ids += ids
        self.labels += ids[:labelled] + [IGNORE] * (len(ids) - labelled)

    def parts(self, parts: Prompt, by_model: bool) -> None:
        if by_model:
            self.turns.append(len(self.ids))
        for part in parts:
            if isinstance(part, Text):
                ids = self.layout.token_ids.of_words(part.text)
                self.ids += ids
                self.labels += ids if by_model else [IGNORE] * len(ids)
            else:
                self.item(part, by_model)

    def item(self, part: Part, by_model: bool) -> None:
        # Phrases as features (section 4.1) are inputs in every message: the model answers with tokens.
        if isinstance(part, Phrase):
            by_model = False
        counts = self.layout.num_slots if by_model else self.layout.num_features
        if part.modality not in counts:
            verb = "generate" if by_model else "read"
            raise PromptError(f"this model cannot {verb} {part.modality}; it can {verb} {', '.join(counts)}")
        begin, end = self.layout.marks(part.modality)
        start, count = len(self.ids) + 1, counts[part.modality]
        self.slots += [Slot(start + k, len(self.items), k, by_model) for k in range(count)]
        self.ids += [begin] * (1 + count) + [end]
        self.labels += [begin if by_model else IGNORE] + [IGNORE] * (count + 1)
        self.items.append(part)
        self.ends.append(len(self.ids) - 1)

    def done(self, reply: bool) -> TokenSequence:
        turns = (*self.turns, len(self.ids)) if reply else tuple(self.turns)
        ids, labels = torch.tensor(self.ids), torch.tensor(self.labels)
        return TokenSequence(ids, labels, tuple(self.items), tuple(self.ends), tuple(self.slots), turns)


def collate(sequences: Sequence[TokenSequence], pad_id: int, *, left: bool = False) -> Batch:
    """Pad to the longest, on the right for training, on the left (`left`) so that generation starts in one column."""
    length = max(len(s.ids) for s in sequences)
    ids = torch.full((len(sequences), length), pad_id)
    labels = torch.full_like(ids, IGNORE)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    items: list[Part] = []
    item_address: list[tuple[int, int]] = []
    slot_address: list[tuple[int, int, int, bool]] = []
    for b, sequence in enumerate(sequences):
        shift = length - len(sequence.ids) if left else 0
        here = slice(shift, shift + len(sequence.ids))
        ids[b, here], labels[b, here], mask[b, here] = sequence.ids, sequence.labels, True
        slot_address += [(len(items) + s.item, s.number, s.position + shift, s.predicted) for s in sequence.slots]
        item_address += [(b, MODALITIES.index(item.modality)) for item in sequence.items]
        items += sequence.items
    item_sample, item_modality = torch.tensor(item_address, dtype=torch.long).view(-1, 2).unbind(1)
    slot_item, slot_number, slot_position, slot_predicted = (
        torch.tensor(slot_address, dtype=torch.long).view(-1, 4).unbind(1)
    )
    label_sample, label_position = (labels != IGNORE).nonzero(as_tuple=True)
    return Batch(
        ids=ids,
        labels=labels,
        mask=mask,
        items=tuple(items),
        item_sample=item_sample,
        item_modality=item_modality,
        slot_item=slot_item,
        slot_number=slot_number,
        slot_position=slot_position,
        slot_predicted=slot_predicted.bool(),
        predicted=slot_predicted.nonzero()[:, 0],
        label_sample=label_sample,
        label_position=label_position,
    )

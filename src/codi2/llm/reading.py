"""Conversations are read in stretches before a reply; the state after earlier stretches is cached.

A stretch ends where the model's reply begins. Cached states (`Past`) and newly computed ones come from the same
computations on the same shapes, so a reply is the same with and without the cache, bit for bit.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codi2.llm.generation import CachedConversation, GenerationOptions, Listener, Segment, generate
from codi2.llm.mllm import MLLM, stack_features
from codi2.prompt.layout import Layout, Message, TokenSequence, collate
from codi2.prompt.parts import Part, Phrase

Key = tuple[str, int | str, int]
"""Modality, identity (of a phrase: its text) and number of features of an item."""
Features = Mapping[Key, tuple[Part, Tensor]]
"""Features [count, D] by key; the item is kept beside them, so that no other object gets its `id`."""


@dataclass(frozen=True)
class Reading:
    """One conversation to answer, with the features of its items."""

    stretches: Sequence[TokenSequence]
    features: Features
    past: Past


class Past:
    """State and features of one conversation, kept between its replies. Not thread-safe."""

    def __init__(self) -> None:
        self.features: Features = {}
        self._state: CachedConversation | None = None
        self._read: list[tuple[TokenSequence, int]] = []  # each stretch, with the state's positions after it

    def resume(self, mllm: MLLM, stretches: Sequence[TokenSequence]) -> tuple[CachedConversation, int]:
        """The state after the leading stretches that were read before, and the number of these stretches.

        The last stretch is always read again: the reply starts from its hidden states.
        """
        same = 0
        for (earlier, _), stretch in zip(self._read, stretches[:-1], strict=False):
            if not _equal(earlier, stretch):
                break
            same += 1
        if self._state is None or not same or not self._state.rewind(self._read[same - 1][1]):
            same, self._state = 0, CachedConversation(mllm)
        self._read = self._read[:same]
        return self._state, same

    def note(self, stretch: TokenSequence, positions: int) -> None:
        """Records that `stretch` was read, and the state's positions after it."""
        self._read.append((stretch, positions))

    def forget(self) -> None:
        """Drops the state, for example after an error in the middle of a stretch."""
        self._state, self._read = None, []


def items_of(sequence: TokenSequence) -> Iterator[tuple[Key, Part]]:
    """The items of a sequence, in order."""
    counts = Counter(slot.item for slot in sequence.slots)
    for i, item in enumerate(sequence.items):
        yield (item.modality, item.text if isinstance(item, Phrase) else id(item), counts[i]), item


def read(
    layout: Layout,
    encode: Callable[[Sequence[tuple[Part, int]]], Sequence[Tensor]],
    conversations: Sequence[Sequence[Message]],
    pasts: Sequence[Past],
) -> list[Reading]:
    """B conversations to answer, with the features of their items; features in `pasts` are not encoded again.

    Args:
        encode: from items, each with a number of features, to the features [count, D] of each; called at most once.
    """
    sequences = [layout(messages, reply=True) for messages in conversations]
    known = {key: value for past in pasts for key, value in past.features.items()}
    items_by_key = [dict(items_of(sequence)) for sequence in sequences]
    new = {key: item for items in items_by_key for key, item in items.items() if key not in known}
    values = encode([(item, key[2]) for key, item in new.items()]) if new else []
    known |= {key: (item, value) for (key, item), value in zip(new.items(), values, strict=True)}
    for past, items in zip(pasts, items_by_key, strict=True):
        past.features = {key: known[key] for key in items}
    return [Reading(sequence.stretches(), past.features, past) for sequence, past in zip(sequences, pasts, strict=True)]


@torch.no_grad()
def write(
    mllm: MLLM, readings: Sequence[Reading], options: Sequence[GenerationOptions], listen: Listener | None = None
) -> list[list[Segment]]:
    """Reads B conversations and writes their replies; conversations with equally many stretches form a batch.

    Raises as `generation.generate`.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for b, reading in enumerate(readings):
        groups[len(reading.stretches)].append(b)
    replies: dict[int, list[Segment]] = {}
    for rows in groups.values():
        batch_listen = (lambda i, *token, rows=rows: listen(rows[i], *token)) if listen else None
        segments = _write_alike(mllm, [readings[b] for b in rows], [options[b] for b in rows], batch_listen)
        replies |= zip(rows, segments, strict=True)
    return [replies[b] for b in range(len(readings))]


def _write_alike(
    mllm: MLLM, readings: Sequence[Reading], options: Sequence[GenerationOptions], listen: Listener | None
) -> list[list[Segment]]:
    past = readings[0].past if len(readings) == 1 else None  # the state of a batch is not kept
    state, first = past.resume(mllm, readings[0].stretches) if past else (CachedConversation(mllm, len(readings)), 0)
    device, last = state.mask.device, len(readings[0].stretches) - 1
    try:
        for n in range(first, last + 1):
            current = [reading.stretches[n] for reading in readings]
            batch = collate(current, mllm.backbone.pad_id, left=True).to(device)
            values = [r.features[key][1] for r, s in zip(readings, current, strict=True) for key, _ in items_of(s)]
            features = stack_features(values, mllm.config.feature_dim).to(device)
            if past:
                past.note(current[0], state.positions + batch.ids.shape[1])
            if n == last:
                return generate(state, batch, features, options, listen)
            state.read(batch, features)
    except BaseException:
        if past:
            past.forget()
        raise
    raise AssertionError("a conversation has at least one stretch")


def _equal(a: TokenSequence, b: TokenSequence) -> bool:
    return torch.equal(a.ids, b.ids) and [key for key, _ in items_of(a)] == [key for key, _ in items_of(b)]

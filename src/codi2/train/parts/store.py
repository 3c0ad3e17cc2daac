"""Cached features and latents by `Ref`, for the parts that train on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codi2.data import cache
from codi2.data.tasks import Ref, World
from codi2.encode.tiny import load_heads, load_trunk
from codi2.hub import shipped
from codi2.llm.mllm import stack_features
from codi2.prompt.parts import Phrase


def weights_folder(named: str) -> Path:
    """The folder that a config names, or the shipped weights."""
    return Path(named) if named else shipped("tiny")


class Store:
    """What frozen parts make of the corpus, loaded view by view as it is asked for.

    Args:
        weights: folder with `encoder/heads.safetensors` and the decoders' codecs.
    """

    def __init__(self, weights: Path, dim: int) -> None:
        self.weights = weights
        self.heads = load_heads(weights / "encoder" / "heads.safetensors", dim)
        self._features: dict[tuple[str, str], np.ndarray] = {}
        self._latents: dict[tuple[str, str], np.ndarray] = {}
        self._media: dict[tuple[str, str], np.ndarray] = {}
        self._phrases: dict[str, Tensor] = {}

    @cached_property
    def _trunk(self) -> nn.Module:
        return load_trunk("phrase")

    def features(self, part: Ref | Phrase) -> Tensor:
        """[T, D] of a medium or phrase."""
        if isinstance(part, Phrase):
            return self._phrases[part.text]
        key = (part.modality, part.view)
        if key not in self._features:
            self._features[key] = _through(
                self.heads[part.modality], cache.trunk_features(*key), *cache.statistics(*key)
            )
        return torch.from_numpy(self._features[key][part.row].astype(np.float32))

    def latents(self, ref: Ref) -> Tensor:
        """[c, h, w] of a medium."""
        key = (ref.modality, ref.view)
        if key not in self._latents:
            self._latents[key] = cache.latents(ref.modality, self.weights / ref.modality, ref.view)
        return torch.from_numpy(self._latents[key][ref.row].astype(np.float32))

    def media(self, ref: Ref) -> np.ndarray:
        """uint8 [64, 64, 3] or int16 [40960]."""
        key = (ref.modality, ref.view)
        if key not in self._media:
            self._media[key] = cache.view(*key)
        return self._media[key][ref.row]

    def stacked(self, items: Sequence[Any]) -> Tensor:
        """[N, T, D] of a batch's items, zero beyond an item's own. Words that are not known yet are encoded."""
        new = sorted({p.text for p in items if isinstance(p, Phrase)} - self._phrases.keys())
        if new:
            with torch.inference_mode():
                made = self.heads["phrase"](self._trunk(new)).clone()
            self._phrases.update(zip(new, made, strict=True))
        return stack_features([self.features(part) for part in items], self.heads["phrase"].dim)

    def learn_phrases(self, texts: Sequence[str]) -> None:
        """Makes the features of these words known, from the cache."""
        made = _through(self.heads["phrase"], cache.phrase_features(list(texts)))
        self._phrases.update(zip(texts, torch.from_numpy(made.astype(np.float32)), strict=True))


@torch.inference_mode()
def _through(head: nn.Module, *inputs: np.ndarray) -> np.ndarray:
    chunks = np.array_split(np.arange(len(inputs[0])), max(1, len(inputs[0]) // 512))
    tensors = ([torch.from_numpy(x[rows].astype(np.float32)) for x in inputs] for rows in chunks)
    return np.concatenate([head(*some).half().numpy() for some in tensors])


def world(splits: tuple[str, ...], mix_view: str, edit_names: dict[str, tuple[str, ...]], chats: Any = ()) -> World:
    """The tasks' world over the items of some splits."""
    chosen = {m: [item for item in cache.items(m) if item.split in splits] for m in ("image", "audio")}
    return World(chosen["image"], chosen["audio"], cache.mixes(mix_view), mix_view, chats, edit_names)

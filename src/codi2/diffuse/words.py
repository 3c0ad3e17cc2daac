"""Frozen text encoders of published decoders, which read the negative prompts (appendix B.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from codi2.diffuse.conditioner import BaseConditioner

MOST_CACHED = 64  # prompts whose states are kept; a server reads any number of negative prompts


class TextStates(nn.Module):
    """Words → the last hidden states of a text encoder.

    Args:
        tokenizer, text_encoder: CLIP's (states of all 77 positions) or T5's (states of the words alone).
        padded: to the tokenizer's full length, as the networks of Stable Diffusion were trained.
    """

    def __init__(self, tokenizer: Any, text_encoder: Any, padded: bool) -> None:
        super().__init__()
        self.tokenizer, self.text_encoder, self.padded = tokenizer, text_encoder, padded
        self._cache: dict[str, Tensor] = {}  # by prompt, the oldest first; the encoder is frozen

    @torch.no_grad()
    def forward(self, prompt: str) -> Tensor:
        """States [1, L, W]; words beyond the tokenizer's length are cut."""
        if prompt not in self._cache:
            if len(self._cache) >= MOST_CACHED:  # the states of "" stay: training runs without the encoder
                del self._cache[next(cached for cached in self._cache if cached)]
            tokens = self.tokenizer(
                prompt,
                padding="max_length" if self.padded else False,
                max_length=self.tokenizer.model_max_length,
                truncation=True,
                split_special_tokens=True,
                return_tensors="pt",
            ).to(self.text_encoder.device)
            # as in diffusers: CLIP's encoder gets no mask, T5's a mask of ones
            mask = None if self.padded else tokens.attention_mask
            self._cache[prompt] = self.text_encoder(tokens.input_ids, attention_mask=mask)[0]
        return self._cache[prompt]


class WordsConditioner(BaseConditioner):
    """A conditioner whose network reads a text encoder's states beside a feature."""

    def __init__(self, words: TextStates) -> None:
        super().__init__()
        self.text = words

    def read_words(self, prompt: str) -> Tensor:
        states: Tensor = self.text(prompt)
        return states

    @property
    def no_words(self) -> Tensor:
        return self.read_words("")

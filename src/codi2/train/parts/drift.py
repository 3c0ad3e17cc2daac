"""Plain texts on which the language model is held to its predictions without adapters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from codi2.data.chat import load_prose, split_chats
from codi2.encode.contract import Encoder
from codi2.llm.mllm import MLLM, stack_features
from codi2.prompt.layout import IGNORE, Batch, Layout, Message, TokenSequence, collate
from codi2.prompt.parts import Text
from codi2.train.parts.language_batch import Drift, KeptText

KEPT_TOKENS = 64  # of a piece of prose that is kept


def kept_texts(encoder: Encoder, layout: Layout) -> list[KeptText]:
    """Prose without a template, and answers to questions in the chat template.

    The trained model reads a question as in a conversation, where it is repeated as a phrase; the base model reads it
    without the phrase.
    """
    kept = []
    for text in load_prose():
        ids = layout.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0, :KEPT_TOKENS]
        prose = TokenSequence(ids, torch.cat([torch.tensor([IGNORE]), ids[1:]]), (), (), ())
        kept.append(KeptText(prose, prose))
    plain = copy.copy(layout)
    plain.reads_words = False
    for question, answer in split_chats()[0]:
        turns = [Message("user", (Text(question),)), Message("assistant", (Text(answer),))]
        trained = layout(turns)
        with torch.no_grad():
            phrases = tuple(encoder(trained.items)) if trained.items else ()
        kept.append(KeptText(plain(turns), trained, phrases))
    return kept


def drift_texts(kept: Sequence[KeptText], draw: np.random.Generator, count: int, pad_id: int, dim: int) -> Drift:
    """`count` of the texts. Every share has all of them, so the mean of the shares' losses is the loss of each."""
    texts = [kept[int(i)] for i in draw.choice(len(kept), count, replace=False)]
    phrases = [phrase for text in texts for phrase in text.phrases]
    sequences = ([text.base for text in texts], [text.trained for text in texts])
    base, trained = (replace(collate(inputs, pad_id), items=()) for inputs in sequences)
    return Drift(base, trained, stack_features(phrases, dim))


def drift(mllm: MLLM, texts: Drift) -> Tensor:
    """KL divergence from the base model on plain texts, mean of the tokens, in nats."""
    known = mllm.backbone.first_new
    with torch.no_grad(), mllm.backbone.peft.disable_adapter():
        base = _scores(mllm, texts.base, texts.phrases[:0])[:, :known].float().log_softmax(-1)
    ours = _scores(mllm, texts.trained, texts.phrases).float().log_softmax(-1)[:, :known]
    return nn.functional.kl_div(ours, base, log_target=True, reduction="batchmean")


def _scores(mllm: MLLM, batch: Batch, features: Tensor) -> Tensor:
    """Logits of the labels of a batch [labels, V], with the adapters that are active."""
    hidden = mllm.backbone(mllm.rows(batch, features), batch.mask)
    return mllm.backbone.logits(hidden[batch.label_sample, batch.label_position - 1])

"""The language model of `tiny`, where its weights are on this machine."""

from __future__ import annotations

import pytest
import torch

from codi2.config import preset
from codi2.llm.backbone import load_backbone
from codi2.llm.generation import CachedConversation, FeatureSegment, GenerationOptions, TextSegment, generate
from codi2.llm.mllm import MLLM, stack_features
from codi2.prompt.layout import Layout, Message, collate
from codi2.prompt.parts import Text

TINY = preset("tiny")

pytestmark = pytest.mark.slow


def test_knows_what_it_knew_before_it_got_an_adapter():
    backbone = load_backbone(TINY.llm)
    mllm = MLLM(backbone, TINY.heads).eval()
    layout = Layout(backbone.tokenizer, TINY.encoder.num_features, TINY.heads.num_slots, TINY.llm.max_length)
    questions = ["What is the capital of France?", "Which <image> has three sides: a triangle or a square?"]
    sequences = [layout([Message("user", (Text(question),))], reply=True) for question in questions]
    assert backbone.tokenizer.convert_tokens_to_ids("<image>") not in sequences[1].ids
    batch = collate(sequences, backbone.pad_id, left=True)
    features = stack_features([], TINY.heads.feature_dim)
    options = [GenerationOptions(want=(), max_new_tokens=12), GenerationOptions(want=("image",), max_new_tokens=2)]
    answer, drawn = generate(CachedConversation(mllm, 2), batch, features, options)
    assert isinstance(answer[0], TextSegment)
    assert "Paris" in backbone.tokenizer.decode(answer[0].ids)
    assert isinstance(drawn[0], FeatureSegment)
    assert drawn[0].features.shape == (TINY.heads.num_slots["image"], 256)


def test_the_new_rows_are_the_last_and_the_head_is_tied():
    backbone = load_backbone(TINY.llm)
    hidden = torch.randn(1, backbone.width)
    assert backbone.logits(hidden).shape[-1] == len(backbone.tokenizer) == 49152 + 8
    trained = [name for name, p in backbone.named_parameters() if p.requires_grad and "tokens" in name]
    assert len(trained) == 1

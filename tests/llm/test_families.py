"""Language models of other families drop in: the same tokens, gradients and replies, on tiny random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from codi2.config import DEBUG
from codi2.encode.debug import DebugEncoder
from codi2.heads.loss import codi2_loss
from codi2.llm.backbone import Backbone, byte_tokenizer
from codi2.llm.generation import CachedConversation, GenerationOptions, generate
from codi2.llm.mllm import MLLM, stack_features
from codi2.prompt.layout import Batch, Layout, Message, collate
from codi2.prompt.parts import Text

from .conftest import picture, sound

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
}
TALK = [
    Message("user", (Text("draw "), picture(1), Text(" and "), sound(2))),
    Message("assistant", (picture(3), Text("so."))),
]


def family(name: str) -> Any:
    import transformers

    settings = f"{name}TextConfig" if name == "Gemma3" else f"{name}Config"
    config = getattr(transformers, settings)(vocab_size=len(byte_tokenizer()), **SIZES)
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


@pytest.fixture(params=["Qwen3", "Mistral", "Gemma2", "Gemma3"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    backbone = Backbone(family(request.param), byte_tokenizer(), DEBUG.llm)
    with torch.no_grad():
        for key, parameter in backbone.named_parameters():
            if "lora_B" in key or "trainable_tokens" in key:
                parameter.normal_(std=0.2)
    return backbone


def layout_of(backbone: Backbone) -> Layout:
    return Layout(backbone.tokenizer, DEBUG.encoder.num_features, DEBUG.heads.num_slots, DEBUG.llm.max_length)


def features_of(batch: Batch) -> Tensor:
    encoder = DebugEncoder(DEBUG.heads.feature_dim, DEBUG.encoder.num_features)
    return stack_features([encoder([item])[0] for item in batch.items], DEBUG.heads.feature_dim)


def test_the_scores_are_those_of_the_family(backbone: Backbone) -> None:
    """`embed` and `logits` bypass peft's layers, and still scale embeddings and cap scores as the family does."""
    ids = torch.randint(0, len(backbone.tokenizer), (2, 9))
    scores = backbone.logits(backbone(backbone.embed(ids), torch.ones(2, 9, dtype=torch.bool)))
    torch.testing.assert_close(scores, backbone.peft(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


def test_a_training_step_reaches_every_trained_parameter(backbone: Backbone) -> None:
    mllm = MLLM(backbone, DEBUG.heads)
    batch = collate([layout_of(backbone)(TALK)], backbone.pad_id)
    taught = mllm(batch, features_of(batch))
    codi2_loss(DEBUG.heads, taught.prediction, taught.target, taught.logits, taught.labels)["loss"].backward()
    gradients = {key: p.grad for key, p in backbone.named_parameters() if p.requires_grad}
    assert gradients and all(g is not None and g.abs().sum() > 0 for g in gradients.values())


def test_a_reply_with_the_cache_is_what_one_pass_predicts(backbone: Backbone) -> None:
    mllm, layout = MLLM(backbone, DEBUG.heads), layout_of(backbone)
    batch = collate([layout(TALK)], backbone.pad_id)
    features = features_of(batch)
    turn = collate([layout(TALK[:1], reply=True)], backbone.pad_id, left=True)
    options = [GenerationOptions(want=("image",), max_new_tokens=4)]
    (segments,) = generate(CachedConversation(mllm), turn, features[: len(turn.items)], options)
    fed = torch.cat([features[:2], segments[0].features[None]])
    again = mllm(batch, features, fed)
    image = again.item == 2
    torch.testing.assert_close(again.prediction[image], segments[0].features, rtol=1e-3, atol=1e-3)

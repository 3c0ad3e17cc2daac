"""The teacher-forced pass: which parameters get gradients, and on which inputs predictions depend."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from codi2.config import DEBUG
from codi2.errors import ConfigError, WeightsError
from codi2.heads.loss import codi2_loss
from codi2.llm.backbone import Backbone, byte_tokenizer, load_backbone, random_llm
from codi2.llm.generation import CachedConversation, GenerationOptions, generate
from codi2.llm.mllm import MLLM
from codi2.llm.splice import splice
from codi2.prompt.layout import SPECIAL_TOKENS, Message, collate
from codi2.prompt.parts import Phrase, Text

from .conftest import Kit, picture, sound

ANALOGY = [
    Message("user", (Text("as "), picture(0), Text(" to "), picture(1), Text(" so "), picture(2), Text(" to?"))),
    Message("assistant", (Text("this "), picture(3), Text("."))),
]
LISTEN = [Message("user", (Phrase("a dog"), Text(" barks"))), Message("assistant", (sound(4), Text("woof")))]
TALK = [Message("user", (Text("hello"),)), Message("assistant", (Text("good day"),))]


def batch_of(kit, *conversations):
    return collate([kit.layout(c) for c in conversations], kit.backbone.pad_id)


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_reaches_all_that_is_trained_and_nothing_else(tied):
    kit = Kit(tied)
    batch = batch_of(kit, ANALOGY, LISTEN, TALK)
    taught = kit.mllm(batch, kit.features(batch))
    codi2_loss(DEBUG.heads, taught.prediction, taught.target, taught.logits, taught.labels)["loss"].backward()
    gradients = {name: p.grad for name, p in kit.mllm.named_parameters() if p.requires_grad}
    # a parameter that no sample uses has no gradient; here every parameter is used
    idle = [name for name, grad in gradients.items() if grad is None or not grad.abs().sum()]
    assert idle == []
    kinds = ("lora_A", "lora_B", "input_projection.", "output_projection.", "trainable_tokens")
    assert all(any(kind in name for name in gradients) for kind in kinds)
    assert all(any(kind in name for kind in kinds) for name in gradients)
    rows = [name for name in gradients if "trainable_tokens" in name]
    assert len(rows) == (1 if tied else 2)


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_can_be_learned_as_input_and_as_output(tied):
    """With everything but the new rows frozen, the model learns to say <audio>."""
    kit = Kit(tied)
    for name, parameter in kit.mllm.named_parameters():
        parameter.requires_grad_("trainable_tokens" in name)
    batch = batch_of(kit, LISTEN)
    learned = [p for p in kit.mllm.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=0.1)
    before = [p.detach().clone() for p in learned]
    token = kit.backbone.tokenizer.convert_tokens_to_ids("<audio>")
    for _ in range(30):
        taught = kit.mllm(batch, kit.features(batch))
        at = taught.labels == token
        loss = torch.nn.functional.cross_entropy(taught.logits[at], taught.labels[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert taught.logits[at].argmax(-1).tolist() == [token]
    assert all((a != b).any() for a, b in zip(before, learned, strict=True))


def test_embed_and_logits_are_those_of_peft(kit):
    """`embed` and `logits`, which bypass peft's layers, give the same values as these with trained rows."""
    with torch.no_grad():
        for name, parameter in kit.mllm.named_parameters():
            if "trainable_tokens" in name:
                parameter.normal_()
    ids = torch.arange(len(kit.backbone.tokenizer))[None]
    hidden = torch.randn(2, kit.backbone.width)
    torch.testing.assert_close(kit.backbone.embed(ids), kit.backbone.model.get_input_embeddings()(ids))
    torch.testing.assert_close(kit.backbone.logits(hidden), kit.backbone.model.get_output_embeddings()(hidden))


def test_a_batch_gives_what_single_samples_give(kit):
    together = batch_of(kit, ANALOGY, LISTEN, TALK)
    taught = kit.mllm(together, kit.features(together))
    predictions, logits = [], []
    for conversation in (ANALOGY, LISTEN, TALK):
        single_batch = batch_of(kit, conversation)
        single = kit.mllm(single_batch, kit.features(single_batch))
        predictions.append(single.prediction)
        logits.append(single.logits)
    torch.testing.assert_close(taught.prediction, torch.cat(predictions), rtol=0, atol=1e-4)
    torch.testing.assert_close(taught.logits, torch.cat(logits), rtol=0, atol=1e-4)
    assert taught.item[:3].tolist() == [3] * 3  # the slots of the first conversation's answer


def test_a_prediction_sees_the_past_only(kit):
    """Changing feature k of the target changes predictions k + 1 and later, and no earlier one."""
    batch = batch_of(kit, ANALOGY)
    features = kit.features(batch)
    reference = kit.mllm(batch, features).prediction
    for k in range(3):
        changed = features.clone()
        changed[3, k] += 1
        moved = (kit.mllm(batch, changed).prediction - reference).abs().amax(-1) > 1e-5
        assert moved.tolist() == [False] * (k + 1) + [True] * (2 - k)


def test_every_given_item_counts(kit):
    batch = batch_of(kit, ANALOGY)
    features = kit.features(batch)
    reference = kit.mllm(batch, features).prediction
    for item in range(3):
        changed = features.clone()
        changed[item] = torch.randn_like(changed[item])
        assert (kit.mllm(batch, changed).prediction - reference).abs().amax() > 1e-3


def test_splice_is_free_of_order_and_passes_gradients():
    rows, values = torch.randn(2, 5, 3, requires_grad=True), torch.randn(3, 3, requires_grad=True)
    sample, position = torch.tensor([1, 0, 1]), torch.tensor([4, 2, 0])
    out = splice(rows, values, sample, position)
    shuffled = torch.tensor([2, 0, 1])
    assert torch.equal(out, splice(rows, values[shuffled], sample[shuffled], position[shuffled]))
    expected = rows.detach().clone()
    expected[1, 4], expected[0, 2], expected[1, 0] = values.detach()
    assert torch.equal(out, expected)
    out.sum().backward()
    assert (values.grad == 1).all() and rows.grad.sum() == (10 - 3) * 3


@pytest.mark.parametrize("tied", [True, False])
def test_the_adapter_survives_a_round_trip(tied, tmp_path):
    kit, other = Kit(tied), Kit(tied)
    with torch.no_grad():
        for parameter in kit.backbone.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    kit.backbone.save_adapter(tmp_path)
    other.backbone.load_adapter(tmp_path)
    batch = batch_of(kit, ANALOGY)
    features = kit.features(batch)
    hidden = kit.backbone(kit.mllm.rows(batch, features), batch.mask)
    other.mllm.input_projection.load_state_dict(kit.mllm.input_projection.state_dict())
    reloaded = other.backbone(other.mllm.rows(batch, features), batch.mask)
    torch.testing.assert_close(hidden, reloaded, rtol=0, atol=0)
    torch.testing.assert_close(kit.backbone.logits(hidden), other.backbone.logits(reloaded), rtol=0, atol=0)
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert size < 200_000, "the frozen embedding matrix does not belong in the adapter"


def test_an_adapter_that_does_not_fit_is_refused(kit, tmp_path):
    with pytest.raises(WeightsError, match="no language model adapter"):
        kit.backbone.load_adapter(tmp_path)
    wider = Backbone(random_llm(), byte_tokenizer(), replace(DEBUG.llm, lora_rank=8))
    wider.save_adapter(tmp_path)
    with pytest.raises(WeightsError, match="does not fit"):
        kit.backbone.load_adapter(tmp_path)


def test_a_tokenizer_that_has_the_tokens_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([SPECIAL_TOKENS[0]], special_tokens=True)
    with pytest.raises(ConfigError, match="already"):
        Backbone(random_llm(), tokenizer, DEBUG.llm)


def test_an_output_head_with_a_bias_is_refused():
    model = random_llm(tied=False)
    model.lm_head = torch.nn.Linear(32, len(byte_tokenizer()))
    with pytest.raises(ConfigError, match="bias in its output head"):
        Backbone(model, byte_tokenizer(), DEBUG.llm)


def test_the_frozen_model_may_be_half_precision():
    kit = Kit()
    kit.backbone = Backbone(random_llm().to(torch.bfloat16), byte_tokenizer(), DEBUG.llm)
    mllm = MLLM(kit.backbone, DEBUG.heads)
    batch = batch_of(kit, ANALOGY)
    taught = mllm(batch, kit.features(batch))
    assert taught.prediction.dtype == torch.float32 and taught.logits.dtype == torch.bfloat16
    codi2_loss(DEBUG.heads, taught.prediction, taught.target, taught.logits, taught.labels)["loss"].backward()
    trained = [p for name, p in mllm.named_parameters() if "trainable_tokens" in name or "lora_A" in name]
    assert all(p.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in trained)
    turn = collate([kit.layout(ANALOGY[:1], reply=True)], kit.backbone.pad_id, left=True)
    options = [GenerationOptions(want=("image",), max_new_tokens=2)]
    (segments,) = generate(CachedConversation(mllm), turn, kit.features(turn), options)
    assert segments[0].features.dtype == torch.float32


def test_checkpointed_gradients_are_the_same():
    grads = []
    for checkpointed in (False, True):
        kit = Kit()
        kit.mllm.train()
        if checkpointed:
            kit.backbone.checkpoint_gradients()
        batch = batch_of(kit, ANALOGY, LISTEN)
        taught = kit.mllm(batch, kit.features(batch))
        codi2_loss(DEBUG.heads, taught.prediction, taught.target, taught.logits, taught.labels)["loss"].backward()
        grads.append({name: p.grad for name, p in kit.mllm.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name])


def test_a_saved_adapter_names_no_path_of_this_machine(tmp_path):
    backbone = load_backbone(replace(DEBUG.llm, id="some/model"))
    backbone.save_adapter(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "some/model"
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}

"""The step loop."""

from __future__ import annotations

import pytest
import torch

from codi2.errors import PromptError
from codi2.llm.decode import Conversation, FeatureSegment, ReplyOptions, TextSegment, generate
from codi2.prompt.layout import Message, collate
from codi2.prompt.parts import Phrase, Text

from .conftest import picture, sound

SHORT = [Message("user", (Text("hi"),))]
PICTURES = [Message("user", (picture(0), Text(" and "), picture(1), Text(" make "), picture(2)))]
MIXED = [Message("user", (Phrase("a dog"), Text(" sounds like "), sound(3)))]
FREE = ReplyOptions(max_new_tokens=6)


def run(kit, conversations, options, state=None, known=0):
    sequences = [kit.layout(c, reply=True, known=known) for c in conversations]
    batch = collate(sequences, kit.backbone.pad_id, left=True)
    state = state or Conversation(kit.mllm, len(conversations))
    return generate(state, batch, kit.features(batch), options)


def assert_same(ours, theirs, atol=1e-4):
    assert [type(s) for s in ours] == [type(s) for s in theirs]
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, TextSegment):
            assert a.ids == b.ids
        else:
            assert a.modality == b.modality
            torch.testing.assert_close(a.features, b.features, rtol=0, atol=atol)


def test_a_batch_gives_what_single_runs_give(kit):
    conversations = [SHORT, PICTURES, MIXED, PICTURES]
    options = [
        FREE,
        ReplyOptions(want=("image",), max_new_tokens=4),
        ReplyOptions(want=("audio", "image"), max_new_tokens=2),
        ReplyOptions(max_new_tokens=9, temperature=1.0, top_p=0.9, seed=5),
    ]
    together = run(kit, conversations, options)
    for conversation, option, ours in zip(conversations, options, together, strict=True):
        assert_same(ours, run(kit, [conversation], [option])[0])


def test_want_forces_media_or_bans_them(kit):
    image, both, text = run(
        kit, [MIXED] * 3, [ReplyOptions(want=w, max_new_tokens=5) for w in (("image",), ("audio", "image"), ())]
    )
    k = kit.config.heads.num_slots
    assert isinstance(image[0], FeatureSegment) and image[0].modality == "image"
    assert image[0].features.shape == (k["image"], kit.config.heads.feature_dim)
    assert [s.modality for s in both if isinstance(s, FeatureSegment)] == ["audio", "image"]
    assert all(isinstance(s, TextSegment) for s in text)
    for segments in (image, both, text):
        spoken = [i for s in segments if isinstance(s, TextSegment) for i in s.ids]
        assert all(i < kit.backbone.first_new for i in spoken) and len(spoken) <= 5


@pytest.mark.parametrize("want", [None, ()])
def test_a_begin_token_of_the_models_own_opens_an_item(kit, want, monkeypatch):
    """A model that would say nothing but <audio>: features follow, up to max_items; banned, it says other things."""
    token = kit.backbone.tokenizer.convert_tokens_to_ids("<audio>")
    honest = kit.backbone.logits

    def eager(hidden):
        scores = honest(hidden)
        scores[..., token] = 100.0
        return scores

    monkeypatch.setattr(kit.backbone, "logits", eager)
    (segments,) = run(kit, [SHORT], [ReplyOptions(want=want, max_new_tokens=5, max_items=2)])
    items = [s for s in segments if isinstance(s, FeatureSegment)]
    assert len(items) == (2 if want is None else 0)
    assert sum(len(s.ids) for s in segments if isinstance(s, TextSegment)) <= 5 - len(items)


def test_the_loop_predicts_what_a_teacher_forced_pass_predicts(kit):
    """The rule of the position before the slot: fed with the loop's own features, training predicts them again."""
    for prompt in (PICTURES, MIXED, SHORT):
        (segments,) = run(kit, [prompt], [ReplyOptions(want=("image", "audio"), max_new_tokens=0)])
        made = [s.features for s in segments]
        answer = Message("assistant", (picture(8), sound(9)))  # stand-ins, whose features are replaced
        batch = collate([kit.layout([*prompt, answer])], kit.backbone.pad_id)
        features = kit.features(batch)
        features[-2:] = torch.stack(made)
        taught = kit.mllm(batch, features)
        torch.testing.assert_close(taught.prediction, torch.cat(made), rtol=0, atol=1e-5)
        torch.testing.assert_close(taught.target, torch.cat(made), rtol=0, atol=0)


def test_what_is_fed_back_matters(kit, monkeypatch):
    """The first slot is the same, the next differ, when another feature than the predicted one is fed."""
    option = [ReplyOptions(want=("image",), max_new_tokens=0)]
    honest = run(kit, [PICTURES], option)[0][0].features
    enter = kit.mllm.enter.forward
    monkeypatch.setattr(kit.mllm.enter, "forward", lambda x, modality: enter(x if len(x) > 1 else -x, modality))
    deceived = run(kit, [PICTURES], option)[0][0].features
    torch.testing.assert_close(honest[0], deceived[0])
    assert (honest[1:] - deceived[1:]).abs().amax(-1).min() > 1e-3


def test_a_kept_cache_gives_what_reading_everything_again_gives(kit):
    """Two rounds, batched; the second refers to media of the first, both given and generated."""
    firsts = [PICTURES, MIXED]
    wants = [ReplyOptions(want=("image",), max_new_tokens=3), ReplyOptions(want=("audio",), max_new_tokens=0)]
    state = Conversation(kit.mllm, 2)
    replies = run(kit, firsts, wants, state)
    again = Message("user", (Text("more of "), picture(7)))
    second = [ReplyOptions(want=("audio",), max_new_tokens=4)] * 2
    stand_in = [Message("assistant", (Text("x"), picture(8))), Message("assistant", (sound(9),))]
    continued = run(
        kit, [[*first, said, again] for first, said in zip(firsts, stand_in, strict=True)], second, state, known=2
    )
    for b, first in enumerate(firsts):
        fresh = _reread(kit, first, replies[b], again, second[b])
        assert_same(continued[b], fresh)


def _reread(kit, first, reply, again, option):
    """The second round from an empty cache: ids are put together by hand, for sampled bytes need not be text."""
    opening = kit.layout(first, reply=True)
    rest = kit.layout([*first, Message("assistant", (Text("x"),)), again], reply=True, known=2)
    state = Conversation(kit.mllm)
    batch = collate([opening], kit.backbone.pad_id, left=True)
    features = kit.features(batch)
    hidden = state.advance(kit.mllm.rows(batch, features), batch.mask)
    state.remember(kit.mllm.memory(batch, hidden, features))
    for segment in reply:
        if isinstance(segment, TextSegment):
            rows = kit.backbone.embed(torch.tensor([segment.ids]))
            state.advance(rows, torch.ones(rows.shape[:2], dtype=torch.bool))
            continue
        part = picture(0) if segment.modality == "image" else sound(0)
        piece = kit.layout([Message("assistant", (part,))])
        item = collate([piece], kit.backbone.pad_id)
        start, end = piece.slots[0].position - 1, piece.ends[0] + 1
        rows = kit.mllm.rows(item, segment.features[None])[:, start:end]
        hidden = state.advance(rows, torch.ones(rows.shape[:2], dtype=torch.bool))
        memory = kit.mllm.memory(item, torch.nn.functional.pad(hidden, (0, 0, start, 0)), segment.features[None])
        state.remember(memory)
    batch = collate([rest], kit.backbone.pad_id, left=True)
    return generate(state, batch, kit.features(batch), [option])[0]


def test_sampling_follows_the_seed(kit):
    def draw(seed):
        return run(kit, [SHORT], [ReplyOptions(want=(), max_new_tokens=12, temperature=1.0, seed=seed)])[0]

    assert_same(draw(1), draw(1))
    assert draw(1) != draw(2)


def test_top_p_near_zero_is_greedy(kit):
    greedy = run(kit, [SHORT], [ReplyOptions(want=(), max_new_tokens=8)])[0]
    narrow = run(kit, [SHORT], [ReplyOptions(want=(), max_new_tokens=8, temperature=0.7, top_p=1e-6)])[0]
    assert_same(greedy, narrow)


def test_the_end_of_the_turn_ends_the_reply(kit, monkeypatch):
    honest = kit.backbone.logits

    def curt(hidden):
        scores = honest(hidden)
        scores[..., kit.backbone.eos_id] = 100.0
        return scores

    monkeypatch.setattr(kit.backbone, "logits", curt)
    state = Conversation(kit.mllm)
    (segments,) = run(kit, [SHORT], [ReplyOptions(want=("image",))], state)
    assert [type(s) for s in segments] == [FeatureSegment]
    read = len(kit.layout(SHORT, reply=True).ids)
    assert state.mask.shape[1] == read + 1 + kit.config.heads.num_slots["image"] + 1  # the end of turn is not fed


def test_a_conversation_has_an_end(kit):
    state = Conversation(kit.mllm)
    kit.backbone.max_length = 40
    run(kit, [SHORT], [FREE], state)
    with pytest.raises(PromptError, match="model reads 40"):
        run(kit, [[*SHORT, Message("assistant", (Text("x"),)), *SHORT]], [FREE], state, known=2)

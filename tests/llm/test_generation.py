"""The step loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codi2.errors import PromptError
from codi2.llm.generation import CachedConversation, FeatureSegment, GenerationOptions, TextSegment, generate
from codi2.prompt.layout import Message, collate
from codi2.prompt.parts import Phrase, Text

from .conftest import picture, sound

SHORT = [Message("user", (Text("hi"),))]
PICTURES = [Message("user", (picture(0), Text(" and "), picture(1), Text(" make "), picture(2)))]
MIXED = [Message("user", (Phrase("a dog"), Text(" sounds like "), sound(3)))]
FREE = GenerationOptions(max_new_tokens=6)


def run(kit, conversations, options, state=None, last=False, replaced=None):
    sequences = [kit.layout(c, reply=True) for c in conversations]
    sequences = [sequence.stretches()[-1] for sequence in sequences] if last else sequences
    batch = collate(sequences, kit.backbone.pad_id, left=True)
    state = state or CachedConversation(kit.mllm, len(conversations))
    return generate(state, batch, features_of(kit, batch, replaced or {}), options)


def features_of(kit, batch, replaced):
    """Features of a batch's items; `replaced` has other features for some items, by identity."""
    features = kit.features(batch)
    for n, item in enumerate(batch.items):
        features[n] = replaced.get(id(item), features[n])
    return features


def assert_same(replies, expected, atol=1e-4):
    assert [type(s) for s in replies] == [type(s) for s in expected]
    for a, b in zip(replies, expected, strict=True):
        if isinstance(a, TextSegment):
            assert a.ids == b.ids
        else:
            assert a.modality == b.modality
            torch.testing.assert_close(a.features, b.features, rtol=0, atol=atol)


def test_a_batch_gives_what_single_runs_give(kit):
    conversations = [SHORT, PICTURES, MIXED, PICTURES]
    options = [
        FREE,
        GenerationOptions(want=("image",), max_new_tokens=4),
        GenerationOptions(want=("audio", "image"), max_new_tokens=2),
        GenerationOptions(max_new_tokens=9, temperature=1.0, top_p=0.9, seed=5),
    ]
    together = run(kit, conversations, options)
    for conversation, option, segments in zip(conversations, options, together, strict=True):
        assert_same(segments, run(kit, [conversation], [option])[0])


def test_a_modality_that_cannot_be_generated_is_refused(kit):
    state = CachedConversation(kit.mllm)
    with pytest.raises(PromptError, match="cannot generate phrase"):
        run(kit, [SHORT], [GenerationOptions(want=("phrase",))], state)
    assert state.mask.shape[1] == 0, "nothing was read"


def test_want_forces_media_or_bans_them(kit):
    image, both, text = run(
        kit, [MIXED] * 3, [GenerationOptions(want=w, max_new_tokens=5) for w in (("image",), ("audio", "image"), ())]
    )
    k = kit.config.heads.num_slots
    assert isinstance(image[0], FeatureSegment) and image[0].modality == "image"
    assert image[0].features.shape == (k["image"], kit.config.heads.feature_dim)
    assert [s.modality for s in both if isinstance(s, FeatureSegment)] == ["audio", "image"]
    assert all(isinstance(s, TextSegment) for s in text)
    for segments in (image, both, text):
        token_ids = [i for s in segments if isinstance(s, TextSegment) for i in s.ids]
        assert all(i < kit.backbone.first_new for i in token_ids) and len(token_ids) <= 5


@pytest.mark.parametrize("want", [None, ()])
def test_a_begin_token_of_the_models_own_opens_an_item(kit, want, monkeypatch):
    """A model whose best token is always <audio>: features follow, up to max_items; with `want` (), it writes text."""
    token = kit.backbone.tokenizer.convert_tokens_to_ids("<audio>")
    logits = kit.backbone.logits

    def eager(hidden):
        scores = logits(hidden)
        scores[..., token] = 100.0
        return scores

    monkeypatch.setattr(kit.backbone, "logits", eager)
    (segments,) = run(kit, [SHORT], [GenerationOptions(want=want, max_new_tokens=5, max_items=2)])
    items = [s for s in segments if isinstance(s, FeatureSegment)]
    assert len(items) == (2 if want is None else 0)
    assert sum(len(s.ids) for s in segments if isinstance(s, TextSegment)) <= 5 - len(items)


def test_the_loop_predicts_what_a_teacher_forced_pass_predicts(kit):
    """The state before a slot predicts it: fed with the generated features, a training pass predicts them again."""
    for prompt in (PICTURES, MIXED, SHORT):
        (segments,) = run(kit, [prompt], [GenerationOptions(want=("image", "audio"), max_new_tokens=0)])
        generated = [s.features for s in segments]
        answer = Message("assistant", (picture(8), sound(9)))  # stand-ins, whose features are replaced
        batch = collate([kit.layout([*prompt, answer])], kit.backbone.pad_id)
        features = kit.features(batch)
        features[-2:] = torch.stack(generated)
        taught = kit.mllm(batch, features)
        torch.testing.assert_close(taught.prediction, torch.cat(generated), rtol=0, atol=1e-5)
        torch.testing.assert_close(taught.target, torch.cat(generated), rtol=0, atol=0)


def test_the_next_slots_depend_on_the_features_that_are_fed_back(kit, monkeypatch):
    """When another feature than the predicted one is fed, the first slot stays the same and the next ones differ."""
    option = [GenerationOptions(want=("image",), max_new_tokens=0)]
    expected = run(kit, [PICTURES], option)[0][0].features
    projection = kit.mllm.input_projection
    forward = projection.forward
    monkeypatch.setattr(projection, "forward", lambda x, modality: forward(x if len(x) > 1 else -x, modality))
    changed = run(kit, [PICTURES], option)[0][0].features
    torch.testing.assert_close(expected[0], changed[0])
    assert (expected[1:] - changed[1:]).abs().amax(-1).min() > 1e-3


def test_a_kept_cache_gives_what_reading_everything_at_once_gives(kit, monkeypatch):
    """Two batched rounds with one cache give the same as one teacher-forced pass over each whole conversation."""
    letters = kit.backbone.tokenizer.convert_tokens_to_ids([*"abcdefghijklmnopqrstuvwxyz"])
    banned = torch.ones(len(kit.backbone.tokenizer), dtype=torch.bool)
    banned[letters] = False  # text of single letters tokenizes to the same ids again
    logits = kit.backbone.logits
    monkeypatch.setattr(kit.backbone, "logits", lambda hidden: logits(hidden).masked_fill(banned, -torch.inf))

    generated: dict[int, Tensor] = {}

    def message(segments):
        parts = []
        for segment in segments:
            if isinstance(segment, TextSegment):
                parts.append(Text(kit.backbone.tokenizer.decode(segment.ids)))
            else:
                parts.append(picture(8) if segment.modality == "image" else sound(9))  # stands in for its features
                generated[id(parts[-1])] = segment.features
        return Message("assistant", tuple(parts))

    conversations, state, mark = [PICTURES, MIXED], CachedConversation(kit.mllm, 2), 0
    for last, wants in ((False, [("image",), ()]), (True, [("audio",), ("image", "audio")])):
        if last:
            assert state.rewind(mark)  # the reply is read again, with the next message
        opening = collate([kit.layout(c, reply=True) for c in conversations], 0, left=True)
        mark = opening.ids.shape[1]
        options = [GenerationOptions(want=want, max_new_tokens=4 + len(want)) for want in wants]
        replies = run(kit, conversations, options, state, last, generated)
        again = Message("user", (Text("more of "), picture(7), Phrase("a cat")))
        conversations = [[*c, message(r), again] for c, r in zip(conversations, replies, strict=True)]

    for conversation in conversations:
        batch = collate([kit.layout(conversation)], kit.backbone.pad_id)
        features = features_of(kit, batch, generated)
        taught = kit.mllm(batch, features)
        torch.testing.assert_close(taught.prediction, taught.target, rtol=0, atol=1e-4)
        generated_labels = torch.isin(taught.labels, torch.tensor(letters))
        assert generated_labels.sum() >= 8
        assert taught.logits[generated_labels].argmax(-1).tolist() == taught.labels[generated_labels].tolist()


def test_sampling_follows_the_seed(kit):
    def draw(seed):
        return run(kit, [SHORT], [GenerationOptions(want=(), max_new_tokens=12, temperature=1.0, seed=seed)])[0]

    assert_same(draw(1), draw(1))
    assert draw(1) != draw(2)


@pytest.mark.parametrize("top_p", [0.0, 1e-6])
def test_a_top_p_of_about_zero_is_greedy(kit, top_p):
    greedy = run(kit, [SHORT], [GenerationOptions(want=(), max_new_tokens=8)])[0]
    narrow = run(kit, [SHORT], [GenerationOptions(want=(), max_new_tokens=8, temperature=0.7, top_p=top_p)])[0]
    assert_same(greedy, narrow)


def test_the_end_of_the_turn_ends_the_reply(kit, monkeypatch):
    always_end_the_turn(kit, monkeypatch)
    state = CachedConversation(kit.mllm)
    (segments,) = run(kit, [SHORT], [GenerationOptions(want=("image",))], state)
    assert [type(s) for s in segments] == [FeatureSegment]
    prompt_length = len(kit.layout(SHORT, reply=True).ids)
    assert (
        state.mask.shape[1] == prompt_length + 1 + kit.config.heads.num_slots["image"] + 1
    )  # the end of turn is not fed


def always_end_the_turn(kit, monkeypatch):
    """Makes the end of the turn the model's best token at every step."""
    original = kit.backbone.logits

    def logits(hidden):
        scores = original(hidden)
        scores[..., kit.backbone.eos_id] = 100.0
        return scores

    monkeypatch.setattr(kit.backbone, "logits", logits)


@pytest.mark.parametrize(
    "want",
    [
        ("text",),
        ("text", "image", "audio"),
        ("image", "text", "audio"),
        ("image", "audio", "text"),
        ("text", "image", "text"),
        ("image", "image"),
    ],
)
def test_all_wanted_segments_come_in_order_from_a_model_that_always_ends_its_turn(kit, monkeypatch, want):
    always_end_the_turn(kit, monkeypatch)
    (segments,) = run(kit, [SHORT], [GenerationOptions(want=want)])
    assert tuple("text" if isinstance(s, TextSegment) else s.modality for s in segments) == want
    assert all(kit.backbone.tokenizer.decode(s.ids).strip() for s in segments if isinstance(s, TextSegment))


def test_wanted_media_follow_a_text_that_the_model_never_ends(kit, monkeypatch):
    logits, eos = kit.backbone.logits, kit.backbone.eos_id
    without_end = lambda hidden: logits(hidden).index_fill(-1, torch.tensor([eos]), -torch.inf)  # noqa: E731
    monkeypatch.setattr(kit.backbone, "logits", without_end)
    (segments,) = run(kit, [SHORT], [GenerationOptions(want=("text", "image", "audio"), max_new_tokens=7)])
    assert [type(s) for s in segments] == [TextSegment, FeatureSegment, FeatureSegment]
    assert len(segments[0].ids) == 7


def test_wanted_texts_run_in_a_batch_as_alone(kit):
    options = [GenerationOptions(want=w, max_new_tokens=5) for w in (("text", "image"), ("audio", "text"), None)]
    together = run(kit, [SHORT, MIXED, SHORT], options)
    for conversation, option, segments in zip([SHORT, MIXED, SHORT], options, together, strict=True):
        assert_same(segments, run(kit, [conversation], [option])[0])


def test_a_conversation_longer_than_the_model_reads_is_refused(kit):
    state = CachedConversation(kit.mllm)
    kit.backbone.max_length = 40
    run(kit, [SHORT], [FREE], state)
    with pytest.raises(PromptError, match="model reads 40"):
        run(kit, [[*SHORT, Message("assistant", (Text("x"),)), *SHORT]], [FREE], state, last=True)

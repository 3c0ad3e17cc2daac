"""Every recipe on a small corpus: a step learns, the held-out figures are there, and what is exported loads again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import copy, copytree
from typing import Any

import numpy as np
import pytest
import torch

from codi2.config import DEBUG, TINY, CoDi2Config
from codi2.data import cache
from codi2.data.build import Settings, build
from codi2.data.tables.steps import changes
from codi2.diffuse.build import debug_decoder
from codi2.diffuse.decoder import Sampling
from codi2.diffuse.load import load_codec, load_decoder
from codi2.diffuse.sampling import SampleOptions
from codi2.encode.appearance import NUM_CELLS, NUM_MANNER
from codi2.encode.debug import DebugEncoder
from codi2.encode.tiny import TRUNK_CHANNELS, load_heads
from codi2.train.config import TrainConfig
from codi2.train.encoded import Encodings, weights_key
from codi2.train.loop import train

CODEC = {"channels": (8, 8, 8), "crop": (16, 16), "latent_channels": 2}


def config(part: str, options: dict[str, Any], steps: int = 4, **fields: Any) -> TrainConfig:
    return TrainConfig(
        part=part,
        steps=steps,
        batch_size=4,
        learning_rate=1e-3,
        warmup_steps=1,
        ema_decay=0.5,
        options=options,
        **fields,
    )


@pytest.fixture
def trunks(rich_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random trunk features in place of the downloaded trunks'."""

    def trunk_features(modality: str, name: str = "plain") -> np.ndarray:
        count = len(cache.mixes(name)) if name in cache.MIXES else len(cache.items(modality))
        draw = np.random.default_rng(len(modality) + len(name))
        return draw.normal(size=(count, 4, TRUNK_CHANNELS[modality])).astype(np.float16)

    def phrase_features(texts: list[str]) -> np.ndarray:
        rows = [np.random.default_rng(sum(map(ord, text))).normal(size=(1, 384)) for text in texts]
        return np.array(rows, dtype=np.float16)

    def picture_manner(modality: str, name: str = "plain") -> np.ndarray:
        draw = np.random.default_rng(len(name))
        return draw.normal(size=(len(cache.items("image")), NUM_MANNER)).astype(np.float16)

    monkeypatch.setattr(cache, "trunk_features", trunk_features)
    monkeypatch.setattr(cache, "picture_manner", picture_manner)
    monkeypatch.setattr(cache, "phrase_features", phrase_features)
    monkeypatch.setattr(cache, "MIXES", {"mix": (("train",), 8), "test_mix": (("test_rendering",), 8)})


def train_codec(modality: str, out: Path) -> dict[str, float]:
    from codi2.train.parts.codec import build

    made = config(f"{modality}_codec", {"modality": modality, **CODEC})
    return train(build(made), made, out)


def train_heads(out: Path) -> dict[str, float]:
    from codi2.train.parts.encoder_heads import build

    made = config("encoder_heads", {"dim": 256, "views": ("plain", "grey")})
    return train(build(made), made, out)


@pytest.fixture
def weights(trunks: None, tmp_path: Path) -> Path:
    """A folder with config, heads and codecs, as the shipped weights are laid out."""
    train_heads(tmp_path / "heads")
    for modality in ("image", "audio"):
        train_codec(modality, tmp_path / modality)
        (tmp_path / "weights" / modality).mkdir(parents=True)
        (tmp_path / modality / "export").rename(tmp_path / "weights" / modality / "vae")
    (tmp_path / "heads" / "export").rename(tmp_path / "weights" / "encoder")
    decoders = {modality: TINY.decoders[modality] for modality in ("image", "audio")}
    small = replace(TINY, llm=DEBUG.llm, decoders=decoders, joint=None)
    (tmp_path / "weights" / "config.json").write_text(small.to_json())
    return tmp_path / "weights"


def test_codec_and_heads_load_again(weights: Path) -> None:
    codec = load_codec("image", weights / "image")
    pixels = torch.zeros(2, 3, 64, 64)
    latents = codec.encode(pixels)
    assert latents.shape == (2, 2, 16, 16)
    assert codec.decode(latents).shape == pixels.shape
    assert load_codec("audio", weights / "audio").encode(torch.zeros(1, 1, 160, 64)).shape == (1, 2, 40, 16)
    heads = load_heads(weights / "encoder" / "heads.safetensors", 256)
    features = heads["image"](torch.randn(3, 4, 1280), torch.randn(3, NUM_CELLS["image"]), torch.randn(3, NUM_MANNER))
    assert features.shape == (3, 3, 256)
    assert torch.allclose(features[:, 0].norm(dim=-1), torch.full((3,), 16.0), atol=0.1)


@pytest.fixture
def data(rich_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A data set with every row of the tables and captions, and an encoder that needs no download."""
    from codi2.train.parts import decoder, leave, llm

    source = str(rich_home / "data" / "tiny")
    for name, options in (("tables", {"records": 190}), ("tiny", {})):
        build(Settings(name, source, str(tmp_path / "data" / name), options=options))
    encoder = DebugEncoder(256, TINY.encoder.num_features)
    encodings = Encodings(lambda: encoder, weights_key(encoder), reads_words=True)
    for module in (decoder, leave, llm):
        monkeypatch.setattr(module, "encodings_for", lambda config, folder: encodings)
    return {str(tmp_path / "data" / name): 1.0 for name in ("tables", "tiny")}


DRAWN = {"source", "no_source", "others_feature_source", "others_feature_no_source", "joint_only_no_source",
         "unconditional_no_source", "drawn_source", "drawn_no_source", "copied_source"}  # fmt: skip


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_decoder_trains_and_loads_again(weights: Path, data: dict[str, float], tmp_path: Path, modality: str) -> None:
    from codi2.train.parts.decoder import build

    options = {"modality": modality, "data": data, "channels": (16, 32), "model": str(weights)}
    made = config(f"{modality}_decoder", options)
    figures = train(build(made), made, tmp_path / "decoder")
    assert set(figures) == DRAWN and all(np.isfinite(value) for value in figures.values())
    decoder = load_decoder(modality, tmp_path / "decoder" / "export", codec=load_codec(modality, weights / modality))
    sampling = SampleOptions(num_inference_steps=2, guidance_scale=2.0, source_guidance_scale=1.0)
    latents = decoder.generate_latents(torch.randn(2, 1, 256), [0, 1], sampling)
    assert latents.shape[1:] == decoder.latent_shape
    assert torch.isfinite(latents).all()

    # tuned on what its estimates look like: the codec's way out learns, its way in and the cached latents stay
    start = str(tmp_path / "decoder" / "export")
    looks = {**options, "looked_at": 2, "perception_weight": 0.0, "loudness_weight": 0.5}
    tuning = config(f"{modality}_decoder", looks, steps=2, start=start)
    train(build(tuning), tuning, tmp_path / "tuned")
    tuned, codec = (load_codec(modality, folder) for folder in (tmp_path / "tuned" / "export", weights / modality))
    media = torch.randn(1, *((3, 64, 64) if modality == "image" else (1, 160, 64)))
    assert torch.equal(tuned.encode(media), codec.encode(media))
    assert not torch.equal(tuned.decode(latents), codec.decode(latents))

    # a part of the way from what it went on from
    half = build(config(f"{modality}_decoder", {**options, "gone": 0.5}, start=start))
    half.restore(Path(start))
    before = half.decoder.unet.conv_out.bias.clone()
    half.decoder.unet.conv_out.bias.data += 1
    half.export(tmp_path / "half", {})
    kept = load_decoder(modality, tmp_path / "half", codec=codec).unet.conv_out.bias
    torch.testing.assert_close(kept, before + 0.5, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("modality", ["image", "audio", "video"])
def test_decoder_on_patches_begins_as_a_copy_and_loads_with_them(
    weights: Path, data: dict[str, float], tmp_path: Path, modality: str
) -> None:
    from codi2.train.parts.decoder import build

    options = {"modality": modality, "data": data, "channels": (16, 32), "model": str(weights), "patch": 4}
    made = config(f"{modality}_decoder", {**options, "looked_at": 2, "perception_weight": 0.0})
    recipe = build(made)
    torch.nn.init.zeros_(recipe.decoder.unet.conv_out.weight)
    torch.nn.init.zeros_(recipe.decoder.unet.conv_out.bias)
    batches = (recipe.batch(step) for step in range(8))
    b = next(batch for batch in batches if batch.source.any())
    given = b.source.flatten(1).any(1)
    _, drawn = recipe.decoder.loss_and_estimate(b.latents, b.noise, b.t, b.features, b.noise_level, b.source, b.text)
    assert torch.equal(drawn[given], b.source[given])
    train(recipe, made, tmp_path / "decoder")
    codec = load_codec(modality, tmp_path / "decoder" / "export")
    shapes = {"image": (3, 64, 64), "audio": (1, 160, 64), "video": (3, 8, 64, 64)}
    media = torch.rand(2, *shapes[modality])
    assert torch.allclose(codec.decode(codec.encode(media)), media, atol=1e-5)


def test_clips_of_words_begin_as_pictures_of_their_features(
    weights: Path, data: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from codi2.train.parts import decoder

    pictures = debug_decoder("image", 256, 3, Sampling(num_inference_steps=1))
    monkeypatch.setattr(decoder, "load_one_decoder", lambda modality, config, folder: pictures)
    options = {"modality": "video", "data": data, "channels": (16, 32), "model": str(weights), "patch": 4}
    plain, begun = (decoder.build(config("video_decoder", {**options, "begun": rate})) for rate in (0.0, 1.0))
    drawn = 0
    for step in range(4):
        before, after = plain.batch(step), begun.batch(step)
        given = before.source.flatten(1).any(1)
        assert torch.equal(before.source[given], after.source[given])
        begins = after.source[~given]
        assert begins.flatten(1).any(1).all() and not begins.diff(dim=2).any()  # pictures: nothing moves
        assert after.source_appearance[~given].any(1).all() and not before.source_appearance[~given].any()
        drawn += len(begins)
    assert drawn


def test_a_decoder_can_be_told_words_alone(weights: Path, data: dict[str, float]) -> None:
    from codi2.train.parts.decoder import build

    options = {"modality": "audio", "data": data, "channels": (16, 32), "model": str(weights), "by_words": True}
    recipe = build(config("audio_decoder", {**options, "drop_source": 0.0}))
    b, lessons = recipe.batch(0), recipe.lessons.batch(0)
    for i, lesson in enumerate(lessons):
        said = lesson.features[lesson.words("audio")][0]
        assert torch.equal(b.text[i], said) and torch.equal(b.features[i, 0], said) and not b.features[i, 1:].any()


def test_a_lesson_knows_its_answer_its_source_and_the_words(data: dict[str, float]) -> None:
    from codi2.train.lessons import Lessons
    from codi2.train.parts import llm

    encodings = llm.encodings_for(None, None)
    lessons = Lessons(data, encodings, 8, {"image": 1.0}, 0)
    seen = set()
    for step in range(12):
        for lesson in lessons.batch(step):
            answer, source = lesson.answer("image"), lesson.source("image")
            edited = None if lesson.record.edits is None else lesson.record.media[lesson.record.edits]
            pictures = [medium for medium in lesson.record.media if medium.modality == "image"]
            assert lesson.medium(answer) is pictures[-1]
            if edited is None or edited.modality != "image":
                assert source is None
            else:
                assert source is not None and lesson.medium(source) is edited
            assert lesson.source("video", ("image",), answer=lesson.answers[0] - 1) is None, "of the last answer alone"
            words = lesson.items[lesson.words("image")][1].text
            assert words and words.split()[0] in str(lesson.record.turns[-2][1])
            decoded = lesson.medium(answer).decode()
            again = encodings.encoder([decoded]).values[0]
            assert torch.allclose(lesson.features[answer], again, atol=2e-3)
            seen.add(lesson.record.task)
    assert {"image_from_caption", "edit_image", "analogy_image"} <= seen


def test_a_medium_is_encoded_once_and_again_when_the_weights_change(data: dict[str, float]) -> None:
    from codi2.train.lessons import Lessons
    from codi2.train.parts import llm

    encodings = llm.encodings_for(None, None)
    pieces = Lessons(data, encodings, 2, {"image": 1.0}, 0).batch(0)[0].pieces
    first = encodings.of(pieces)
    other = Encodings(lambda: pytest.fail("the encoder is asked again"), encodings.path.stem, True)
    assert all(torch.equal(a, b) for a, b in zip(other.of(pieces), first, strict=True))
    assert all(value is not None for value in other.known(pieces[:1]))
    weights = DebugEncoder(8, {"image": 1})
    key = weights_key(weights)
    weights.maps["image"].weight.data[0, 0] += 1
    assert weights_key(weights) != key
    assert Encodings(lambda: weights, key, True).known(pieces) == [None] * len(pieces)


@pytest.fixture
def chats(rich_home: Path) -> None:
    (rich_home / "cache").mkdir(exist_ok=True)
    (rich_home / "cache" / "chat.jsonl").write_text('["Hello?", "Hi. And th"]\n')
    (rich_home / "cache" / "prose.json").write_text('["The harbour wakes before the town does.", "Bread."]')


def test_language_model_trains_on_every_phase(
    weights: Path, data: dict[str, float], chats: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codi2.train.parts import decoder, diffusion_loss, drift, llm

    options = {"data": data, "held_out": data, "model": str(weights), "lookahead": 4}
    phases = {"text": 0.25, "image": 0.5, "audio": 0.25}
    made = config("llm", {**options, "phases": phases, "diffusion_share": 0.0, "kept_texts": 2}, steps=4)
    recipe = llm.build(made)
    figures = train(recipe, made, tmp_path / "llm")
    assert {"add/joint", "analogy_image/manner", "caption_image/loss"} <= set(figures)
    assert all(np.isfinite(value) for value in figures.values())
    assert (tmp_path / "llm" / "export" / "adapter" / "adapter_model.safetensors").is_file()

    # a step is of one phase, and those of a block are the mixture's, exchanged
    drawn = [recipe.batch(step) for step in range(4)]
    mixture = recipe.lessons.mixture
    mixed = [record for step in range(4) for record in mixture.batch(step)]
    phases = {f"{record.source}:{record.key}": record.phase for record in mixed}
    batches = [recipe.sources(step) for step in range(4)]
    for step, names in enumerate(batches):
        assert {phases[name] for name in names} == {mixture.phase(step)}
    assert sorted(n for names in batches for n in names) == sorted(f"{one.source}:{one.key}" for one in mixed)

    # both read a question's answer, ours behind the question's phrase
    (chat,) = (kept for kept in recipe.kept if kept.phrases)
    plain, asked = (text.labels[text.labels >= 0] for text in (chat.plain, chat.asked))
    assert torch.equal(plain, asked) and len(chat.asked.ids) > len(chat.plain.ids)

    # held to the base model: what it drifted is seen, and the gradient against it reaches the adapters
    adapted = drift.drift(recipe.mllm, drawn[0].drift)
    adapted.backward()  # type: ignore[no-untyped-call]
    assert adapted > 1e-6
    assert any(p.grad is not None and p.grad.any() for name, p in recipe.model.named_parameters() if "lora" in name)

    # what is predicted of an answer does not depend on the answer, in any of its slots
    from codi2.train.parts.predicted import own_predictions

    lessons = recipe.held_out["add"]
    batch, features = recipe._collate(lessons)
    with torch.no_grad():
        items, predicted = own_predictions(recipe.mllm, batch, features)
        features[items] = torch.randn_like(features[items])
        assert torch.allclose(own_predictions(recipe.mllm, batch, features)[1], predicted, atol=1e-5)

    # the diffusion loss of answers reaches the language model through their features
    for modality in ("image", "audio"):
        options_ = {"modality": modality, "data": data, "channels": (16, 32), "model": str(weights), "patch": 4}
        train(
            decoder.build(of := config(f"{modality}_decoder", options_, steps=1)), of, tmp_path / f"{modality}_decoder"
        )
        copytree(tmp_path / f"{modality}_decoder" / "export", weights / modality, dirs_exist_ok=True)
    recipe.decoders = recipe._decoders(weights)
    recipe.options = replace(recipe.options, diffusion_share=1.0, diffusion_items=2)
    del recipe.drawing  # it draws by the options
    image = next(d for d in map(recipe.batch, range(4)) if "image" in d.denoised)
    assert len(image.denoised["image"].slots) == 2
    recipe.model.zero_grad()
    taught = recipe.mllm(image.batch, image.features, recipe._fed(image))
    denoised = image.denoised["image"]
    diffusion_loss.diffusion_loss(
        recipe.decoders["image"], denoised, taught.prediction, torch.float32
    ).mean().backward()
    assert any(p.grad is not None and p.grad.any() for name, p in recipe.model.named_parameters() if "lora" in name)

    # a decoder goes on with what this language model predicts
    copytree(tmp_path / "llm" / "export", weights, dirs_exist_ok=True)
    options = {"modality": "image", "data": data, "channels": (16, 32), "patch": 4, "model": str(weights)}
    on_predicted = config("image_decoder", {**options, "predicted": 2}, steps=2)
    foretelling = decoder.build(on_predicted)
    assert foretelling.predictions.shape == (8, 3, 256)
    assert torch.allclose(foretelling.predictions[:, 0].norm(dim=-1), torch.full((8,), 16.0), atol=0.1)
    train(foretelling, on_predicted, tmp_path / "decoder")


def test_samples_start_from_noise_at_the_set_rate(weights: Path, data: dict[str, float]) -> None:
    from codi2.train.parts import decoder

    options = {"modality": "image", "data": data, "channels": (16, 32), "patch": 4, "model": str(weights)}
    recipe = decoder.build(config("image_decoder", {**options, "from_noise_share": 0.5}))
    t = torch.cat([recipe.batch(step).t for step in range(50)])
    assert 0.4 < float((t == 999).float().mean()) < 0.6


def test_the_way_out_learns_before_the_language_model(
    weights: Path, data: dict[str, float], chats: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codi2.train.parts import leave, llm

    options = {"data": data, "model": str(weights), "width": 32}
    recipe = leave.build(made := config("leave", options, steps=30))
    before = float(recipe.losses(recipe.model, recipe.batch(0))["loss"].detach())
    figures = train(recipe, made, tmp_path / "leave")
    assert {"analogy_image/manner", "add/appearance"} <= set(figures)
    assert float(recipe.losses(recipe.model, recipe.batch(0))["loss"].detach()) < before

    # what is predicted of an example does not depend on the others of its batch
    lessons = recipe.lessons.batch(0) + recipe.lessons.batch(2)
    one, more = (recipe._collate(lessons[:n]) for n in (1, 5))
    with torch.no_grad():
        assert torch.allclose(recipe._predict(more)[: len(one.number)], recipe._predict(one), atol=1e-5)

    options = {"data": data, "held_out": data, "model": str(weights), "diffusion_share": 0.0}
    options["leave"] = str(tmp_path / "leave/export")
    started = llm.build(config("llm", options)).mllm.output_projection
    for name, value in recipe.model.state_dict().items():
        assert torch.allclose(started.state_dict()[name], value, atol=1e-2), name  # an average, kept as fp16


def test_the_way_out_goes_on_when_the_language_model_has_read(
    weights: Path, data: dict[str, float], chats: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codi2.checkpoint import load_language, locate
    from codi2.llm.backbone import load_backbone
    from codi2.llm.mllm import MLLM, stack_features
    from codi2.prompt.layout import Message, collate, layout_for
    from codi2.train.parts import leave, llm, states

    plain, model = tmp_path / "plain", tmp_path / "model"  # one that has neither linear maps nor operators
    copytree(weights, plain)
    about = CoDi2Config.from_json((plain / "config.json").read_bytes())
    (plain / "config.json").write_text(replace(about, heads=replace(about.heads, maps=0, operators={})).to_json())
    options = {"data": data, "held_out": data, "model": str(plain), "diffusion_share": 0.0}
    llm.build(config("llm", options)).export(model, {})
    options = {"data": data, "model": str(model), "width": 32, "reads": True, "drop": 0.2, "noise": 0.1}
    monkeypatch.setattr(states, "NOISE", 0.0)
    recipe = leave.build(made := config("leave", options, steps=30))
    monkeypatch.setattr(states, "_read", lambda *_: pytest.fail("read again"))
    leave.build(made)

    # what it predicts from kept states is what the whole model predicts
    whole = MLLM(load_backbone(recipe.base.llm), recipe.heads).eval()
    load_language(whole, model)
    (lesson,) = recipe.lessons.batch(0)[:1]
    layout = layout_for(recipe.base, whole.backbone.tokenizer)
    batch = collate([layout([Message(role, pieces) for role, pieces in lesson.record.turns])], whole.backbone.pad_id)
    recipe.model.eval()
    with torch.no_grad():
        taught = whole(batch, stack_features(list(lesson.features), recipe.heads.feature_dim))
        assert torch.allclose(recipe._predict(recipe._collate([lesson])), taught.prediction, atol=2e-2)

    figures = train(recipe, made, tmp_path / "leave")
    assert {"analogy_image/manner", "add/appearance"} <= set(figures)
    copytree(model, tmp_path / "tuned")
    copy(tmp_path / "leave/export/heads.safetensors", tmp_path / "tuned")
    load_language(whole, tmp_path / "tuned")
    for name, value in recipe.model.state_dict().items():
        assert torch.allclose(whole.output_projection.state_dict()[name], value, atol=1e-2), name
    before = leave.build(made).model.state_dict()
    assert not torch.equal(whole.output_projection.share, before["share"])  # it learned
    assert torch.allclose(
        whole.output_projection.query.weight, before["query.weight"], atol=1e-3
    )  # and points as it did

    # a model that has no linear maps yet gets some, and learns where to point too
    mapped = leave.build(made := config("leave", options | {"maps": 3, "points": True}, steps=30))
    train(mapped, made, tmp_path / "mapped")
    copytree(tmp_path / "mapped/export", tmp_path / "tuned", dirs_exist_ok=True)
    loaded, folder = locate(str(tmp_path / "tuned"))
    assert loaded.heads.maps == 3 and folder is not None
    again = MLLM(load_backbone(loaded.llm), loaded.heads)
    load_language(again, folder)
    theirs = mapped.model.state_dict()
    for name, value in again.output_projection.state_dict().items():
        assert torch.allclose(value, theirs[name], atol=1e-2), name  # matrices in bytes
    assert again.output_projection.edits is not None and again.output_projection.edits.maps.any()
    assert not torch.allclose(again.output_projection.query.weight, before["query.weight"], atol=1e-3)

    # and operators, which are fitted, while all but their use stays as it is
    few = {"image": ("image", dict(list(changes("image").items())[:3]))}
    monkeypatch.setattr(leave, "known_changes", lambda heads: few)
    fitted = leave.build(made := config("leave", options | {"operators": True}, steps=10))
    train(fitted, made, tmp_path / "fitted")
    copytree(tmp_path / "fitted/export", tmp_path / "tuned", dirs_exist_ok=True)
    loaded, folder = locate(str(tmp_path / "tuned"))
    assert loaded.heads.operators == {"image": 3} and folder is not None
    again = MLLM(load_backbone(loaded.llm), loaded.heads)
    load_language(again, folder)
    assert all(
        torch.allclose(again.output_projection.state_dict()[name], value, atol=1e-2) for name, value in before.items()
    )
    assert all(
        again.output_projection.state_dict()[f"operators.{name}"].any() for name in ("maps.image", "asked.image.weight")
    )

    # of records that are not taught nothing is learned: what they say now is what they should say
    recipes = [
        leave.build(config("leave", options | {"taught": tasks, "drop": 0.0, "noise": 0.0}))
        for tasks in ([], ["add"], ["none of them"])
    ]
    lessons = [lesson for some in recipe.held_out.values() for lesson in some]
    every, add, none = (float(r.losses(r.model, r._collate(lessons))["loss"]) for r in recipes)
    assert every > add > none == 0


def test_vocoder_trains(home: Path, tmp_path: Path) -> None:
    from codi2.train.parts.vocoder import build

    made = config("vocoder", {"crop": 4096, "channels": 16, "blocks": 1}, steps=2)
    figures = train(build(made), made, tmp_path)
    assert set(figures) == {"lsd", "griffin_lim"}


def test_an_edited_corpus_costs_only_its_new_rows(home: Path) -> None:
    before = np.array(cache.view("image", "grey"))
    path = home / "data" / "tiny" / "images.npy"
    pictures = np.load(path)
    pictures[3] = 7
    np.save(path, pictures)
    cache.corpus.cache_clear()
    cache._row_keys.cache_clear()
    asked: list[np.ndarray] = []

    def compute(rows: np.ndarray) -> np.ndarray:
        asked.append(rows)
        return np.full((len(rows), 64, 64, 3), 7, np.uint8)

    after = cache._cached("image-grey", "", cache._row_keys("image", "grey"), compute)
    assert [list(rows) for rows in asked] == [[3]]
    assert (after[3] == 7).all()
    assert np.array_equal(np.delete(after, 3, 0), np.delete(before, 3, 0))

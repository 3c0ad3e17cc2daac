"""Every recipe on a small corpus: a step learns, the held-out figures are there, and what is exported loads again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch

from codi2.config import DEBUG, TINY
from codi2.data import cache
from codi2.diffuse.load import load_codec, load_decoder
from codi2.encode.appearance import NUM_CELLS, NUM_MANNER
from codi2.encode.tiny import TRUNK_CHANNELS, load_heads
from codi2.errors import ConfigError
from codi2.train.config import TrainConfig
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
def trunks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """A folder with heads and codecs, as the shipped weights are laid out."""
    train_heads(tmp_path / "heads")
    for modality in ("image", "audio"):
        train_codec(modality, tmp_path / modality)
        (tmp_path / "weights" / modality).mkdir(parents=True)
        (tmp_path / modality / "export").rename(tmp_path / "weights" / modality / "vae")
    (tmp_path / "heads" / "export").rename(tmp_path / "weights" / "encoder")
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


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_decoder_trains_and_loads_again(weights: Path, tmp_path: Path, modality: str) -> None:
    from codi2.train.parts.decoder import build

    tasks = {f"{modality}_from_caption": 1.0, f"edit_{modality}": 1.0, "cross": 1.0}
    if modality == "audio":
        tasks |= {"add": 1.0, "remove": 1.0, "replace": 1.0}
    options = {"modality": modality, "tasks": tasks, "channels": (16, 32), "weights": str(weights)}
    made = config(f"{modality}_decoder", options)
    figures = train(build(made), made, tmp_path / "decoder")
    assert set(figures) == {"loss", "joint_only", "others_feature", "unconditional"}
    decoder = load_decoder(modality, tmp_path / "decoder" / "export", codec=load_codec(modality, weights / modality))
    latents = decoder.generate_latents(torch.randn(2, 1, 256), [0, 1], None, None, 2, 2.0, 1.0, None)
    assert latents.shape[1:] == decoder.latent_shape
    assert torch.isfinite(latents).all()

    # tuned on what its estimates look like: the codec's way out learns, its way in and the cached latents stay
    start = str(tmp_path / "decoder" / "export")
    tuning = config(f"{modality}_decoder", {**options, "looked_at": 2, "perception_weight": 0.0}, steps=2, start=start)
    train(build(tuning), tuning, tmp_path / "tuned")
    tuned, codec = (load_codec(modality, folder) for folder in (tmp_path / "tuned" / "export", weights / modality))
    media = torch.randn(1, *((3, 64, 64) if modality == "image" else (1, 160, 64)))
    assert torch.equal(tuned.encode(media), codec.encode(media))
    assert not torch.equal(tuned.decode(latents), codec.decode(latents))
    assert cache._way_in(tmp_path / "tuned" / "export" / "vae") == cache._way_in(weights / modality / "vae")


def test_perception_is_a_distance_that_a_blur_does_not_lower() -> None:
    from codi2.encode.efficientnet import EfficientNetLite
    from codi2.train.parts.reconstruction import Perception

    torch.manual_seed(0)
    perception = Perception(EfficientNetLite("lite0").eval().requires_grad_(False), size=64)
    target = torch.rand(2, 3, 64, 64).round() * 2 - 1
    assert float(perception(target, target, shift=(5, -3), mirrored=True)) < 1e-8
    near = (target + 0.1 * torch.randn_like(target)).requires_grad_(True)
    blurred = torch.nn.functional.avg_pool2d(target, 5, 1, 2)
    assert float(perception(target, target)) < 1e-8
    assert float(perception(near, target)) < float(perception(blurred, target))
    perception(near, target).backward()  # type: ignore[no-untyped-call]
    assert near.grad is not None and torch.isfinite(near.grad).all()


def test_perception_tells_a_copy_of_the_source_from_an_edit() -> None:
    from codi2.encode.efficientnet import EfficientNetLite
    from codi2.train.parts.reconstruction import Perception

    torch.manual_seed(0)
    net = EfficientNetLite("lite0").eval().requires_grad_(False)
    plain, directed = Perception(net, size=64), Perception(net, size=64, direction=1.0)
    source = torch.rand(2, 3, 64, 64).round() * 2 - 1
    target = torch.nn.functional.avg_pool2d(source, 9, 1, 4)  # the same with other lines
    edits = torch.tensor([True, False])

    def way(ours: torch.Tensor) -> float:
        return float(directed(ours, target, source, edits) - plain(ours, target))

    other = 1 - source  # other lines, but not these
    assert way(target) < 1e-5
    assert way(target + 0.05 * torch.randn_like(target)) < way(other)
    assert way(source) > 0.9
    assert way(torch.stack([target[0], other[1]])) < 1e-5  # the second has no source to go from


def test_language_model_trains_on_every_task(
    weights: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codi2.data.tasks import TASKS
    from codi2.train.parts import llm

    small = replace(TINY, llm=DEBUG.llm)
    monkeypatch.setattr(llm, "preset", lambda name: small)
    (home / "cache").mkdir(exist_ok=True)
    (home / "cache" / "chat.jsonl").write_text('["Hello?", "Hi. And th"]\n')
    (home / "cache" / "prose.json").write_text('["The harbour wakes before the town does.", "Bread."]')
    tasks = dict.fromkeys(set(TASKS) - {"subject"}, 1.0)
    options = {"tasks": tasks, "weights": str(weights)}
    recipe = llm.build(made := config("llm", {**options, "diffusion_share": 0.0, "kept_texts": 2}, steps=3))
    figures = train(recipe, made, tmp_path / "llm")
    assert {"add/joint", "add/appearance", "caption_image/loss"} <= set(figures)
    assert all(np.isfinite(value) for value in figures.values())
    assert (tmp_path / "llm" / "export" / "adapter" / "adapter_model.safetensors").is_file()
    assert recipe.world.chats == [("Hello?", "Hi.")]

    # held to the base model: what it drifted is seen, and the gradient against it reaches the adapters
    adapted = recipe._drift(0)
    adapted.backward()  # type: ignore[no-untyped-call]
    assert adapted > 1e-6
    assert any(p.grad is not None and p.grad.any() for name, p in recipe.model.named_parameters() if "lora" in name)

    # what is predicted of an answer does not depend on the answer, in any of its slots
    from codi2.train.parts.predicted import own_predictions

    examples = [TASKS["add"](recipe.world, np.random.default_rng(0)) for _ in range(3)]
    batch, features = recipe._collate([recipe._lay_out(example) for example in examples])
    with torch.no_grad():
        items, predicted = own_predictions(recipe.model, batch, features)
        features[items] = torch.randn_like(features[items])
        assert torch.allclose(own_predictions(recipe.model, batch, features)[1], predicted, atol=1e-5)

    # a decoder goes on with what this language model predicts
    from codi2.train.parts import decoder

    copytree(tmp_path / "llm" / "export", weights, dirs_exist_ok=True)
    options = {"modality": "image", "tasks": {"image_from_caption": 1.0, "edit_image": 1.0}, "channels": (16, 32)}
    on_predicted = config("image_decoder", {**options, "weights": str(weights), "predicted": 6}, steps=2)
    foretelling = decoder.build(on_predicted)
    assert foretelling.predictions.shape == (6, 3, 256)
    assert torch.allclose(foretelling.predictions[:, 0].norm(dim=-1), torch.full((6,), 16.0), atol=0.1)
    train(foretelling, on_predicted, tmp_path / "decoder")


def test_least_squares_foretell_features_from_other_concepts(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codi2.train.parts import decoder, foretold

    tasks = {"image_from_caption": 1.0, "edit_image": 1.0, "analogy_image": 1.0}
    options = {"modality": "image", "tasks": tasks, "channels": (16, 32), "weights": str(weights)}
    made = config("image_decoder", {**options, "predicted": 24, "predicted_by": "least_squares"})
    recipe = decoder.build(made)
    assert recipe.predictions.shape == (24, 3, 256)
    assert torch.isfinite(recipe.predictions).all()

    with pytest.raises(ConfigError, match="tea_leaves"):
        decoder.build(config("image_decoder", {**options, "predicted": 4, "predicted_by": "tea_leaves"}))

    # nothing to fit a map on
    assert not foretold.least_squares_features(recipe.store, recipe.foretold[:1]).any()

    # what an answer is has no part in what is foretold of it
    examples, store = recipe.foretold, recipe.store
    before = foretold.least_squares_features(store, examples)
    true, given = store.features, {part for e in examples for part in e.prompt}
    concept = next(foretold._concept(e.answer) for e in examples if e.answer not in given)
    ours = torch.tensor([foretold._concept(e.answer) == concept for e in examples])
    changed = {e.answer for e in examples if foretold._concept(e.answer) == concept} - given
    monkeypatch.setattr(store, "features", lambda part: -true(part) if part in changed else true(part))
    after = foretold.least_squares_features(store, examples)
    assert torch.allclose(after[ours], before[ours], atol=1e-4)
    assert not torch.allclose(after[~ours], before[~ours], atol=1e-4)


def test_samples_start_from_noise_at_the_set_rate(weights: Path) -> None:
    from codi2.train.parts import decoder

    options = {"modality": "image", "tasks": {"image_from_caption": 1.0}, "channels": (16, 32), "weights": str(weights)}
    recipe = decoder.build(config("image_decoder", {**options, "from_noise_share": 0.5}))
    t = torch.cat([recipe.batch(step).t for step in range(50)])
    assert 0.4 < float((t == 999).float().mean()) < 0.6


def test_the_way_out_learns_before_the_language_model(
    weights: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codi2.train.parts import leave, llm

    tasks = {"edit_image": 1.0, "analogy_image": 1.0, "add": 1.0, "image_from_caption": 1.0}
    options = {"tasks": tasks, "weights": str(weights), "examples": 40, "width": 32}
    recipe = leave.build(made := config("leave", options, steps=30))
    before = float(recipe.losses(recipe.model, recipe.batch(0))["loss"].detach())
    figures = train(recipe, made, tmp_path / "leave")
    assert {"analogy_image/manner", "add/appearance"} <= set(figures)
    assert float(recipe.losses(recipe.model, recipe.batch(0))["loss"].detach()) < before

    # what is predicted of an example does not depend on the others of its batch
    one, more = (recipe._collate(list(range(n))) for n in (1, 5))
    with torch.no_grad():
        assert torch.allclose(recipe._predict(more)[: len(one.number)], recipe._predict(one), atol=1e-5)

    monkeypatch.setattr(llm, "preset", lambda name: replace(TINY, llm=DEBUG.llm))
    (home / "cache").mkdir(exist_ok=True)
    (home / "cache" / "chat.jsonl").write_text("")
    options = {"tasks": tasks, "weights": str(weights), "diffusion_share": 0.0, "leave": str(tmp_path / "leave/export")}
    started = llm.build(config("llm", options)).model.leave
    for name, value in recipe.model.state_dict().items():
        assert torch.allclose(started.state_dict()[name], value, atol=1e-2), name  # an average, kept as fp16


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

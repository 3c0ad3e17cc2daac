"""Training the language model on records of every phase, at debug size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codi2.config import DEBUG
from codi2.train.config import TrainConfig
from codi2.train.loop import train
from codi2.train.parts import drift, llm
from codi2.train.parts.diffusion_loss import diffusion_loss


@pytest.fixture
def chats(rich_home: Path) -> None:
    (rich_home / "cache").mkdir(exist_ok=True)
    (rich_home / "cache" / "chat.jsonl").write_text('["Hello?", "Hi. And th"]\n')
    (rich_home / "cache" / "prose.json").write_text('["The harbour wakes before the town does.", "Bread."]')


def config(data: Path, phases: dict[str, float] | None = None, **options: Any) -> TrainConfig:
    sets = {str(data): 1.0}
    options = {"data": sets, "held_out": sets, "phases": phases or {}, "model": "debug", "lookahead": 4} | options
    return TrainConfig("llm", 4, 4, 1e-3, warmup_steps=1, num_workers=0, options=options)


def reaches_lora(recipe: llm.LLMRecipe) -> bool:
    return any(p.grad is not None and p.grad.any() for n, p in recipe.model.named_parameters() if "lora" in n)


def test_it_trains_on_every_phase(task_set: Path, chats: None, tmp_path: Path) -> None:
    phases = {"text": 0.25, "image": 0.25, "audio": 0.25, "video": 0.25}
    run_config = config(task_set, phases, diffusion_share=0.0, kept_texts=2)
    recipe = llm.build(run_config)
    figures = train(recipe, run_config, tmp_path / "llm")
    assert all(np.isfinite(value) for value in figures.values())
    slots = {f"edit_image/{name}" for name in ("joint", "feature_1", "feature_2")}
    assert slots | {"caption_image/loss"} <= set(figures)
    assert {name for name in figures if name.startswith("edit_image/")} == slots
    assert (tmp_path / "llm" / "export" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_step_has_one_phase_and_its_examples_are_those_of_its_block(task_set: Path) -> None:
    recipe = llm.build(config(task_set, {"text": 0.25, "image": 0.5, "audio": 0.25}, diffusion_share=0.0))
    assert isinstance(recipe.examples, llm.ExampleSet)
    mixture = recipe.examples.mixture
    records = {f"{record.source}:{record.key}": record for step in range(4) for record in mixture.batch(step)}
    batches = [recipe.sources(step) for step in range(4)]
    for step, names in enumerate(batches):
        assert {records[name].phase for name in names} == {mixture.phase(step)}
    expected = [f"{record.source}:{record.key}" for step in range(4) for record in mixture.batch(step)]
    assert sorted(name for names in batches for name in names) == sorted(expected)


def test_kept_texts_bind_the_model_to_its_base(task_set: Path, chats: None) -> None:
    recipe = llm.build(config(task_set, diffusion_share=0.0, kept_texts=2))
    # both read a question's answer, the trained model after the question's phrase too
    (chat,) = (kept for kept in recipe.kept if kept.phrases)
    base, trained = (text.labels[text.labels >= 0] for text in (chat.base, chat.trained))
    assert torch.equal(base, trained) and len(chat.trained.ids) > len(chat.base.ids)

    texts = recipe.batch(0).drift
    assert texts is not None
    with torch.no_grad():
        for name, parameter in recipe.model.named_parameters():
            if "lora" in name:
                parameter.normal_(std=0.1)
    divergence = drift.drift(recipe.mllm, texts)
    divergence.backward()  # type: ignore[no-untyped-call]
    assert divergence > 1e-6 and reaches_lora(recipe)


def test_own_predictions_do_not_depend_on_the_answer(task_set: Path) -> None:
    recipe = llm.build(config(task_set, diffusion_share=0.0))
    recipe.model.eval()
    examples = recipe.held_out["edit_image"]
    batch, features = recipe._collate(examples)
    with torch.no_grad():
        items, predicted = llm.own_predictions(recipe.mllm, batch, features)
        assert predicted.shape == (len(examples), 3, DEBUG.heads.feature_dim)
        features[items] = torch.randn_like(features[items])
        assert torch.allclose(llm.own_predictions(recipe.mllm, batch, features)[1], predicted, atol=1e-5)


@pytest.mark.parametrize("modality", ["image", "audio", "video"])
def test_the_diffusion_loss_alone_reaches_the_language_model(task_set: Path, modality: str) -> None:
    recipe = llm.build(config(task_set, {modality: 1.0}, diffusion_share=1.0, diffusion_items=2))
    batch = recipe.batch(0)
    denoised = batch.denoised[modality]
    # the answer of a record may have media of two modalities, of which one is drawn
    assert denoised.slots.shape[1] == 3 and sum(len(each.slots) for each in batch.denoised.values()) == 2
    taught = recipe.mllm(batch.batch, batch.features, recipe._fed(batch))
    diffusion_loss(recipe.decoders[modality], denoised, taught.prediction, torch.float32).mean().backward()
    assert reaches_lora(recipe)


def test_the_last_share_of_the_run_has_the_diffusion_loss(task_set: Path) -> None:
    run_config = config(task_set, {"image": 1.0}, diffusion_share=0.5)
    recipe = llm.build(replace(run_config, steps=8))
    assert [bool(recipe.batch(step).denoised) for step in range(8)] == [False] * 4 + [True] * 4

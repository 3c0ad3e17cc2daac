"""The language model and the prior on tasks that are drawn on the fly, at debug size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codi2.config import DEBUG
from codi2.data import cache
from codi2.data.tasks import TaskSampler
from codi2.errors import ConfigError, WeightsError
from codi2.llm.generation import FeatureSegment
from codi2.llm.sampled import items_read
from codi2.model import CoDi2
from codi2.reply import Options
from codi2.train.answers import AnswerReader
from codi2.train.assemble import assemble, located_parts, without_missing
from codi2.train.config import TrainConfig
from codi2.train.drawn import DrawnExamples, drawn_key
from codi2.train.loop import train
from codi2.train.parts import llm, prior
from codi2.train.parts.diffusion_loss import diffusion_loss
from codi2.train.recipe import is_finished
from codi2.train.shares import Share

TASKS = {"captions": 2, "instructions": 1, "examples": 1, "pictures": 1, "sounds": 1, "rounds": 1}
LLM = {"model": "debug", "tasks": TASKS, "diffusion_items": 2, "lookahead": 2}


@pytest.fixture(autouse=True)
def corpus(rich_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(llm, "DRAWN_VALIDATED", 48)
    (rich_home / "cache").mkdir(exist_ok=True)
    (rich_home / "cache" / "chat.jsonl").write_text('["Hello?", "Hi."]\n["And you?", "Fine."]\n')
    return rich_home


def config(part: str, options: dict[str, Any], steps: int = 4, **fields: Any) -> TrainConfig:
    return TrainConfig(part, steps, 4, 1e-3, warmup_steps=1, options=options, num_workers=0, **fields)


def lora_moves(recipe: Any) -> bool:
    return any(p.grad is not None and p.grad.any() for n, p in recipe.model.named_parameters() if "lora" in n)


@pytest.mark.slow
def test_the_language_model_trains_on_drawn_tasks_and_loads_again(tmp_path: Path) -> None:
    made = config("llm", {**LLM, "diffusion_share": 0.5})
    recipe = llm.build(made)
    figures = train(recipe, made, tmp_path / "llm")
    assert {"edit_image/joint", "analogy_audio/joint", "caption_image/loss"} <= set(figures)
    assert all(np.isfinite(value) for value in figures.values())
    assert (tmp_path / "llm/export/config.json").is_file()
    report = (tmp_path / "llm/export/adapter/training.json").read_text()
    assert recipe.provenance()["data_sha256"]["tasks"] in report

    assert is_finished(made, tmp_path / "llm")

    # the last part of the run has L_DM, whose gradient alone reaches LoRA through the regressed feature
    early, late = recipe.batch(1), recipe.batch(2)
    assert not early.denoised and late.denoised
    recipe.model.zero_grad()
    taught = recipe.mllm(late.batch, late.features, recipe._fed(late))
    losses = [
        diffusion_loss(recipe.decoders[m], denoised, taught.prediction, torch.float32).mean()
        for m, denoised in late.denoised.items()
    ]
    torch.stack(losses).sum().backward()
    assert lora_moves(recipe)


def test_the_ablation_has_the_same_batches_without_the_diffusion_loss(tmp_path: Path) -> None:
    with_it, without = (llm.build(config("llm", {**LLM, "diffusion_share": share})) for share in (0.5, 0.0))
    ours, theirs = with_it.batch(3), without.batch(3)
    assert ours.denoised and not theirs.denoised
    assert torch.equal(ours.batch.ids, theirs.batch.ids) and torch.equal(ours.features, theirs.features)
    losses = without.losses(without.model, theirs)
    assert float(losses["diffusion"]) == 0 and "feature" in losses


def test_examples_are_those_of_their_number(tmp_path: Path) -> None:
    recipe = llm.build(config("llm", LLM))
    examples = recipe.examples
    assert isinstance(examples, DrawnExamples)
    again = DrawnExamples(TaskSampler(cache.corpus()), examples.encodings, 4, TASKS, 0)
    assert [x.record for x in examples.batch(3)] == [x.record for x in again.batch(3)]
    assert [x.record for x in again.batch(3, 1, 2)] == [x.record for x in again.batch(3)][1::2]
    key, validation = drawn_key(again.sampler, 0, TASKS), TaskSampler(cache.corpus(), ("val",))
    assert key == drawn_key(TaskSampler(cache.corpus()), 0, TASKS)
    assert key not in (drawn_key(again.sampler, 1, TASKS), drawn_key(validation, 0, TASKS))


def test_held_out_examples_are_of_the_validation_split(tmp_path: Path) -> None:
    recipe = llm.build(config("llm", LLM))
    splits = {item.id: item.split for item in cache.corpus().items}
    held = [example.record for examples in recipe.held_out.values() for example in examples]
    assert {splits[name] for record in held for name in record.meta["items"]} == {"val"}


def test_tasks_beside_data_sets_are_refused() -> None:
    with pytest.raises(ConfigError, match="tasks, which are drawn"):
        llm.build(config("llm", {**LLM, "held_out": {"out/samples": 1}}))
    with pytest.raises(ConfigError, match="no family of tasks 'jokes'"):
        llm.build(config("llm", {**LLM, "tasks": {"jokes": 1}}))


def test_a_model_is_put_together_from_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codi2.train import assemble as module

    whole = CoDi2.build(DEBUG)
    whole.save_pretrained(tmp_path / "whole")
    parts = {name: str(tmp_path / "whole" / name) for name in ("image", "audio", "adapter", "prior")}
    small = without_missing(DEBUG, parts)
    assert set(small.decoders) == {"image", "audio"} and small.joint is None
    assemble(small, parts, tmp_path / "model")
    (tmp_path / "whole" / "heads.safetensors").rename(tmp_path / "model" / "heads.safetensors")
    assert set(CoDi2.from_pretrained(tmp_path / "model").decoders) == {"image", "audio"}

    monkeypatch.setattr(module, "MODELS", {"debug": DEBUG})
    found, folder = located_parts("debug", parts)
    assert found == small and located_parts("debug", parts)[1] == folder
    with pytest.raises(WeightsError, match=r"options\.parts\['image'\] is .*missing"):
        located_parts("debug", {**parts, "image": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match=r"which has no options\.parts; expected debug"):
        located_parts("paper", parts)


PRIOR = {"samples": 24, "held_out": 24, "num_items": 9, "width": 16, "layers": 1, "heads": 2, "tasks": TASKS}


@pytest.fixture
def language_model(tmp_path: Path) -> str:
    """A folder as the part `llm` exports it."""
    CoDi2.build(replace(DEBUG, heads=replace(DEBUG.heads, prior=None))).save_pretrained(tmp_path / "llm")
    return str(tmp_path / "llm")


def test_the_prior_trains_resumes_and_is_loaded_with_its_model(language_model: str, tmp_path: Path) -> None:
    options = {"model": language_model, **PRIOR, "tasks": {"instructions": 1, "examples": 1}}
    made = config("prior", options, steps=3, ema_decay=0.5, save_every=2)
    recipe = prior.build(made)
    figures = train(recipe, made, tmp_path / "prior")
    assert {"edit_image/sampled", "edit_image/regressed", "edit_image/copy", "edit_image/between_seeds"} <= set(figures)
    assert any(name.endswith("/arithmetic") for name in figures)
    assert all(np.isfinite(value) for value in figures.values())

    assert is_finished(made, tmp_path / "prior")
    model = CoDi2.from_pretrained(tmp_path / "prior" / "export")
    assert model.prior is not None and model.config.heads.prior is not None
    assert model.generate("Draw a fish.", want="image", seed=1).images
    ours = model.prior.state_dict()["copy_weights.weight"]
    assert ours.any(), "a fresh prior has zeros there"

    again = prior.build(made)  # from the bank
    again.restore(tmp_path / "prior" / "export")
    assert torch.equal(again.prior.state_dict()["copy_weights.weight"], ours)
    assert torch.equal(again.rows["states"], recipe.rows["states"])


def test_batches_of_the_prior(language_model: str) -> None:
    recipe = prior.build(config("prior", {"model": language_model, **PRIOR, "without_states": 0.5}))
    whole = recipe.batch(5)
    halves = [recipe.batch(5, Share(i, 2)) for i in range(2)]
    assert torch.equal(whole.target[0::2], halves[0].target) and torch.equal(whole.noise[1::2], halves[1].noise)
    assert torch.equal(recipe.batch(5).target, whole.target)
    assert len(whole.context.modality.unique()) == 1
    withheld = torch.cat([recipe.batch(n).context.states.flatten(1).eq(0).all(1) for n in range(20)])
    assert 0.3 < withheld.float().mean() < 0.7
    step = recipe.losses(recipe.model, whole)["loss"]
    step.backward()
    assert all(p.grad is not None for p in recipe.prior.parameters())


def test_rows_are_what_generation_gives(language_model: str, tmp_path: Path) -> None:
    """States, items and regressed features of a row are those of a model that answers the same conversation."""
    reader = AnswerReader(language_model, 9)
    sampler = TaskSampler(cache.corpus())
    answers = prior.answers(sampler, 0, range(6), TASKS)
    rows = reader.rows(answers)
    model = CoDi2.from_pretrained(language_model)
    for n, answer in enumerate(answers):
        reading = model.read([answer.record.messages()[:-1]])[0]
        want = tuple(medium.modality for medium in answer.media)
        (segments,) = model.write([reading], [Options(want=want, max_new_tokens=0)])
        made = [segment for segment in segments if isinstance(segment, FeatureSegment)][answer.number]
        assert made.states is not None
        slots = len(made.states)
        assert torch.allclose(rows["states"][n, :slots], made.states, atol=0.02)
        assert torch.allclose(rows["regressed"][n, :slots], made.features, atol=0.02)
        first = items_read(reading)[-1][1] if answer.number == 0 else None
        assert first is None or torch.allclose(rows["items"][n, 0, : len(first)], first, atol=0.02)
        truth = reader.encodings.of([answer.medium])[0][:slots]
        assert torch.equal(rows["target"][n, :slots], truth) and rows["target"][n, slots:].eq(0).all()

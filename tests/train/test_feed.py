"""Batches that worker processes draw ahead, and what a run reads before its first step."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from task_set import write_task_set
from torch import Tensor, nn

from codi2.data.mixture import Mixture
from codi2.errors import ConfigError, DataError
from codi2.prompt.layout import Batch
from codi2.tensors import to_device
from codi2.train.config import TrainConfig
from codi2.train.feed import draw_ahead, workers_for
from codi2.train.loop import train
from codi2.train.parts import llm, published_joint
from codi2.train.parts.draw import torch_at
from codi2.train.place import ModuleSwapper, placement_of
from codi2.train.shares import WHOLE, Share, weigh

from .test_loop import Line


class Numbers(Line):
    """Batches that say which process drew them."""

    divides = True

    def batch(self, step: int, share: Share = WHOLE) -> dict[str, Any]:
        if step == 7:
            raise DataError("record 7 is damaged; delete it")
        return {"x": torch.randn(4, generator=torch_at(0, step))[share.rows(4)], "process": os.getpid(), "step": step}


def test_workers_draw_what_one_process_draws_in_its_order() -> None:
    shares = [Share(k, 2) for k in range(2)]
    alone = list(draw_ahead(Numbers(), range(3, 6), shares, 0))  # type: ignore[arg-type]
    ahead = list(draw_ahead(Numbers(), range(3, 6), shares, 2))  # type: ignore[arg-type]
    assert [b["step"] for b in ahead] == [3, 3, 4, 4, 5, 5]
    assert all(torch.equal(a["x"], b["x"]) for a, b in zip(alone, ahead, strict=True))
    assert {b["process"] for b in alone} == {os.getpid()} and len({b["process"] for b in ahead} - {os.getpid()}) == 2


def test_what_fails_in_a_worker_is_the_same_error() -> None:
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"^record 7 is damaged; delete it$"):
            list(draw_ahead(Numbers(), range(6, 9), [WHOLE], workers))  # type: ignore[arg-type]


def test_how_many_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, cpu, gpu = TrainConfig("x", 1, 1, 1.0), torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(2)))
    assert workers_for(plain, cpu) == 0 and workers_for(plain, gpu) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    assert workers_for(plain, gpu, 8) == 7 and workers_for(plain, gpu) == 8
    assert workers_for(TrainConfig("x", 1, 1, 1.0, num_workers=3), cpu) == 3


@pytest.fixture
def data(rich_home: Path, tmp_path: Path) -> dict[str, float]:
    return write_task_set(rich_home, tmp_path / "set")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, int]]:
    """The records that are read: they are added as it happens."""
    addresses: list[tuple[Path, int]] = []
    plain = Mixture.read

    def counted(self: Mixture, address: tuple[Path, int]) -> Any:
        addresses.append(address)
        return plain(self, address)

    monkeypatch.setattr(Mixture, "read", counted)
    return addresses


def language(data: dict[str, float], **more: Any) -> TrainConfig:
    options = {"model": "debug", "data": data, "held_out": data, "lookahead": 2, "diffusion_share": 1.0}
    options |= {"phases": {"text": 0.4, "image": 0.6}, "diffusion_items": 2}
    return TrainConfig("llm", 4, 4, 1e-3, warmup_steps=1, validate_every=4, options=options, **more)


def test_a_run_with_workers_is_that_of_one_process(data: dict[str, float], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for name, workers in (("alone", 0), ("ahead", 2)):
        made = language(data, num_workers=workers)
        train(llm.build(made), made, tmp_path / name)
    ours, theirs = (load_file(tmp_path / name / "export" / "heads.safetensors") for name in ("alone", "ahead"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_every_process_takes_as_many_answers_of_l_dm(data: dict[str, float]) -> None:
    made = language(data)
    recipe = llm.build(made)
    image = next(step for step in range(20) if recipe.examples.mixture.phase(step) == "image")
    for count in (1, 2, 4):
        recipe.options = llm.replace(recipe.options, diffusion_items=4)
        recipe.__dict__.pop("drawing", None)
        shares = [recipe.batch(image, Share(k, count)) for k in range(count)]
        assert [len(d.denoised["image"].slots) for d in shares] == [4 // count] * count
        assert [float(d.counts[2]) for d in shares] == [4 / count] * count
    assert recipe.divisible_counts == {"options.diffusion_items": 2}


def test_a_share_reads_its_own_examples_and_shares_together_are_the_whole(
    data: dict[str, float], read: list[tuple[Path, int]]
) -> None:
    recipe = llm.build(language(data))
    recipe.model.eval()  # no dropout
    image = next(step for step in range(20) if recipe.examples.mixture.phase(step) == "image")
    whole = recipe.losses(recipe.model, recipe.batch(image))
    for count, examples in ((2, 4), (4, 4)):  # of two steps of four; two answers are denoised, so a lane is two rows
        shares = []
        for index in range(count):
            recipe.__dict__.pop("drawing", None)
            read.clear()
            shares.append(recipe.batch(image, Share(index, count)))
            assert len(read) == examples
        weigh(shares, torch.device("cpu"))
        losses = [recipe.losses(recipe.model, share) for share in shares]
        for name, value in whole.items():
            mean = sum(float(loss[name]) for loss in losses) / count
            assert mean == pytest.approx(float(value), rel=1e-4), name


def test_weights_make_the_mean_of_parts_that_of_the_whole() -> None:
    values = [torch.tensor([1.0, 2.0, 6.0]), torch.tensor([5.0]), torch.zeros(0)]
    passes = [SimpleNamespace(counts=torch.tensor([float(len(v)), 0.0])) for v in values]
    weigh(passes, torch.device("cpu"))
    mean = sum(p.held[0] * v.sum() / max(1, len(v)) for p, v in zip(passes, values, strict=True)) / 3
    assert float(mean) == pytest.approx(float(torch.cat(values).mean()))
    assert [float(p.held[1]) for p in passes] == [0.0] * 3  # what nobody has
    other = [SimpleNamespace(counts=torch.tensor([3.0]))]
    weigh(other, torch.device("cpu"), 2, lambda mine: mine + 1)  # the other process holds one
    assert float(other[0].held) == pytest.approx(1.5)


def test_examples_of_like_length_share_a_step(data: dict[str, float]) -> None:
    def padding(lookahead: int) -> float:
        made = language(data)
        options = made.options | {"lookahead": lookahead, "phases": {"image": 1.0}}
        recipe = llm.build(llm.replace(made, options=options))
        masks = [recipe.drawing.draw(step, WHOLE).batch.mask for step in range(8)]
        return sum(float((~mask).sum()) for mask in masks) / sum(mask.numel() for mask in masks)

    assert padding(8) < 0.6 * padding(1)


def test_held_out_data_must_be_named(data: dict[str, float]) -> None:
    for module, part in ((llm, "llm"), (published_joint, "joint")):
        made = TrainConfig(part, 1, 4, 1e-3, options={"model": "debug", "data": data})
        with pytest.raises(ConfigError, match=rf"the config of {part} names no held-out data; \[options.held_out\]"):
            module.build(made)


@pytest.mark.slow
def test_the_first_step_reads_and_encodes_what_it_needs(
    rich_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[tuple[Path, int]]
) -> None:
    """Of 3,000 records."""
    data = write_task_set(rich_home, tmp_path / "many", 3000, ["caption_image", "edit_image"])
    recipe = llm.build(language(data, num_workers=0))
    encoded = []
    encode = recipe.examples.encodings.encode
    monkeypatch.setattr(recipe.examples.encodings, "encode", lambda pieces: encoded.extend(pieces) or encode(pieces))
    drawn = recipe.batch(0)
    assert len(read) == 8  # two steps of four, which exchange records
    assert not drawn.unseen and len(encoded) <= len(drawn.features)
    _ = recipe.held_out
    assert len(read) <= 8 + llm.MOST_VALIDATED


def test_a_batch_of_any_shape_is_moved(data: dict[str, float]) -> None:
    recipe = llm.build(language(data))
    batch = recipe.batch(0)
    there = to_device((batch, [{"x": torch.ones(2)}], "text"), "meta")
    assert isinstance(there[0].batch, Batch) and there[2] == "text"
    tensors = [there[0].features, there[0].batch.ids, there[1][0]["x"], *(d.t for d in there[0].denoised.values())]
    assert all(tensor.is_meta for tensor in tensors) and not batch.features.is_meta


def test_modules_take_turns() -> None:
    first, second = nn.Linear(2, 2), nn.BatchNorm1d(2)
    first.bias.requires_grad_(True)
    first.weight.requires_grad_(False)
    second.requires_grad_(False)
    weight, swapper = first.weight, ModuleSwapper({"a": first, "b": second}, torch.device("meta"))
    swapper.load_only(["a"])
    assert first.weight.is_meta and not first.bias.is_meta and not second.weight.is_meta
    swapper.load_only(["b"])
    assert first.weight is weight and second.weight.is_meta and second.running_mean.is_meta
    swapper.load_only([])
    assert not second.running_mean.is_meta


def test_placements_that_cannot_be_are_named(data: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def failing(says: str, **placement: Any) -> None:
        made = language(data)
        options = made.options | {"placement": placement}
        with pytest.raises(ConfigError, match=says):
            train(Line(), llm.replace(made, options=options), tmp_path / "run")  # type: ignore[arg-type]

    failing("'cuda:7', but", device="cuda:7")
    failing("the dtype is 'half'", dtype="half")
    failing("unknown key 'speed'", speed=3)
    monkeypatch.setattr("codi2.train.place.check", lambda placement: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    failing("'cuda:1', but 2 processes train", device="cuda:1")
    assert placement_of(TrainConfig("x", 1, 1, 1.0)).dtype == "float32"


class Large(Line):
    """Runs out of memory in its third step."""

    def losses(self, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().losses(model, x)


def test_a_run_that_needs_too_much_memory_keeps_its_checkpoint_and_says_what_to_change(tmp_path: Path) -> None:
    from codi2.errors import DeviceMemoryError

    made = TrainConfig("line", 9, 4, 1e-3, save_every=2, num_workers=0, trackers=[])
    with pytest.raises(DeviceMemoryError, match=r"step 2 was computed; raise accumulate .*; step-0000002 is kept"):
        train(Large(), made, tmp_path)  # type: ignore[arg-type]
    assert (tmp_path / "checkpoints" / "step-0000002" / "model.safetensors").is_file()


class Items(Line):
    divisible_counts = {"options.diffusion_items": 3}  # noqa: RUF012


def test_more_processes_than_items_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = TrainConfig("line", 2, 4, 1e-3, num_workers=0, trackers=[])
    plain = train.__globals__["accelerator_for"]

    def four(*args: Any) -> Any:
        accelerator = plain(*args)
        monkeypatch.setattr(type(accelerator), "num_processes", 4)
        return accelerator

    monkeypatch.setitem(train.__globals__, "accelerator_for", four)
    with pytest.raises(ConfigError, match="diffusion_items is 3, which 4 processes cannot share equally"):
        train(Items(), made, tmp_path)  # type: ignore[arg-type]

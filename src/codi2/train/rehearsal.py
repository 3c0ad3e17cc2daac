"""A training step of a recipe on the virtual GPU: forward, backward, clip, optimizer and average."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data._utils import worker

from codi2.dry_run.virtual import DEVICE, VirtualGPU, tensors_of
from codi2.train.config import TrainConfig
from codi2.train.contract import Recipe
from codi2.train.optimizer import optimizer_of, update_average
from codi2.train.place import moved, place, placement_of
from codi2.train.shares import WHOLE, Share, weigh
from codi2.train.skips import skips_step


@dataclass(frozen=True)
class Rehearsal:
    """Bytes on the GPU, and operations."""

    peak: int
    model: int  # parameters and buffers of `recipe.model`
    trained: int  # trained parameters
    states: int  # Adam's moments
    average: int
    operations: float  # floating-point operations of forward and backward


def rehearse(
    recipe: Recipe, config: TrainConfig, batch: Any = None, low: torch.dtype | None = None, share: Share = WHOLE
) -> Rehearsal:
    """Runs one step; the recipe stays on the virtual GPU.

    Args:
        batch: replaces one that the recipe draws.
        low: the data type of autocast; None: autocast is off.
    Raises:
        Misplaced: a tensor is on another device or of another type than a GPU needs.
    """
    if batch is None:
        recipe.batch(0, share)  # fills the caches
        with as_worker():
            batch = recipe.batch(0, share)
    swapper = place(recipe, DEVICE, placement_of(config))
    recipe.model.to(DEVICE)
    trained = {name: p for name, p in recipe.model.named_parameters() if p.requires_grad}
    adam = optimizer_of(trained, config, DEVICE)
    average = {name: p.detach().clone() for name, p in trained.items()} if config.ema_decay else {}
    with VirtualGPU() as gpu:
        model = gpu.hold(tensors_of(recipe.model))
        gpu.hold([*tensors_of(recipe.frozen), *average.values()])
        for parameter in trained.values():  # as after an earlier step of a run
            parameter.grad = torch.zeros_like(parameter)
        adam.step()
        if config.accumulate == 1:  # otherwise gradients are kept between the passes
            adam.zero_grad()
        gpu.peak = gpu.live
        batch = recipe.finish(batch)
        weigh([batch], DEVICE, processes=2, total=lambda counts: counts * 2)  # as with a second, equal process
        needs = getattr(batch, "needs", ())
        swapper.load_only(needs)
        gpu.hold([x for name in needs for x in tensors_of(recipe.swapped_modules[name])])
        with torch.autocast(DEVICE.type, low, enabled=low is not None):
            losses = recipe.losses(recipe.model, moved(batch, DEVICE))
        loss = torch.as_tensor(losses["loss"]).float()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(trained.values()), config.max_grad_norm)
        skips_step(loss.detach(), norm, 1.0)
        adam.step()
        adam.zero_grad()
        update_average(average, trained, config.ema_decay, 1)
    states = [x for state in adam.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
    sizes = size(trained.values()), size(states), size(average.values())
    return Rehearsal(gpu.peak, model, *sizes, float(gpu.operations))


def size(tensors: Any) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@contextmanager
def as_worker() -> Iterator[None]:
    """In this context recipes draw batches as in a worker process."""
    before, worker._worker_info = worker._worker_info, object()  # type: ignore[assignment]
    try:
        yield
    finally:
        worker._worker_info = before

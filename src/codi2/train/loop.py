"""The training loop for every part of the model, on accelerate.

A *recipe* (one file per part in `codi2.train.parts`) defines the trained module, the batches and the loss. The loop
adds the optimizer, its schedule, the average of the weights, checkpoints, curves and progress.

A step's batch is divided among processes, and each process may compute its share in several passes (`accumulate`). Each
pass has an equal part of the same batch, so the losses are those of one process.

The CPU does not wait for the GPU: batches come from `feed` and are moved in one place, losses are read when they are
logged, and the device decides whether a step is skipped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from codi2.errors import ConfigError, DataError
from codi2.folders import atomic_folder, disk_errors, locked
from codi2.folders import sweep as sweep_folder
from codi2.hub import sha256_of
from codi2.placement import full, out_of_memory
from codi2.train.checkpoint import list_checkpoints, load_newest, save_checkpoint, sweep
from codi2.train.config import TrainConfig, recorded
from codi2.train.feed import draw_ahead, workers_for
from codi2.train.interrupt import interrupts
from codi2.train.launch import accelerator_for
from codi2.train.optimizer import averaged, copy_into, optimizer_of, rate_at, update_average
from codi2.train.place import ADVICE, attention, choose_device, moved, place, placement_of
from codi2.train.sharded import gather, load_optimizer, unshard_for_good, unsharded
from codi2.train.shares import WHOLE, Share, seed_all, weigh
from codi2.train.skips import PendingValues, SkipWatch, note_skipped, skips_step
from codi2.train.trackers import show_samples


class Recipe(Protocol):
    """One part of the model under training."""

    model: nn.Module
    """Holds every trained parameter (those with `requires_grad`)."""

    # Optional members:
    # divides: bool        its batches can be divided
    # frozen: nn.Module    frozen modules of `losses`: the loop moves them, in the dtype of the placement
    # in_turn: Mapping[str, nn.Module]   frozen modules that are moved only for batches that name them in `needs`
    # finish(batch)        work on a batch that needs the accelerator, before it is moved; in the training process
    # in_equal_numbers: Mapping[str, int]   option → number that must be divisible by the number of processes
    # block: int           steps that are drawn together
    # needs_numbers: bool  `finish` cannot run on virtual tensors; for a plan it runs on the CPU before
    # A batch with `counts`, the numbers of terms of its losses, gets their weights as `held`: see `weigh`.
    # begin(steps, share)  called before the first of `steps`, with all modules placed
    # sources(step), samples(), provenance()

    def batch(self, step: int, share: Share = WHOLE) -> Any:
        """A share of the batch of this optimizer step, on the CPU: a pure function of the config's seed and `step`.

        It may be called in a worker process; `finish` is not.
        """

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Scalars to plot; `loss` is minimized. Their mean over the shares of a batch is that of the whole batch."""

    def validate(self) -> dict[str, float]:
        """Figures on held-out data, with the averaged weights in `model`."""

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Writes the part in the form that a model loads, fp16, with the averaged weights in `model`."""

    def restore(self, folder: Path) -> None:
        """Loads the weights of `export`. Raises WeightsError: they do not fit."""


class _Loss(nn.Module):
    """A recipe as a module, so that wrappers for several devices include everything that the loss runs through."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.model, self._losses = recipe.model, recipe.losses

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return self._losses(self.model, batch)


def train(
    recipe: Recipe, config: TrainConfig, out: Path, snapshot: bool = False, first_step: int = 0, start: str = ""
) -> dict[str, float]:
    """Runs or resumes a training run in `out`; returns the last validation's figures.

    Args:
        snapshot: export the newest checkpoint without training.
        first_step: first step of a run without checkpoints; the weights in `start` were trained for the earlier steps.
        start: the folder of the config's `start`, where that names another part of a recipe.
    Raises:
        OutputError: another run writes to `out`; a checkpoint or the export cannot be written (earlier ones are
            intact).
        WeightsError: all checkpoints are damaged; if only some are, the newest intact one is resumed.
        ConfigError: the batch cannot be divided among the processes; the checkpoint is of other sizes.
        DataError: too many steps in a row were skipped.
        KeyboardInterrupt: Ctrl-C; the current step is saved.
    """
    first = int(os.environ.get("RANK", "0")) == 0  # one of the processes of a run holds the lock
    with locked(out, "a training run") if first else nullcontext(), disk_errors(out, full=True):
        return _train(recipe, config, out, snapshot, first_step, start or config.start)


def _train(
    recipe: Recipe, config: TrainConfig, out: Path, snapshot: bool, first_step: int, start: str
) -> dict[str, float]:
    from codi2.train.progress import progress_bar

    placement = placement_of(config)
    choose_device(config)
    accelerator = accelerator_for(config, out)
    processes, device = accelerator.num_processes, accelerator.device
    for option, number in getattr(recipe, "in_equal_numbers", {}).items():
        if number % processes:
            raise ConfigError(
                f"{option} is {number}, which {processes} processes cannot share equally; set a multiple of {processes}"
            )
    parts = accelerator.num_processes * config.accumulate
    if parts > 1 and not getattr(recipe, "divides", False):
        raise ConfigError(
            f"the part {config.part} cannot divide its batches into {parts} parts; run it in one process, with "
            "accumulate 1"
        )
    Share(0, parts).rows(config.batch_size)
    if accelerator.is_main_process:
        sweep(out / "checkpoints")
        sweep_folder(out, "export")
    checkpoints = list_checkpoints(out / "checkpoints")
    if snapshot and not checkpoints:
        raise DataError(f"there is no checkpoint in {out} to export; train first")
    start_hashes: dict[str, str] = {}  # file → SHA-256 of the weights that the run started from
    spent = 0.0  # processor seconds of earlier starts of the run
    if start and not checkpoints:
        recipe.restore(Path(start))
        files = sorted(Path(start).rglob("*.safetensors"))
        start_hashes = {str(file.relative_to(start)): sha256_of(file) for file in files}
    trained = {name: p for name, p in recipe.model.named_parameters() if p.requires_grad}
    step, figures, watch, stored_average = first_step, {}, SkipWatch(config.spike), {}
    if checkpoints:
        newest, (tensors, states, state) = load_newest(checkpoints, accelerator.is_main_process)
        step, figures = state["step"], state["figures"]
        watch = SkipWatch(config.spike, state.get("norms", []), state.get("skipped", 0))
        stored_average, start_hashes = tensors.get("average", {}), state.get("start_sha256", {})
        spent = state.get("core_seconds", 0.0)
        copy_into(trained, tensors["model"], newest)
    turns = place(recipe, device, placement)
    if step < config.steps and not snapshot and hasattr(recipe, "begin"):
        recipe.begin(range(step, config.steps), Share(accelerator.process_index, parts))
    adam = optimizer_of(trained, config, device)
    model, optimizer = accelerator.prepare(_Loss(recipe), adam)
    # a wrapper that shards the weights has replaced the parameters
    trained = {name: p for name, p in recipe.model.named_parameters() if p.requires_grad}
    average = {name: p.detach().clone() for name, p in trained.items()} if config.ema_decay else {}
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: rate_at(step, config))
    keeps_moments = accelerator.distributed_type.value != "DEEPSPEED"  # which has a different form of state
    if checkpoints:
        copy_into(average, stored_average, newest)
        if keeps_moments:
            load_optimizer(adam, states["optimizer"])
        schedule.load_state_dict(states["schedule"])

    def save() -> None:
        tensors = {"model": gather(trained)} | ({"average": gather(average)} if average else {})
        states = {"optimizer": gather(adam.state_dict()) if keeps_moments else {}, "schedule": schedule.state_dict()}
        if accelerator.is_main_process:
            state = {"step": step, "figures": figures, "norms": watch.norms, "skipped": watch.skipped}
            score = figures.get(config.best.lstrip("-"), None) if config.best else None
            state["score"] = None if score is None else score * (-1 if config.best.startswith("-") else 1)
            state |= {"config": recorded(config), "start_sha256": start_hashes}
            state["core_seconds"] = spent + time.process_time() - start_cpu
            save_checkpoint(out / "checkpoints", step, tensors, states, state, config.keep)

    shares = [Share(k * processes + accelerator.process_index, parts) for k in range(config.accumulate)]
    finish: Callable[[Any], Any] = getattr(recipe, "finish", lambda batch: batch)

    def one_step(batches: Generator[Any]) -> dict[str, Tensor]:
        """Gradients of a whole batch; the losses' means and, as `grad_norm`, the gradient's norm, on the device."""
        sums: dict[str, Any] = {}
        passes = [finish(next(batches)) for _ in shares]
        weigh(passes, device, processes, accelerator.reduce if processes > 1 else None)
        for share, batch in zip(shares, passes, strict=True):
            turns.only(getattr(batch, "needs", ()))
            seed_all(config.seed * 1_000_003 + step * parts + share.index, device)  # for dropout
            with accelerator.accumulate(model):  # the gradient's mean over the passes
                losses = model(moved(batch, device))
                accelerator.backward(losses["loss"])
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + torch.as_tensor(value, device=device).detach() / config.accumulate
        norm = gather(accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm))
        means = torch.stack([value.float() for value in sums.values()])
        means = accelerator.reduce(means, "mean") if processes > 1 else means
        return dict(zip(sums, means.unbind(), strict=True)) | {
            "grad_norm": torch.as_tensor(norm, device=device).float()
        }

    pending: PendingValues | None = None

    def record_last_step() -> None:
        """Records the values of the last step, which the device has finished meanwhile."""
        nonlocal pending
        if pending is None:
            return
        last, (loss, norm, skipped) = pending.step, pending.read()
        pending = None
        if reason := watch.record(loss, norm, bool(skipped)):
            about = {"step": last, "reason": reason, "loss": str(loss), "grad_norm": str(norm)}
            about["batch"] = _provenance(recipe, last)
            note_skipped(out, about, accelerator.is_main_process)

    start_time, start_cpu = time.monotonic(), time.process_time()
    logged_time, logged_step = start_time, step
    workers = workers_for(config, device, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    batches = draw_ahead(recipe, range(step, 0 if snapshot else config.steps), shares, workers, device.type == "cuda")
    # with several processes each would stop at another step and wait for the others
    with (
        progress_bar(f"training {config.part}", config.steps, step) as progress,
        interrupts(processes == 1 and not snapshot) as interrupt,
        attention(config.part, device),
    ):
        while step < config.steps and not snapshot:
            model.train()
            try:
                losses = one_step(batches)
                skips = skips_step(losses["loss"], losses["grad_norm"], watch.limit)
                adam.found_inf = skips  # type: ignore[attr-defined]
                optimizer.step()
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                raise full(error, device, f"step {step} was computed", f"{ADVICE}; {newest_kept(out)}") from None
            schedule.step()
            optimizer.zero_grad()
            record_last_step()
            pending = PendingValues(step, torch.stack([losses["loss"], losses["grad_norm"], skips]))
            step += 1
            update_average(average, trained, config.ema_decay, step)
            done = step == config.steps
            logs, validates, saves = (step % n == 0 or done for n in _every(config))
            if logs or validates or saves:
                record_last_step()
            if logs:
                values = {name: float(value) for name, value in losses.items()}
                scalars = {f"train/{name}": value for name, value in values.items()}
                now = time.monotonic()
                rate = config.batch_size * (step - logged_step) / max(now - logged_time, 1e-9)
                logged_time, logged_step = now, step
                scalars |= {"train/rate": float(schedule.get_last_lr()[0])}
                scalars |= {"train/samples_per_second": rate, "train/skipped": float(watch.skipped)}
                accelerator.log(scalars, step=step)
                progress(step, values["loss"])
            if validates:
                with averaged(trained, average), unsharded(model):
                    recipe.model.eval()
                    figures = recipe.validate()
                    show_samples(accelerator, recipe, step)
                accelerator.log({f"validate/{name}": value for name, value in figures.items()}, step=step)
                progress(step, float(losses["loss"]), figures)
            if saves or interrupt.number:
                record_last_step()
                save()
            if interrupt.number and not done:
                batches.close()
                interrupt.stop(step, config.steps, out)
    batches.close()
    with averaged(trained, average):
        unshard_for_good(model)
        if accelerator.is_main_process:
            recipe.model.eval()
            provenance = {"config": recorded(config), "steps": step, "figures": figures, "skipped": watch.skipped}
            provenance["seconds_this_run"] = round(time.monotonic() - start_time)
            provenance["core_hours"] = round((spent + time.process_time() - start_cpu) / 3600, 2)
            provenance |= {"start_sha256": start_hashes} if start_hashes else {}
            provenance |= getattr(recipe, "provenance", dict)()
            with atomic_folder(out / "export") as export:
                recipe.export(export, provenance)
        accelerator.wait_for_everyone()
    accelerator.end_training()
    return figures


def _every(config: TrainConfig) -> tuple[int, int, int]:
    return config.log_every, config.validate_every, config.save_every


def newest_kept(out: Path) -> str:
    """A clause that names the checkpoint that a failed run leaves."""
    checkpoints = list_checkpoints(out / "checkpoints")
    return f"{checkpoints[-1].name} is kept" if checkpoints else "no checkpoint had been written"


def _provenance(recipe: Recipe, step: int) -> list[str]:
    """The records of a step's batch; none if the recipe does not name them."""
    named: Callable[[int], list[str]] = getattr(recipe, "sources", lambda step: [])
    return named(step)

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
from collections.abc import Generator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codi2.errors import ConfigError, DataError
from codi2.folders import atomic_folder, disk_errors, locked
from codi2.folders import sweep as sweep_folder
from codi2.hub import sha256_of
from codi2.placement import full, out_of_memory
from codi2.train.checkpoint import list_checkpoints, load_newest, save_checkpoint, sweep
from codi2.train.config import TrainConfig, recorded
from codi2.train.contract import Recipe
from codi2.train.feed import draw_ahead, workers_for
from codi2.train.interrupt import interrupts
from codi2.train.launch import accelerator_for
from codi2.train.optimizer import averaged, copy_into, optimizer_of, rate_at, update_average
from codi2.train.place import ADVICE, attention, choose_device, moved, place, placement_of
from codi2.train.sharded import gather, load_optimizer, unshard_for_good, unsharded
from codi2.train.shares import Share, seed_all, weigh
from codi2.train.skips import PendingValues, SkipWatch, note_skipped, skips_step
from codi2.train.trackers import show_samples


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
        training = _Training(recipe, config, out, first_step, start or config.start, trains=not snapshot)
        training.run()
        return training.figures


class _Training:
    """One start of a training run: its state, and the step that it has reached."""

    def __init__(
        self, recipe: Recipe, config: TrainConfig, out: Path, first_step: int, start: str, trains: bool
    ) -> None:
        self.recipe, self.config, self.out = recipe, config, out
        choose_device(config)
        self.accelerator = accelerator = accelerator_for(config, out)
        self.device: torch.device = accelerator.device
        self.parts = accelerator.num_processes * config.accumulate
        self._check_division()
        if accelerator.is_main_process:
            sweep(out / "checkpoints")
            sweep_folder(out, "export")
        checkpoints = list_checkpoints(out / "checkpoints")
        if not trains and not checkpoints:
            raise DataError(f"there is no checkpoint in {out} to export; train first")
        self.step, self.last = first_step, config.steps if trains else 0  # 0: nothing is trained
        self.curve: list[dict[str, float]] = []  # the figures of each validation, with its step
        self.watch = SkipWatch(config.spike)
        self.start_hashes: dict[str, str] = {}  # file → SHA-256 of the weights that the run started from
        self.earlier_seconds = 0.0  # processor time of earlier starts of the run
        if start and not checkpoints:
            recipe.restore(Path(start))
            files = sorted(Path(start).rglob("*.safetensors"))
            self.start_hashes = {str(file.relative_to(start)): sha256_of(file) for file in files}
        tensors, states, newest = self._load(checkpoints) if checkpoints else ({}, {}, Path())
        self.swapper = place(recipe, self.device, placement_of(config))
        self.shares = [
            Share(k * accelerator.num_processes + accelerator.process_index, self.parts)
            for k in range(config.accumulate)
        ]
        if self.step < self.last:
            recipe.begin(range(self.step, self.last), Share(accelerator.process_index, self.parts))
        self.adam = optimizer_of(self.trained, config, self.device)
        self.model, self.optimizer = accelerator.prepare(_Loss(recipe), self.adam)
        trained = self.trained
        self.average = {name: p.detach().clone() for name, p in trained.items()} if config.ema_decay else {}
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adam, lambda step: rate_at(step, config))
        self.keeps_moments = accelerator.distributed_type.value != "DEEPSPEED"  # which has a different form of state
        if checkpoints:
            copy_into(self.average, tensors.get("average", {}), newest)
            if self.keeps_moments:
                load_optimizer(self.adam, states["optimizer"])
            self.schedule.load_state_dict(states["schedule"])
        self.pending: PendingValues | None = None  # of the last step
        self.start_time, self.start_cpu = time.monotonic(), time.process_time()

    @property
    def figures(self) -> dict[str, float]:
        """The figures of the last validation."""
        return {name: value for name, value in self.curve[-1].items() if name != "step"} if self.curve else {}

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name; a wrapper that shards the weights replaces them."""
        return {name: p for name, p in self.recipe.model.named_parameters() if p.requires_grad}

    def _check_division(self) -> None:
        """Raises ConfigError: a step's batch cannot be divided into `parts`."""
        processes = self.accelerator.num_processes
        for option, number in self.recipe.divisible_counts.items():
            if number % processes:
                raise ConfigError(
                    f"{option} is {number}, which {processes} processes cannot share equally; set a multiple of "
                    f"{processes}"
                )
        if self.parts > 1 and not self.recipe.divides:
            raise ConfigError(
                f"the part {self.config.part} cannot divide its batches into {self.parts} parts; run it in one "
                "process, with accumulate 1"
            )
        Share(0, self.parts).rows(self.config.batch_size)

    def _load(self, checkpoints: list[Path]) -> tuple[dict[str, Any], dict[str, Any], Path]:
        """Loads the newest checkpoint into the model; returns its tensors, its states and its folder."""
        newest, (tensors, states, state) = load_newest(checkpoints, self.accelerator.is_main_process)
        self.step, self.curve = state["step"], state.get("curve", [])
        self.watch = SkipWatch(self.config.spike, state.get("norms", []), state.get("skipped", 0))
        self.start_hashes = state.get("start_sha256", {})
        self.earlier_seconds = state.get("core_seconds", 0.0)
        copy_into(self.trained, tensors["model"], newest)
        return tensors, states, newest

    def run(self) -> None:
        """Trains the steps that are left, then exports."""
        from codi2.train.progress import progress_bar

        config, single = self.config, self.accelerator.num_processes == 1
        self.logged_time, self.logged_step = self.start_time, self.step
        workers = workers_for(config, self.device, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        pin_memory = self.device.type == "cuda"
        batches = draw_ahead(self.recipe, range(self.step, self.last), self.shares, workers, pin_memory)
        with (
            progress_bar(f"training {config.part}", config.steps, self.step) as progress,
            # with several processes each would stop at another step and wait for the others
            interrupts(single and self.last > 0) as interrupt,
            attention(config.part, self.device),
        ):
            while self.step < self.last:
                losses = self._take_step(batches)
                done = self.step == config.steps
                every = (config.log_every, config.validate_every, config.save_every)
                logs, validates, saves = (self.step % n == 0 or done for n in every)
                if logs or validates or saves:
                    self._record_last_step()
                if logs:
                    self._log(losses)
                    progress(self.step, float(losses["loss"]))
                if validates:
                    self._validate()
                    progress(self.step, float(losses["loss"]), self.figures)
                if saves or interrupt.number:
                    self._record_last_step()
                    self._save()
                if interrupt.number and not done:
                    batches.close()
                    interrupt.stop(self.step, config.steps, self.out)
        batches.close()
        self._export()
        self.accelerator.end_training()

    def _take_step(self, batches: Generator[Any]) -> dict[str, Tensor]:
        """One step of the optimizer; the losses' means and, as `grad_norm`, the gradient's norm, on the device."""
        self.model.train()
        try:
            losses = self._gradients(batches)
            skips = skips_step(losses["loss"], losses["grad_norm"], self.watch.limit)
            self.adam.found_inf = skips  # type: ignore[attr-defined]
            self.optimizer.step()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            action = f"step {self.step} was computed"
            raise full(error, self.device, action, f"{ADVICE}; {newest_kept(self.out)}") from None
        self.schedule.step()
        self.optimizer.zero_grad()
        self._record_last_step()
        self.pending = PendingValues(self.step, torch.stack([losses["loss"], losses["grad_norm"], skips]))
        self.step += 1
        update_average(self.average, self.trained, self.config.ema_decay, self.step)
        return losses

    def _gradients(self, batches: Generator[Any]) -> dict[str, Tensor]:
        """Computes the gradients of a whole batch; returns as `_take_step`."""
        accelerator, device, config = self.accelerator, self.device, self.config
        several = accelerator.num_processes > 1
        sums: dict[str, Any] = {}
        passes = [self.recipe.finish(next(batches)) for _ in self.shares]
        weigh(passes, device, accelerator.num_processes, accelerator.reduce if several else None)
        for share, batch in zip(self.shares, passes, strict=True):
            self.swapper.load_only(getattr(batch, "needs", ()))
            seed_all(config.seed * 1_000_003 + self.step * self.parts + share.index, device)  # for dropout
            with accelerator.accumulate(self.model):  # the gradient's mean over the passes
                losses = self.model(moved(batch, device))
                accelerator.backward(losses["loss"])
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + torch.as_tensor(value, device=device).detach() / config.accumulate
        norm = gather(accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm))
        means = torch.stack([value.float() for value in sums.values()])
        means = accelerator.reduce(means, "mean") if several else means
        return dict(zip(sums, means.unbind(), strict=True)) | {
            "grad_norm": torch.as_tensor(norm, device=device).float()
        }

    def _record_last_step(self) -> None:
        """Records the values of the last step, which the device has finished meanwhile."""
        if self.pending is None:
            return
        step, (loss, norm, skipped) = self.pending.step, self.pending.read()
        self.pending = None
        if reason := self.watch.record(loss, norm, bool(skipped)):
            about = {"step": step, "reason": reason, "loss": str(loss), "grad_norm": str(norm)}
            about["batch"] = self.recipe.sources(step)
            note_skipped(self.out, about, self.accelerator.is_main_process)

    def _log(self, losses: dict[str, Tensor]) -> None:
        scalars = {f"train/{name}": float(value) for name, value in losses.items()}
        now = time.monotonic()
        samples = self.config.batch_size * (self.step - self.logged_step)
        scalars["train/rate"] = float(self.schedule.get_last_lr()[0])
        scalars["train/samples_per_second"] = samples / max(now - self.logged_time, 1e-9)
        scalars["train/skipped"] = float(self.watch.skipped)
        self.logged_time, self.logged_step = now, self.step
        self.accelerator.log(scalars, step=self.step)

    def _validate(self) -> None:
        with averaged(self.trained, self.average), unsharded(self.model):
            self.recipe.model.eval()
            self.curve.append({"step": self.step, **self.recipe.validate()})
            show_samples(self.accelerator, self.recipe, self.step)
        self.accelerator.log({f"validate/{name}": value for name, value in self.figures.items()}, step=self.step)

    def _save(self) -> None:
        config, trained = self.config, self.trained
        tensors = {"model": gather(trained)} | ({"average": gather(self.average)} if self.average else {})
        optimizer = gather(self.adam.state_dict()) if self.keeps_moments else {}
        if self.accelerator.is_main_process:
            score = self.figures.get(config.best.lstrip("-"), None) if config.best else None
            state = {
                "step": self.step,
                "curve": self.curve,
                "norms": self.watch.norms,
                "skipped": self.watch.skipped,
                "score": None if score is None else score * (-1 if config.best.startswith("-") else 1),
                "config": recorded(config),
                "start_sha256": self.start_hashes,
                "core_seconds": self._core_seconds(),
            }
            states = {"optimizer": optimizer, "schedule": self.schedule.state_dict()}
            save_checkpoint(self.out / "checkpoints", self.step, tensors, states, state, config.keep)

    def _core_seconds(self) -> float:
        return self.earlier_seconds + time.process_time() - self.start_cpu

    def _export(self) -> None:
        with averaged(self.trained, self.average):
            unshard_for_good(self.model)
            if self.accelerator.is_main_process:
                self.recipe.model.eval()
                provenance = {"config": recorded(self.config), "steps": self.step, "figures": self.figures}
                provenance["curve"] = self.curve
                provenance["skipped"] = self.watch.skipped
                provenance["seconds_this_run"] = round(time.monotonic() - self.start_time)
                provenance["core_hours"] = round(self._core_seconds() / 3600, 2)
                provenance |= {"start_sha256": self.start_hashes} if self.start_hashes else {}
                provenance |= self.recipe.provenance()
                with atomic_folder(self.out / "export") as export:
                    self.recipe.export(export, provenance)
            self.accelerator.wait_for_everyone()


def newest_kept(out: Path) -> str:
    """A clause that names the checkpoint that a failed run leaves."""
    checkpoints = list_checkpoints(out / "checkpoints")
    return f"{checkpoints[-1].name} is kept" if checkpoints else "no checkpoint had been written"

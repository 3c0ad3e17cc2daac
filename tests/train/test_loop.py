"""The loop on a small problem: what a resume, a kill and a full disk do to a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from codi2.errors import ConfigError, DataError, OutputError
from codi2.train import run
from codi2.train.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from codi2.train.config import TrainConfig, load_config
from codi2.train.contract import Recipe
from codi2.train.loop import train
from codi2.train.parts.draw import epoch_order, torch_at
from codi2.train.shares import WHOLE, Share
from codi2.train.skips import SkipWatch


class Line(Recipe):
    """Fits y = 3x − 1; counts the batches it was asked for."""

    def __init__(self, stop_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
        self.stop_at, self.steps, self.curve = stop_at, [], []  # type: ignore[var-annotated]

    divides = True

    def batch(self, step: int, share: Share = WHOLE) -> Tensor:
        if step == self.stop_at:
            raise KeyboardInterrupt
        self.steps.append(step)
        return torch.randn(16, 1, generator=torch_at(1, step))[share.rows(16)]

    def losses(self, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
        loss = ((model(x) - 3 * x + 1) ** 2).mean()
        self.curve.append(loss.item())
        return {"loss": loss}

    def validate(self) -> dict[str, float]:
        x = torch.linspace(-1, 1, 16)[:, None]
        return {"error": float(((self.model(x) - 3 * x + 1) ** 2).mean())}

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), folder / "model.pt")
        self.report = provenance

    def restore(self, folder: Path) -> None:
        self.model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))


CONFIG = TrainConfig(
    part="line",
    steps=30,
    batch_size=16,
    learning_rate=1e-2,
    warmup_steps=5,
    ema_decay=0.9,
    save_every=10,
    log_every=5,
    validate_every=15,
    num_workers=0,
)


def weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(folder / "export" / "model.pt", weights_only=True)
    return state


def test_training_learns(tmp_path: Path) -> None:
    recipe = Line()
    before = recipe.validate()["error"]
    figures = train(recipe, CONFIG, tmp_path)
    assert figures["error"] < before / 3
    assert list((tmp_path / "curves").glob("*"))


def test_an_interrupted_run_continues_bit_for_bit(tmp_path: Path) -> None:
    whole = Line()
    train(whole, CONFIG, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(Line(stop_at=17), CONFIG, tmp_path / "cut")
    rest = Line()
    train(rest, CONFIG, tmp_path / "cut")
    assert rest.steps[0] == 10  # the newest checkpoint
    assert rest.curve == whole.curve[10:]
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "cut")[name])


def test_the_export_has_the_figures_of_every_validation(tmp_path: Path) -> None:
    whole, rest = Line(), Line()
    figures = train(whole, CONFIG, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(Line(stop_at=27), CONFIG, tmp_path / "cut")  # after the first validation was saved
    train(rest, CONFIG, tmp_path / "cut")
    assert [point["step"] for point in whole.report["curve"]] == [15, 30]
    assert whole.report["curve"][-1] == {"step": 30, **figures} and whole.report["figures"] == figures
    assert rest.report["curve"] == whole.report["curve"]


def test_a_checkpoint_of_an_optimizer_that_computed_otherwise_continues(tmp_path: Path) -> None:
    """As those of another device, and of versions before the steps were fused."""
    with pytest.raises(KeyboardInterrupt):
        train(Line(stop_at=17), CONFIG, tmp_path)
    (newest,) = list_checkpoints(tmp_path / "checkpoints")
    tensors, states, state = load_checkpoint(newest)
    for group in states["optimizer"]["param_groups"]:
        group |= {"fused": None, "foreach": True}
    save_checkpoint(tmp_path / "checkpoints", state["step"], tensors, states, state)
    rest = Line()
    train(rest, CONFIG, tmp_path)
    assert rest.steps[0] == 10 and rest.curve[-1] < rest.curve[0]


def test_a_batch_in_several_passes_gives_the_same_curve(tmp_path: Path) -> None:
    whole, parted = Line(), Line()
    train(whole, CONFIG, tmp_path / "whole")
    train(parted, replace(CONFIG, accumulate=4), tmp_path / "parted")
    means = [sum(parted.curve[4 * i : 4 * i + 4]) / 4 for i in range(CONFIG.steps)]
    assert means == pytest.approx(whole.curve, abs=1e-5)
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(value, weights(tmp_path / "parted")[name], atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match="a batch of 16 cannot be divided into 3 equal parts"):
        train(Line(), replace(CONFIG, accumulate=3), tmp_path / "odd")
    parted.divides = False
    with pytest.raises(ConfigError, match="cannot divide its batches into"):
        train(parted, replace(CONFIG, accumulate=4), tmp_path / "undivided")


class Bad(Line):
    """Two steps are no good: one is NaN, one is a spike."""

    def losses(self, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
        loss = super().losses(model, x)["loss"]
        step = self.steps[-1]
        return {"loss": loss * {110: float("nan"), 115: 1e6}.get(step, 1.0)}

    def sources(self, step: int) -> list[str]:
        return [f"record-{step}"]


def test_bad_steps_are_skipped_reported_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    recipe = Bad()
    train(recipe, replace(CONFIG, steps=120, learning_rate=1e-3), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [(line["step"], line["batch"]) for line in lines] == [(110, ["record-110"]), (115, ["record-115"])]
    assert lines[0]["reason"] == "not finite" and lines[1]["reason"].startswith("a spike: above 20 × the median")
    assert "step 110 is skipped: not finite" in capsys.readouterr().err
    assert all(torch.isfinite(p).all() for p in recipe.model.parameters())


def test_too_many_bad_steps_end_the_run() -> None:
    watch = SkipWatch(0)
    for _ in range(20):
        assert watch.record(float("nan"), 1.0, True)
    with pytest.raises(DataError, match="21 steps in a row were skipped"):
        watch.record(1.0, float("inf"), True)
    assert SkipWatch(0, [1.0] * 100).limit == float("inf")  # no norm is a spike where none is asked for


def test_the_best_checkpoint_stays(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for step, score in enumerate((math.nan, 5.0, 2.0, None, 3.0, 4.0)):
        save_checkpoint(folder, step, {"model": {"w": torch.ones(1)}}, {}, {"step": step, "score": score}, keep=1)
    assert [path.name[-1] for path in list_checkpoints(folder)] == ["1", "4", "5"]


def test_a_checkpoint_of_other_sizes_is_named(tmp_path: Path) -> None:
    train(Line(), CONFIG, tmp_path)
    wider = Line()
    wider.model = nn.Sequential(nn.Linear(1, 9), nn.Tanh(), nn.Linear(9, 1))
    with pytest.raises(ConfigError, match=r"is of another model: 0.bias differs; choose another --out"):
        train(wider, replace(CONFIG, steps=40), tmp_path)


def test_a_snapshot_exports_without_training(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(Line(stop_at=17), CONFIG, tmp_path)
    recipe = Line()
    train(recipe, CONFIG, tmp_path, snapshot=True)
    assert recipe.steps == []
    assert weights(tmp_path)
    with pytest.raises(DataError, match="train first"):
        train(Line(), CONFIG, tmp_path / "empty", snapshot=True)


def test_a_run_goes_on_from_exported_weights(tmp_path: Path) -> None:
    train(Line(), replace(CONFIG, steps=20), tmp_path / "first")
    recipe = Line()
    train(recipe, replace(CONFIG, start=str(tmp_path / "first" / "export")), tmp_path / "second", first_step=20)
    assert recipe.steps == list(range(20, 30))
    shipped = Line()
    shipped.restore(tmp_path / "first" / "export")
    shipped.losses(shipped.model, shipped.batch(20))
    assert recipe.curve[0] == shipped.curve[0]


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoints"
    save_checkpoint(folder, 1, {"model": {"w": torch.ones(2)}}, {}, {"step": 1})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("codi2.train.checkpoint.save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        save_checkpoint(folder, 2, {"model": {"w": torch.ones(2)}}, {}, {"step": 2})
    assert [path.name for path in folder.iterdir()] == ["step-0000001"]


def test_every_sample_once_an_epoch() -> None:
    seen = [int(i) for step in range(5) for i in epoch_order(0, step, 4, 10)]
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:20]) == list(range(10))
    assert seen[:10] != seen[10:20]


def test_bad_configs_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('part = "image_vae"\nsteps = 1\nbatch_size = 1\nlearning_rate = 1\nspeed = 3\n')
    with pytest.raises(ConfigError, match="'speed'"):
        load_config(path)
    path.write_text("part = [")
    with pytest.raises(ConfigError, match="not TOML"):
        load_config(path)
    path.write_text('part = "encoder"\nsteps = 1\nbatch_size = 1\nlearning_rate = 1\n[options]\nnoises = 3\n')
    with pytest.raises(
        ConfigError, match=r"\[options\] of encoder has the unknown key 'noises'; known keys: dim, edited_views"
    ):
        run(path, tmp_path / "out")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")


def test_what_is_asked_for_and_would_not_happen_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="there is no tracker 'paper'; choose from tensorboard, wandb"):
        train(Line(), replace(CONFIG, trackers=["paper"]), tmp_path)
    monkeypatch.setattr("codi2.train.trackers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="wandb is not installed; run pip install wandb"):
        train(Line(), replace(CONFIG, trackers=["wandb"]), tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(ConfigError, match="FSDP was requested, but accelerate would train as NO on cpu"):
        train(Line(), replace(CONFIG, trackers=[]), tmp_path)

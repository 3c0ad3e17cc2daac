"""The loop on a small problem: what a resume, a kill and a full disk do to a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from codi2.errors import ConfigError, DataError, OutputError
from codi2.train.checkpoint import list_checkpoints, save_checkpoint
from codi2.train.config import TrainConfig, load_config
from codi2.train.loop import train
from codi2.train.parts.draw import epoch_order, torch_at


class Line:
    """Fits y = 3x − 1; counts the batches it was asked for."""

    def __init__(self, stop_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
        self.stop_at, self.steps, self.curve = stop_at, [], []  # type: ignore[var-annotated]

    def batch(self, step: int) -> Tensor:
        if step == self.stop_at:
            raise KeyboardInterrupt
        self.steps.append(step)
        return torch.randn(16, 1, generator=torch_at(1, step))

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


def test_a_half_written_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    train(Line(), CONFIG, tmp_path)
    checkpoints = list_checkpoints(tmp_path / "checkpoints")
    (checkpoints[-1] / "state.json").unlink()
    assert list_checkpoints(tmp_path / "checkpoints") == checkpoints[:-1]


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
    path.write_text('part = "image_codec"\nsteps = 1\nbatch_size = 1\nlearning_rate = 1\nspeed = 3\n')
    with pytest.raises(ConfigError, match="'speed'"):
        load_config(path)
    path.write_text("part = [")
    with pytest.raises(ConfigError, match="not TOML"):
        load_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")

"""What a training run is: one TOML file per part, in `configs/`."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from codi2.errors import ConfigError


@dataclass(frozen=True)
class TrainConfig:
    """Fields that every part shares; what one part alone needs stands in `options`."""

    part: str  # which recipe: a module of codi2.train.parts
    steps: int  # optimizer steps in all
    batch_size: int  # samples per optimizer step, over all processes
    learning_rate: float  # peak
    accumulate: int = 1  # passes of a step: a process divides its share of the batch into as many, to save memory
    spike: float = 20.0  # a step is skipped whose gradient norm is above spike × the median of the last 100; 0: none is
    best: str = ""  # validation figure of which the best checkpoint is kept; with "-" before it the smallest is best
    keep: int = 2  # checkpoints kept beside the newest and the best
    rates: dict[str, float] = field(default_factory=dict)  # part of parameters' names → factor on learning_rate
    seed: int = 0  # of weights, data order, noise and timesteps
    warmup_steps: int = 200  # linear, from zero
    decay_fraction: float = 0.2  # last part of the run, in which the rate falls linearly to a twentieth of the peak
    weight_decay: float = 0.0  # AdamW's, on matrices only
    max_grad_norm: float = 1.0  # gradients above it are scaled down to it
    ema_decay: float = 0.0  # of the moving average of the weights, which is exported; 0: the weights are exported
    log_every: int = 20  # steps between logged losses
    save_every: int = 250  # steps between checkpoints
    validate_every: int = 500  # steps between validations
    num_workers: int = -1  # processes that draw batches ahead; 0: none; -1: as many as the cores allow
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])  # where curves go: tensorboard, wandb
    start: str = ""  # folder of an export whose weights the run starts from; empty: random weights
    options: dict[str, Any] = field(default_factory=dict)  # of the part alone, and `placement`


Options = TypeVar("Options")


def options_of(kind: type[Options], config: TrainConfig) -> Options:
    """`[options]` as a part's own fields. Raises ConfigError: a key that it has not."""
    known, options = [f.name for f in fields(kind)], unplaced(config).options  # type: ignore[arg-type]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(
            f"[options] of {config.part} has the unknown key {unknown[0]!r}; known keys: {', '.join(known)}"
        )
    return kind(**options)


def unplaced(config: TrainConfig) -> TrainConfig:
    """The config without `[options.placement]`, which every part may have (see `place`)."""
    return replace(config, options={key: value for key, value in config.options.items() if key != "placement"})


def recorded(config: TrainConfig) -> dict[str, Any]:
    """The config as checkpoints and exports have it: where a run is placed is no part of what it computes."""
    return asdict(unplaced(config))


def load_config(path: str | Path, **overrides: Any) -> TrainConfig:
    """Reads a TOML file; `overrides` replace its values where they are not None.

    Raises:
        ConfigError: no such file, not TOML, or a key that no field has.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"the training config {path} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the training config {path} is not TOML: {error}") from error
    known = {f.name for f in fields(TrainConfig)}
    unknown = sorted(set(raw) - known)
    if unknown:
        raise ConfigError(f"{path} has the unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}")
    raw.update({key: value for key, value in overrides.items() if value is not None})
    missing = [f for f in ("part", "steps", "batch_size", "learning_rate") if f not in raw]
    if missing:
        raise ConfigError(f"{path} lacks the key {missing[0]!r}")
    return TrainConfig(**raw)

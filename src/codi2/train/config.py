"""The config of a training run: one TOML file per part, in `configs/`."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from codi2.errors import ConfigError


@dataclass(frozen=True)
class TrainConfig:
    """Fields of every part; `options` holds the fields of one part."""

    part: str  # a key of codi2.train.PARTS, which names the recipe
    steps: int  # optimizer steps in all
    batch_size: int  # samples per optimizer step, over all processes
    learning_rate: float  # peak
    accumulate: int = 1  # passes of a step, into which a process divides its share of the batch to save memory
    spike: float = 20.0  # steps with a gradient norm above spike × the median of the last 100 are skipped; 0: no limit
    best: str = ""  # validation figure whose best checkpoint is kept; "-figure": the smallest value is best
    keep: int = 2  # checkpoints kept in addition to the newest and the best
    rates: dict[str, float] = field(default_factory=dict)  # component of parameter names → factor on learning_rate
    seed: int = 0  # of weights, data order, noise and timesteps
    warmup_steps: int = 200  # linear, from zero
    decay_fraction: float = 0.2  # last share of the run, in which the rate falls linearly to a twentieth of the peak
    weight_decay: float = 0.0  # AdamW's, on matrices only
    max_grad_norm: float = 1.0  # gradients above it are scaled down to it
    ema_decay: float = 0.0  # of the moving average of the weights, which is exported; 0: no average
    log_every: int = 20  # steps between logged losses
    save_every: int = 250  # steps between checkpoints
    validate_every: int = 500  # steps between validations
    num_workers: int = -1  # processes that draw batches ahead; 0: none; -1: depends on the number of cores
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])  # of curves: tensorboard, wandb
    start: str = ""  # folder of an export whose weights the run starts from; empty: random weights
    options: dict[str, Any] = field(default_factory=dict)  # fields of the part, and `placement`


Options = TypeVar("Options")


def options_of(kind: type[Options], config: TrainConfig) -> Options:
    """`[options]` as the options of a part. Raises ConfigError: a key is unknown, or a value is none of those that its
    type names."""
    known, options = [f.name for f in fields(kind)], without_placement(config).options  # type: ignore[arg-type]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(
            f"[options] of {config.part} has the unknown key {unknown[0]!r}; known keys: {', '.join(known)}"
        )
    hints = get_type_hints(kind)
    for name, value in options.items():
        if get_origin(hints[name]) is Literal and value not in (choices := get_args(hints[name])):
            raise ConfigError(
                f"options.{name} of {config.part} is {value!r}; expected {' or '.join(map(repr, choices))}"
            )
    return kind(**options)


def without_placement(config: TrainConfig) -> TrainConfig:
    """The config without `[options.placement]`, which is not an option of the part (see `place`)."""
    return replace(config, options={key: value for key, value in config.options.items() if key != "placement"})


def recorded(config: TrainConfig) -> dict[str, Any]:
    """The config as checkpoints and exports record it, without the placement, which does not affect the result."""
    return asdict(without_placement(config))


def load_config(path: str | Path, **overrides: Any) -> TrainConfig:
    """Reads a TOML file; `overrides` replace its values where they are not None.

    Raises:
        ConfigError: the file is missing or not TOML, or a key is unknown or missing.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"the training config {path} cannot be read ({error.strerror}); name a file as configs/tiny/11_llm.toml"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the training config {path} is not TOML ({error}); correct it") from error
    known = {f.name for f in fields(TrainConfig)}
    unknown = sorted(set(raw) - known)
    if unknown:
        raise ConfigError(f"{path} has the unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}")
    raw.update({key: value for key, value in overrides.items() if value is not None})
    missing = [f for f in ("part", "steps", "batch_size", "learning_rate") if f not in raw]
    if missing:
        raise ConfigError(f"{path} lacks the key {missing[0]!r}; add it")
    return TrainConfig(**raw)

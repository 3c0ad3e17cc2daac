"""Training: `run(config_path, out)` trains one part."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from codi2.errors import ConfigError
from codi2.placement import full, out_of_memory

# part → module of codi2.train.parts
PARTS = {
    "encoder": "encoder",
    "image_vae": "autoencoder",
    "image_features": "autoencoder",
    "audio_vae": "autoencoder",
    "audio_features": "autoencoder",
    "video_features": "autoencoder",
    "image_denoiser": "denoiser",
    "audio_denoiser": "denoiser",
    "video_denoiser": "denoiser",
    "audio_instructed": "denoiser",
    "vocoder": "vocoder",
    "joint_attention": "joint_attention",
    "joint": "published_joint",
    "llm": "llm",
    "finetune": "finetune",
    "published": "published",
    "prior": "prior",
    "captions": "captions",
}


def run(
    config_path: str | Path,
    out: str | Path,
    steps: int | None = None,
    snapshot: bool = False,
    start: str | Path | None = None,
    first_step: int = 0,
    plan: bool = False,
    placement: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Trains the part that a config names, in `out`; a run with checkpoints in `out` is resumed.

    Args:
        snapshot: trains nothing; exports the newest checkpoint.
        start: exported weights from which a run without checkpoints starts, at `first_step`, with new optimizer state.
        plan: trains nothing; prints the parameters, memory and time of the run.
        placement: keys that replace those of the config's `[options.placement]`; exports do not record them.
    Raises:
        ConfigError: the config is invalid, or names an unknown part; before anything is loaded: the device does not
            exist, or the placement has options that training, or this part, does not use.
        DeviceMemoryError: the device's memory is full; the last checkpoint is kept.
    """
    from codi2.train.config import load_config
    from codi2.train.loop import newest_kept, train
    from codi2.train.place import ADVICE, choose_device, training_device, with_placement
    from codi2.train.recipe import before_training, resolved
    from codi2.train.release import MODEL, release

    config = load_config(config_path, steps=steps, start=str(start) if start else None)
    if config.part == MODEL:
        return {} if plan else release(config, Path(out).parent, Path(out))
    config = with_placement(config, placement or {}, anywhere=plan)
    if config.part not in PARTS:
        raise ConfigError(f"{config_path}: no part is called {config.part!r}; known parts: {', '.join(PARTS)}, {MODEL}")
    choose_device(config)
    build = import_module(f"codi2.train.parts.{PARTS[config.part]}").build
    runs, configs = Path(out).parent, Path(config_path).parent
    if plan:
        from codi2.train.plan import plan as make_plan
        from codi2.train.plan import show

        show(config, make_plan(before_training(config, runs, configs), build))
        return {}
    located = resolved(config, runs, configs)  # exports record `config`, with `@part` in place of folders
    try:
        return train(build(located), config, Path(out), snapshot, first_step, located.start)
    except RuntimeError as error:  # outside of a step; a step reports it itself
        if not out_of_memory(error):
            raise
        action = f"{config.part} was loaded, validated or exported"
        raise full(error, training_device(config), action, f"{ADVICE}; {newest_kept(Path(out))}") from None

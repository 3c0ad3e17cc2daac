"""Writes samples to the trackers of a run, beside the curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from codi2.errors import ConfigError
from codi2.prompt.parts import Audio, Image, Part, Video
from codi2.train.contract import Recipe


def check_trackers(names: Sequence[str]) -> None:
    """Raises ConfigError: a tracker is unknown, or not installed."""
    for name in names:
        if name not in SHOWS:
            raise ConfigError(f"there is no tracker {name!r}; choose from {', '.join(SHOWS)}")
        if find_spec(name) is None:
            raise ConfigError(
                f"the tracker {name} is not installed; run pip install {name}, or remove it from trackers"
            )


def show_samples(accelerator: Any, recipe: Recipe, step: int) -> None:
    """Writes the pictures, sounds and clips of a recipe."""
    if not accelerator.is_main_process or not accelerator.trackers:
        return
    samples = recipe.samples()
    for tracker in accelerator.trackers:
        SHOWS[tracker.name](tracker.tracker, samples, step)


def _tensorboard(writer: Any, samples: dict[str, Part], step: int) -> None:
    for name, part in samples.items():
        if isinstance(part, (Image, Video)):
            writer.add_image(name, _pixels(part), step, dataformats="HWC")
        elif isinstance(part, Audio):
            writer.add_audio(name, torch.from_numpy(part.samples)[None], step, sample_rate=part.rate)


def _pixels(part: Image | Video) -> np.ndarray:
    """uint8 [H, W, 3]; the frames of a clip side by side."""
    frames = part.frames if isinstance(part, Video) else (part.pixels,)
    return np.concatenate([np.asarray(frame) for frame in frames], axis=1)


def _wandb(run: Any, samples: dict[str, Part], step: int) -> None:
    import wandb  # type: ignore[import-not-found, unused-ignore]

    shown: dict[str, Any] = {}
    for name, part in samples.items():
        if isinstance(part, (Image, Video)):
            shown[name] = wandb.Image(_pixels(part))
        elif isinstance(part, Audio):
            shown[name] = wandb.Audio(part.samples, sample_rate=part.rate)
    run.log(shown, step=step)


SHOWS: dict[str, Callable[[Any, dict[str, Part], int], None]] = {"tensorboard": _tensorboard, "wandb": _wandb}

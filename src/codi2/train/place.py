"""Places a run's networks and batches on devices: trained modules, frozen modules, and modules that are swapped in."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from codi2.errors import ConfigError
from codi2.placement import Placement, check
from codi2.tensors import pinned, to_device
from codi2.train.config import TrainConfig

if TYPE_CHECKING:
    from codi2.train.contract import Recipe

LANGUAGE = ("llm", "finetune")
"""Parts that train a language model."""


def with_placement(config: TrainConfig, given: Mapping[str, Any], anywhere: bool = False) -> TrainConfig:
    """The config with the keys of `given` in its `[options.placement]`.

    Args:
        anywhere: drops the device, for the plan of a run on another machine.
    """
    placement = {**config.options.get("placement", {}), **given}
    if anywhere:
        placement.pop("device", None)
    return replace(config, options={**config.options, "placement": placement})


def placement_of(config: TrainConfig) -> Placement:
    """`[options.placement]` of a config. Raises ConfigError: a key or value is not allowed in training."""
    options = dict(config.options.get("placement", {}))
    known = [field.name for field in fields(Placement)]
    if unknown := sorted(set(options) - set(known)):
        raise ConfigError(f"[options.placement] has the unknown key {unknown[0]!r}; known keys: {', '.join(known)}")
    placement = Placement(**options)
    if placement.offload:
        raise ConfigError(
            "offload is on, which is for generation only: in training, frozen modules are on the device only while "
            "they are needed; leave placement.offload out"
        )
    if config.part not in LANGUAGE and (unused := [name for name in ("bits", "device_map") if options.get(name)]):
        raise ConfigError(
            f"{unused[0]} is {options[unused[0]]!r}, but the part {config.part} holds no language model; leave "
            f"--{unused[0]} or placement.{unused[0]} out"
        )
    return placement


def choose_device(config: TrainConfig) -> None:
    """Makes accelerate use the device that the config names; without a name, accelerate chooses.

    Raises ConfigError: the device does not exist, or lacks the data type.
    """
    placement, processes = placement_of(config), int(os.environ.get("WORLD_SIZE", "1"))
    if placement.device != "cpu" and os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        raise ConfigError(
            f"the device is {placement.device!r}, but accelerate was launched with --cpu; remove one of the two"
        )
    check(replace(placement, device=str(training_device(config))))
    index = torch.device(placement.device).index
    if index is not None and processes > 1:
        raise ConfigError(
            f"placement.device is {placement.device!r}, but {processes} processes train, each on its own device; "
            "leave the number out"
        )
    if index is not None:
        os.environ["ACCELERATE_TORCH_DEVICE"] = placement.device


def training_device(config: TrainConfig) -> torch.device:
    """The device of this process, for modules that are placed before the loop begins. Raises ConfigError."""
    if "device" in config.options.get("placement", {}):
        placement = placement_of(config)
        check(placement)
        return torch.device(placement.device)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device("cpu")


def place(recipe: Recipe, device: torch.device, placement: Placement) -> ModuleSwapper:
    """Moves frozen modules (`recipe.frozen`) to `device` in the dtype of the placement, and prepares those that are
    swapped in there (`recipe.swapped_modules`). Trained parameters are not moved and stay in float32.

    On a GPU float32 products run as TF32.
    """
    dtype = getattr(torch, placement.dtype)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if recipe.frozen is not None:
        with _without_trained(recipe.frozen):
            recipe.frozen.to(device, dtype)
    for module in recipe.swapped_modules.values():
        with _without_trained(module):
            module.to(dtype)
    if placement.compile:
        for module in (recipe.model, *recipe.model.children()):
            module.compile()
    return ModuleSwapper(recipe.swapped_modules, device)


def attention(part: str, device: torch.device) -> AbstractContextManager[Any]:
    """On a CPU, attention by plain matrix products, except for parts that hold a language model.

    For the few positions of a latent or of a prior's context the fused kernel of a CPU is slower: a training step of
    the decoder of pictures takes 1.2 times as long with it.
    """
    if device.type != "cpu" or part in LANGUAGE:
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


def mixed(dtype: str, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to the dtype of a placement, in which trained float32 modules work with frozen ones of that dtype."""
    low = getattr(torch, dtype)
    return nullcontext() if low is torch.float32 else torch.autocast(device.type, low)


@contextmanager
def _without_trained(module: nn.Module) -> Iterator[None]:
    """In this context a module has its frozen tensors only."""
    trained = [
        (part, name, parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if parameter.requires_grad
    ]
    for part, name, _ in trained:
        part._parameters[name] = None
    try:
        yield
    finally:
        for part, name, parameter in trained:
            part._parameters[name] = parameter


class ModuleSwapper:
    """Frozen modules that are on a device only while they are needed.

    Their tensors stay in main memory too, so that nothing is copied when a module leaves the device. Trained parameters
    are not moved.
    """

    def __init__(self, modules: Mapping[str, nn.Module], device: torch.device) -> None:
        self.device, self.resident = device, frozenset[str]()
        self._home = {name: _frozen_tensors(module) for name, module in modules.items()}

    def load_only(self, names: Collection[str]) -> None:
        """Moves the modules of these names to the device and removes the others from it."""
        wanted = frozenset(names)
        for name in self.resident - wanted:
            for tensors, key, value in self._home[name]:
                tensors[key] = value
        for name in wanted - self.resident:
            for tensors, key, value in self._home[name]:
                moved = value.to(self.device, non_blocking=True)
                tensors[key] = nn.Parameter(moved, False) if isinstance(value, nn.Parameter) else moved
        self.resident = wanted


def _frozen_tensors(module: nn.Module) -> list[tuple[dict[str, Any], str, Tensor]]:
    return [
        (tensors, key, value)
        for part in module.modules()
        for tensors in (part._parameters, part._buffers)
        for key, value in tensors.items()
        if value is not None and not value.requires_grad
    ]


def moved(batch: Any, device: torch.device) -> Any:
    """A batch on the device; the copy overlaps with the GPU's computations."""
    if device.type == "cuda":
        return to_device(pinned(batch), device, non_blocking=True)
    return to_device(batch, device)


ADVICE = (
    "raise accumulate or lower batch_size, set options.gradient_checkpointing where the part has it, or placement.bits"
)
"""Advice for errors about full device memory."""

"""Tensors that FSDP2 shards over processes: gathered when they are written, sharded again when they are read.

A checkpoint holds whole tensors, so that a run can continue with another number of processes. These functions do not
change tensors that are not sharded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(tensor: Any) -> bool:
    """Whether each process holds only a part of this tensor."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def gather(value: Any) -> Any:
    """A tensor, or a list or dict of tensors, with sharded tensors gathered; all processes must call it together."""
    if isinstance(value, dict):
        return {key: gather(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [gather(inner) for inner in value]
    return value.full_tensor() if is_sharded(value) else value


def reshard(value: Any, like: Tensor) -> Any:
    """This process's shard of a whole tensor, if `like` is sharded and has its shape; else the value."""
    from torch.distributed.tensor import distribute_tensor

    if not is_sharded(like) or not isinstance(value, Tensor) or is_sharded(value) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """The values of a tensor that this process holds."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


MACHINE_OPTIONS = ("fused", "foreach", "capturable")
"""Options of an optimizer that affect how a step is computed on this machine, but not its result."""


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads the whole state of a checkpoint into an optimizer whose parameters may be sharded.

    MACHINE_OPTIONS of the optimizer are kept.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sharded = {
        number: {name: reshard(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    groups = [
        {**stored, **{name: present[name] for name in MACHINE_OPTIONS if name in present}}
        for stored, present in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups, "state": sharded})


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """In this context every parameter is whole, for code that runs parts of a model without its root module."""
    from torch.distributed.fsdp import FSDPModule

    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()


def unshard_for_good(model: nn.Module) -> None:
    """Replaces every parameter by the whole one, for code that writes parts of a model; training cannot continue.

    `unsharded` would not work there: `state_dict` shards a module again.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if is_sharded(parameter):
                setattr(module, name, nn.Parameter(gather(parameter.detach()), parameter.requires_grad))

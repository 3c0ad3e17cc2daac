"""Tensors that FSDP2 has cut up over processes: put together for what is written, cut up again when it is read.

A checkpoint holds whole tensors, so that a run goes on with another number of processes, or with one. Nothing here
does anything to the tensors of a run that is not cut up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def is_cut(tensor: Any) -> bool:
    """Whether a process holds a part of this tensor only."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def gather(value: Any) -> Any:
    """A tensor, or lists and dicts of some, with what is cut up put together: all processes have to ask at once."""
    if isinstance(value, dict):
        return {key: gather(some) for key, some in value.items()}
    if isinstance(value, list):
        return [gather(some) for some in value]
    return value.full_tensor() if is_cut(value) else value


def reshard(value: Any, like: Tensor) -> Any:
    """This process's part of a whole tensor, where `like` is cut up and of its shape."""
    from torch.distributed.tensor import distribute_tensor

    if not is_cut(like) or not isinstance(value, Tensor) or is_cut(value) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """The numbers that this process holds."""
    return tensor.to_local() if is_cut(tensor) else tensor  # type: ignore[attr-defined]


MACHINES = ("fused", "foreach", "capturable")
"""Settings of an optimizer that say how this machine computes a step, not which step it is."""


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The whole state that a checkpoint holds → an optimizer whose parameters may be cut up.

    How a step is computed (`fused` and its like) is this machine's choice and stays as it is.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    cut = {
        number: {name: reshard(value, parameters[number]) for name, value in of_one.items()}
        for number, of_one in state["state"].items()
    }
    groups = [
        {**theirs, **{name: ours[name] for name in MACHINES if name in ours}}
        for theirs, ours in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups, "state": cut})


@contextmanager
def put_together(model: nn.Module) -> Iterator[None]:
    """Within the block every parameter is whole: what runs parts of a model runs them without its root."""
    from torch.distributed.fsdp import FSDPModule

    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()


def dissolve(model: nn.Module) -> None:
    """Every parameter is whole from here on, for what writes parts of a model; there is no training after this.

    `put_together` would not do: asked for its state, a module that is cut up is cut up again first.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if is_cut(parameter):
                setattr(module, name, nn.Parameter(gather(parameter.detach()), parameter.requires_grad))

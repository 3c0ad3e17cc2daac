"""Tensors: weight files, exact loading of weights, modules on demand, batches on a device, precision."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from codi2.errors import WeightsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Value = TypeVar("Value")
Network = TypeVar("Network", bound="nn.Module")
MAX_NAMED = 3  # most tensors that an error names


def read_tensors(path: Path, inside: str = "") -> dict[str, Tensor]:
    """Tensors of a safetensors file, or of a `.pth`, `.bin` or `.ckpt` state dict, which is read with `weights_only`.

    Args:
        inside: key of the state dict in files that hold more, such as the checkpoint of a training run.

    Raises:
        WeightsError: the file is missing, damaged, or holds something else than tensors by name.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        # weights_only refuses pickles with anything but tensors and plain values, so no code of the file runs
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise WeightsError(
            f"the weight file {path} is missing; reinstall the package, fetch it again or name another model"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, MemoryError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"the weight file {path} is damaged ({reason}); reinstall the package or fetch it again"
        ) from error
    if isinstance(state, dict) and isinstance(state.get(inside), dict):
        state = state[inside]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(
            f"the weight file {path} does not hold tensors by name; give a file with the state dict alone"
        )
    return state


def to_float16(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they are shipped: float16."""
    import torch

    return {name: value.detach().cpu().to(torch.float16).contiguous() for name, value in tensors.items()}


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], description: str) -> None:
    """Loads `tensors` into `module`, which may be on the meta device. Nothing is skipped.

    Raises:
        WeightsError: a tensor is missing, unknown or of another shape; the message names the first of each kind.
    """
    expected = module.state_dict()
    missing, unknown = ([n for n in a if n not in b] for a, b in ((expected, tensors), (tensors, expected)))
    reshaped = [n for n, value in tensors.items() if n in expected and value.shape != expected[n].shape]
    faults = [f"{_first(missing)} missing"] if missing else []
    faults += [f"{_first(unknown)} unknown"] if unknown else []
    faults += [
        f"{n} is {tuple(tensors[n].shape)} where {tuple(expected[n].shape)} is expected" for n in reshaped[:MAX_NAMED]
    ]
    if len(reshaped) > MAX_NAMED:
        faults.append(f"{len(reshaped) - MAX_NAMED} more are of another shape")
    if faults:
        raise WeightsError(
            f"{description} does not fit: {'; '.join(faults)}; name the weights of this model, in this size"
        )
    module.load_state_dict(dict(tensors), strict=True, assign=True)


def _first(names: list[str]) -> str:
    listed = ", ".join(names[:MAX_NAMED])
    return f"{listed} and {len(names) - MAX_NAMED} more are" if len(names) > MAX_NAMED else f"{listed} is"


def load_published(module: Network, path: Path, description: str, skip: tuple[str, ...] = ()) -> Network:
    """A frozen network with published weights, except the tensors whose names begin with one of `skip`.

    Counters of normalisation layers, which some files lack, are not loaded.

    Raises:
        WeightsError: as `read_tensors` and `load_exactly`.
    """
    counter = "num_batches_tracked"
    counters = {name: value for name, value in module.state_dict().items() if name.endswith(counter)}
    tensors = {
        n: v for n, v in read_tensors(path, "model").items() if not n.startswith(skip) and not n.endswith(counter)
    }
    load_exactly(module, {**tensors, **counters}, description)
    return module.eval().requires_grad_(False)


def channels_last(module: Any) -> Any:
    """Converts the weights of two-dimensional convolutions to channels_last, which is faster; others are unchanged."""
    import torch

    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module


_RANDOM_INIT = ("uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_",
          "kaiming_normal_")  # fmt: skip
"""Functions of `torch.nn.init` that fill a tensor with random numbers."""


@contextmanager
def undrawn_weights() -> Iterator[None]:
    """Modules that this thread builds in this context have arbitrary weights; all of them are to be loaded afterwards.

    Random initialisation of hundreds of layers takes a large part of a model's start.
    """
    from torch.nn import init

    thread, originals = threading.get_ident(), {name: getattr(init, name) for name in _RANDOM_INIT}

    def skipped_here(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def fill(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return tensor if threading.get_ident() == thread else draw(tensor, *args, **kwargs)

        return fill

    for name, draw in originals.items():
        setattr(init, name, skipped_here(draw))
    try:
        yield
    finally:
        for name, draw in originals.items():
            setattr(init, name, draw)


class OnDemand(Mapping[str, Value]):
    """Modules by name, each loaded when it is first used; `loaded` holds the loaded ones.

    Args:
        names: of all modules.
        load: name → module; called once for each.
    """

    def __init__(self, names: Iterable[str], load: Callable[[str], Value]) -> None:
        from torch import nn

        self._names, self._load, self._lock = tuple(names), load, threading.RLock()
        self.loaded = nn.ModuleDict()

    def __getitem__(self, name: str) -> Value:
        if name not in self._names:
            raise KeyError(name)
        with self._lock:
            if name not in self.loaded:
                self.loaded[name] = self._load(name)  # type: ignore[assignment]
            return self.loaded[name]  # type: ignore[return-value]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def loaded(part: Value | OnDemand[Value]) -> Value:
    """A module; the only one of an `OnDemand` is loaded now, if it was not used before."""
    return next(iter(part.values())) if isinstance(part, OnDemand) else part


def groups_of(channels: Sequence[int]) -> int:
    """The largest number of groups, up to 16, that a group norm can have on every level."""
    return next(n for n in (16, 8, 4, 2, 1) if all(c % n == 0 and c > n for c in channels))


def to_device(value: Value, device: torch.device | str, non_blocking: bool = False) -> Value:
    """A batch with its tensors on `device`, also in dataclasses, dicts, lists and tuples; other values are unchanged.

    torch has no such function that includes dataclasses.
    """
    return _mapped(value, lambda tensor: tensor.to(device, non_blocking=non_blocking))


def pinned(value: Value) -> Value:
    """A batch with its tensors in page-locked memory, from which a GPU can copy while it computes."""
    return _mapped(value, lambda tensor: tensor.pin_memory() if tensor.device.type == "cpu" else tensor)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(inner, change) for key, inner in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(inner, change) for inner in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(inner, change) for inner in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = copy.copy(value)
        for field in fields(value):
            object.__setattr__(changed, field.name, _mapped(getattr(value, field.name), change))  # it may be frozen
        return changed
    return value


def masked_mean(values: Tensor, rows: Tensor) -> Tensor:
    """Mean [] of values [n] over the selected rows, bool [n]; zero if none is selected."""
    return (values * rows).sum() / rows.sum().clamp(min=1)


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's parameters."""
    return next(module.parameters()).device


def full_precision(like: Tensor) -> AbstractContextManager[Any]:
    """Disables autocast on `like`'s device in this context: operations keep the precision of their inputs."""
    import torch

    return torch.autocast(like.device.type, enabled=False)

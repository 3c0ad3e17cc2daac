"""The device, dtype and memory of a model: checks before it is loaded, and errors when its memory is full."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from codi2.errors import ConfigError, DeviceMemoryError

if TYPE_CHECKING:
    import torch
    from torch import nn

P = ParamSpec("P")
T = TypeVar("T")
DTYPES = ("float32", "bfloat16", "float16")
DEVICE = re.compile(r"cpu|mps|cuda(?::(\d+))?")
LESS = "ask for fewer or shorter media at once, or use --dtype bfloat16, --bits 4 or --offload"
"""The remedy when a reply needs more memory than there is."""


@dataclass(frozen=True)
class Placement:
    """Where a model runs and how it is stored there; not a part of a checkpoint."""

    device: str = "cpu"  # cpu, cuda, cuda:1, mps
    dtype: str = "float32"  # of encoder and decoders; the language model's is in its config
    bits: Literal[0, 4, 8] = 0  # of the language model's frozen linear maps, by bitsandbytes; 0: as its config says
    device_map: str = ""  # spreads the language model over devices: "auto", "balanced" (accelerate's)
    offload: bool = False  # encoder, language model and decoders are on the device only while they run
    compile: bool = False  # the denoising networks, by torch.compile


ON_CPU = Placement()


@contextmanager
def on_device(part: nn.Module, device: torch.device) -> Iterator[None]:
    """Moves a module from main memory to the device for the block."""
    part.to(device)
    try:
        yield
    finally:
        part.to("cpu")


def check(placement: Placement) -> None:
    """Checks the machine, without loading a model. For `cpu` torch is not imported.

    Raises ConfigError: the device does not exist, or lacks the dtype.
    """
    match = DEVICE.fullmatch(placement.device)
    if match is None:
        raise ConfigError(f"the device is {placement.device!r}; expected cpu, cuda, cuda:1 or mps")
    if placement.dtype not in DTYPES:
        raise ConfigError(f"the dtype is {placement.dtype!r}; expected {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    if placement.bits not in (0, 4, 8):
        raise ConfigError(f"bits is {placement.bits}; expected 0 (unchanged), 4 or 8")
    if placement.device.startswith("cuda"):
        _check_cuda(placement, int(match[1] or 0))
    elif placement.device == "mps":
        _check_mps(placement)


def _check_cuda(placement: Placement, index: int) -> None:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise ConfigError(
            f"the device is {placement.device!r}, but PyTorch {torch.__version__} sees no GPU here; use the device "
            "cpu, or install a driver and a build of PyTorch for CUDA"
        )
    if index >= count:
        available = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise ConfigError(f"the device is {placement.device!r}, but this machine has {available}; use one of these")
    if placement.dtype == "bfloat16" and torch.cuda.get_device_capability(index) < (8, 0):
        raise ConfigError(
            f"the dtype is bfloat16, which {torch.cuda.get_device_name(index)} ({placement.device}) lacks; use float16"
        )


def _check_mps(placement: Placement) -> None:
    import torch

    if not torch.backends.mps.is_available():
        raise ConfigError("the device is 'mps', but this machine has no GPU of Apple; use the device cpu")
    try:
        torch.zeros(1, dtype=getattr(torch, placement.dtype), device="mps")
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"the dtype is {placement.dtype}, which this GPU of Apple lacks; use float16") from error


def out_of_memory(error: BaseException) -> bool:
    """Whether torch raised `error` because a device's memory, or the main memory, is full."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("out of memory", "can't allocate memory", "ALLOC_FAILED"))
    )


def within_memory(doing: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator of a model's method: full memory raises DeviceMemoryError, which names what the method was `doing`.

    The tensors of the failed call are released, so that a smaller call has the memory.
    """

    def decorate(method: Callable[P, T]) -> Callable[P, T]:
        @wraps(method)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return method(*args, **kwargs)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                model: Any = args[0]
                raise full(error, model.device, doing, LESS) from None

        return run

    return decorate


def full(error: BaseException, device: torch.device | str, doing: str, advice: str) -> DeviceMemoryError:
    """The error for full memory; clears the frames of `error`, which hold tensors."""
    import torch

    traceback.clear_frames(error.__traceback__)
    where = "the main memory" if str(device) == "cpu" else f"the memory of {device}"
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return DeviceMemoryError(f"{where} ran out while {doing}; {advice}")

"""A virtual GPU: tensors that say they are on `cuda`, compute on the CPU, and refuse what a GPU refuses.

Inside `virtual_gpu()`, `.to("cuda")` and factories with `device="cuda"` give tensors whose memory is marked as the
GPU's. Their numbers are real, so control flow that depends on them (the token that is chosen, a loss that is not
finite) runs as on a GPU, and so do autograd and optimizers. These faults raise, as they do there:

- an operation on tensors of different devices (a number of shape [] and indices may be on the CPU);
- `.numpy()` of a tensor that was not brought to the CPU;
- a draw on the GPU with a generator of the CPU.

A clash of dtypes raises because the CPU's kernels refuse it too; `torch.autocast("cuda")` becomes the CPU's. The
harness cannot show speed, memory, kernels that only a GPU lacks, or the rounding of the hardware.

`codi2.dry_run.virtual` is another virtual GPU, on tensors without numbers, and neither can do the other's work:

| | this one | `codi2.dry_run.virtual` |
|---|---|---|
| tensors | have numbers, on the CPU | have none (meta): 8 billion parameters take no memory |
| runs | replies, chats, evaluation: what comes next depends on numbers | training steps, also at the sizes of `paper` |
| reading a number from the GPU | works, and is counted | is a fault: it makes the host wait in every step |
| autocast | the CPU's list of operations | CUDA's list |
| memory | not counted | bytes alive and their peak, for `--plan` |
| used by | tests | tests, and `codi2 train --plan` of the package |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU = torch.device("cpu")
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
WITH_INDICES = (
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
)
"""Operations whose indices, the second argument, may be on the CPU."""


class DeviceMismatch(RuntimeError):
    """An operation has tensors on more than one device."""


class VirtualGPU:
    """Which memory is the GPU's, and how often the program waited for the GPU.

    Attributes:
        waits: `item` (also `float`, `bool` and `int` of a tensor), `tolist` and `to cpu`.
        count: operations that ran on the GPU.
    """

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.count = 0
        # a weak reference keeps the address of memory that was freed from being given to other memory
        self._marked: dict[int, tuple[StorageWeakRef, torch.device]] = {}

    def device(self, tensor: Tensor) -> torch.device:
        """Where a tensor is."""
        marked = self._marked.get(tensor.untyped_storage()._cdata) if tensor.layout == torch.strided else None
        return marked[1] if marked else _physical(tensor)

    def mark(self, tensor: Tensor, device: torch.device) -> None:
        storage = tensor.untyped_storage()
        self._marked.setdefault(storage._cdata, (StorageWeakRef(storage), device))

    def on_gpu(self, value: Any) -> bool:
        """Whether a tensor is on the GPU, or one among others."""
        return any(self.device(leaf).type == "cuda" for leaf in tree_leaves(value) if isinstance(leaf, Tensor))

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation. Raises DeviceMismatch."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        wanted = device_named(kwargs["device"]) if kwargs.get("device") is not None else None
        if func in COPIES:
            device = wanted or self.device(tensors[0])
            if device == CPU and self.on_gpu(tensors[-1]):
                self.waits["to cpu"] += 1
        else:
            device = wanted or self._common(func, args, tensors)
        if func is aten._local_scalar_dense.default and self.on_gpu(tensors):
            self.waits["item"] += 1
        if device.type != "cuda":
            return func(*args, **kwargs)
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type == "cpu":
            raise RuntimeError(f"{func}: Expected a 'cuda' device type for generator but found 'cpu'")
        if wanted is not None:
            kwargs = {**kwargs, "device": CPU}
        out = func(*args, **kwargs)
        self.count += 1
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.mark(leaf, device)
        return out

    def _common(self, func: Any, args: Any, tensors: list[Tensor]) -> torch.device:
        """Where an operation runs."""
        if func in WITH_INDICES:
            indices = {id(leaf) for leaf in tree_leaves(args[1])}
            tensors = [tensor for tensor in tensors if id(tensor) not in indices]
        devices = {self.device(tensor) for tensor in tensors}
        if len(devices) > 1 and all(tensor.ndim == 0 for tensor in tensors if self.device(tensor) == CPU):
            devices.discard(CPU)  # a number may stay on the CPU
        if len(devices) > 1:
            shapes = ", ".join(f"{list(tensor.shape)} on {self.device(tensor)}" for tensor in tensors)
            raise DeviceMismatch(f"{func}: Expected all tensors to be on the same device, found {shapes}")
        return next(iter(devices), CPU)


class _Operations(TorchDispatchMode):
    """Sees every operation that reaches a kernel, of forward and backward passes."""

    def __init__(self, gpu: VirtualGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.gpu.run(func, args, kwargs or {})


class _Questions(TorchFunctionMode):
    """Answers what a program asks of tensors and what never reaches a kernel, since the memory is the CPU's."""

    def __init__(self, gpu: VirtualGPU) -> None:
        super().__init__()
        self.gpu = gpu
        self.answers: dict[Any, Callable[..., Any]] = {
            Tensor.device.__get__: lambda tensor, *_: gpu.device(tensor),
            Tensor.is_cuda.__get__: lambda tensor, *_: gpu.device(tensor).type == "cuda",
            Tensor.get_device: lambda tensor: gpu.device(tensor).index if gpu.on_gpu(tensor) else -1,
            Tensor.to: self.to,
            Tensor.cpu: lambda tensor, *_, **__: self.to(tensor, "cpu"),
            Tensor.cuda: lambda tensor, device="cuda", *_, **__: self.to(tensor, device),
            Tensor.type_as: lambda tensor, other: self.to(tensor, other),
            Tensor.pin_memory: lambda tensor, *_: tensor,
            Tensor.new_tensor: lambda tensor, data, **kw: self.tensor(
                data, **{"dtype": tensor.dtype, "device": gpu.device(tensor), **kw}
            ),
            Tensor.numpy: self.numpy,
            Tensor.__array__: self.numpy,
            Tensor.tolist: self.tolist,
            torch.tensor: self.tensor,
            torch.as_tensor: lambda data, dtype=None, device=None: (
                self.to(data, device=device, dtype=dtype)
                if isinstance(data, Tensor)
                else self.tensor(data, dtype=dtype, device=device)
            ),
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.answers.get(func, func)(*args, **(kwargs or {}))

    def to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        named = {"device": None, "dtype": None, "memory_format": None, "copy": False, **kwargs}
        other = named.pop("other", None)
        for value in (*args, other):
            if isinstance(value, Tensor):
                named |= {"device": self.gpu.device(value), "dtype": value.dtype}
            elif isinstance(value, torch.dtype):
                named["dtype"] = value
            elif isinstance(value, str | torch.device) or (isinstance(value, int) and not isinstance(value, bool)):
                named["device"] = value
        current = self.gpu.device(tensor)
        target = device_named(named["device"]) if named["device"] is not None else current
        chosen = {key: named[key] for key in ("dtype", "memory_format") if named[key] is not None}
        if target != current:
            moved: Tensor = aten._to_copy.default(tensor, device=target, **chosen)
            return moved
        return tensor.to(copy=named["copy"], **chosen) if chosen or named["copy"] else tensor

    def tensor(self, data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
        tensor = torch.tensor(data, **kwargs)
        return tensor if device is None else self.to(tensor, device)

    def numpy(self, tensor: Tensor, *args: Any, force: bool = False, **kwargs: Any) -> Any:
        if self.gpu.on_gpu(tensor) and not force:
            raise TypeError("can't convert cuda device type tensor to numpy; use Tensor.cpu() first")
        return tensor.numpy(force=force)

    def tolist(self, tensor: Tensor) -> Any:
        if self.gpu.on_gpu(tensor):
            self.gpu.waits["tolist"] += 1
        return tensor.tolist()


@contextmanager
def virtual_gpu(count: int = 1) -> Iterator[VirtualGPU]:
    """While it lasts there are `count` GPUs, `cuda:0` and so on."""
    gpu = VirtualGPU()
    began = torch.autocast.__init__
    known: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: count,
        "current_device": lambda: 0,
        "is_bf16_supported": lambda *_: True,
        "get_device_name": lambda *_: "virtual GPU",
        "get_device_properties": lambda *_: mock.Mock(total_memory=80 << 30, major=9, minor=0),
        "get_device_capability": lambda *_: (9, 0),
        "_lazy_init": lambda: None,
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
    }

    def autocast(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        began(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    with ExitStack() as stack:
        for name, stand_in in known.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        stack.enter_context(mock.patch.object(torch.autocast, "__init__", autocast))
        stack.enter_context(_Operations(gpu))
        stack.enter_context(_Questions(gpu))
        yield gpu


def device_named(device: Any) -> torch.device:
    """`cuda` alone is the first GPU."""
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return torch.device("cuda", 0) if device == torch.device("cuda") else device


def _physical(tensor: Tensor) -> torch.device:
    return torch.device("meta") if tensor.is_meta else CPU

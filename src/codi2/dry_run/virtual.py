"""A virtual GPU: a training step runs on tensors with shapes, data types and a device, but without data.

Meta tensors represent tensors on the GPU, ordinary tensors are on the host. (Fake CUDA tensors need a build with CUDA
for autograd.) While a `VirtualGPU` is active

- an operation on tensors of both devices raises `Misplaced`, and so does an operation that would read from the GPU:
  indices on the host, `nonzero`, `item`;
- products of tensors of different data types raise `Misplaced`;
- `torch.autocast("meta", …)` casts as autocast on CUDA does, and attention stores no scores, as fused kernels do;
- the bytes of all live tensors of the GPU, their peak, and floating-point operations are counted.

So it checks of a training step that all tensors have the right device and data type and that the host never waits for
the GPU, and it counts the memory. It cannot run code that depends on values, as generation does. For this, the tests
have another virtual GPU, `tests/virtual_device.py`, which lists the differences.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

DEVICE = torch.device("meta")
BLOCK = 512  # bytes that CUDA's allocator rounds up to
KEY: Any = torch._C.DispatchKey.AutocastPrivateUse1  # type: ignore[attr-defined] # a key of the dispatcher that no device uses
aten = torch.ops.aten

LOW = (
    "linear matmul mm bmm mv addmm addmv addbmm baddbmm einsum conv1d conv2d conv3d conv_transpose1d conv_transpose2d "
    "conv_transpose3d prelu"
).split()
"""Operations that autocast on CUDA runs in the lower precision (torch's autocast_mode.h)."""
FULL = (
    "exp expm1 log log10 log1p log2 pow reciprocal rsqrt sinh tan softplus layer_norm group_norm cosine_similarity "
    "mse_loss l1_loss smooth_l1_loss huber_loss kl_div nll_loss binary_cross_entropy_with_logits cdist logsumexp "
    "softmax log_softmax prod cumsum cumprod sum norm"
).split()
"""Operations that it runs in float32."""
PRODUCTS = "mm bmm mv addmm baddbmm convolution index_put index_put_ lerp _scaled_dot_product_efficient_attention"
ONE_DTYPE = {getattr(aten, name) for name in PRODUCTS.split()}
COPIES = {aten._to_copy, aten.copy_}


class Misplaced(RuntimeError):
    """Tensors that an operation on a GPU would refuse together, or an operation that waits for the GPU."""


class VirtualGPU(TorchDispatchMode):
    """See above.

    Args:
        reads: whether reads from the GPU return arbitrary values (zeros and ones) instead of an error, for validation.
    """

    def __init__(self, reads: bool = False) -> None:
        super().__init__()
        self.reads, self.live, self.peak, self.operations = reads, 0, 0, 0
        self.low: torch.dtype | None = None  # of autocast; None: it is off
        self._sizes: dict[int, int] = {}
        self._stack: ExitStack | None = None

    def __enter__(self) -> VirtualGPU:
        self._stack = ExitStack()
        self._stack.enter_context(_autocast_of(self))
        self._stack.enter_context(_kernels(self))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        assert self._stack is not None
        self._stack.close()

    def hold(self, tensors: Iterable[Tensor]) -> int:
        """Counts tensors that exist already, and returns their bytes."""
        before = self.live
        for tensor in tensors:
            self._count(tensor)
        return self.live - before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet, kwargs = func.overloadpacket, kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(x.is_meta for x in tensors):
            if self.reads and (value := _read_back(packet, args, kwargs)) is not None:
                return value
            _check(packet, tensors)
        out = func(*args, **kwargs)
        for tensor in tree_leaves(out):
            self._count(tensor)
        if packet in flop_registry:  # not torch's own counter, whose hooks keep references to checkpointed tensors
            self.operations += flop_registry[packet](*args, **kwargs, out_val=out)
        return out

    def _count(self, tensor: Any) -> None:
        if not isinstance(tensor, Tensor) or not tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = -(-storage.nbytes() // BLOCK) * BLOCK
            self.live += self._sizes[key]
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


def _check(packet: Any, tensors: list[Tensor]) -> None:
    """Raises Misplaced."""
    name = str(packet)
    # a scalar on the host is an argument of the call
    host = [x for x in tensors if not x.is_meta and x.ndim]
    if host and packet not in COPIES:
        raise Misplaced(f"{name} has a tensor {list(host[0].shape)} of {host[0].dtype} on the CPU beside the GPU's")
    if packet in (aten.nonzero, aten._local_scalar_dense, aten.masked_select, aten.unique_consecutive):
        raise Misplaced(f"{name} waits for the GPU to read its results")
    dtypes = {x.dtype for x in tensors if x.is_floating_point()}
    if packet in ONE_DTYPE and len(dtypes) > 1:
        raise Misplaced(f"{name} has tensors of {' and '.join(sorted(map(str, dtypes)))}")


def _read_back(packet: Any, args: Any, kwargs: Any) -> Any:
    """An arbitrary value for a read from the GPU; None: the operation reads nothing."""
    if packet is aten._local_scalar_dense:
        return 1.0 if args[0].is_floating_point() else 1
    if packet is aten.nonzero:
        return torch.zeros(0, args[0].ndim, dtype=torch.long, device=DEVICE)
    device = kwargs.get("device")
    if packet is aten._to_copy and args[0].is_meta and device is not None and torch.device(device).type == "cpu":
        return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
    return None


@contextmanager
def _autocast_of(gpu: VirtualGPU) -> Iterator[None]:
    """Extends torch's functions of autocast to the virtual GPU."""
    plain, enabled, dtype, available = (
        torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype, torch.amp.is_autocast_available
    )  # fmt: skip

    @contextmanager
    def changed(low: torch.dtype | None) -> Iterator[None]:
        before, gpu.low = gpu.low, low
        try:
            yield
        finally:
            gpu.low = before

    def autocast(device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: Any = None) -> Any:
        if device_type != DEVICE.type:
            return plain(device_type, dtype, enabled, cache_enabled)
        return changed((dtype or torch.bfloat16) if enabled else None)

    def is_enabled(device_type: str | None = None) -> bool:
        if device_type == DEVICE.type:
            return gpu.low is not None
        return enabled(device_type) if device_type else enabled()

    patches: dict[str, Any] = {
        "torch.autocast": autocast,
        "torch.amp.autocast": autocast,
        "torch.is_autocast_enabled": is_enabled,
        "torch.get_autocast_dtype": lambda kind: (gpu.low or torch.bfloat16) if kind == DEVICE.type else dtype(kind),
        "torch.amp.is_autocast_available": lambda kind: kind == DEVICE.type or available(kind),
    }
    with ExitStack() as stack:
        for name, function in patches.items():
            stack.enter_context(mock.patch(name, function))
        yield


@contextmanager
def _kernels(gpu: VirtualGPU) -> Iterator[None]:
    """Adds casts before the operations of LOW and FULL, and fused attention, with a dispatch key above autograd's."""
    rest, library = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")

    def kernel(overload: Any, low: bool) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(KEY)):
                if gpu.low is not None and not (low and _on_host(args)):
                    dtype = gpu.low if low else torch.float32
                    args, kwargs = _cast(args, dtype), _cast(kwargs, dtype)
                return overload(*args, **kwargs)

        return run

    def attend(*args: Any, **kwargs: Any) -> Tensor:
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(KEY)):
            if gpu.low is not None:
                args, kwargs = _cast(args, gpu.low), _cast(kwargs, gpu.low)
            return _attention(*args, **kwargs)

    for names, low in ((LOW, True), (FULL, False)):
        for name in names:
            for overload in _overloads(name):
                library.impl(overload._name, kernel(overload, low), "AutocastPrivateUse1")
    library.impl("scaled_dot_product_attention", attend, "AutocastPrivateUse1")
    torch._C._dispatch_tls_set_dispatch_key_excluded(KEY, False)
    torch._C._dispatch_tls_set_dispatch_key_included(KEY, True)
    try:
        yield
    finally:
        torch._C._dispatch_tls_set_dispatch_key_included(KEY, False)
        torch._C._dispatch_tls_set_dispatch_key_excluded(KEY, True)
        library._destroy()
        rest._destroy()


def _overloads(name: str) -> list[Any]:
    packet = getattr(aten, name)
    return [getattr(packet, each) for each in packet.overloads() if "out" not in each and "Dimname" not in each]


def _on_host(args: Any) -> bool:
    return not any(isinstance(x, Tensor) and x.is_meta for x in tree_leaves(args))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        castable = value.is_meta and value.is_floating_point() and value.dtype != torch.float64
        return value.to(dtype) if castable else value
    if isinstance(value, dict):
        return {key: _cast(inner, dtype) for key, inner in value.items()}
    return type(value)(_cast(inner, dtype) for inner in value) if isinstance(value, (list, tuple)) else value


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Memory-efficient attention, whose kernels exist for CUDA only; on the host, torch's own."""
    if not q.is_meta:
        plain: Tensor = aten.scaled_dot_product_attention(
            q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        return plain
    if enable_gqa and k.shape[-3] != q.shape[-3]:
        k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
    lead = q.shape[:-3]
    q, k, v = (x.unsqueeze(0) if x.ndim == 3 else x for x in (q, k, v))
    bias = None
    if attn_mask is not None:
        bias = attn_mask.to(q.dtype).expand(*q.shape[:-1], k.shape[-2])
    out: Tensor = aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )[0]
    return out if lead else out.squeeze(0)


def tensors_of(*modules: nn.Module | None) -> list[Tensor]:
    """Parameters and buffers."""
    return [x for module in modules if module is not None for x in (*module.parameters(), *module.buffers())]

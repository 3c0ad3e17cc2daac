"""Compares the sizes in the configs of models from elsewhere with their weights, before memory is allocated.

A config of a few bytes can ask for layers of 10^9 numbers, or for 10^9 layers. So the network is first built without
memory, and building stops as soon as it has more numbers than the weight files hold.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from codi2.errors import WeightsError
from codi2.untrusted import one_sentence

TIED = 2  # factor on the file's numbers: a file holds a tied matrix once
SLACK = 1_000_000  # numbers that need not be in the file, of parts that are initialised
BUFFER = 2**28  # limit of numbers in tables that a network computes
LARGEST = 1_000_000  # limit of a config's integers, without vocabularies
MODULES = (16, 2_000)  # limit of modules: for each tensor of the file, and additionally
FRESH = 2**30  # limit of numbers in a part that has no weights yet
LARGEST_RANK = 4_096  # limit for an adapter that has no weights yet


class _TooLarge(Exception):
    pass


def check_size(build: Callable[[], Any], files: Sequence[Path], what: str) -> None:
    """Raises WeightsError: `build` makes a network of more numbers or layers than the safetensors `files` hold, or the
    files are damaged. A network that cannot be built without memory is not checked.

    Args:
        what: the network, as an error names it: `the config of the checkpoint model/image/unet`.
    """
    import torch

    numbers, tensors = _held(files)
    limits = {
        "numbers": TIED * numbers + SLACK,
        "modules": MODULES[0] * tensors + MODULES[1],
        "numbers in tables": max(BUFFER, numbers),
    }
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), _counted(limits):
            build()
    except _TooLarge as error:
        raise WeightsError(
            f"{what} asks for {error}, but its weights are {numbers:,} numbers in {tensors:,} tensors; "
            "it is damaged or of another model"
        ) from error
    except NotImplementedError:  # it reads numbers while it is built
        return


def check_fresh(build: Callable[[], Any], what: str) -> None:
    """Raises WeightsError: a part that has no weights yet would be larger than all known ones."""
    import torch

    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), _counted({"numbers": FRESH, "modules": FRESH}):
            build()
    except _TooLarge as error:
        raise WeightsError(f"{what} asks for {error} in parts that have no weights; lower heads.hidden") from error


def check_rank(rank: int, path: Path | None) -> None:
    """Raises WeightsError: no matrix of the adapter `path` has the rank of the config, or, without an adapter, the rank
    is beyond all known ones."""
    if path is None:
        if rank > LARGEST_RANK:
            raise WeightsError(f"llm.lora_rank is {rank:,}, at most {LARGEST_RANK:,} is expected; lower it")
        return
    shapes = _shapes_in(path)
    if not any(rank in shape for shape in shapes):
        raise WeightsError(f"llm.lora_rank is {rank:,}, and no tensor of {path} has this side; it is of another model")


def check_layers(config: Any, files: Sequence[Path], what: str) -> None:
    """Raises WeightsError: a config has more layers than the weight files have tensors.

    Some configs make a list with an entry for each layer, before a network is built.
    """
    _, tensors = _held(files)
    for key, value in _numbers(config):
        if ("layer" in key or "depth" in key) and value > tensors + 1_000:
            raise WeightsError(f"{what} has {key} {value:,}, but its weights are {tensors:,} tensors; it is damaged")


def check_numbers(config: Any, what: str) -> None:
    """Raises WeightsError: an integer of a config is beyond all known ones."""
    for key, value in _numbers(config):
        if isinstance(value, int) and abs(value) > LARGEST:
            raise WeightsError(f"{what} has {key} {value:,}, at most {LARGEST:,} is expected; it is damaged")


def _numbers(config: Any, key: str = "") -> Iterator[tuple[str, int | float]]:
    """The numbers in JSON values, each with the key of the innermost object."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from _numbers(value, str(name))
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _numbers(value, key)
    elif isinstance(config, (int, float)) and not isinstance(config, bool):
        yield key, config


def _held(files: Sequence[Path]) -> tuple[int, int]:
    """The counts of numbers and tensors in weight files, from their headers. Raises WeightsError."""
    shapes = [shape for path in files for shape in _shapes_in(path)]
    return sum(map(prod, shapes)), len(shapes)


def _shapes_in(path: Path) -> list[tuple[int, ...]]:
    """The shape of each tensor in a weight file. Raises WeightsError."""
    import torch
    from safetensors import safe_open

    if not path.is_file():
        raise WeightsError(f"the weight file {path} is missing; fetch it again or name another model")
    with one_sentence(f"the weight file {path}"):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return [tuple(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118 – no dict
        state = torch.load(path, map_location="meta", weights_only=True, mmap=True)
        return [tuple(value.shape) for value in state.values()]


@contextmanager
def _counted(limits: dict[str, int]) -> Iterator[None]:
    """Raises _TooLarge as soon as the modules that this thread builds exceed a limit."""
    from torch.nn.modules import module as hooks

    thread, counts = threading.get_ident(), dict.fromkeys(limits, 0)

    def count(kind: str, amount: int) -> None:
        if threading.get_ident() == thread:
            if kind not in counts:
                return
            counts[kind] += amount
            if counts[kind] > limits[kind]:
                raise _TooLarge(f"more than {limits[kind]:,} {kind}")

    def tensor_hook(kind: str) -> Callable[[Any, str, Any], None]:
        return lambda module, name, value: count(kind, 0 if value is None else value.numel())

    handles = [
        hooks.register_module_parameter_registration_hook(tensor_hook("numbers")),
        hooks.register_module_buffer_registration_hook(tensor_hook("numbers in tables")),
        hooks.register_module_module_registration_hook(lambda module, name, value: count("modules", 1)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

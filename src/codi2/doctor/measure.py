"""The dry run: builds every component of `paper` at full size and runs it once, each in a process of its own.

So the peak memory of a process is that of its component, and all of it is returned. The weights are random: the dry run
measures time and memory, and checks that shapes fit.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from codi2.dry_run.parts import BY_NAME, COMPONENTS, Component, count
from codi2.errors import ConfigError


@dataclass(frozen=True)
class Measurement:
    """Time and memory of a component, or of its slice; `parameters` are always those of the whole component."""

    name: str
    parameters: int
    run_parameters: int = 0  # of the module that was run, which may be a slice; 0: it was not run
    build_seconds: float = 0.0
    run_seconds: float = 0.0
    peak_gb: float = 0.0
    finite: bool = True  # all outputs


def measure_all(names: tuple[str, ...] = ()) -> Iterator[Measurement]:
    """Measures components in order; of those that generation calls only once or twice, only parameters are counted.

    Raises:
        ConfigError: there is no such component, or it cannot run on this machine.
    """
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        raise ConfigError(f"there is no component {unknown[0]!r}; choose among {', '.join(BY_NAME)}")
    for component in COMPONENTS:
        if names and component.name not in names:
            continue
        yield _measure_in_process(component) if component.run else Measurement(component.name, count(component))


def _measure_in_process(component: Component) -> Measurement:
    command = [sys.executable, "-m", "codi2.doctor.measure", component.name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        killed = "it was killed, most likely for memory"
        why = killed if done.returncode < 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(f"{component.name} did not run at full size: {why}; leave it out with --part")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


@torch.no_grad()
def measure(component: Component) -> Measurement:
    """Builds and runs a component in this process."""
    assert component.run is not None
    start = time.perf_counter()
    module = build_random(component.slice or component.build)
    built = time.perf_counter()
    out = component.run(module)
    end = time.perf_counter()
    return Measurement(
        component.name,
        count(component),
        sum(p.numel() for p in module.parameters()),
        built - start,
        end - built,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6),
        bool(torch.isfinite(out).all()),
    )


def build_random(build: object) -> nn.Module:
    """A module with small random weights, all of which are in memory.

    The libraries' own initialisation takes minutes at these sizes.
    """
    assert callable(build)
    with torch.device("meta"):
        module: nn.Module = build()
    module.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape))  # position ids
        elif name.endswith("text.mask"):
            tensor.copy_(torch.full_like(tensor, -torch.inf).triu(1))
        elif tensor.ndim < 2:
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            bound = (3 / (tensor.numel() / tensor.shape[0])) ** 0.5
            tensor.uniform_(-bound, bound, generator=generator)
    for child in module.modules():
        if hasattr(child, "inv_freq"):  # rotary angles are computed from the config and in no checkpoint
            new: Any = type(child)(child.config)
            child.inv_freq = new.inv_freq
    return module.eval().requires_grad_(False)


if __name__ == "__main__":
    print(json.dumps(asdict(measure(BY_NAME[sys.argv[1]]))))

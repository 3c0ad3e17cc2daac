"""The dry run: every component of `paper` built at full size and run once, each in a process of its own.

A process of its own gives a component's memory back whole, and its peak is that component's. The weights are random:
what is measured is time and memory, and that shapes fit.
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

from codi2.dry_run.parts import BY_NAME, PARTS, Part, count
from codi2.errors import ConfigError


@dataclass(frozen=True)
class Weighed:
    """What a component took. The figures of a slice are a slice's; `parameters` are always the whole's."""

    name: str
    parameters: int
    run_parameters: int = 0  # of what was run: a slice of the language model; 0: nothing was
    build_seconds: float = 0.0
    run_seconds: float = 0.0
    peak_gb: float = 0.0
    finite: bool = True  # is all that came out


def weigh_all(names: tuple[str, ...] = ()) -> Iterator[Weighed]:
    """Components in order; those that generation calls only once or twice are counted and not run.

    Raises:
        ConfigError: there is no such component, or it cannot be run here.
    """
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        raise ConfigError(f"there is no component {unknown[0]!r}; choose among {', '.join(BY_NAME)}")
    for part in PARTS:
        if names and part.name not in names:
            continue
        yield _apart(part) if part.run else Weighed(part.name, count(part))


def _apart(part: Part) -> Weighed:
    command = [sys.executable, "-m", "codi2.doctor.weigh", part.name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        killed = "it was killed, most likely for memory"
        why = killed if done.returncode < 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(f"{part.name} did not run at full size: {why}; leave it out with --part")
    return Weighed(**json.loads(done.stdout.splitlines()[-1]))


@torch.no_grad()
def weigh(part: Part) -> Weighed:
    """Builds and runs a component in this process."""
    assert part.run is not None
    began = time.perf_counter()
    module = randomised(part.slice or part.build)
    built = time.perf_counter()
    out = part.run(module)
    ran = time.perf_counter()
    return Weighed(
        part.name,
        count(part),
        sum(p.numel() for p in module.parameters()),
        built - began,
        ran - built,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6),
        bool(torch.isfinite(out).all()),
    )


def randomised(build: object) -> nn.Module:
    """A module with small random weights, each number of which is really in memory.

    The libraries' own ways to start weights take minutes at these sizes.
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
        if hasattr(child, "inv_freq"):  # rotary angles follow from the config and are in no checkpoint
            fresh: Any = type(child)(child.config)
            child.inv_freq = fresh.inv_freq
    return module.eval().requires_grad_(False)


if __name__ == "__main__":
    print(json.dumps(asdict(weigh(BY_NAME[sys.argv[1]]))))

"""A bank caches the outputs of frozen networks for numbered random samples.

A sample is identified by its number; media of data sets are identified by their content instead (`train.features`,
`train.encoded`). A bank is a folder of safetensors shards under `$CODI2_HOME/cache`. Its name holds a hash of
everything that the values depend on, so that other weights start another bank. A bank that was interrupted continues
at the next shard.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from codi2.hub import home
from codi2.progress import tracked
from codi2.train.shard_files import read_all, write_tensors

SHARD = 1000  # samples


def key_of(depends: Mapping[str, Any]) -> str:
    """A short hash of JSON values."""
    return hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()[:12]


def bank(
    name: str, depends: Mapping[str, Any], count: int, compute: Callable[[range], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """The samples 0 … `count` - 1 by name, each [count, …], fp16.

    Args:
        name: prefix of the folder's name.
        depends: everything except the number on which the values of a sample depend.
        compute: numbers of samples → tensors with a row each; called for missing shards.
    """
    folder = home() / "cache" / f"{name}-{key_of(depends)}"
    shards: list[dict[str, Tensor]] = []
    for start in tracked(range(0, count, SHARD), f"encoding {name}, shards of {SHARD}"):
        numbers = range(start, min(start + SHARD, count))
        path = folder / f"{start:07d}-{len(numbers)}.safetensors"
        if not path.is_file():
            with torch.inference_mode():
                values = compute(numbers)
            write_tensors(path, {key: value.to(torch.float16) for key, value in values.items()})
        shards.append(read_all(path, f"delete it: {name} is encoded again by the next run"))
    return {key: torch.cat([shard[key] for shard in shards]) for key in shards[0]}

"""Encoded samples, computed once and kept: what frozen networks make of drawn media.

A sample is drawn when it is computed: it has a number, and no content by which it could be found, as a medium of a
data set has (`train.features`, `train.encoded`). A bank is a folder of safetensors shards under `$CODI2_HOME/cache`.
Its name holds a key of everything that its numbers depend on, so that other weights start another bank; a bank that was
stopped continues at the next shard.
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
        name: begins the folder's name.
        depends: what the numbers depend on beside their place.
        compute: places of samples → tensors with a row each; called for what is not there yet.
    """
    folder = home() / "cache" / f"{name}-{key_of(depends)}"
    shards: list[dict[str, Tensor]] = []
    for start in tracked(range(0, count, SHARD), f"encoding {name}, shards of {SHARD}"):
        places = range(start, min(start + SHARD, count))
        path = folder / f"{start:07d}-{len(places)}.safetensors"
        if not path.is_file():
            with torch.inference_mode():
                values = compute(places)
            write_tensors(path, {key: value.to(torch.float16) for key, value in values.items()})
        shards.append(read_all(path, f"delete it: {name} is encoded again by the next run"))
    return {key: torch.cat([shard[key] for shard in shards]) for key in shards[0]}

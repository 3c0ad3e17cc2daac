"""Keeps the matrices and convolutions of exported parts in bytes, as the package ships some of its own.

python examples/in_bytes.py FOLDER…
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import save

from codi2.hub import write_atomic
from codi2.tensors import in_half, read_tensors
from codi2.weight_files import wide

for folder in map(Path, sys.argv[1:]):
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors, before = read_tensors(path), path.stat().st_size
    write_atomic(path, save(in_half(tensors, wide(tensors))))
    print(f"{folder}: {before} bytes, now {path.stat().st_size}")

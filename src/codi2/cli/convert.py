"""`codi2 convert`: ImageBind's published pickle → safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[Path, typer.Argument(help="The published file, e.g. imagebind_huge.pth.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.", metavar="FILE")],
    half: Annotated[bool, typer.Option("--half", help="Store in half precision.")] = False,
) -> None:
    """Check ImageBind's published .pth file tensor by tensor and write it as safetensors, without pickle."""
    import torch
    from safetensors.torch import save_file

    from codi2.encode.imagebind.network import ImageBind
    from codi2.errors import OutputError
    from codi2.hub import atomic_path
    from codi2.tensors import load_exactly, read_tensors

    if out.suffix != ".safetensors":
        raise OutputError(f"--out is {out}; give a name that ends in .safetensors")
    tensors = read_tensors(source)
    with torch.device("meta"):
        module = ImageBind()
    load_exactly(module, tensors, f"the file {source} for ImageBind")
    converted = {
        name: (value.half() if half and value.is_floating_point() else value).contiguous()
        for name, value in tensors.items()
    }
    with atomic_path(out) as aside:
        save_file(converted, aside, metadata={"format": "pt", "source": source.name})
    typer.echo(f"{out}: {len(converted)} tensors, {sum(v.nbytes for v in converted.values()) / 1e9:.1f} GB")

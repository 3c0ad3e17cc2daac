"""Writes a whole model as a checkpoint folder, or to the hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from codi2.checkpoint.language import save_language
from codi2.folders import filled_folder
from codi2.hub import push_folder, write_atomic
from codi2.tensors import loaded

if TYPE_CHECKING:
    from codi2.model import CoDi2


def save(model: CoDi2, folder: Path) -> None:
    """See `CoDi2.save_pretrained`. Raises OutputError: the disk is full; an earlier model in `folder` is unchanged."""
    with filled_folder(folder, "config.json") as aside:
        _write(model, aside)


def _write(model: CoDi2, folder: Path) -> None:
    from codi2.diffuse.load import save_decoder
    from codi2.weight_files import export_module

    save_language(model.mllm, folder)
    _write_encoder(model, folder / "encoder")
    for modality, decoder in model.decoders.items():
        save_decoder(decoder, folder / modality)
    for name, part in (("prior", model.prior), ("joint", model.joint)):
        if part is not None:
            export_module(loaded(part), folder / name)
    write_atomic(folder / "config.json", model.config.with_trained(*model.config.untrained).to_json().encode())


def _write_encoder(model: CoDi2, folder: Path) -> None:
    """The trained parts of the encoder; encoders of other kinds have none."""
    if model.config.encoder.kind == "tiny":
        from codi2.encode.tiny import TinyEncoder, save_tiny

        assert isinstance(model.encoder, TinyEncoder)
        save_tiny(model.encoder, folder)


def push(model: CoDi2, repo: str, private: bool, message: str) -> str:
    """See `CoDi2.push_to_hub`."""
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder))
        return push_folder(Path(folder), repo, private, message)

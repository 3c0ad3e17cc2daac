"""Models whose parts are loaded when they are first used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from codi2 import CoDi2
from codi2.errors import WeightsError
from codi2.tensors import OnDemand, undrawn_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model of the size of `debug`."""
    path = tmp_path_factory.mktemp("model") / "model"
    CoDi2.from_pretrained("debug").save_pretrained(path)
    return path


def test_a_prior_is_loaded_with_the_first_medium(folder: Path, tmp_path: Path):
    whole, partly = CoDi2.from_pretrained(folder), CoDi2.from_pretrained(folder, on_demand=True)
    assert isinstance(partly.prior, OnDemand)
    assert partly.generate("Hello", want="text", max_new_tokens=2).text and not partly.prior.loaded
    pictures = [model.generate("Draw", want="image", max_new_tokens=1).images[0].pixels for model in (whole, partly)]
    assert np.array_equal(*pictures) and list(partly.prior.loaded) == ["prior"]
    CoDi2.from_pretrained(folder, on_demand=True).save_pretrained(tmp_path / "again")
    kept, again = (path / "prior" / "diffusion_pytorch_model.safetensors" for path in (folder, tmp_path / "again"))
    assert kept.read_bytes() == again.read_bytes()


def test_a_reply_is_the_same_and_only_what_it_needs_is_loaded(folder: Path):
    whole, partly = CoDi2.from_pretrained(folder), CoDi2.from_pretrained(folder, on_demand=True)
    assert not partly.decoders.loaded  # type: ignore[attr-defined]
    text = [model.generate("Hello", want="text", max_new_tokens=4).text for model in (whole, partly)]
    assert text[0] == text[1] and not partly.decoders.loaded  # type: ignore[attr-defined]
    pictures = [model.generate("Draw", want="image", max_new_tokens=1).images[0].pixels for model in (whole, partly)]
    assert np.array_equal(pictures[0], pictures[1])
    assert list(partly.decoders.loaded) == ["image"]  # type: ignore[attr-defined]
    both = [model.generate("Draw", want=("image", "audio"), max_new_tokens=1) for model in (whole, partly)]
    assert np.array_equal(both[0].images[0].pixels, both[1].images[0].pixels)
    assert np.array_equal(both[0].sounds[0].samples, both[1].sounds[0].samples)


def test_it_can_be_saved_as_a_whole(folder: Path, tmp_path: Path):
    CoDi2.from_pretrained(folder, on_demand=True).save_pretrained(tmp_path / "again")
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()} == files


def test_damage_is_one_sentence_when_the_part_is_needed(folder: Path, tmp_path: Path):
    model = CoDi2.from_pretrained(folder, on_demand=True)
    path = folder / "audio" / "unet" / "config.json"
    content = path.read_bytes()
    path.unlink()
    try:
        model.generate("Draw", want="image", max_new_tokens=1)
        with pytest.raises(WeightsError, match="there are no weights"):
            model.generate("Ring", want="audio", max_new_tokens=1)
    finally:
        path.write_bytes(content)


def test_text_needs_no_diffusers(folder: Path):
    code = (
        "import sys; from codi2 import CoDi2; m = CoDi2.from_pretrained(sys.argv[1], on_demand=True);"
        "m.generate('Hello', want='text', max_new_tokens=1); print('diffusers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_parts_are_loaded_once_and_count_with_the_model():
    loaded: list[str] = []

    def load(name: str) -> nn.Module:
        loaded.append(name)
        return nn.Linear(2, 2)

    parts = OnDemand(["a", "b"], load)
    assert list(parts) == ["a", "b"] and len(parts) == 2 and "a" in parts and "c" not in parts and not loaded
    assert parts["a"] is parts["a"] and loaded == ["a"] and list(parts.loaded) == ["a"]
    with pytest.raises(KeyError):
        parts["c"]


def test_weights_are_drawn_outside_of_the_block_and_not_inside():
    with undrawn_weights():
        layer = nn.Linear(4, 4)
        layer.weight.data.fill_(7.0)
        layer.reset_parameters()
        assert (layer.weight == 7).all()
    layer.reset_parameters()
    assert (layer.weight != 7).all() and torch.isfinite(layer.weight).all()

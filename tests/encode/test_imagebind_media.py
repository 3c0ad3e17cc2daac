"""Parity with ImageBind's published data code.

`golden/imagebind_media.json` holds a few numbers spread over what that code (facebookresearch/ImageBind, `data.py`,
with torchvision 0.29, torchaudio 2.11 and the pytorchvideo commit that it pins) makes of media computed by the
functions here, and the ids that its tokenizer gives with a vocabulary of twenty merges.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch import Tensor

from codi2.encode.imagebind.media import TextReader, read_clip, read_picture, read_sound
from codi2.errors import MediaError, WeightsError
from codi2.prompt.parts import Audio, Video

GOLDEN = json.loads((Path(__file__).parent / "golden" / "imagebind_media.json").read_text())


def noise(count: int, phase: float) -> Tensor:
    x = torch.sin(torch.arange(count, dtype=torch.float64) * 12.9898 + phase) * 43758.5453
    return (x - x.floor()) * 2 - 1


def picture(height: int, width: int, phase: float) -> PILImage.Image:
    """Smooth colours with some grain."""
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    base = torch.stack([torch.sin(x / 17 + phase), torch.sin(y / 11 - phase), torch.sin((x + y) / 23)], -1)
    grain = noise(height * width * 3, phase).view(height, width, 3)
    return PILImage.fromarray(((base * 0.7 + 0.3 * grain) * 127.5 + 127.5).clamp(0, 255).round().byte().numpy())


def sound(seconds: float) -> Audio:
    """A gliding tone in noise."""
    t = torch.arange(int(seconds * 16000)).double() / 16000
    wave = 0.4 * torch.sin(2 * torch.pi * 440 * t * (1 + 0.1 * t)) + 0.1 * noise(len(t), 0.2)
    return Audio(wave.float().numpy(), 16000)


def assert_like(values: Tensor, name: str) -> None:
    """Mean, standard deviation and forty values are within 1e-4 of the golden ones."""
    flat = values.double().flatten()
    places = torch.linspace(0, len(flat) - 1, 40).long()
    sampled = torch.cat([flat.mean()[None], flat.std()[None], flat[places]])
    truth = torch.tensor(GOLDEN[name], dtype=torch.float64)
    assert float((sampled - truth).abs().max() / truth.abs().max()) < 1e-4


@pytest.mark.parametrize(("height", "width"), [(300, 411), (233, 180)])
def test_pictures_are_read_as_the_published_code_does(height: int, width: int) -> None:
    x = read_picture(picture(height, width, 0.5))
    assert x.shape == (3, 224, 224)
    assert_like(x, f"image {height}x{width}")


@pytest.mark.parametrize("seconds", [1.3, 2.0, 7.77])
def test_sounds_are_read_as_the_published_code_does(seconds: float) -> None:
    x = read_sound(sound(seconds))
    assert x.shape == (3, 1, 128, 204)
    assert_like(x, f"audio {seconds}")


@pytest.mark.parametrize(("frames", "fps", "height", "width"), [(50, 10, 120, 200), (9, 8, 260, 230)])
def test_clips_are_read_as_the_published_code_does(frames: int, fps: int, height: int, width: int) -> None:
    x = read_clip(Video(tuple(picture(height, width, 0.1 * i) for i in range(frames)), fps))
    assert x.shape == (15, 3, 2, 224, 224)
    assert_like(x, f"video {frames} {fps} {height}x{width}")


def test_a_single_frame_and_a_sound_at_another_rate_are_read() -> None:
    assert torch.isfinite(read_clip(Video((picture(30, 50, 0.0),), 8))).all()
    slow = Audio(np.interp(np.arange(0, 32000, 2), np.arange(32000), sound(2.0).samples).astype(np.float32), 8000)
    assert read_sound(slow).shape == (3, 1, 128, 204)
    with pytest.raises(MediaError, match="10 ms"):
        read_sound(sound(0.01))


def test_words_are_tokenized_as_the_published_code_does(tmp_path: Path) -> None:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    text = GOLDEN["text"]
    merges = text["merges"].split("\n")[1:]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair.split()) for pair in merges)]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    assert len(vocabulary) == text["vocab"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    assert TextReader(tmp_path)(text["texts"]).tolist() == text["ids"]
    with pytest.raises(WeightsError, match="nowhere"):
        TextReader(tmp_path / "nowhere")

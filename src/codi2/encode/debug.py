"""An encoder of random weights: no downloads, a few thousand parameters, for the `debug` preset and the tests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor, nn

from codi2.encode.contract import Encoder
from codi2.errors import PromptError
from codi2.prompt.parts import Audio, Image, Part, Phrase, Video
from codi2.tensors import device_of

GRID = 4  # a picture is read as GRID x GRID RGB cells
STATISTICS = GRID * GRID * 3


class DebugEncoder(Encoder):
    """A fixed random linear map of a few statistics of the medium; equal media give equal features.

    `num_features` maps a modality to its T. Features have a mean square of 1, as those of trained encoders.
    """

    def __init__(self, dim: int, num_features: Mapping[str, int], seed: int = 0) -> None:
        super().__init__()
        self.dim = dim
        self.modalities = tuple(num_features)
        self.num_features = num_features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.maps = nn.ModuleDict({name: nn.Linear(STATISTICS, t * dim) for name, t in num_features.items()})
        self.requires_grad_(False)

    def forward(self, parts: Sequence[Part], count: int | None = None) -> Tensor:
        """Raises PromptError for a modality that `num_features` does not name."""
        name = parts[0].modality
        if name not in self.num_features:
            raise PromptError(f"the debug encoder reads {', '.join(self.modalities)}, not {name}")
        numbers = torch.stack([_statistics(part) for part in parts]).to(device_of(self))
        values = self.maps[name](numbers).view(len(parts), self.num_features[name], self.dim)
        return nn.functional.layer_norm(values, (self.dim,))[:, :count]


def _statistics(part: Part) -> Tensor:
    """Statistics [STATISTICS] of the part, of about unit size."""
    match part:
        case Image(pixels=pixels):
            return _cells(pixels)
        case Video(frames=frames):
            return torch.stack([_cells(frame) for frame in frames]).mean(0)
        case Audio(samples=samples):
            # loudness of equal pieces of time; a sound may be as short as one sample
            pieces = np.array_split(samples, STATISTICS)
            loudness = [float(np.sqrt(np.mean(piece**2))) if len(piece) else 0.0 for piece in pieces]
            return torch.tensor(loudness) * 4
        case Phrase(text=text):
            digest = np.frombuffer(hashlib.shake_128(text.encode()).digest(STATISTICS), dtype=np.uint8)
            return torch.from_numpy(digest / 127.5 - 1).float()
        case _:
            raise PromptError(f"{part!r} is plain text, which has no features; write [text0] to encode words")


def _cells(pixels: PILImage.Image) -> Tensor:
    return torch.from_numpy(np.asarray(pixels.resize((GRID, GRID)), dtype=np.float32).ravel() / 127.5 - 1)

"""aiSFX as the judge of sounds: its embedding for Fréchet distances, its classifier of 69 categories for divergences.

It is also the frozen trunk of `tiny`'s encoder of sounds, so it may favour sounds that this model generates; the
log-spectral distance beside it uses no network. Figures are named aiSFX-FD and aiSFX-KL, never as those of PANNs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from codi2.encode.aisfx import AiSFX, checkpoint_state, embedding, load_aisfx
from codi2.hub import wheel_file
from codi2.media import to_clip
from codi2.prompt.parts import Audio

UCS_HEAD, CLASSES = 2, 69  # `ucsMixed` of the package's nine classifiers: the Universal Category System
BATCH = 16


class SoundJudge:
    """Sounds → embeddings [n, 512] and logits [n, 69]."""

    def __init__(self, trunk: AiSFX, classifier: nn.Module, device: torch.device | str = "cpu") -> None:
        self.trunk, self.classifier, self.device = trunk.to(device), classifier.eval().to(device), device

    @torch.no_grad()
    def __call__(self, sounds: Sequence[Audio]) -> tuple[np.ndarray, np.ndarray]:
        """Each sound is cut or padded to 2.56 s at 16 kHz, as the model's are."""
        waves = torch.from_numpy(np.stack([to_clip(sound) for sound in sounds]))
        embeddings = torch.cat([embedding(self.trunk(batch.to(self.device))) for batch in waves.split(BATCH)])
        return embeddings.cpu().numpy(), self.classifier(embeddings).cpu().numpy()


def load_sound_judge(device: torch.device | str = "cpu") -> SoundJudge:
    """The judge with its pinned weights, on a device. Raises WeightsError when they cannot be had."""
    layers = nn.Sequential(nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, CLASSES))
    layers.load_state_dict(checkpoint_state(wheel_file("aisfx"), f"fc.{UCS_HEAD}."))
    return SoundJudge(load_aisfx(), layers, device)

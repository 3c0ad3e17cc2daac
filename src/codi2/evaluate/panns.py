"""PANNs' Cnn14 at 16 kHz (Kong et al. 2020, arXiv:1912.10211): what published FD and KL of sounds are measured by.

Names are those of the published file `Cnn14_16k_mAP=0.438.pth`; sounds are prepared as audioldm_eval does.

Letters: B sounds, N samples, F frames, M mel bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codi2.media import to_clip
from codi2.prompt.parts import Audio

RATE = 16_000  # Hz
SHORTEST = 2 * RATE  # samples; what is shorter is padded
WINDOW, HOP, BINS, CLASSES = 512, 160, 64, 527
CHANNELS = (64, 128, 256, 512, 1024, 2048)
BATCH = 8


class Block(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class LogMel(nn.Module):
    """Waveforms [B, N] → decibels of mel bins [B, 1, F, M]. The filters come with the weights."""

    melW: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("melW", torch.zeros(WINDOW // 2 + 1, BINS))

    def forward(self, waves: Tensor) -> Tensor:
        window = torch.hann_window(WINDOW, device=waves.device)
        spectrum = torch.stft(waves, WINDOW, HOP, window=window, pad_mode="reflect", return_complex=True)
        mel = spectrum.abs().square().transpose(1, 2) @ self.melW
        return 10 * mel.clamp(min=1e-10).log10()[:, None]


class Cnn14(nn.Module):
    """Waveforms [B, N] → embeddings [B, 2048] and logits [B, 527]."""

    def __init__(self) -> None:
        super().__init__()
        self.logmel_extractor = LogMel()
        self.bn0 = nn.BatchNorm2d(BINS)
        for i, (channels, out) in enumerate(zip((1, *CHANNELS), CHANNELS, strict=False), 1):
            self.add_module(f"conv_block{i}", Block(channels, out))
        self.fc1, self.fc_audioset = nn.Linear(2048, 2048), nn.Linear(2048, CLASSES)

    def forward(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        x = self.bn0(self.logmel_extractor(waves).transpose(1, 3)).transpose(1, 3)
        for i in range(1, len(CHANNELS) + 1):
            x = self.get_submodule(f"conv_block{i}")(x)
            x = F.avg_pool2d(x, 2) if i < len(CHANNELS) else x
        x = x.mean(3)
        embedding = F.relu(self.fc1(x.amax(2) + x.mean(2)))
        return embedding, self.fc_audioset(embedding)

    @torch.inference_mode()
    def sounds(self, sounds: Sequence[Audio]) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings [n, 2048] and logits [n, 527] of sounds at any rate: one channel, 16 kHz, without their mean."""
        lengths, device = np.array([_length(sound) for sound in sounds]), next(self.parameters()).device
        embeddings, logits = np.empty((len(sounds), 2048), np.float32), np.empty((len(sounds), CLASSES), np.float32)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            for batch in np.array_split(rows, -(-len(rows) // BATCH)):
                waves = torch.from_numpy(np.stack([to_clip(sounds[i], RATE, int(length)) for i in batch]))
                outputs = self((waves - waves.mean(1, keepdim=True)).to(device))
                embeddings[batch], logits[batch] = (values.cpu().numpy() for values in outputs)
        return embeddings, logits


def _length(sound: Audio) -> int:
    return max(SHORTEST, round(len(sound.samples) * RATE / sound.rate))


def load_panns(path: Path) -> Cnn14:
    """With the published weights. Raises WeightsError: there are none, or they are of another network."""
    from codi2.tensors import load_published

    return load_published(Cnn14(), path, "PANNs Cnn14 at 16 kHz", skip=("spectrogram_extractor.",))

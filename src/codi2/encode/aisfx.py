"""aiSFX: the frozen sound trunk of `tiny`, a CNN trained on libraries of sound effects.

Ma et al., "Representation Learning for the Automatic Indexing of Sound Effects Libraries", ISMIR 2022; weights of the
package `aisfx` (CC BY 4.0). Its nine classifiers are not loaded here; `evaluate.sound_judge` uses one of them.

Letters: B batch, N samples, T frames, M = 96 mel bins, T' = T // 8, C = 512 channels.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from codi2.errors import WeightsError
from codi2.hub import wheel_file

RATE = 44_100  # of the sounds that the trunk was trained on; its frames are 2048 samples, 1024 apart
TOP = 9.457798957824707  # the largest log-mel of its training set


class LogMel(nn.Module):
    """The trunk's mel spectrogram, computed at the rate of the clips instead of at 44.1 kHz.

    Window and hop have the original's durations, so the bins have the same spacing in Hz and the same filters apply;
    filters above the clip's Nyquist frequency are zero. Power grows with the square of the window's length in samples,
    which a constant gain corrects.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, rate: int = 16_000, bins: int = 96):
        super().__init__()
        self.size, self.hop = round(2048 * rate / RATE), round(1024 * rate / RATE)
        filters = mel_filter_bank(1025, bins, 0.0, RATE / 2, RATE, mel_scale="htk").T  # [M, 1025]
        filters = filters / filters.sum(1, keepdims=True).clip(1e-12)  # librosa's norm=1.0
        filters = filters[:, : self.size // 2 + 1] * (2048 / self.size) ** 2
        self.register_buffer("filters", torch.from_numpy(filters.copy()).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(self.size), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """Waveforms [B, N], of any gain, to log-mel [B, 1, T, M] in about [0, 1]; each is first scaled to peak 1."""
        wave = wave / wave.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
        spectrum = torch.stft(wave, self.size, self.hop, window=self.window, pad_mode="constant", return_complex=True)
        mel = self.filters @ spectrum.abs().square()
        return (1 + 10_000 * mel).log10().div(TOP).transpose(1, 2).unsqueeze(1)


class ConvBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and ReLU, then max pooling by `pool` in both axes."""

    def __init__(self, channels_in: int, channels_out: int, pool: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return nnf.max_pool2d(x, self.pool)


class AiSFX(nn.Module):
    """The trunk, frozen and in evaluation mode: waveforms in, maps over time out.

    Args:
        rate: of the waveforms, Hz.
    """

    channels = 512

    def __init__(self, rate: int = 16_000):
        super().__init__()
        self.log_mel = LogMel(rate)
        self.conv_block1 = ConvBlock(1, 64, pool=2)
        self.conv_block2 = ConvBlock(64, 128, pool=2)
        self.conv_block3 = ConvBlock(128, 256, pool=2)
        self.conv_block4 = ConvBlock(256, 512, pool=1)
        # channels_last for weights and maps is a third faster on CPUs
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def train(self, mode: bool = True) -> AiSFX:
        """Stays in evaluation mode: batch statistics of a few clips would differ from those of its training."""
        return super().train(False)

    def forward(self, wave: Tensor) -> Tensor:
        """Waveforms [B, N] to maps [B, C, T'] >= 0; one step of T' is 0.19 s. No gradient reaches the weights."""
        return self.stages(wave)[-1].mean(dim=3)

    def stages(self, wave: Tensor) -> list[Tensor]:
        """Waveforms [B, N] to the maps [B, c, t, m] after each of the four blocks."""
        maps = [self.log_mel(wave).contiguous(memory_format=torch.channels_last)]
        for block in (self.conv_block1, self.conv_block2, self.conv_block3, self.conv_block4):
            maps.append(block(maps[-1]))
        return maps[1:]


def load_aisfx(weights: Path | None = None, rate: int = 16_000) -> AiSFX:
    """The trunk with the weights of the package's `checkpoint.pth`; `None` fetches it.

    Raises:
        WeightsError: the file is missing, is not this checkpoint, or its tensors do not fit.
    """
    trunk = AiSFX(rate)
    weights = weights or wheel_file("aisfx")
    try:
        trunk.load_state_dict(checkpoint_state(weights, "embedding_net."), strict=True)
    except (OSError, RuntimeError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{weights} is not the checkpoint of aisfx 0.1.2; delete it and run again") from error
    return trunk


def embedding(maps: Tensor) -> Tensor:
    """Maps [B, C, T'] to the package's own embedding [B, C]: the maximum over time."""
    return maps.amax(dim=2)


def checkpoint_state(weights: Path, prefix: str) -> dict[str, Tensor]:
    """Tensors of the package's `checkpoint.pth` whose names begin with `prefix`, without it."""
    # the file also holds the classifiers' sizes as numpy scalars, which weights_only loads only if they are named
    scalar: Any = (np.int64(0).__reduce__()[0], "numpy.core.multiarray.scalar")
    with torch.serialization.safe_globals([scalar, np.dtype, np.dtypes.Int64DType]):
        state, _ = torch.load(weights, map_location="cpu", weights_only=True)
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

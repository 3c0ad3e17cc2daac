"""Log-mel to sound: a small ConvNeXt over time whose head predicts magnitude and phase for one inverse STFT.

The architecture is that of Vocos (Siuzdak 2023, arXiv:2306.00814), trained without a discriminator: the loss compares
spectra at five resolutions (Yamamoto et al. 2020, arXiv:1910.11480). Such a loss ignores phase, so the network chooses
consistent phases.

Letters: B batch, T frames, F linear bins, M mel bins, C channels, N = T * hop samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from codi2.media.mel import MelSpectrogram
from codi2.tensors import full_precision

WINDOWS = (128, 256, 512, 1024, 2048)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a per-frame MLP; residual (Liu et al. 2022). [B, C, T] to the same."""

    def __init__(self, channels: int, expansion: int, kernel: int):
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, channels * expansion)
        self.narrow = nn.Linear(channels * expansion, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm(self.depthwise(x).transpose(1, 2))
        inner = self.narrow(nnf.gelu(self.widen(inner))) * self.scale
        return x + inner.transpose(1, 2)


class ISTFTVocoder(ModelMixin, ConfigMixin):
    """Normalised log-mel [B, 1, T, M] to waveform [B, N]; `save_pretrained` and `from_pretrained` are diffusers' own.

    The magnitude is the mel spectrogram spread over the linear bins times the exponential of the network's output, so
    an untrained network already gives the right spectral envelope.
    """

    envelope: Tensor

    @register_to_config
    def __init__(
        self,
        rate: int = 16_000,
        n_fft: int = 1024,
        hop: int = 256,
        bins: int = 64,
        max_hz: float = 8000.0,
        channels: int = 256,
        blocks: int = 6,
        expansion: int = 3,
        kernel: int = 7,
    ):
        super().__init__()
        self.mel = MelSpectrogram(rate, n_fft, hop, bins, max_hz)
        self.input_projection = nn.Conv1d(bins, channels, kernel, padding=kernel // 2)
        self.backbone = nn.ModuleList(ConvNeXtBlock(channels, expansion, kernel) for _ in range(blocks))
        self.norm = nn.LayerNorm(channels)
        self.output_projection = nn.Linear(channels, 3 * (n_fft // 2 + 1))
        spread = self.mel.filters.T  # [F, M]
        # Bins that no filter touches (0 Hz and the top) take the outermost filter's value.
        spread = torch.where(spread.sum(1, keepdim=True) > 0, spread, _nearest(spread))
        self.register_buffer("envelope", spread / spread.sum(1, keepdim=True), persistent=False)

    def spectrum(self, log_mel: Tensor) -> Tensor:
        """Normalised log-mel [B, 1, T, M] to the predicted complex spectrum [B, F, T]."""
        bands = log_mel.squeeze(1).transpose(1, 2)  # [B, M, T]
        x = self.input_projection(bands)
        for block in self.backbone:
            x = block(x)
        # spectra are in single precision, whatever the network's
        added, real, imaginary = (
            self.output_projection(self.norm(x.transpose(1, 2))).float().transpose(1, 2).chunk(3, dim=1)
        )
        height = self.mel.denormalize(bands.float()) - self.mel.filters.sum(1).log()[:, None]
        with full_precision(height):
            spread = self.envelope.float() @ height
        # The limit keeps the exponential of an untrained or diverged network finite: e^8 is far above full scale.
        magnitude = (spread + added).clamp(max=8.0).exp()
        length = (real.square() + imaginary.square() + 1e-8).sqrt()
        return torch.complex(magnitude * real / length, magnitude * imaginary / length)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Normalised log-mel [B, 1, T, M] to waveforms [B, N], differentiable and not bounded."""
        return self.mel.istft(self.spectrum(log_mel))

    @torch.no_grad()
    def decode(self, log_mel: Tensor, refine: int = 4) -> Tensor:
        """As `forward`, then `refine` corrections towards the given mel spectrogram; waveforms [B, N] within [-1, 1].

        Each correction measures the mel spectrogram of the sound and multiplies its spectrum by the missing factor. It
        keeps the network's phases and fine structure. Griffin-Lim steps gave no improvement, since the network's
        magnitudes are already consistent with its phases.
        """
        target = self.mel.denormalize(log_mel)
        wave = self(log_mel)
        for _ in range(refine):
            missing = (target - self.mel.denormalize(self.mel(wave))).squeeze(1).transpose(1, 2)  # [B, M, T]
            wave = self.mel.istft(self.mel.stft(wave) * (self.envelope @ missing).clamp(-3, 3).exp())
        return wave / wave.abs().amax(dim=1, keepdim=True).clamp(min=1.0)


def _nearest(spread: Tensor) -> Tensor:
    """Per row of [F, M], a one-hot of the filter whose peak is nearest in frequency."""
    peaks = spread.argmax(0)  # [M]
    nearest = (torch.arange(len(spread))[:, None] - peaks[None]).abs().argmin(1)
    return nnf.one_hot(nearest, spread.shape[1]).to(spread)


def spectral_loss(wave: Tensor, target: Tensor, windows: Sequence[int] = WINDOWS) -> tuple[Tensor, Tensor]:
    """Mean over the windows of (L1 of log magnitudes, spectral convergence); waves [B, N], scalars out.

    Convergence is ||S - S'|| / ||S|| over the whole batch, so that a silent clip does not divide by zero.
    """
    log_terms, convergence_terms = [], []
    for size in windows:
        window = torch.hann_window(size, device=wave.device)
        predicted, truth = (
            torch.stft(x, size, size // 4, window=window, return_complex=True).abs() / window.sum()
            for x in (wave, target)
        )
        log_terms.append(nnf.l1_loss(predicted.clamp(min=1e-6).log(), truth.clamp(min=1e-6).log()))
        convergence_terms.append((predicted - truth).norm() / truth.norm().clamp(min=1e-6))
    return torch.stack(log_terms).mean(), torch.stack(convergence_terms).mean()


def training_loss(vocoder: ISTFTVocoder, mel: MelSpectrogram, clips: Tensor) -> dict[str, Tensor]:
    """The loss of one step on clips [B, N] in [-1, 1] and its terms, scalars."""
    log_mel = mel(clips)
    wave = vocoder(log_mel)
    log_magnitude, convergence = spectral_loss(wave, clips)
    mel_term = nnf.l1_loss(mel.denormalize(mel(wave)), mel.denormalize(log_mel))
    loss = log_magnitude + convergence + mel_term
    return {"log_magnitude": log_magnitude, "convergence": convergence, "mel": mel_term, "loss": loss}

"""Waveforms → log-mel spectrograms, and back without a network (Griffin-Lim), as a baseline.

Letters: B batch, N samples (a multiple of the hop), T = N / hop frames, F = n_fft / 2 + 1 linear bins, M mel bins.
The picture is [B, 1, T, M], time before frequency: the axis order of AudioLDM2's autoencoder and UNet.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from codi2.tensors import full_precision

FLOOR = 1e-5
CEILING = 10.0
"""Mel magnitudes below the floor count as silence. Full-scale sines reach about 5, so the ceiling is seldom passed."""


class MelSpectrogram(nn.Module):
    """Natural log of slaney-scaled mel magnitudes, mapped linearly from [ln FLOOR, ln CEILING] to [-1, 1].

    Frames are placed as in HiFi-GAN: (n_fft - hop) / 2 samples of reflection on either side, so that N samples give
    exactly N / hop frames and the inverse gives exactly N samples.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, rate: int = 16_000, n_fft: int = 1024, hop: int = 256, bins: int = 64, max_hz: float = 8000.0):
        super().__init__()
        self.rate, self.n_fft, self.hop, self.bins = rate, n_fft, hop, bins
        self.pad = (n_fft - hop) // 2
        filters = mel_filter_bank(n_fft // 2 + 1, bins, 0.0, max_hz, rate, norm="slaney", mel_scale="slaney")
        self._filters = torch.from_numpy(filters.T.copy()).float()
        self.register_buffer("filters", self._filters, persistent=False)  # [M, F]
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        floor, ceiling = torch.tensor([FLOOR, CEILING]).log().tolist()
        self.centre, self.half_range = (ceiling + floor) / 2, (ceiling - floor) / 2

    def _apply(self, fn: Any, recurse: bool = True) -> MelSpectrogram:
        """Moves to a device, but stays in single precision: torch has no spectra in half precision."""
        super()._apply(fn, recurse)
        self.filters = self._filters.to(self.filters.device)
        self.window = torch.hann_window(self.n_fft, device=self.window.device)
        return self

    def forward(self, wave: Tensor) -> Tensor:
        """Waveforms [B, N] in [-1, 1] to normalised log-mel [B, 1, T, M], about [-1, 1]; -1 is silence."""
        with full_precision(wave):
            mel = self.filters @ self.stft(wave).abs()
        return self.normalize(mel.clamp(min=FLOOR).log().transpose(1, 2).unsqueeze(1))

    def normalize(self, log_mel: Tensor) -> Tensor:
        return (log_mel - self.centre) / self.half_range

    def denormalize(self, log_mel: Tensor) -> Tensor:
        """The exact inverse of `normalize`: back to natural log magnitudes."""
        return log_mel * self.half_range + self.centre

    def stft(self, wave: Tensor) -> Tensor:
        """Waveforms [B, N] to complex spectra [B, F, T]."""
        padded = nnf.pad(wave.unsqueeze(1), (self.pad, self.pad), mode="reflect").squeeze(1)
        return torch.stft(padded, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)

    def istft(self, spectrum: Tensor) -> Tensor:
        """Complex spectra [B, F, T] to the waveforms [B, T * hop] whose spectra are nearest (least squares).

        It adds the frames itself: `torch.istft` without centring refuses the zero at the window's edge, although it is
        in the padding that is cut off here.
        """
        frames = torch.fft.irfft(spectrum, self.n_fft, dim=1) * self.window[:, None]
        envelope = self.window.square()[:, None].expand(-1, spectrum.shape[-1]).unsqueeze(0)
        return self._overlap_add(frames) / self._overlap_add(envelope)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        length = (frames.shape[-1] - 1) * self.hop + self.n_fft
        added = nnf.fold(frames, (1, length), (1, self.n_fft), stride=(1, self.hop))
        return added[:, 0, 0, self.pad : length - self.pad]

    @torch.no_grad()
    def magnitude(self, log_mel: Tensor, iterations: int = 50) -> Tensor:
        """Normalised log-mel [B, 1, T, M] to non-negative linear magnitudes [B, F, T].

        Non-negative least squares by multiplicative updates (Lee and Seung 2001), started from the transpose.
        """
        mel = self.denormalize(log_mel).exp().squeeze(1).transpose(1, 2)
        backprojected = self.filters.T @ mel
        estimate, gram = backprojected.clone(), self.filters.T @ self.filters
        for _ in range(iterations):
            estimate *= backprojected / (gram @ estimate).clamp(min=1e-12)
        return estimate


@torch.no_grad()
def griffin_lim(
    mel: MelSpectrogram,
    magnitude: Tensor,
    start: Tensor | None = None,
    iterations: int = 60,
    momentum: float = 0.99,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Magnitudes [B, F, T] to waveforms [B, T * hop]: fast Griffin-Lim (Perraudin, Balazs and Søndergaard 2013).

    `start` is a complex spectrum whose phases begin the search; without it they are random.
    """
    if start is None:
        phase = torch.rand(magnitude.shape, generator=generator).to(magnitude.device) * (2 * torch.pi)
        start = torch.polar(torch.ones_like(magnitude), phase)
    guess, previous = start, torch.zeros_like(start)
    for _ in range(iterations):
        consistent = mel.stft(mel.istft(magnitude * torch.sgn(guess)))
        guess, previous = consistent + momentum * (consistent - previous), consistent
    return mel.istft(magnitude * torch.sgn(guess))

import numpy as np
import pytest
import torch
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

from codi2.media.mel import MelSpectrogram, griffin_lim


@pytest.fixture(scope="module")
def mel():
    return MelSpectrogram()


def tone(hz, seconds=2.56):
    return torch.sin(2 * torch.pi * hz * torch.arange(int(seconds * 16_000)) / 16_000)[None]


def test_a_clip_gives_160_frames_of_64_bins_and_silence_is_minus_one(mel):
    assert mel(torch.zeros(2, 40_960)).shape == (2, 1, 160, 64)
    torch.testing.assert_close(mel(torch.zeros(1, 40_960)), torch.full((1, 1, 160, 64), -1.0))
    loud = mel(torch.cat([tone(hz) for hz in (50, 440, 4000)]))
    assert 0.7 < loud.max() <= 1


def test_equals_the_formulas_in_numpy(mel):
    """Slaney: 200/3 Hz a mel up to 1 kHz, then 27 mels a factor of 6.4; triangles of unit area; scipy's STFT."""
    wave = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0)) * 0.1
    mels = np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 66)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    hz = np.linspace(0, 8000, 513)
    rise = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0, np.minimum(rise, fall)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    padded = np.pad(wave[0].numpy(), 384, mode="reflect")
    stft = ShortTimeFFT(hann(1024, sym=False), 256, 16_000)
    spectrum = np.abs(stft.stft(padded, p0=2, p1=18))  # frames that lie wholly within the padded wave
    expected = (np.log10(np.maximum(filters @ spectrum, 1e-5)) + 2) / 3
    np.testing.assert_allclose(mel(wave)[0, 0].T.numpy(), expected, atol=1e-4)


def test_normalisation_inverts_exactly(mel):
    log_mel = torch.linspace(-12, 3, 50)
    torch.testing.assert_close(mel.denormalize(mel.normalize(log_mel)), log_mel)
    torch.testing.assert_close(mel.normalize(torch.tensor([1e-5, 10.0]).log()), torch.tensor([-1.0, 1.0]))


def test_istft_inverts_stft(mel):
    wave = torch.randn(2, 40_960, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mel.istft(mel.stft(wave)), wave, atol=1e-5, rtol=0)


def test_magnitude_is_non_negative_and_has_the_given_mel(mel):
    wave = torch.randn(1, 8192, generator=torch.Generator().manual_seed(0)) * 0.1
    log_mel = mel(wave)
    magnitude = mel.magnitude(log_mel)
    assert (magnitude >= 0).all()
    again = (mel.filters @ magnitude).clamp(min=1e-5).log()
    assert (again - mel.denormalize(log_mel).squeeze(1).transpose(1, 2)).abs().mean() < 0.05


def test_griffin_lim_gives_back_the_pitch_and_loudness(mel):
    wave = 0.5 * tone(437.5)
    log_mel = mel(wave)
    out = griffin_lim(mel, mel.magnitude(log_mel), generator=torch.Generator().manual_seed(0))
    assert out.shape == wave.shape
    frequency = torch.fft.rfft(out[0]).abs().argmax().item() * 16_000 / 40_960
    assert abs(frequency - 437.5) < 25  # the mel bins here are 46 Hz wide
    wanted, got = (mel.denormalize(x).exp() for x in (log_mel, mel(out)))
    assert (got - wanted).abs().sum() < 0.2 * wanted.sum()


def test_griffin_lim_keeps_a_start_that_is_already_right(mel):
    wave = torch.randn(1, 8192, generator=torch.Generator().manual_seed(0)) * 0.1
    spectrum = mel.stft(wave)
    torch.testing.assert_close(griffin_lim(mel, spectrum.abs(), spectrum, iterations=3), wave, atol=1e-4, rtol=0)

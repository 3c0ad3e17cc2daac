"""The frozen sound trunk: its spectrogram, its shapes, and its weights."""

import numpy as np
import pytest
import soxr
import torch

from codi2 import hub
from codi2.encode.aisfx import AiSFX, LogMel, embedding, load_aisfx
from codi2.errors import WeightsError


@pytest.fixture(scope="module")
def weights():
    if not list((hub.home() / "downloads").glob("aisfx-*.whl")):
        pytest.skip("the aisfx package has not been fetched")
    return hub.wheel_file("aisfx")


def sounds() -> np.ndarray:
    """A bell, a siren, clicks and wind: [4, 40960] at 16 kHz, nothing above 6 kHz."""
    time = np.arange(40_960) / 16_000
    random = np.random.default_rng(0)
    bell = sum(np.sin(2 * np.pi * hz * time) * np.exp(-time * hz / 400) for hz in (523, 1409, 2201, 4012))
    siren = np.sin(2 * np.pi * (800 * time + 60 * np.sin(2 * np.pi * time)))
    clicks = np.zeros_like(time)
    clicks[::5000] = 1.0
    wind = np.convolve(random.normal(size=len(time)), np.hanning(40), "same") * (1 + np.sin(3 * time))
    return np.stack([wave / np.abs(wave).max() for wave in (bell, siren, clicks, wind)]).astype(np.float32)


def at_44_khz(waves: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([soxr.resample(wave, 16_000, 44_100) for wave in waves]))


def test_log_mel_at_44_khz_equals_its_definition():
    """96 HTK mel triangles up to 22,050 Hz, each of unit sum, on power spectra of 2048-sample Hann windows."""
    wave = at_44_khz(sounds()[:1])
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 22_050 / 700), 98) / 2595) - 1)
    hz = np.linspace(0, 22_050, 1025)
    rise = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0, np.minimum(rise, fall))
    filters /= filters.sum(1, keepdims=True)
    samples = np.pad(wave[0].numpy() / wave[0].abs().max().item(), 1024)
    frames = np.lib.stride_tricks.sliding_window_view(samples, 2048)[::1024] * np.hanning(2049)[:-1]
    expected = np.log10(1 + 10_000 * filters @ np.abs(np.fft.rfft(frames)).T ** 2).T / 9.457798957824707
    np.testing.assert_allclose(LogMel(44_100)(wave)[0, 0].numpy(), expected, atol=1e-5)


def test_log_mel_ignores_gain_and_accepts_silence():
    log_mel, wave = LogMel(), torch.from_numpy(sounds())
    torch.testing.assert_close(log_mel(wave * 0.01), log_mel(wave), atol=1e-4, rtol=0)
    assert not log_mel(torch.zeros(1, 40_960)).any()


def test_shapes():
    maps = AiSFX()(torch.from_numpy(sounds()))
    assert maps.shape == (4, 512, 13)
    assert embedding(maps).shape == (4, 512)


def test_the_trunk_stays_frozen_and_in_eval_mode():
    trunk = AiSFX().train()
    assert not trunk.training and not trunk.conv_block1.bn1.training
    assert not any(p.requires_grad for p in trunk.parameters())


def test_clips_at_16_khz_embed_as_if_resampled(weights):
    waves = sounds()
    with torch.no_grad():
        cheap = embedding(load_aisfx(weights)(torch.from_numpy(waves)))
        faithful = embedding(load_aisfx(weights, rate=44_100)(at_44_khz(waves)))
    similarity = torch.cosine_similarity(cheap[:, None], faithful[None], dim=2)
    assert (similarity.diag() > 0.98).all()
    assert (similarity.argmax(1) == torch.arange(4)).all()


def test_a_wrong_or_missing_checkpoint_is_named(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path / "text.pth", tmp_path / "other.pth"):
        if path.stem == "text":
            path.write_text("no weights")
        if path.stem == "other":
            torch.save(({"embedding_net.conv_block1.conv1.weight": torch.zeros(1)}, {}), path)
        with pytest.raises(WeightsError, match=path.name):
            load_aisfx(path)

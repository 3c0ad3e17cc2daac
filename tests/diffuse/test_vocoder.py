"""The vocoder: training, refinement of its output, and extreme inputs."""

import pytest
import torch

from codi2.diffuse.vocoder import ISTFTVocoder, spectral_loss, training_loss
from codi2.media.mel import MelSpectrogram


def small(**changes) -> ISTFTVocoder:
    torch.manual_seed(0)
    return ISTFTVocoder(**{"channels": 32, "blocks": 2, "expansion": 2} | changes).eval()


@pytest.fixture(scope="module")
def clips():
    """A chord that decays and a click in noise: 0.5 s each, [2, 8192]."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(8192) / 16_000
    chord = sum(torch.sin(2 * torch.pi * hz * time) for hz in (220, 330, 880)) / 4 * torch.exp(-4 * time)
    noise = 0.02 * torch.randn(8192, generator=generator)
    noise[4000:4020] += 0.8
    return torch.stack([chord, noise])


def test_an_untrained_vocoder_gives_the_length_and_the_loudness_of_a_clip():
    mel, vocoder = MelSpectrogram(), small()
    wave = torch.randn(2, 40_960, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.2], [0.002]])
    out = vocoder.decode(mel(wave))
    assert out.shape == (2, 40_960) and out.abs().max() <= 1
    assert (mel(out) - mel(wave)).abs().mean() < 0.1  # 0.1 is a factor of 2


def test_training_lowers_the_loss_and_every_parameter_learns(clips):
    mel, vocoder = MelSpectrogram(), small()
    optimizer = torch.optim.AdamW(vocoder.parameters(), lr=2e-3)
    losses = []
    for _ in range(30):
        terms = training_loss(vocoder, mel, clips)
        loss = terms["loss"]
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in vocoder.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert float(terms["loss"]) == pytest.approx(
        float(terms["log_magnitude"] + terms["convergence"] + terms["mel"]), rel=1e-5
    )


def test_refinement_brings_the_mel_closer(clips):
    mel, vocoder = MelSpectrogram(), small()
    log_mel = mel(clips)
    errors = [(mel(vocoder.decode(log_mel, refine=n)) - log_mel).abs().mean().item() for n in (0, 2, 4)]
    assert errors[0] > errors[1] > errors[2]


def test_silence_and_extreme_mels_stay_finite():
    vocoder = small()
    assert vocoder.decode(torch.full((1, 1, 32, 64), -1.0)).abs().max() < 1e-3
    for value in (-5.0, 5.0):
        assert vocoder.decode(torch.full((1, 1, 32, 64), value)).isfinite().all()
    loss = training_loss(vocoder, MelSpectrogram(), torch.zeros(2, 8192))["loss"]
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in vocoder.parameters())


def test_spectral_loss_is_zero_for_equal_and_blind_to_sign(clips):
    for wave in (clips, -clips):
        assert all(term < 1e-6 for term in spectral_loss(wave, clips))
    assert all(term > 0.1 for term in spectral_loss(clips.flip(0), clips))


def test_a_batch_gives_what_single_runs_give(clips):
    vocoder, log_mel = small(), MelSpectrogram()(clips)
    singles = torch.cat([vocoder.decode(mel[None]) for mel in log_mel])
    torch.testing.assert_close(vocoder.decode(log_mel), singles, atol=1e-5, rtol=1e-4)


def test_save_and_load_round_trip(tmp_path, clips):
    vocoder, log_mel = small(), MelSpectrogram()(clips)
    vocoder.save_pretrained(tmp_path)
    again = ISTFTVocoder.from_pretrained(tmp_path)
    assert again.config.channels == 32
    torch.testing.assert_close(again.decode(log_mel), vocoder.decode(log_mel))

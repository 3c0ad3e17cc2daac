import numpy as np
import pytest
from scipy.linalg import sqrtm

from codi2.errors import DataError
from codi2.metrics.audio import fd, kl, log_spectral_distance, power_spectra

RATE = 16_000
RANDOM = np.random.default_rng(0)
NOISE = RANDOM.normal(size=RATE) * 0.1
SILENCE = np.zeros(RATE)


def test_lsd_of_equal_sounds_is_zero_silence_included():
    assert log_spectral_distance(NOISE, NOISE, RATE) == 0
    assert log_spectral_distance(SILENCE, SILENCE, RATE) == 0


@pytest.mark.parametrize(("gain", "expected"), [(10.0, 2.0), (0.1, 2.0), (2.0, 2 * np.log10(2))])
def test_lsd_of_a_gain_is_the_logarithm_of_its_square(gain, expected):
    assert log_spectral_distance(NOISE, gain * NOISE, RATE) == pytest.approx(expected, rel=1e-3)


def test_lsd_does_not_depend_on_the_common_gain():
    other = NOISE + RANDOM.normal(size=RATE) * 0.05
    quiet = log_spectral_distance(NOISE / 50, other / 50, RATE)
    assert log_spectral_distance(NOISE, other, RATE) == pytest.approx(quiet)


def test_lsd_without_a_floor_is_the_published_formula():
    other = NOISE + RANDOM.normal(size=RATE) * 0.05
    truth, ours = (np.sqrt(power_spectra(wave, RATE)) for wave in (NOISE, other))
    published = np.sqrt((np.log10(truth**2 / (ours + 1e-12) ** 2 + 1e-12) ** 2).mean(1)).mean()
    assert log_spectral_distance(NOISE, other, RATE, floor_db=None) == pytest.approx(published)
    assert log_spectral_distance(NOISE, other, RATE) == pytest.approx(published, rel=0.01), "no bin is below the floor"
    half = np.where(np.arange(RATE) < RATE // 2, NOISE, 0)
    assert log_spectral_distance(NOISE, half, RATE, floor_db=None) > 2 * log_spectral_distance(NOISE, half, RATE)


def test_lsd_grows_with_the_noise_added():
    more = [log_spectral_distance(NOISE, NOISE + g * np.roll(NOISE, 999), RATE) for g in (0.01, 0.1, 1.0)]
    assert 0 < more[0] < more[1] < more[2]


def test_lsd_against_silence_is_bounded_by_the_floor():
    for target, estimate in ((NOISE, SILENCE), (SILENCE, NOISE)):
        distance = log_spectral_distance(target, estimate, RATE)
        assert 4 < distance < 8  # 80 dB are 8 in log10 of power
    assert log_spectral_distance(NOISE, NOISE + 1e-9, RATE) < 1e-3


def test_lsd_leaves_out_frames_in_which_both_are_silent():
    padded = [np.pad(wave, (0, 3 * RATE)) for wave in (NOISE, 10 * NOISE)]
    assert log_spectral_distance(*padded, RATE) == pytest.approx(2.0, rel=0.02)


def test_lsd_refuses_what_it_cannot_compare():
    for target, estimate in ((NOISE, NOISE[:-1]), (NOISE[:0], NOISE[:0]), (NOISE[None], NOISE[None])):
        with pytest.raises(DataError, match="one length"):
            log_spectral_distance(target, estimate, RATE)
    for bad in (np.nan, np.inf):
        with pytest.raises(DataError, match="estimate holds NaN or infinite"):
            log_spectral_distance(NOISE, np.where(np.arange(RATE) == 5, bad, NOISE), RATE)


def test_fd_equals_the_textbook_formula():
    ours, reference = RANDOM.normal(size=(200, 6)), RANDOM.normal(size=(150, 6)) @ RANDOM.normal(size=(6, 6)) + 1
    a, b = np.cov(ours.T), np.cov(reference.T)
    shift = ours.mean(0) - reference.mean(0)
    expected = shift @ shift + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert fd(ours, reference) == pytest.approx(expected, rel=1e-6)


def test_fd_with_fewer_samples_than_dimensions():
    rows = RANDOM.normal(size=(10, 512))
    assert fd(rows, rows) == pytest.approx(0, abs=1e-8)
    assert fd(rows, rows[::-1] + 0.5) == pytest.approx(512 * 0.25)  # a shift alone: the squared length of the shift


def test_fd_refuses_what_has_no_covariance():
    with pytest.raises(DataError, match="2 or more"):
        fd(np.zeros((1, 4)), np.zeros((5, 4)))
    with pytest.raises(DataError, match=r"\[n, D\] and \[m, D\]"):
        fd(np.zeros((5, 4)), np.zeros((5, 3)))
    with pytest.raises(DataError, match="NaN"):
        fd(np.full((5, 4), np.nan), np.zeros((5, 4)))


def test_kl_by_hand():
    logits = np.log([[0.5, 0.5], [0.9, 0.1]])
    other = np.log([[0.25, 0.75], [0.9, 0.1]])
    expected = (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)) / 2
    assert kl(logits, other) == pytest.approx(expected)
    assert kl(logits, logits + 700) == pytest.approx(0, abs=1e-9)  # softmax does not see a constant
    assert np.isfinite(kl(np.array([[1e4, -1e4]]), np.array([[-1e4, 1e4]])))
    with pytest.raises(DataError, match="paired"):
        kl(logits, other[:1])

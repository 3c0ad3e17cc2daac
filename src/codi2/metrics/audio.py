"""Distances of sounds: log-spectral distance, Fréchet distance, Kullback-Leibler divergence. Numpy only.

The last two take the outputs of any network. Name the figure after the network (`aiSFX-FD`), since figures of different
networks cannot be compared.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codi2.errors import DataError

FLOOR_DB = -80.0
EPSILON = 1e-12  # of the published formula of LSD, which has no floor


def log_spectral_distance(target: NDArray, estimate: NDArray, rate: int, floor_db: float | None = FLOOR_DB) -> float:
    """Mean over frames of sqrt(mean over bins of log10(S² / S'²)²), S and S' the STFT magnitudes; 0 is the best.

    The formula and the frames are those of ssr_eval, which audioldm_eval and so the published AudioLDM and AUDIT
    figures use: Hann window of 2048 samples at 44.1 kHz (46 ms, scaled with the rate), hop 10 ms. Three things differ:

    - both power spectra have a floor of `floor_db` below the target's strongest bin (-80 dB: the range of a
      spectrogram). Without it, bins of digital silence against 1e-12 have a value of 24 and dominate the mean;
    - frames in which both sounds are digital silence are left out; if all are, the distance is 0;
    - neither mean nor peak is normalised, so a wrong gain counts: a factor of 10 gives 2.

    Args:
        target, estimate: samples [N], the same length, both at `rate` Hz.
        floor_db: None: the published formula, without the first two differences.

    Raises:
        DataError: lengths differ, a sound is empty, or a sample is NaN or infinite.
    """
    target, estimate = np.asarray(target, np.float64), np.asarray(estimate, np.float64)
    if target.ndim != 1 or target.shape != estimate.shape or not target.size:
        raise DataError(f"LSD needs two sounds [N] of one length, not {target.shape} and {estimate.shape}; cut one")
    _need_finite(target=target, estimate=estimate)
    return spectral_distance(power_spectra(target, rate), power_spectra(estimate, rate), floor_db)


def spectral_distance(target: NDArray, estimate: NDArray, floor_db: float | None = FLOOR_DB) -> float:
    """`log_spectral_distance` of power spectra [frames, bins], for several estimates of one target."""
    if floor_db is None:
        bins = np.log10(target / np.square(np.sqrt(estimate) + EPSILON) + EPSILON)
        return float(np.sqrt(np.square(bins).mean(1)).mean())
    audible = (estimate.max(1) > 0) | (target.max(1) > 0)
    if not audible.any():
        return 0.0
    # A silent target has no strongest bin. The estimate's bin then sets the floor, so that noise still has a distance.
    floor = (target.max() or estimate.max()) * 10 ** (floor_db / 10)
    ratio = np.log10(np.maximum(target[audible], floor) / np.maximum(estimate[audible], floor))
    return float(np.sqrt(np.square(ratio).mean(1)).mean())


def fd(estimate: NDArray, reference: NDArray) -> float:
    """Fréchet distance between Gaussians fitted to embeddings [n, D] and [m, D] (Heusel et al. 2017, eq. 6).

    |mu - mu'|² + tr C + tr C' - 2 tr (C C')^(1/2). With centred, scaled rows X and X' (C = XᵀX) the last trace is the
    sum of the singular values of X X'ᵀ, which are those of R R'ᵀ of their QR factors. This avoids the matrix root of a
    D x D product, which is singular for n <= D, and its root then complex. Few samples bias the distance upward:
    compare only figures of equal n and m.

    Raises:
        DataError: widths differ, fewer than two samples, or values that are not finite.
    """
    estimate, reference = np.asarray(estimate, np.float64), np.asarray(reference, np.float64)
    if estimate.ndim != 2 or reference.ndim != 2 or estimate.shape[1] != reference.shape[1]:
        raise DataError(
            f"the Fréchet distance needs [n, D] and [m, D], not {estimate.shape}, {reference.shape}; use one network"
        )
    if min(len(estimate), len(reference)) < 2:
        raise DataError(
            f"the Fréchet distance needs 2 or more samples a side, got {len(estimate)} and {len(reference)}; add more"
        )
    _need_finite(estimate=estimate, reference=reference)
    x, y = (_covariance_root(rows) for rows in (estimate, reference))
    r, r_other = (np.asarray(np.linalg.qr(rows, mode="r")) for rows in (x, y))
    shared = np.linalg.svd(r @ r_other.T, compute_uv=False).sum()
    shift = np.square(estimate.mean(0) - reference.mean(0)).sum()
    return max(0.0, float(shift + np.square(x).sum() + np.square(y).sum() - 2 * shared))


def kl(target_logits: NDArray, estimate_logits: NDArray) -> float:
    """Mean over pairs of KL(softmax(target) || softmax(estimate)) in nats; logits [n, classes], row i with row i.

    Raises:
        DataError: shapes differ, no rows, or values that are not finite.
    """
    target_logits, estimate_logits = np.asarray(target_logits, np.float64), np.asarray(estimate_logits, np.float64)
    if target_logits.ndim != 2 or target_logits.shape != estimate_logits.shape or not target_logits.size:
        raise DataError(
            f"KL needs paired logits [n, classes], got {target_logits.shape} and {estimate_logits.shape}; pair them"
        )
    _need_finite(target_logits=target_logits, estimate_logits=estimate_logits)
    target, estimate = _log_softmax(target_logits), _log_softmax(estimate_logits)
    return float((np.exp(target) * (target - estimate)).sum(1).mean())


def power_spectra(samples: NDArray, rate: int) -> NDArray:
    """Power spectra [frames, bins]; the ends are padded with zeros so that every sample counts fully."""
    size, hop = int(2048 * rate / 44_100), rate // 100
    padded = np.pad(samples, (size // 2, size // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    return np.square(np.abs(np.fft.rfft(frames * window, axis=1)))


def _covariance_root(rows: NDArray) -> NDArray:
    return (rows - rows.mean(0)) / np.sqrt(len(rows) - 1)


def _log_softmax(logits: NDArray) -> NDArray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _need_finite(**arrays: NDArray) -> None:
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise DataError(f"{name} holds NaN or infinite values; check the network or file that made it")

"""Every metric at the edges: the same twice, silence, one colour, a single sample, NaN; and beside other tools."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from scipy.signal import stft
from torchmetrics.functional.retrieval import retrieval_hit_rate

from codi2.errors import DataError
from codi2.evaluate.closeness import closeness, colour_distance
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import mean
from codi2.evaluate.judge import ranks, similarity
from codi2.metrics.audio import fd, kl, log_spectral_distance
from codi2.metrics.retrieval import bootstrap, recall_at
from codi2.prompt.parts import Audio, Image, Video

RANDOM = np.random.default_rng(5)
RATE = 16_000


@pytest.fixture
def context(judge, monkeypatch) -> EvalContext:
    made = EvalContext(model=None)  # type: ignore[arg-type]
    made.__dict__["centre"] = torch.zeros(27)
    return made


def test_pictures_of_one_colour_are_as_near_as_can_be_or_refused(context: EvalContext):
    grey = Image(PILImage.new("RGB", (64, 64), (90, 90, 90)))
    noise = Image(PILImage.fromarray(RANDOM.integers(0, 255, (64, 64, 3), dtype=np.uint8)))
    assert closeness(context, [grey, noise], [grey, noise]) == pytest.approx([1, 1])
    black = Image(PILImage.new("RGB", (64, 64)))  # the judge of these tests sees nothing there: no direction
    assert closeness(context, [black], [noise]) == pytest.approx([0], abs=1e-6)


def test_colours_are_told_apart_by_place_and_not_by_what_a_blur_loses():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32] = 200
    fine = pixels.copy()
    fine[::2], fine[1::2] = np.minimum(pixels[::2] + 20, 255), np.maximum(pixels[1::2].astype(int) - 20, 0)
    picture, lines, turned, darker = (
        Image(PILImage.fromarray(p.astype(np.uint8))) for p in (pixels, fine, pixels[::-1], pixels // 2)
    )
    same, blurred, other_way, dark = colour_distance([picture] * 4, [picture, lines, turned, darker])
    assert same == 0 and blurred < 15 and other_way == pytest.approx(200) and dark == pytest.approx(100 / 2**0.5)
    clip, still = (Video(tuple(x.pixels for x in frames), 8.0) for frames in ([picture, turned] * 4, [picture] * 8))
    assert colour_distance([clip, still], [still, still]) == pytest.approx([200 / 2**0.5, 0])


def test_sounds_of_other_rates_and_lengths_are_brought_to_the_targets(context: EvalContext):
    t = np.arange(RATE) / RATE
    target = Audio((np.sin(2 * np.pi * 300 * t) * 0.5).astype(np.float32), RATE)
    finer = Audio((np.sin(2 * np.pi * 300 * np.arange(3 * RATE) / 48_000) * 0.5).astype(np.float32), 48_000)
    longer = Audio(np.concatenate([target.samples, target.samples]), RATE)
    silence = Audio(np.zeros(10, np.float32), RATE)
    same, resampled, cut, padded = closeness(context, [target] * 4, [target, finer, longer, silence])
    assert same == cut == 0 and resampled < 0.05 and padded > 0.5
    assert closeness(context, [silence], [silence]) == [0]


def test_what_cannot_be_paired_is_refused(context: EvalContext):
    grey, silence = Image(PILImage.new("RGB", (8, 8))), Audio(np.zeros(10, np.float32), RATE)
    with pytest.raises(DataError, match="2 outputs cannot be compared with 1 targets"):
        closeness(context, [grey], [grey, grey])
    with pytest.raises(DataError, match="not audio, image"):
        closeness(context, [grey], [silence])


def test_a_single_sample():
    one = mean("x", [2.0], {"other": [1.0]})
    assert (one.low, one.value, one.high) == (2, 2, 2) and one.baselines["other"].ahead == (1, 1)
    assert bootstrap(np.array([3.0])) == {"low": 3, "high": 3}
    assert similarity(torch.ones(1, 4), torch.ones(1, 4), torch.zeros(4)) == pytest.approx([1])
    assert kl(np.ones((1, 5)), np.ones((1, 5))) == 0
    assert recall_at(5, torch.ones(1, 3), torch.ones(1, 3))["mean"] == 1
    with pytest.raises(DataError, match="2 or more"):
        fd(np.ones((1, 4)), np.ones((4, 4)))


def test_nan_and_nothing_are_named_and_never_averaged_away():
    with pytest.raises(DataError, match=r"LSD is nan for item 1 \(2 of 3 in all\)"):
        mean("LSD", [1.0, np.nan, np.inf])
    with pytest.raises(DataError, match="LSD, copy is inf for item 0"):
        mean("LSD", [1.0], {"copy": [np.inf]})
    with pytest.raises(DataError, match="copy has 1 values for 2 items"):
        mean("LSD", [1.0, 2.0], {"copy": [1.0]})
    with pytest.raises(DataError, match="nothing to average"):
        mean("LSD", [])
    for metric in (fd, kl):
        with pytest.raises(DataError, match="NaN"):
            metric(np.full((3, 4), np.nan), np.ones((3, 4)))


def test_constant_embeddings_have_no_distance():
    assert fd(np.ones((5, 8)), np.ones((7, 8))) == 0
    assert fd(np.ones((5, 8)), np.zeros((5, 8))) == pytest.approx(8)


def test_lsd_is_the_published_formula_on_scipys_spectra():
    """ssr_eval's formula, which audioldm_eval uses, where no bin is near the floor."""
    a, b = RANDOM.normal(size=(2, 2 * RATE)) * 0.1
    size, hop = int(2048 * RATE / 44_100), RATE // 100
    settings = {"window": "hann", "nperseg": size, "noverlap": size - hop, "boundary": None, "padded": False}
    padded = [np.pad(wave, (size // 2, size // 2 + hop)) for wave in (a, b)]
    spectra = [
        np.abs(stft(wave, RATE, **settings)[2].T) ** 2 for wave in padded
    ]  # scaled alike: ratios are as they are
    expected = np.sqrt((np.log10(spectra[0] / spectra[1]) ** 2).mean(1)).mean()
    assert log_spectral_distance(a, b, RATE) == pytest.approx(expected, rel=1e-6)


def test_kl_is_torchs():
    target, ours = RANDOM.normal(size=(2, 6, 9)) * 3
    expected = torch.nn.functional.kl_div(
        torch.tensor(ours).log_softmax(1), torch.tensor(target).softmax(1), reduction="batchmean"
    )
    assert kl(target, ours) == pytest.approx(float(expected), rel=1e-9)


def test_recall_is_torchmetrics_hit_rate():
    gallery = torch.randn(30, 6)
    queries = gallery + torch.randn(30, 6)
    near = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(gallery, dim=1).T
    hits = [retrieval_hit_rate(row, torch.arange(30) == i, top_k=5) for i, row in enumerate(near)]
    assert recall_at(5, queries, gallery, candidates=30, draws=1)["mean"] == pytest.approx(
        float(torch.stack(hits).mean())
    )
    assert (ranks(queries, gallery, len(gallery)) >= 0).all()

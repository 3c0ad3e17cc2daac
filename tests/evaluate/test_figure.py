import numpy as np
import pytest

from codi2.evaluate.figure import known, mapped, mean


def test_the_interval_holds_the_mean_and_narrows_with_more_items():
    draw = np.random.default_rng(0)
    few, many = (mean("x", draw.normal(3, 1, n)) for n in (20, 2000))
    for figure in (few, many):
        assert figure.low < figure.value < figure.high
    assert few.high - few.low > 5 * (many.high - many.low)
    assert many.low < 3 < many.high


def test_a_paired_difference_is_seen_through_the_spread_that_both_share():
    shared = np.random.default_rng(0).normal(0, 10, 50)
    figure = mean("x", shared + 0.1, {"other": shared})
    other = figure.baselines["other"]
    assert figure.low < other.value < figure.high
    assert other.ahead == pytest.approx((0.1, 0.1))


def test_a_function_of_a_figure_reaches_its_interval_and_baselines():
    figure = mapped(mean("x", [0.0, 1.0, 2.0], {"base": [1.0, 1.0, 1.0]}), np.exp)
    assert figure.value == pytest.approx(np.e)
    assert 1 <= figure.low < np.e < figure.high <= np.exp(2)
    assert figure.baselines["base"].value == pytest.approx(np.e)
    assert figure.baselines["base"].ahead is None


def test_bars_and_chance():
    figure = mean("x", [1.0, 0.0]).beside(chance=known("chance", 0.05)).judged("≥ 0.25", passes=np.bool_(True))
    assert figure.passes is True and figure.bar == "≥ 0.25"
    assert figure.baselines["chance"].n == 0

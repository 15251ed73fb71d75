"""Intervals against closed forms, hand calculations and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgedistill.pipeline.errors import DataError
from edgedistill.pipeline.evaluation.statistics import (
    agreement,
    median_interval,
    median_ratio,
    paired_difference,
    sqnr_db,
    wilson,
)

Z = 1.959963984540054


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (1, 3), (50, 100), (979, 1000), (7, 7)])
def test_wilson_ends_solve_the_score_equation(correct, total):
    """Independent reference: the ends are where `|p - x| = z sqrt(x (1 - x) / n)`."""
    share = correct / total
    for end in wilson(correct, total):
        assert abs(share - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / total), abs=1e-9)


def test_wilson_known_values():
    """Wilson's interval of 81 of 263, from Newcombe 1998, table I."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0
    assert wilson(50, 100, confidence=0.5)[0] > wilson(50, 100)[0]


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_wilson_covers(share):
    draws = np.random.default_rng(0).binomial(200, share, size=4000)
    ends = {int(k): wilson(int(k), 200) for k in np.unique(draws)}
    inside = np.mean([ends[int(k)][0] <= share <= ends[int(k)][1] for k in draws])
    assert 0.93 <= inside <= 0.975


@pytest.mark.parametrize(("correct", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_nonsense(correct, total):
    with pytest.raises(DataError, match="expected 0 <= correct <= total"):
        wilson(correct, total)
    with pytest.raises(DataError, match="confidence"):
        wilson(1, 2, confidence=95)


def table(both, only_a, only_b, neither):
    """Matched answers with these counts."""
    counts = [both, only_a, only_b, neither]
    a = np.repeat([True, True, False, False], counts)
    return a, np.repeat([True, False, True, False], counts)


def test_paired_difference_by_hand():
    """Approval ratings of the article: 794, 150, 86, 570 of 1600; here with 1/2 in each cell."""
    value, low, high = paired_difference(*table(794, 150, 86, 570))
    p_a, p_b = 150.5 / 1602, 86.5 / 1602
    centre = p_a - p_b
    error = math.sqrt((p_a + p_b - (p_a - p_b) ** 2) / 1602)
    assert value == pytest.approx(64 / 1600)
    assert (low, high) == pytest.approx((centre - Z * error, centre + Z * error), abs=1e-12)


def test_paired_difference_is_antisymmetric_and_never_degenerate():
    a, b = table(40, 7, 2, 1)
    value, low, high = paired_difference(a, b)
    assert paired_difference(b, a) == pytest.approx((-value, -high, -low))
    same, low, high = paired_difference(a, a)
    assert same == 0
    assert low < 0 < high


@pytest.mark.parametrize(("only_a", "only_b"), [(0.02, 0.02), (0.05, 0.01), (0.10, 0.02)])
def test_paired_difference_covers(only_a, only_b):
    shares = [0.9 - only_a - only_b, only_a, only_b, 0.1]
    inside = 0
    for cells in np.random.default_rng(1).multinomial(300, shares, size=2000):
        _, low, high = paired_difference(*table(*cells))
        inside += low <= only_a - only_b <= high
    assert 0.93 <= inside / 2000 <= 0.98


def test_pairing_makes_the_interval_narrower():
    a, b = table(880, 12, 8, 100)
    _, low, high = paired_difference(a, b)
    widths = [np.diff(wilson(int(x.sum()), x.size))[0] for x in (a, b)]
    assert high - low < 0.5 * math.hypot(*widths)


def test_sqnr_by_hand():
    reference = np.array([3.0, 4.0])
    assert sqnr_db(reference, [3.0, 4.5]) == pytest.approx(20.0)  # 25 / 0.25 = 100
    assert sqnr_db(reference, reference) == math.inf
    assert sqnr_db([0.0, 0.0], [0.0, 0.1]) == -math.inf
    assert sqnr_db([0.0], [0.0]) == math.inf


def test_sqnr_of_a_uniform_quantizer():
    """A full-scale uniform signal on `b` bits has 6.02 b decibels."""
    signal = np.random.default_rng(0).uniform(-1, 1, 200_000).astype(np.float32)
    step = 2 / 2**8
    assert sqnr_db(signal, np.round(signal / step) * step) == pytest.approx(6.02 * 8, abs=0.05)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_sqnr_of_broken_outputs_passes_no_threshold(bad):
    assert sqnr_db([1.0, 2.0], [1.0, bad]) == -math.inf
    with pytest.raises(DataError, match="the reference holds NaN or infinite"):
        sqnr_db([1.0, bad], [1.0, 2.0])


def test_agreement():
    a = np.array([[3, 1], [0, 2], [5, 4], [1, 2]], dtype=np.float32)
    b = np.array([[9, 1], [2, 0], [5, 4], [1, np.nan]], dtype=np.float32)
    assert agreement(a, a) == 1.0
    assert agreement(a, b) == 0.5


@pytest.mark.parametrize("function", [sqnr_db, agreement, paired_difference])
def test_shapes_must_match(function):
    with pytest.raises(DataError, match=r"got shapes \(2, 3\) and \(3, 2\)"):
        function(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(DataError, match="non-empty"):
        function(np.zeros((0, 3)), np.zeros((0, 3)))


def simulate(rng, rounds, samples, between, within, median=1.0):
    """Log-normal samples whose rounds share a disturbance."""
    shifts = rng.normal(0, between, size=(rounds, 1))
    return list(median * np.exp(shifts + rng.normal(0, within, size=(rounds, samples))))


@pytest.mark.parametrize("between", [0.0, 0.05])
def test_median_interval_covers(between):
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(100):
        low, high = median_interval(simulate(rng, 20, 30, between, 0.02))
        hits += low <= 1.0 <= high
    assert 0.88 <= hits / 100 <= 0.99


def test_samples_of_one_round_are_not_taken_for_independent():
    """What a bootstrap over samples would give is far too narrow."""
    rounds = simulate(np.random.default_rng(3), 20, 500, between=0.05, within=0.01)
    low, high = median_interval(rounds)
    pooled = np.concatenate(rounds)
    picks = np.random.default_rng(0).integers(0, pooled.size, size=(200, pooled.size))
    naive = np.quantile(np.median(pooled[picks], axis=1), [0.025, 0.975])
    assert high - low > 3 * (naive[1] - naive[0])


def test_median_interval_matches_a_plain_bootstrap():
    """Independent reference: pool the raw samples of the resampled rounds, take NumPy's median.

    The tails are Hesterberg's for 12 blocks, with SciPy's quantile of Student's t.
    """
    stats = pytest.importorskip("scipy.stats")
    rounds = simulate(np.random.default_rng(4), 12, 333, between=0.03, within=0.02)
    rounds[3] = rounds[3][:50]
    picks = np.random.default_rng(9).integers(0, 12, size=(3000, 12))
    medians = [np.median(np.concatenate([rounds[i] for i in pick])) for pick in picks]
    tail = stats.norm.cdf(-math.sqrt(12 / 11) * stats.t.ppf(0.975, 11))
    expected = np.quantile(medians, [tail, 1 - tail])
    assert median_interval(rounds) == pytest.approx(tuple(expected), rel=5e-3)


def test_intervals_are_repeatable():
    rounds = simulate(np.random.default_rng(5), 10, 20, 0.05, 0.02)
    assert median_interval(rounds, seed=3) == median_interval(rounds, seed=3)
    assert median_interval(rounds, seed=3) != median_interval(rounds, seed=4)


def test_paired_rounds_cancel_what_slows_the_machine():
    """Both share a disturbance of 20 %; their ratio is known to a percent all the same."""
    rng = np.random.default_rng(6)
    shifts = np.exp(rng.normal(0, 0.2, size=(20, 1)))
    slow, fast = (
        list(shifts * scale * np.exp(rng.normal(0, 0.01, size=(20, 100)))) for scale in (3.0, 2.0)
    )
    value, low, high = median_ratio(slow, fast)
    assert low <= 1.5 <= high
    assert low <= value <= high
    assert high - low < 0.1
    separate = median_interval(slow)
    assert separate[1] - separate[0] > 3 * (high - low)


def test_median_ratio_covers():
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(80):
        shifts = np.exp(rng.normal(0, 0.05, size=(20, 1)))
        a, b = (
            list(shifts * scale * np.exp(rng.normal(0, 0.02, size=(20, 1)))
                 * np.exp(rng.normal(0, 0.02, size=(20, 30))))
            for scale in (1.2, 1.0)
        )  # fmt: skip
        _, low, high = median_ratio(a, b)
        hits += low <= 1.2 <= high
    assert 0.88 <= hits / 80 <= 1.0


def test_rounds_must_be_usable():
    with pytest.raises(DataError, match="expected 2 rounds or more"):
        median_interval([np.ones(5)])
    with pytest.raises(DataError, match=r"\[2, 0\] samples"):
        median_interval([np.ones(2), np.ones(0)])
    with pytest.raises(DataError, match="3 rounds against 2; expected pairs"):
        median_ratio([np.ones(2)] * 3, [np.ones(2)] * 2)

from __future__ import annotations

import math

import numpy as np
import pytest

from edgedistill.pipeline.errors import DataError
from edgedistill.pipeline.evaluation.seeds import spread, student_quantile


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (5, 2.57058), (9, 2.26216),
     (30, 2.04227), (120, 1.97993)],
)  # fmt: skip
def test_quantiles_of_students_t_are_those_of_the_tables(freedom, quantile):
    assert student_quantile(freedom) == pytest.approx(quantile, rel=3e-6)


def test_another_confidence():
    assert student_quantile(1, 0.5) == pytest.approx(1.0)  # the quartile of Cauchy's distribution
    assert student_quantile(2, 0.99) == pytest.approx(9.92484, rel=1e-5)


@pytest.mark.parametrize(("freedom", "confidence"), [(0, 0.95), (3, 0.0), (3, 1.0)])
def test_no_such_quantile(freedom, confidence):
    with pytest.raises(DataError, match="t-quantile"):
        student_quantile(freedom, confidence)


def test_an_interval_by_hand():
    found = spread([1.0, 2.0, 6.0])
    assert found.mean == pytest.approx(3.0)
    assert found.reach == pytest.approx(4.30265 * math.sqrt(7) / math.sqrt(3), rel=1e-5)
    assert (found.least, found.most, found.median, found.solved) == (1.0, 6.0, 2.0, 3)
    assert not found.excludes_zero


def test_intervals_cover_the_mean_as_often_as_they_say():
    draws = np.random.default_rng(0).normal(5.0, 2.0, (2000, 3))
    covered = sum(found.low <= 5.0 <= found.high for found in map(spread, draws.tolist()))
    assert 0.93 < covered / 2000 < 0.97


def test_one_seed_has_no_interval():
    found = spread([4.0])
    assert (found.mean, found.low, found.high, found.reach) == (4.0, None, None, None)
    assert not found.excludes_zero


def test_a_value_that_is_not_finite_leaves_the_median():
    found = spread([10.0, math.inf, 20.0])
    assert (found.mean, found.low, found.median) == (None, None, 20)
    assert (found.solved, found.count) == (2, 3)
    assert spread([math.inf, math.inf]).median == math.inf


def test_equal_seeds_prove_no_more_than_the_step_of_the_value():
    assert spread([2.0, 2.0]).excludes_zero
    coarse = spread([2.0, 2.0], step=1.0)
    assert coarse.reach == pytest.approx(12.7062 / math.sqrt(24), rel=1e-5)
    assert not coarse.excludes_zero
    assert spread([1.0, 5.0], step=1.0) == spread([1.0, 5.0])  # more than the step tells


def test_nothing_to_average():
    with pytest.raises(DataError, match="no values"):
        spread([])

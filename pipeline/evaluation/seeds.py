"""What a few seeds tell: means with exact t-intervals, paired differences; NumPy alone.

Every interval is two-sided with 95 % confidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .student import student_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over seeds.

    Attributes:
        count: seeds.
        solved: seeds with a finite value.
        mean: of all; None where a value is not finite.
        low: lower end of the mean's interval; None with one seed, or without a mean.
        high: upper end.
        least: smallest value.
        most: largest value.
        median: of all, which a few infinite values leave alone.
    """

    count: int
    solved: int
    mean: float | None
    low: float | None
    high: float | None
    least: float
    most: float
    median: float

    @property
    def reach(self) -> float | None:
        """Half the width of the interval; None where there is none."""
        return None if self.high is None or self.mean is None else self.high - self.mean

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval proves a sign."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def spread(values: Sequence[float], step: float = 0.0) -> Spread:
    """Mean of independent seeds with its t-interval: `mean +- t(n - 1) s / sqrt(n)`.

    Source: Student, The probable error of a mean, Biometrika 6, 1908.

    Args:
        values: one per seed; infinite where a threshold was never reached.
        step: the steps in which a value can move, such as `1 / N` for an accuracy on `N` samples.
            Two seeds that agree by chance would else prove that there is no spread at all: `s` is
            taken to be at least that of a value that is rounded to this step, `step / sqrt(12)`.

    Raises:
        DataError: no values.
    """
    if not values:
        raise DataError("no values to average; expected one per seed", "run one seed or more")
    found = np.asarray(values, dtype=np.float64)
    finite, count = np.isfinite(found), len(found)
    mean = float(found.mean()) if finite.all() else None
    low = high = None
    if mean is not None and count > 1:
        deviation = max(float(found.std(ddof=1)), step / math.sqrt(12))
        reach = student_quantile(count - 1) * deviation / math.sqrt(count)
        low, high = mean - reach, mean + reach
    ends = float(found.min()), float(found.max()), float(np.median(found))
    return Spread(count, int(finite.sum()), mean, low, high, *ends)

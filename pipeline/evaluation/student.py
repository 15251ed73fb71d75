"""Student's t without SciPy."""

from __future__ import annotations

import math
from functools import cache

from ..errors import DataError

CONFIDENCE = 0.95
_HALVINGS = 60  # of an angle: as exact as a float


@cache
def student_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Two-sided quantile of Student's t, exact for every whole number of degrees of freedom.

    With `t = sqrt(freedom) tan(angle)`, the probability within `+-t` is a finite sum of powers of
    `cos(angle)` (M. Abramowitz and I. Stegun, Handbook of Mathematical Functions, 1964, 26.7.3 and
    26.7.4), which is inverted by bisection.

    Args:
        freedom: degrees of freedom, 1 or more.
        confidence: between 0 and 1.

    Raises:
        DataError: fewer than 1 degree of freedom, or no such confidence.
    """
    if freedom < 1 or not 0 < confidence < 1:
        raise DataError(
            f"t-quantile of {confidence} with {freedom} degrees of freedom: expected a share"
            " between 0 and 1, and 1 or more",
            "an interval needs 2 values or more",
        )
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """Probability that `|t| <= sqrt(freedom) tan(angle)`."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total

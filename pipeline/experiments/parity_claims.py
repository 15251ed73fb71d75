"""What is claimed of progressive distillation on sparse parity, each with its threshold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .contract import Check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

TEACHER, CE, ONE_SHOT = "teacher", "student, labels only", "one-shot, hard labels"
PROGRESSIVE, TWO_SHOT = "progressive, hard labels", "two-shot, hard labels"
LATE, TEMPERED = "two-shot, late checkpoint", "progressive, T = 1"
INSIDE, OUTSIDE = "support, at the transition", "other coordinates, at the transition"
AT_LAST = "support, final teacher"


def compare_speeds(medians: Mapping[str, float]) -> list[Check]:
    """The claims on speed.

    Args:
        medians: name of an arm -> median steps; `inf` where most never got there.
    """
    labels, teacher, progressive = medians[CE], medians[TEACHER], medians[PROGRESSIVE]
    return [
        Check(
            "progressive distillation needs at most half the steps of labels only",
            math.isfinite(progressive) and labels >= 2 * progressive,
            f"{labels:.0f} against {progressive:.0f} steps",
        ),
        Check(
            "one early checkpoint, then the final teacher: at most a third of the steps",
            math.isfinite(medians[TWO_SHOT]) and labels >= 3 * medians[TWO_SHOT],
            f"{labels:.0f} against {medians[TWO_SHOT]:.0f} steps",
        ),
        Check(
            "the small student follows the teacher in at most 1.6 times its steps",
            math.isfinite(teacher) and progressive <= 1.6 * teacher,
            f"{progressive:.0f} against {teacher:.0f} steps",
        ),
    ]


def check_same(curves: Mapping[str, Tensor], arm: str) -> Check:
    """Whether an arm learned exactly what labels alone teach, evaluation by evaluation."""
    ours, labels = curves[arm], curves[CE]
    shared = min(len(ours), len(labels))
    differ = int((ours[:shared] != labels[:shared]).any(1).sum()) + abs(len(ours) - len(labels))
    return Check(
        f"'{arm}' is labels only, evaluation by evaluation and seed by seed",
        differ == 0,
        f"{differ} of {max(len(ours), len(labels))} evaluations differ",
    )


def check_leak(tells: Mapping[str, Sequence[float]]) -> Check:
    """Whether the teacher's mistakes at the transition tell of a degree below the labels' own."""
    below = range(len(tells[INSIDE]) - 1)
    degree = max(below, key=lambda i: tells[INSIDE][i])
    inside, outside = tells[INSIDE][degree], tells[OUTSIDE][degree]
    return Check(
        "at the transition the teacher's labels tell of a lower degree of the support, at least "
        "five times as much as of other coordinates",
        inside >= 5 * outside,
        f"degree {degree + 1}: {inside:.3f} against {outside:.3f}",
    )

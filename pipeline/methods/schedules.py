"""Which checkpoint of the teacher teaches when. Pure functions of numbers.

A checkpoint is named by the moment of the teacher's training at which it was kept, a number above
zero; `None` is the final teacher. Lists of kept checkpoints rise; the final teacher is not in them,
it comes after their end.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_RISE = 0.1  # of accuracy
FLAT = 0.2  # share of the rise that still counts as the plateau, at both ends
MOST_RISING = 0.5  # of the time that the plateau took


@dataclass(frozen=True, slots=True)
class Transition:
    """The largest jump of a teacher's accuracy.

    Attributes:
        index: of the checkpoint just before it.
        gain: accuracy that it brought, from 0 to 1.
        visible: whether the curve has a sharp transition at all, see `find_transition`.
    """

    index: int
    gain: float
    visible: bool


def time_matched(kept: Sequence[int], position: float, speed: float = 1.0) -> int | None:
    """The teacher as it was when it had trained as long as the student has now.

    Args:
        kept: moments of the kept checkpoints, rising.
        position: how far the student is, in the unit of `kept`.
        speed: moments of the teacher per moment of the student; `inf` is always the final teacher.

    Returns:
        The smallest kept checkpoint that is not behind `position * speed` (and above 0); after the
        last one, the final teacher.
    """
    reached = math.inf if math.isinf(speed) else position * speed
    index = bisect_left(kept, max(reached, math.ulp(0.0)))
    return kept[index] if index < len(kept) else None


def two_shot(checkpoint: int, progress: float, switch: float) -> int | None:
    """One early checkpoint for a share `switch` of the training, then the final teacher."""
    return checkpoint if progress < switch else None


def equal_segments(kept: Sequence[int], progress: float) -> int | None:
    """Every kept checkpoint, and at last the final teacher, for an equal share of the training.

    Args:
        kept: moments of the kept checkpoints.
        progress: share of the training that is done, from 0 to 1.
    """
    index = int(progress * (len(kept) + 1))
    return kept[index] if index < len(kept) else None


def on_saturation(
    accuracies: Sequence[float], start: float, longest: int, window: int = 5, gain: float = 0.01
) -> int:
    """How often a student has used up its teacher and moved on to the next.

    It moves on when its accuracy has risen by more than `gain` under this teacher, but by less than
    that from the first to the last of `window` evaluations; or after `longest` evaluations.

    Args:
        accuracies: the student's validation accuracy, one per evaluation, oldest first.
        start: its accuracy before it was trained.
        longest: most evaluations under one teacher, at least 1.
        window: evaluations over which it must stand still.
        gain: what counts as progress, from 0 to 1.
    """
    curve, switches, since = [start, *accuracies], 0, 0
    for now in range(1, len(curve)):
        seen = curve[since : now + 1]
        still = len(seen) >= window and seen[-1] - seen[-window] < gain
        if (still and seen[-1] - seen[0] > gain) or now - since >= longest:
            switches, since = switches + 1, now
    return switches


def find_transition(curve: Sequence[tuple[float, float]]) -> Transition:
    """The largest jump between neighbours, and whether the curve has a sharp transition.

    It has one if it rises by at least 0.1, and if the rise, from the last checkpoint before a fifth
    of it to the first after four fifths, takes at most half as long as what came before. A curve
    that is steepest at its start has none; nor has one with a late step on a high plateau, such as
    a lower learning rate gives.

    Args:
        curve: position, above 0 and rising, and accuracy of every kept checkpoint.
    """
    values = [accuracy for _, accuracy in curve]
    gains = [after - before for before, after in itertools.pairwise(values)]
    if not gains:
        return Transition(0, 0.0, visible=False)
    index = max(range(len(gains)), key=gains.__getitem__)
    return Transition(index, gains[index], visible=_is_sharp(curve))


def _is_sharp(curve: Sequence[tuple[float, float]]) -> bool:
    values = [accuracy for _, accuracy in curve]
    lowest, rise = values[0], max(values) - values[0]
    if rise < LEAST_RISE:
        return False
    shares = [(value - lowest) / rise for value in values]
    begins = next(i for i, share in enumerate(shares) if share >= FLAT) - 1
    ends = next(i for i, share in enumerate(shares) if share >= 1 - FLAT)
    plateau = curve[begins][0]
    return curve[ends][0] - plateau <= MOST_RISING * plateau


def first_above(curve: Sequence[tuple[float, float]], chance: float, share: float = 0.2) -> int:
    """Index of the first checkpoint that is a share of the way from chance to the best.

    Args:
        curve: position and accuracy of every kept checkpoint, in order; at least one.
        chance: accuracy of guessing.
        share: of the way, from 0 to 1.
    """
    values = [accuracy for _, accuracy in curve]
    best = max(values)
    wanted = min(chance + share * (best - chance), best)
    return next(index for index, value in enumerate(values) if value >= wanted)

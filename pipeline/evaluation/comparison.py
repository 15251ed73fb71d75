"""Methods over seeds: accuracies, paired differences, agreement and cost.

Whoever trained does not matter here: a student is its answers on the test split.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .seeds import spread
from .statistics import agreement, paired_difference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Answers:
    """What all students are held against.

    Attributes:
        teacher: its logits on the test split `(N, C)`.
        targets: labels `(N,)`.
    """

    teacher: Array
    targets: Array


@dataclass(frozen=True, slots=True)
class Result:
    """A trained student, of the epoch that was best on the validation split.

    Attributes:
        logits: on the test split `(N, C)`.
        validation: accuracy on the validation split, from 0 to 1.
        best_epoch: from 1.
        seconds: per epoch; None where it was not measured.
    """

    logits: Array
    validation: float
    best_epoch: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Cell:
    """One method with one seed; without a result, `reason` says why."""

    method: str
    seed: int
    result: Result | None
    reason: str


def compare(
    cells: Sequence[Cell], answers: Answers, references: Sequence[str]
) -> tuple[list[dict[str, Any]], str | None]:
    """One row per method, and the name of the best, if there is one.

    The best has the highest mean, and its paired difference to EVERY other method has an interval
    above 0: to be ahead of a reference alone makes no winner among many. Where a training failed
    there is no best: it might have been that one.

    Args:
        cells: of all methods and seeds.
        answers: of the teacher and of the truth.
        references: methods that every other is compared with.

    Returns:
        Rows as in compare.json, accuracies and differences in percent and points, and a name.
    """
    methods = list(dict.fromkeys(cell.method for cell in cells))
    right = {m: _right(m, cells, answers.targets) for m in methods}
    rows = [_row(m, cells, answers, right, references) for m in methods]
    plain = next((r["seconds_per_epoch"] for r in rows if r["method"] == references[0]), None)
    for row in rows:
        row["seconds_ratio"] = _ratio(row["seconds_per_epoch"], plain)
    whole = all(cell.result is not None for cell in cells)
    return rows, _best(right) if whole else None


def _right(method: str, cells: Sequence[Cell], targets: Array) -> dict[int, Array]:
    """Which test samples `(N,)` a method gets right, by seed."""
    return {
        cell.seed: cell.result.logits.argmax(axis=1) == targets
        for cell in cells
        if cell.method == method and cell.result is not None
    }


def _row(
    method: str,
    cells: Sequence[Cell],
    answers: Answers,
    right: Mapping[str, Mapping[int, Array]],
    references: Sequence[str],
) -> dict[str, Any]:
    own = [cell for cell in cells if cell.method == method]
    found = [(cell.seed, cell.result) for cell in own if cell.result is not None]
    agreements = [agreement(result.logits, answers.teacher) for _, result in found]
    timed = [result.seconds for _, result in found if result.seconds is not None]
    accuracies = [100 * float(right[method][seed].mean()) for seed, _ in found]
    step = 100 / len(answers.targets)
    return {
        "method": method,
        "seeds": [seed for seed, _ in found],
        "accuracies": accuracies,
        "validation": [100 * result.validation for _, result in found],
        "best_epochs": [result.best_epoch for _, result in found],
        "accuracy": asdict(spread(accuracies, step)) if accuracies else None,
        "to": {
            other: difference(right[method], right[other])
            for other in references
            if other != method and other in right
        },
        "agreement": 100 * float(np.mean(agreements)) if agreements else None,
        "seconds_per_epoch": float(np.mean(timed)) if timed else None,
        "failures": {str(cell.seed): cell.reason for cell in own if cell.result is None},
    }


def difference(a: Mapping[int, Array], b: Mapping[int, Array]) -> dict[str, Any] | None:
    """Accuracy of A minus accuracy of B in points, paired by seed; with its 95 % interval.

    Over several seeds: a t-interval of the differences. With one seed there is only the chance of
    the test samples to count: the interval of `paired_difference`, which says nothing of how
    another seed would turn out.

    Args:
        a: which test samples `(N,)` are right, by seed.
        b: the same of B; None is returned where no seed is common.
    """
    common = sorted(a.keys() & b.keys())
    if not common:
        return None
    if len(common) == 1:
        value, low, high = paired_difference(a[common[0]], b[common[0]])
        ends = {"value": 100 * value, "low": 100 * low, "high": 100 * high}
        return {**ends, "over": "test samples"}
    gaps = [100 * (float(a[seed].mean()) - float(b[seed].mean())) for seed in common]
    found = spread(gaps, math.sqrt(2) * 100 / len(a[common[0]]))
    return {"value": found.mean, "low": found.low, "high": found.high, "over": "seeds"}


def _best(right: Mapping[str, Mapping[int, Array]]) -> str | None:
    there = {
        m: np.mean([hits.mean() for hits in found.values()]) for m, found in right.items() if found
    }
    if len(there) < 2:
        return None
    first = max(there, key=lambda method: there[method])
    gaps = [difference(right[first], right[other]) for other in there if other != first]
    return first if all(gap is not None and gap["low"] > 0 for gap in gaps) else None


def _ratio(seconds: float | None, plain: float | None) -> float | None:
    return seconds / plain if seconds is not None and plain else None
